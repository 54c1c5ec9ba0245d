package ext4

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
)

// variants are filesystems as mke2fs can make them: the arguments, the size in KiB, and the type that blkid prints.
var variants = []struct {
	name string
	kib  int
	kind string
	args string
}{
	{"ext4", 160 << 10, "ext4", "-t ext4"},
	{"ext4-small-groups", 32 << 10, "ext4", "-t ext4 -g 1024"},
	{"ext4-1k", 32 << 10, "ext4", "-t ext4 -b 1024"},
	{"ext4-2k", 32 << 10, "ext4", "-t ext4 -b 2048 -g 2048"},
	{"ext4-64k", 100 << 10, "ext4", "-t ext4 -b 65536 -J size=64 -g 256"},
	{"ext4-many-groups", 32 << 10, "ext4", "-t ext4 -b 1024 -g 512"},
	{"ext4-short-last-group", 33<<10 + 57, "ext4", "-t ext4 -b 1024"},
	{"ext4-no-journal", 24 << 10, "ext4", "-t ext4 -O ^has_journal -g 1024"},
	{"ext4-32bit", 24 << 10, "ext4", "-t ext4 -O ^64bit -g 1024"},
	{"ext4-no-flex", 32 << 10, "ext4", "-t ext4 -b 1024 -O ^flex_bg -g 2048"},
	{"ext4-flex-64", 64 << 10, "ext4", "-t ext4 -b 1024 -G 64 -g 512"},
	{"ext4-no-resize-inode", 24 << 10, "ext4", "-t ext4 -O ^resize_inode -g 1024"},
	{"ext4-meta-bg", 64 << 10, "ext4", "-t ext4 -b 1024 -g 1024 -O meta_bg,^resize_inode"},
	{"ext4-meta-bg-32bit", 48 << 10, "ext4", "-t ext4 -b 1024 -g 512 -O meta_bg,^resize_inode,^64bit,^flex_bg"},
	{"ext4-sparse2", 32 << 10, "ext4", "-t ext4 -b 1024 -g 1024 -O sparse_super2,^resize_inode"},
	{"ext4-sparse2-none", 32 << 10, "ext4", "-t ext4 -b 1024 -g 1024 -O sparse_super2,^resize_inode -E num_backup_sb=0"},
	{"ext4-no-sparse", 32 << 10, "ext4", "-t ext4 -b 1024 -g 1024 -O ^sparse_super,^resize_inode"},
	{"ext4-gdt-csum", 32 << 10, "ext4", "-t ext4 -O ^metadata_csum,uninit_bg -g 1024"},
	{"ext4-gdt-csum-32bit", 32 << 10, "ext4", "-t ext4 -b 1024 -g 1024 -O ^metadata_csum,uninit_bg,^64bit"},
	{"ext4-csum-32bit", 32 << 10, "ext4", "-t ext4 -b 1024 -g 1024 -O metadata_csum,^64bit"},
	{"ext4-no-csum", 32 << 10, "ext4", "-t ext4 -O ^metadata_csum,^uninit_bg -g 1024"},
	{"ext4-csum-seed", 32 << 10, "ext4", "-t ext4 -O metadata_csum_seed -g 1024"},
	{"ext4-bigalloc", 96 << 10, "ext4", "-t ext4 -O bigalloc -C 65536"},
	{"ext4-bigalloc-groups", 96 << 10, "ext4", "-t ext4 -O bigalloc -C 16384 -g 4096"},
	{"ext4-bigalloc-1k", 48 << 10, "ext4", "-t ext4 -b 1024 -O bigalloc -C 8192"},
	{"ext4-bigalloc-odd-end", 48<<10 + 28, "ext4", "-t ext4 -O bigalloc -C 32768"},
	{"ext4-inline-data", 24 << 10, "ext4", "-t ext4 -O inline_data -I 512 -g 1024"},
	{"ext4-quota", 24 << 10, "ext4", "-t ext4 -g 1024 -O quota,project,ea_inode,large_dir,encrypt,verity"},
	{"ext4-orphan-file", 24 << 10, "ext4", "-t ext4 -O orphan_file -g 1024"},
	{"ext4-fast-commit", 24 << 10, "ext4", "-t ext4 -O fast_commit -g 1024"},
	{"ext4-casefold", 24 << 10, "ext4", "-t ext4 -O casefold"},
	{"ext4-written-tables", 24 << 10, "ext4", "-t ext4 -E lazy_itable_init=0,lazy_journal_init=0 -g 1024"},
	{"ext4-few-inodes", 24 << 10, "ext4", "-t ext4 -N 512 -m 0 -g 2048"},
	{"ext4-packed", 32 << 10, "ext4", "-t ext4 -E packed_meta_blocks=1 -g 1024"},
	{"ext3", 24 << 10, "ext3", "-t ext3 -g 1024"},
	{"ext3-1k", 24 << 10, "ext3", "-t ext3 -b 1024 -J size=4"},
	{"ext2", 24 << 10, "ext2", "-t ext2 -g 1024"},
	{"ext2-1k", 24 << 10, "ext2", "-t ext2 -b 1024"},
	{"ext2-64k-inodes-128", 24 << 10, "ext2", "-t ext2 -I 128 -i 65536"},
	{"ext2-rev0", 24 << 10, "ext2", "-t ext2 -r 0"},
	{"ext2-tiny", 64, "ext2", "-t ext2 -N 16"},
}

