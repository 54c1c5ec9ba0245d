// Package maptest judges readers of filesystems by the filesystem's own programs, by partclone and by Linux.
package maptest

import (
	"errors"
	"flag"
	"io"
	"math/rand/v2"
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

// Reader tells what of a volume is in use.
type Reader func(r io.ReaderAt, size int64) (fact.Facts, extent.List, error)

var update = flag.Bool("update", false, "write the filesystems in testdata anew")

// Main keeps disk images in memory where there is room: tools sync what they write, and disks are slow.
func Main(m *testing.M) {
	var st unix.Statfs_t
	if unix.Statfs("/dev/shm", &st) == nil && st.Bavail*uint64(st.Bsize) > 2<<30 {
		os.Setenv("TMPDIR", "/dev/shm")
	}
	// partclone sleeps for two seconds each time.
	flag.Set("test.parallel", "8")
	os.Exit(m.Run())
}

// Try runs a program and returns all that it says.
func Try(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Tool runs a program that must succeed, and returns all that it says.
func Tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := Try(name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// Save writes a filesystem to a file.
func Save(t testing.TB, b []byte) string {
	t.Helper()
	img := filepath.Join(t.TempDir(), "img")
	if err := os.WriteFile(img, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return img
}

// Make makes a filesystem of size bytes: the words of command, then the file, then those behind a "%" among them.
func Make(t testing.TB, size int64, command string) string {
	t.Helper()
	img := Save(t, nil)
	if err := os.Truncate(img, size); err != nil {
		t.Fatal(err)
	}
	before, behind, _ := strings.Cut(command, "%")
	args := append(append(strings.Fields(before), img), strings.Fields(behind)...)
	Tool(t, args[0], args[1:]...)
	return img
}

// Load returns a file, or a filesystem of testdata by its name.
func Load(t testing.TB, name string) []byte {
	t.Helper()
	if filepath.IsAbs(name) {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
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

// keep writes a filesystem to testdata.
func keep(t testing.TB, name string, b []byte) {
	t.Helper()
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression))
	if err == nil {
		err = errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(filepath.Join("testdata", name+".zst"), e.EncodeAll(b, nil), 0o644))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Map returns what a reader says of a file.
func Map(t testing.TB, used Reader, img string) (fact.Facts, extent.List) {
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
	facts, list, err := used(f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	if err := list.Valid(); err != nil {
		t.Fatal(err)
	}
	if n := len(list); n > 0 && list[n-1].End() > st.Size() || facts.Len > st.Size() {
		t.Fatalf("%v, %d bytes long, of %d bytes", list, facts.Len, st.Size())
	}
	return facts, list
}

// Good returns what a reader says of a filesystem of which it has nothing bad to say, held against blkid.
func Good(t testing.TB, used Reader, img string) (fact.Facts, extent.List) {
	t.Helper()
	facts, list := Map(t, used, img)
	if facts.Whole != "" || len(facts.Notes) > 0 {
		t.Fatalf("whole: %s, notes %q", facts.Whole, facts.Notes)
	}
	for _, c := range [][2]string{{"TYPE", facts.Type}, {"UUID", facts.UUID}, {"LABEL", facts.Label}} {
		out, _ := Try("blkid", "-p", "-o", "value", "-s", c[0], img)
		if strings.TrimSpace(out) != strings.TrimSpace(c[1]) {
			t.Errorf("%s is %q, blkid says %q", c[0], c[1], out)
		}
	}
	return facts, list
}

// Copy copies what is in use onto a disk of random bytes, and what lies behind the filesystem.
func Copy(t testing.TB, img string, used extent.List, facts fact.Facts) string {
	t.Helper()
	b := Load(t, img)
	dup := make([]byte, len(b))
	var seed [32]byte
	rand.NewChaCha8(seed).Read(dup)
	used = extent.Union(used, extent.List{{Off: facts.Len, Len: int64(len(b)) - facts.Len}})
	for _, e := range used {
		copy(dup[e.Off:e.End()], b[e.Off:e.End()])
	}
	return Save(t, dup)
}

// Partclone fails the test where partclone calls used what is not in the list, or where the list has 1 % more.
func Partclone(t testing.TB, kind, img string, used extent.List) {
	t.Helper()
	domain := filepath.Join(t.TempDir(), "domain")
	Tool(t, "partclone."+kind, "-q", "-D", "-L", domain+".log", "-s", img, "-o", domain)
	b, err := os.ReadFile(domain)
	if err != nil {
		t.Fatal(err)
	}
	var want extent.List
	for _, m := range regexp.MustCompile(`(?m)^(0x\w+)\s+(0x\w+)\s+\+$`).FindAllSubmatch(b, -1) {
		off, err1 := strconv.ParseInt(string(m[1]), 0, 64)
		n, err2 := strconv.ParseInt(string(m[2]), 0, 64)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		want.Add(extent.Extent{Off: off, Len: n})
	}
	Against(t, "partclone", want, used)
}

// Against fails the test where another program calls used what is not in the list, or where the list has 1 % more.
func Against(t testing.TB, who string, want, used extent.List) {
	t.Helper()
	if len(want) == 0 {
		t.Fatalf("%s says nothing", who)
	}
	if lost := extent.Subtract(want, used); len(lost) > 0 {
		t.Errorf("used by %s and not by us: %v", who, lost)
	}
	if over := extent.Subtract(used, want); over.Bytes()*100 > want.Bytes() {
		t.Errorf("%d bytes more than %s, which has %d: %v", over.Bytes(), who, want.Bytes(), over)
	}
}
