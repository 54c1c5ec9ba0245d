package f2fs

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
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
	flag.Set("test.parallel", "8")
	os.Exit(m.Run())
}

func command(dir, name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	return cmd
}

// tool runs a program in a folder and returns all that it says.
func tool(t testing.TB, dir, name string, args ...string) []byte {
	t.Helper()
	out, err := command(dir, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// testdata returns a filesystem that Linux has written.
func testdata(t testing.TB, name string) []byte {
	t.Helper()
	packed, err := os.ReadFile(filepath.Join("testdata", name+".zst"))
	if err != nil {
		t.Fatal(err)
	}
	d, err := zstd.NewReader(nil, zstd.WithDecoderMaxWindow(1<<28))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	b, err := d.DecodeAll(packed, nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// save writes a filesystem to a file.
func save(t testing.TB, b []byte) string {
	t.Helper()
	img := filepath.Join(t.TempDir(), "img")
	if err := os.WriteFile(img, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return img
}

// mkfs makes a filesystem of mib MiB with files.
func mkfs(t testing.TB, mib int64, args ...string) string {
	t.Helper()
	img := save(t, nil)
	if err := os.Truncate(img, mib<<20); err != nil {
		t.Fatal(err)
	}
	tool(t, ".", "mkfs.f2fs", append(args, "-l", "Grüße 𝄞", img)...)
	src := t.TempDir()
	for i := range 60 {
		sub := filepath.Join(src, []string{"one", "one/two", "three"}[i%3])
		err := os.MkdirAll(sub, 0o755)
		if err == nil {
			err = os.WriteFile(filepath.Join(sub, "file "+strconv.Itoa(i)), bytes.Repeat([]byte("file "+strconv.Itoa(i)), i*i*7), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	tool(t, ".", "sload.f2fs", "-f", src, img)
	return img
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

// open reads a filesystem that must be good.
func open(t testing.TB, b []byte) *filesystem {
	t.Helper()
	fs := &filesystem{r: bytes.NewReader(b), size: int64(len(b))}
	if _, err := fs.used(); err != nil {
		t.Fatal(err)
	}
	return fs
}

// partclone returns what partclone calls used.
func partclone(t testing.TB, img string) extent.List {
	t.Helper()
	domain := filepath.Join(t.TempDir(), "domain")
	tool(t, ".", "partclone.f2fs", "-q", "-D", "-L", domain+".log", "-s", img, "-o", domain)
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

// dumpSIT returns the blocks of the main area that dump.f2fs calls used.
func dumpSIT(t testing.TB, img string, mainAt int64) extent.List {
	t.Helper()
	dir := t.TempDir()
	tool(t, dir, "dump.f2fs", "-s", "0~-1", img)
	b, err := os.ReadFile(filepath.Join(dir, "dump_sit"))
	if err != nil {
		t.Fatal(err)
	}
	var list extent.List
	block := mainAt
	for _, m := range regexp.MustCompile(`(?m)^(?:segno:\s+(\d+)|(?:  [0-9a-f]{2}){16})`).FindAllSubmatch(b, -1) {
		if len(m[1]) > 0 { // empty ones are left out
			seg, err := strconv.ParseInt(string(m[1]), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			block = mainAt + seg*segBlocks
			continue
		}
		for _, hex := range strings.Fields(string(m[0])) {
			c, err := strconv.ParseUint(hex, 16, 8)
			if err != nil {
				t.Fatal(err)
			}
			for i := 7; i >= 0; i, block = i-1, block+1 {
				if c>>i&1 != 0 {
					list.Add(extent.Extent{Off: block * blockSize, Len: blockSize})
				}
			}
		}
	}
	return list
}

// fsck checks the filesystem, and returns what it says of it.
func fsck(t testing.TB, img string) string {
	t.Helper()
	out := string(tool(t, ".", "fsck.f2fs", "--dry-run", img))
	if strings.Contains(out, "[Fail]") || strings.Count(out, "[Ok..]") < 9 {
		t.Fatalf("fsck.f2fs: %s", out)
	}
	return strings.Join(regexp.MustCompile(`(?m)^\[FSCK\].*$`).FindAllString(out, -1), "\n")
}

// files returns what dump.f2fs says that the inodes of some numbers hold.
func files(t testing.TB, img string) map[string][]byte {
	t.Helper()
	dir := t.TempDir()
	for ino := 4; ino < 150; ino += 3 {
		cmd := command(dir, "dump.f2fs", "-i", "0x"+strconv.FormatInt(int64(ino), 16), img)
		cmd.Stdin = strings.NewReader("y\n")
		if out, err := cmd.CombinedOutput(); err != nil && !bytes.Contains(out, []byte("checkpoint state")) {
			t.Fatalf("dump.f2fs -i %#x: %v\n%s", ino, err, out)
		}
	}
	found, err := os.ReadDir(filepath.Join(dir, "lost_found"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for _, f := range found {
		if out[f.Name()], err = os.ReadFile(filepath.Join(dir, "lost_found", f.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// copyUsed writes the used extents of img onto a file full of other bytes.
func copyUsed(t testing.TB, img string, used extent.List) string {
	t.Helper()
	src, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	dst := bytes.Repeat([]byte("\x03\x00\x00\x00\x03FILE\xc0\x03\xc1\xa5\x5a\xff\x0f\x53\xef\x01\x77"), len(src)/20+1)[:len(src)]
	for _, e := range used {
		copy(dst[e.Off:e.End()], src[e.Off:e.End()])
	}
	return save(t, dst)
}
