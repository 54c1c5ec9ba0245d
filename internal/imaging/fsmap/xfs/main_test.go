package xfs

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
)

const mib = 1 << 20

// TestMain keeps disk images in memory where there is room: tools sync what they write, and disks are slow.
func TestMain(m *testing.M) {
	var st unix.Statfs_t
	if unix.Statfs("/dev/shm", &st) == nil && st.Bavail*uint64(st.Bsize) > 3<<30 {
		os.Setenv("TMPDIR", "/dev/shm")
	}
	// partclone sleeps for two seconds each time.
	flag.Set("test.parallel", "8")
	os.Exit(m.Run())
}

// command returns a program to run. With the last three of the variables mkfs.xfs makes small filesystems, too.
func command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TEST_DIR=1", "TEST_DEV=1", "QA_CHECK_FS=1", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	return cmd
}

// tool runs a program and returns all that it says.
func tool(t testing.TB, name string, args ...string) []byte {
	t.Helper()
	out, err := command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// sparse makes a file of holes.
func sparse(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "img")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

// mkfs makes an empty filesystem.
func mkfs(t testing.TB, size int64, args string) string {
	t.Helper()
	img := sparse(t, size)
	tool(t, "mkfs.xfs", append(strings.Fields("-q -L Grüße-12 "+args), img)...)
	return img
}

func mapImage(t testing.TB, img string) (fact.Facts, extent.List) {
	t.Helper()
	f, size := disk(t, img)
	facts, used, err := Used(f, size)
	if err != nil {
		t.Fatalf("Used: %v", err)
	}
	if err := used.Valid(); err != nil {
		t.Fatal(err)
	}
	return facts, used
}

// freesp returns what xfs_db calls free.
func freesp(t testing.TB, img string, fs *filesystem) extent.List {
	t.Helper()
	out := tool(t, "xfs_db", "-r", "-c", "freesp -d", img)
	var list []extent.Extent
	for _, m := range regexp.MustCompile(`(?m)^\s*(\d+)\s+(\d+)\s+(\d+)\s*$`).FindAllSubmatch(out, -1) {
		var n [3]int64
		for i := range n {
			var err error
			if n[i], err = strconv.ParseInt(string(m[i+1]), 10, 64); err != nil {
				t.Fatal(err)
			}
		}
		list = append(list, fs.bytes(uint32(n[0]), agBlock(n[1]), n[2]))
	}
	if len(list) == 0 {
		t.Fatalf("xfs_db says nothing: %s", out)
	}
	return extent.FromUnsorted(list)
}

// keptBlocks returns how many blocks are kept for the trees of free space, by xfs_db.
func keptBlocks(t testing.TB, img string, fs *filesystem) (n int64) {
	t.Helper()
	args := []string{"-r"}
	for i := range fs.agCount {
		args = append(args, "-c", fmt.Sprintf("agf %d", i), "-c", "p flcount")
	}
	for _, m := range regexp.MustCompile(`flcount = (\d+)`).FindAllSubmatch(tool(t, "xfs_db", append(args, img)...), -1) {
		k, err := strconv.ParseInt(string(m[1]), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		n += k
	}
	return n
}

// partclone returns what partclone calls used.
func partclone(t testing.TB, img string) extent.List {
	t.Helper()
	domain := filepath.Join(t.TempDir(), "domain")
	tool(t, "partclone.xfs", "-q", "-D", "-L", domain+".log", "-s", img, "-o", domain)
	b, err := os.ReadFile(domain)
	if err != nil {
		t.Fatal(err)
	}
	var list extent.List
	for _, m := range regexp.MustCompile(`(?m)^(0x\w+)\s+(0x\w+)\s+\+$`).FindAllSubmatch(b, -1) {
		off, err1 := strconv.ParseInt(string(m[1]), 0, 64)
		n, err2 := strconv.ParseInt(string(m[2]), 0, 64)
		if err1 != nil || err2 != nil {
			t.Fatalf("partclone: %q", m[0])
		}
		list.Add(extent.Extent{Off: off, Len: n})
	}
	if len(list) == 0 {
		t.Fatalf("partclone says nothing: %q", b)
	}
	return list
}

// copyUsed writes the used extents of img onto a file full of other bytes.
func copyUsed(t testing.TB, img string, used extent.List) string {
	t.Helper()
	src, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	st, err := src.Stat()
	if err != nil {
		t.Fatal(err)
	}
	dst, err := os.Create(filepath.Join(t.TempDir(), "copy"))
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	junk := bytes.Repeat([]byte("XFSBAB3BXD2D\xa5\x5a\xff\x0f"), mib/16)
	for off := int64(0); off < st.Size(); off += mib {
		if _, err := dst.WriteAt(junk[:min(mib, st.Size()-off)], off); err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range used {
		b := make([]byte, e.Len)
		if _, err := src.ReadAt(b, e.Off); err != nil {
			t.Fatal(err)
		}
		if _, err := dst.WriteAt(b, e.Off); err != nil {
			t.Fatal(err)
		}
	}
	return dst.Name()
}

// check has xfs_repair look for damage, without repairing.
func check(t testing.TB, img string) {
	t.Helper()
	if out, err := command("xfs_repair", "-n", "-f", img).CombinedOutput(); err != nil {
		t.Errorf("xfs_repair -n: %v\n%s", err, out)
	}
}

// disk opens an image until the test ends.
func disk(t testing.TB, img string) (io.ReaderAt, int64) {
	t.Helper()
	f, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return f, st.Size()
}

// open reads a filesystem that must be good.
func open(t testing.TB, img string) *filesystem {
	t.Helper()
	r, size := disk(t, img)
	fs := &filesystem{r: r, size: size}
	if err := fs.readSuper(); err != nil {
		t.Fatal(err)
	}
	return fs
}

// judge holds what is found on a filesystem against all others, and returns a copy of it that must be as good.
func judge(t testing.TB, img string) string {
	t.Helper()
	dup := copyUsed(t, img, compare(t, img))
	check(t, img)
	check(t, dup)
	return dup
}

// compare holds what is found on a filesystem against blkid and xfs_db.
func compare(t testing.TB, img string) extent.List {
	t.Helper()
	facts, used := mapImage(t, img)
	if facts.Whole != "" {
		t.Fatalf("whole: %s", facts.Whole)
	}
	for _, c := range [][2]string{{"TYPE", facts.Type}, {"UUID", facts.UUID}, {"LABEL", facts.Label}} {
		if out := tool(t, "blkid", "-p", "-o", "value", "-s", c[0], img); strings.TrimSpace(string(out)) != c[1] {
			t.Errorf("%s is %q, blkid says %q", c[0], c[1], out)
		}
	}
	fs := open(t, img)
	// xfs_db calls the blocks free that are kept for the trees.
	want := extent.Subtract(extent.List{{Len: facts.Len}}, freesp(t, img, fs))
	lost, over := extent.Subtract(want, used), extent.Subtract(used, want)
	if len(lost) > 0 || over.Bytes() != keptBlocks(t, img, fs)*fs.blockSize {
		t.Errorf("used by xfs_db and not by us: %v, by us alone: %v", lost, over)
	}
	return used
}
