package btrfs

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
	"mimeo/internal/imaging/fsmap/tree"
)

// listed is a line for each file that Tree finds.
func listed(t testing.TB, img string) map[string]string {
	t.Helper()
	f, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	tr, err := OpenTree(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	root, err := tr.File(tr.Root())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	err = tree.Walk(tr, "/", root, func(name string, f tree.File, err error) error {
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%o %d:%d links=%d time=%d", f.Mode, f.UID, f.GID, f.Links, f.Modified.UnixNano())
		switch f.Type() {
		case tree.Dir:
			if f.Inode&absent != 0 {
				line = "not there"
			}
		case tree.Link:
			line += " -> " + f.Target
		case tree.Char, tree.Block:
			line += fmt.Sprintf(" %d", f.Device)
		case tree.Regular:
			r, err := tr.Open(f.Inode)
			if err != nil {
				return err
			}
			h := sha256.New()
			if _, err := io.Copy(h, io.NewSectionReader(r, 0, f.Size)); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			line += fmt.Sprintf(" size=%d %x", f.Size, h.Sum(nil))
		}
		out[name] = line
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// seen is the same as the kernel sees it.
func seen(t testing.TB, img string, gone ...string) map[string]string {
	t.Helper()
	out := map[string]string{}
	mounted(t, []string{img}, "ro,subvolid=5", func(dir string, _ []string) {
		err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			var st syscall.Stat_t
			if err := syscall.Lstat(p, &st); err != nil {
				return err
			}
			line := fmt.Sprintf("%o %d:%d links=%d time=%d", st.Mode, st.Uid, st.Gid, st.Nlink, st.Mtim.Nano())
			switch st.Mode & tree.TypeMask {
			case tree.Link:
				to, err := os.Readlink(p)
				if err != nil {
					return err
				}
				line += " -> " + to
			case tree.Char, tree.Block:
				line += fmt.Sprintf(" %d", st.Rdev)
			case tree.Regular:
				b, err := os.ReadFile(p)
				if err != nil {
					return err
				}
				line += fmt.Sprintf(" size=%d %x", st.Size, sha256.Sum256(b))
			}
			rel, _ := filepath.Rel(dir, p)
			out[filepath.Join("/", rel)] = line
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	for _, name := range gone {
		out[name] = "not there"
	}
	return out
}

// odd makes files of all kinds.
func odd(t testing.TB, dir string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	r := rand.New(rand.NewPCG(5, 5))
	// What packs well, what packs a little and what does not, in lengths around the bounds.
	for i, n := range []int{1, 100, 2000, 4095, 4096, 4097, 130_000, 131_072, 131_073, 700_001} {
		b := bytes.Repeat([]byte("some text of which there is a lot, "), n/35+1)[:n]
		must(os.WriteFile(at(fmt.Sprint("text", i)), b, 0o640))
		for j := range b {
			if j%3 != 0 {
				b[j] = byte(r.Uint32())
			}
		}
		must(os.WriteFile(at(fmt.Sprint("mixed", i)), b, 0o604))
		for j := range b {
			b[j] = "abcdefghijklmnop"[r.IntN(16)]
		}
		must(os.WriteFile(at(fmt.Sprint("letters", i)), b, 0o604))
	}
	f, err := os.Create(at("holes"))
	must(err)
	for i := range int64(20) {
		_, err := f.WriteAt(bytes.Repeat([]byte{byte(i)}, 5000), i*i*9973)
		must(err)
	}
	must(f.Truncate(9_000_000))
	must(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 5_000_000, 1_000_000))
	must(f.Close())
	must(os.Chown(at("holes"), 1234, 70_000))
	must(os.Link(at("holes"), at("again")))
	must(os.Symlink("a target of some length, with ümläuts", at("link")))
	must(unix.Mknod(at("char"), unix.S_IFCHR|0o600, int(unix.Mkdev(300, 70_000))))
	must(unix.Mknod(at("block"), unix.S_IFBLK|0o600, int(unix.Mkdev(8, 1))))
	must(unix.Mkfifo(at("pipe"), 0o644))
	must(os.Mkdir(at("sticky"), 0o755))
	must(os.Chmod(at("sticky"), 0o777|os.ModeSticky))
	// A file that is written in the middle of pieces that are there.
	must(os.WriteFile(at("patched"), bytes.Repeat([]byte("0123456789abcdef"), 40_000), 0o644))
	must(unix.Access(at("patched"), unix.R_OK))
	tool(t, "btrfs", "filesystem", "sync", dir)
	f, err = os.OpenFile(at("patched"), os.O_WRONLY, 0)
	must(err)
	for i := range int64(9) {
		_, err := f.WriteAt([]byte(strings.Repeat("patch", 1000)), 30_000+i*65_001)
		must(err)
	}
	must(f.Close())
}

// TestTree compares Tree with the kernel.
func TestTree(t *testing.T) {
	for _, v := range []struct{ name, mkfs, options string }{
		{"plain", "", "rw"},
		{"zlib", "-m single", "compress-force=zlib"},
		{"lzo", "--csum xxhash", "compress-force=lzo"},
		{"zstd", "-n 4096", "compress-force=zstd:9"},
		{"mixed", "--mixed", "max_inline=0"},
		{"holes", "-O ^no-holes,^skinny-metadata", "compress=zstd"},
	} {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			img := sparse(t, 260*mib)
			tool(t, "mkfs.btrfs", append(strings.Fields("-q "+v.mkfs), img)...)
			mounted(t, []string{img}, v.options, func(dir string, _ []string) {
				sampleTree(t, dir, 3*mib, 3)
				odd(t, dir)
				tool(t, "btrfs", "subvolume", "create", dir+"/sub")
				tool(t, "btrfs", "subvolume", "create", dir+"/sub/inner")
				sampleTree(t, dir+"/sub", 2*mib, 4)
				sampleTree(t, dir+"/sub/inner", 1*mib, 5)
				tool(t, "btrfs", "subvolume", "snapshot", dir+"/sub", dir+"/snap")
				change(t, dir+"/sub", 2*mib)
				tool(t, "btrfs", "subvolume", "snapshot", "-r", dir+"/sub", dir+"/readonly")
				tool(t, "btrfs", "subvolume", "snapshot", dir, dir+"/sub/all")
				tool(t, "btrfs", "subvolume", "set-default", dir+"/snap")
				os.RemoveAll(dir + "/sub/d1")
				tool(t, "cp", "--reflink=always", dir+"/text9", dir+"/reflink")
			})
			got := listed(t, img)
			want := seen(t, img, "/snap/inner", "/readonly/inner", "/sub/all/sub", "/sub/all/snap", "/sub/all/readonly")
			if len(want) < 400 {
				t.Errorf("only %d files", len(want))
			}
			for name, line := range want {
				if got[name] != line {
					t.Errorf("%s:\n got %s\nwant %s", name, got[name], line)
				}
			}
			for name := range got {
				if want[name] == "" {
					t.Errorf("%s is not there", name)
				}
			}
			checkPieces(t, img)
		})
	}
}

// checkPieces holds the pieces against what is in use, and the files.
func checkPieces(t *testing.T, img string) {
	t.Helper()
	_, used := mapImage(t, img)
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	var all fact.Pieces
	if err := Pieces(bytes.NewReader(b), int64(len(b)), all.Add); err != nil {
		t.Fatal(err)
	}
	total := int64(0)
	for _, p := range all.List() {
		if total += p.Len; len(extent.Subtract(extent.List{{Off: p.Off, Len: p.Len}}, used)) > 0 {
			t.Errorf("%+v is not in use", p)
		}
	}
	if total < used.Bytes()/4 {
		t.Errorf("pieces of %d bytes, of %d in use", total, used.Bytes())
	}
}

// TestTreeOfDamage reads files of filesystems with damaged blocks, whose checksums are good again.
func TestTreeOfDamage(t *testing.T) {
	b, err := os.ReadFile(crashed(t))
	if err != nil {
		t.Fatal(err)
	}
	if why, err := Claims(bytes.NewReader(b), int64(len(b)), func(extent.Extent) {}); err != nil || !strings.Contains(why, "not unmounted cleanly") {
		t.Errorf("claims after a crash: %q, %v", why, err)
	}
	blocks := fileBlocks(t, b)
	r := rand.New(rand.NewPCG(9, 9))
	failed := 0
	for range 150 {
		bad := &patched{base: b, blocks: map[int64][]byte{}}
		for range 1 + r.IntN(4) {
			copies := blocks[r.IntN(len(blocks))]
			block := bytes.Clone(b[copies[0]:][:16<<10])
			for range 1 + r.IntN(6) {
				block[sumLen+r.IntN(1200)] ^= 1 << r.IntN(8)
				block[len(block)-1-r.IntN(4000)] ^= 1 << r.IntN(8)
			}
			reseal(sumCRC32C, block)
			for _, at := range copies {
				bad.blocks[at] = block
			}
		}
		if walkAll(t, bad, int64(len(b))) != nil {
			failed++
		}
	}
	if failed < 30 {
		t.Errorf("only %d damaged filesystems gave an error", failed)
	}
}

// fileBlocks returns where the blocks of the top level lie, with their copies.
func fileBlocks(t testing.TB, b []byte) (list [][]int64) {
	t.Helper()
	tr, err := OpenTree(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	fs := *tr.fs
	walk := &btree{fs: &fs, name: "files", owner: anyFiles, item: func(key, []byte) error { return nil }, blocks: func(logical uint64) {
		places, err := fs.chunks.places(logical, fs.node)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, places)
	}}
	if err := walk.walk(tr.volumes[0].root); err != nil {
		t.Fatal(err)
	}
	return list
}

// walkAll reads all files, and returns the first error.
func walkAll(t testing.TB, r io.ReaderAt, size int64) (first error) {
	if err := Pieces(r, size, func(p fact.Piece) {
		if p.Off < 0 || p.Len <= 0 || p.At < 0 || p.Off+p.Len > size {
			t.Fatalf("%+v", p)
		}
	}); err != nil {
		t.Fatal(err)
	}
	tr, err := OpenTree(r, size)
	if err != nil {
		return err
	}
	root, err := tr.File(tr.Root())
	if err != nil {
		return err
	}
	entries := 0
	tree.Walk(tr, "/", root, func(_ string, f tree.File, err error) error {
		if entries++; entries > 2000 {
			return fs.SkipAll
		}
		if err == nil && f.Type() == tree.Regular {
			var r io.ReaderAt
			if r, err = tr.Open(f.Inode); err == nil {
				_, err = io.Copy(io.Discard, io.NewSectionReader(r, 0, min(f.Size, 1<<20)))
			}
		}
		if first == nil {
			first = err
		}
		return nil
	})
	return first
}

// FuzzUnpack gives unpack what is no stream.
func FuzzUnpack(f *testing.F) {
	f.Add(byte(compressLZO), []byte("\x0a\x00\x00\x00\x02\x00\x00\x00\x12a\x11\x00\x00"))
	f.Add(byte(compressZlib), []byte("\x78\x9c\x4b\x04\x00\x00\x62\x00\x62"))
	f.Add(byte(compressZstd), []byte("\x28\xb5\x2f\xfd\x20\x01\x09\x00\x00a"))
	f.Fuzz(func(t *testing.T, kind byte, b []byte) {
		if out, err := unpack(1+kind%3, b, maxUnpacked, 4096); err == nil && len(out) != maxUnpacked {
			t.Errorf("%d bytes", len(out))
		}
	})
}