// tool runs a program of e2fsprogs and returns its output.
func tool(t testing.TB, name string, args ...string) []byte {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Env = append(os.Environ(), "LC_ALL=C", "E2FSPROGS_LIBMAGIC_SUPPRESS=1", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out.Bytes(), errs.Bytes())
	}
	return out.Bytes()
}

// sampleTree makes files of many sizes, some of them sparse, in a new folder.
func sampleTree(t testing.TB, bytes int) string {
	t.Helper()
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(1, 2))
	for i := 0; bytes > 0 && i < 400; i++ {
		sub := filepath.Join(dir, fmt.Sprintf("d%d", i%7))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		n := 1 << r.IntN(17)
		n = min(n+r.IntN(n), bytes)
		b := make([]byte, n)
		for j := range b {
			b[j] = byte(r.Uint32())
		}
		f, err := os.Create(filepath.Join(sub, fmt.Sprintf("file%d", i)))
		if err != nil {
			t.Fatal(err)
		}
		if i%11 == 0 {
			f.Seek(100_000, 0)
		}
		if _, err := f.Write(b); err != nil {
			t.Fatal(err)
		}
		f.Close()
		bytes -= n + 4096
	}
	if err := os.Symlink("d0/file0", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// mke2fs makes an image file, fills it and deletes a part of it again.
func mke2fs(t testing.TB, kib int, args string) string {
	t.Helper()
	img := filepath.Join(t.TempDir(), "img")
	all := []string{"-q", "-F", "-L", "some label", "-U", "0b1c2d3e-4f50-6172-8394-a5b6c7d8e9fa", "-d", sampleTree(t, kib<<10/8)}
	all = append(append(all, strings.Fields(args)...), img, strconv.Itoa(kib)+"k")
	tool(t, "mke2fs", all...)
	var cmds strings.Builder
	for i := range 60 {
		if i%3 == 0 {
			fmt.Fprintf(&cmds, "rm d%d/file%d\n", i%7, i)
		}
	}
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte(cmds.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	tool(t, "debugfs", "-w", "-f", script, img)
	// mke2fs makes a small file no longer than it must be.
	if err := os.Truncate(img, int64(kib)<<10); err != nil {
		t.Fatal(err)
	}
	return img
}

// freeBlocks returns what dumpe2fs calls free, in bytes.
func freeBlocks(t testing.TB, img string) (free extent.List, length int64) {
	t.Helper()
	return parseFree(t, tool(t, "dumpe2fs", img))
}

func parseFree(t testing.TB, dump []byte) (free extent.List, length int64) {
	t.Helper()
	field := func(name string) int64 {
		m := regexp.MustCompile(`(?m)^` + name + `:\s+(\d+)$`).FindSubmatch(dump)
		if m == nil {
			t.Fatalf("dumpe2fs says nothing of %q", name)
		}
		n, _ := strconv.ParseInt(string(m[1]), 10, 64)
		return n
	}
	bs := field("Block size")
	cluster := bs
	if bytes.Contains(dump, []byte("Cluster size:")) {
		cluster = field("Cluster size")
	}
	sc := bufio.NewScanner(bytes.NewReader(dump))
	sc.Buffer(nil, 64<<20)
	for sc.Scan() {
		s, ok := strings.CutPrefix(sc.Text(), "  Free blocks: ")
		if !ok || s == "" {
			continue
		}
		for _, p := range strings.Split(s, ", ") {
			a, b, ok := strings.Cut(p, "-")
			if !ok {
				b = a
			}
			from, err1 := strconv.ParseInt(a, 10, 64)
			to, err2 := strconv.ParseInt(b, 10, 64)
			if err1 != nil || err2 != nil {
				t.Fatalf("dumpe2fs: free blocks %q", p)
			}
			// Of the last cluster of a range its first block is named.
			free.Add(extent.Extent{Off: from * bs, Len: (to-from)*bs + cluster})
		}
	}
	length = field("Block count") * bs
	return free.Clip(extent.Extent{Len: length}), length
}

func mapImage(t testing.TB, img string) (fact.Facts, extent.List) {
	t.Helper()
	f, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, _ := f.Stat()
	v, used, err := Used(f, st.Size())
	if err != nil {
		t.Fatalf("Used: %v", err)
	}
	return v, used
}

// copyUsed writes the used extents of img onto a file full of other bytes.
func copyUsed(t testing.TB, img string, used extent.List) string {
	t.Helper()
	src, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	dst := bytes.Repeat([]byte{0xa5, 0x5a, 0xff, 0x0f, 0x53, 0xef, 0x01, 0x77}, len(src)/8+1)[:len(src)]
	for _, e := range used {
		copy(dst[e.Off:e.End()], src[e.Off:e.End()])
	}
	path := filepath.Join(t.TempDir(), "copy")
	if err := os.WriteFile(path, dst, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// sameTree compares the files of two filesystems.
func sameTree(t testing.TB, a, b string) {
	t.Helper()
	sums := func(img string) map[string]string {
		dir := t.TempDir()
		tool(t, "debugfs", "-R", "rdump / "+dir, img)
		out := map[string]string{}
		filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				t.Fatal(err)
			}
			rel, _ := filepath.Rel(dir, p)
			out[rel] = d.Type().String()
			if d.Type().IsRegular() {
				b, err := os.ReadFile(p)
				if err != nil {
					t.Fatal(err)
				}
				out[rel] += fmt.Sprintf(" %x", sha256.Sum256(b))
			}
			return nil
		})
		return out
	}
	sa, sb := sums(a), sums(b)
	if len(sa) < 4 && len(sa) != len(sb) {
		t.Fatalf("only %d files", len(sa))
	}
	for p, s := range sa {
		if sb[p] != s {
			t.Fatalf("file %s: was %s, is %s", p, s, sb[p])
		}
	}
	if len(sa) != len(sb) {
		t.Fatalf("%d files, the copy has %d", len(sa), len(sb))
	}
}

// fsck holds e2fsck's word on a copy against its word on the original, which should be clean but for quota files: mke2fs
// does not count what it fills a filesystem with.
func fsck(t testing.TB, img, dup string) {
	t.Helper()
	check := func(path string) string {
		cmd := exec.Command("/sbin/e2fsck", "-fn", path)
		cmd.Env = append(os.Environ(), "LC_ALL=C")
		out, err := cmd.CombinedOutput()
		if err != nil && !bytes.Contains(out, []byte("Update quota info")) {
			t.Errorf("e2fsck -fn %s: %v\n%s", path, err, out)
		}
		return string(out)
	}
	if a, b := check(img), check(dup); a != b {
		t.Errorf("e2fsck says of the original:\n%s\nand of the copy:\n%s", a, b)
	}
}

func TestAgainstDumpe2fs(t *testing.T) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			img := mke2fs(t, v.kib, v.args)
			facts, used := mapImage(t, img)
			if facts.Whole != "" {
				t.Fatalf("whole: %s", facts.Whole)
			}
			if facts.Type != v.kind || facts.UUID != "0b1c2d3e-4f50-6172-8394-a5b6c7d8e9fa" || facts.Label != "some label" {
				if v.name != "ext2-rev0" {
					t.Errorf("facts: %+v", facts)
				}
			}
			if err := used.Valid(); err != nil {
				t.Fatal(err)
			}
			free, length := freeBlocks(t, img)
			if facts.Len != length {
				t.Errorf("length %d, dumpe2fs says %d", facts.Len, length)
			}
			want := free.Complement(length)
			if lost := extent.Subtract(want, used); len(lost) > 0 {
				t.Errorf("used by dumpe2fs and not by us: %v", lost)
			}
			if over := extent.Subtract(used, want); over.Bytes()*100 > want.Bytes() {
				t.Errorf("%d bytes too much of %d: %v", over.Bytes(), want.Bytes(), over)
			}
			dup := copyUsed(t, img, used)
			fsck(t, img, dup)
			sameTree(t, img, dup)
		})
	}
}
