package vfat

import (
	"bytes"
	"flag"
	"math/rand/v2"
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

// TestMain keeps disk images in memory where there is room: tools sync what they write, and disks are slow.
func TestMain(m *testing.M) {
	var st unix.Statfs_t
	if unix.Statfs("/dev/shm", &st) == nil && st.Bavail*uint64(st.Bsize) > 2<<30 {
		os.Setenv("TMPDIR", "/dev/shm")
	}
	// partclone sleeps for two seconds each time.
	flag.Set("test.parallel", "12")
	os.Exit(m.Run())
}

func command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "MTOOLSRC=/dev/null", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
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

// mkfs makes a volume in a sparse file of kib KiB.
func mkfs(t testing.TB, kib int64, args ...string) string {
	t.Helper()
	img := filepath.Join(t.TempDir(), "img")
	if err := os.WriteFile(img, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(img, kib<<10); err != nil {
		t.Fatal(err)
	}
	tool(t, "mkfs.vfat", append(append([]string{"-n", "SOME LABEL"}, args...), img)...)
	return img
}

// fill makes files and folders, deletes some, and lets new ones fill the holes, so that they lie in pieces. It writes
// about budget bytes.
func fill(t testing.TB, img string, budget, cluster int64) {
	t.Helper()
	r := rand.New(rand.NewPCG(1, uint64(cluster)))
	dir := t.TempDir()
	write := func(sub string, i int, n int64) {
		t.Helper()
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		sub = filepath.Join(dir, sub)
		err := os.MkdirAll(sub, 0o755)
		if err == nil {
			err = os.WriteFile(filepath.Join(sub, "a name of some length "+strconv.Itoa(i)), b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	left := budget * 3 / 5
	for i := 0; i < 120 && left > 0; i++ {
		n := min(r.Int64N(4)*cluster+r.Int64N(cluster)*r.Int64N(2), left)
		write([]string{"first", "first/second", "third"}[i%3], i, n)
		left -= n + cluster
	}
	tool(t, "mcopy", "-s", "-i", img, filepath.Join(dir, "first"), filepath.Join(dir, "third"), "::")
	for i := 0; i < 120; i += 3 {
		os.Remove(filepath.Join(dir, "first", "a name of some length "+strconv.Itoa(i)))
	}
	tool(t, "mdel", "-i", img, "::first/a name of*")
	for i := range 4 {
		write("later", i, budget/12)
	}
	tool(t, "mcopy", "-s", "-i", img, filepath.Join(dir, "later"), "::")
	tool(t, "mmd", "-i", img, "::EMPTY")
}

func mapImage(t testing.TB, img string) (fact.Facts, extent.List) {
	t.Helper()
	f, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	facts, used, err := Used(f, st.Size())
	if err != nil {
		t.Fatalf("Used: %v", err)
	}
	if err := used.Valid(); err != nil {
		t.Fatal(err)
	}
	return facts, used
}

// open reads a volume that must be good.
func open(t testing.TB, b []byte) *volume {
	t.Helper()
	v := &volume{r: bytes.NewReader(b), size: int64(len(b))}
	if _, err := v.used(); err != nil {
		t.Fatal(err)
	}
	return v
}

// partclone returns what partclone calls used.
func partclone(t testing.TB, img, kind string) extent.List {
	t.Helper()
	domain := filepath.Join(t.TempDir(), "domain")
	tool(t, "partclone."+kind, "-q", "-D", "-L", domain+".log", "-s", img, "-o", domain)
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

// fsck checks the volume, and returns how many clusters it has in use and in all.
func fsck(t testing.TB, img string) (used, all int64) {
	t.Helper()
	out := tool(t, "fsck.vfat", "-n", img)
	m := regexp.MustCompile(`: \d+ files, (\d+)/(\d+) clusters`).FindSubmatch(out)
	// It says the version and the count, and warns of FAT32 with few clusters in three lines.
	lines := 2
	if bytes.HasPrefix(out, []byte("Warning: Filesystem is FAT32")) {
		lines = 5
	}
	if m == nil || bytes.Count(out, []byte("\n")) != lines {
		t.Fatalf("fsck.vfat: %s", out)
	}
	used, _ = strconv.ParseInt(string(m[1]), 10, 64)
	all, _ = strconv.ParseInt(string(m[2]), 10, 64)
	return used, all
}

// copyUsed writes the used extents of img onto a file full of other bytes.
func copyUsed(t testing.TB, img string, used extent.List) string {
	t.Helper()
	src, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	dst := bytes.Repeat([]byte("FILE0   TXT\x20\xa5\x5a\xff\x0f\x53\xef\x01\x77"), len(src)/20+1)[:len(src)]
	for _, e := range used {
		copy(dst[e.Off:e.End()], src[e.Off:e.End()])
	}
	path := filepath.Join(t.TempDir(), "copy")
	if err := os.WriteFile(path, dst, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
