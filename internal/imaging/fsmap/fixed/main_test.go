package fixed

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
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

const mib = 1 << 20

// TestMain keeps disk images in memory where there is room: tools sync what they write, and disks are slow.
func TestMain(m *testing.M) {
	var st unix.Statfs_t
	if unix.Statfs("/dev/shm", &st) == nil && st.Bavail*uint64(st.Bsize) > 1<<30 {
		os.Setenv("TMPDIR", "/dev/shm")
	}
	os.Exit(m.Run())
}

// tool runs a program and returns all that it says.
func tool(t testing.TB, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// sampleTree makes files of many sizes and owners, in folders in folders.
func sampleTree(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 150 {
		sub := filepath.Join(dir, fmt.Sprintf("d%d", i%5), fmt.Sprintf("e%d", i%3))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1<<r.IntN(16)+r.IntN(100))
		for j := range b {
			b[j] = byte(r.Uint32()>>(j%9)) & 0x3f
		}
		path := filepath.Join(sub, fmt.Sprintf("file%d.dat", i))
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// volume is an image with more room behind it, full of other bytes.
func onVolume(t testing.TB, img string) string {
	t.Helper()
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	b = append(b, bytes.Repeat([]byte("hsqs\xa5\x5a\xff\x0f"), 5*mib/8)...)
	path := filepath.Join(t.TempDir(), "volume")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
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

// copyUsed writes the used extents of img onto a file full of other bytes.
func copyUsed(t testing.TB, img string, used extent.List) string {
	t.Helper()
	src, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	dst := bytes.Repeat([]byte("\x01CD001\x01_"), len(src)/8+1)[:len(src)]
	for _, e := range used {
		copy(dst[e.Off:e.End()], src[e.Off:e.End()])
	}
	path := filepath.Join(t.TempDir(), "copy")
	if err := os.WriteFile(path, dst, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// sums returns the files below a folder.
func sums(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			t.Fatal(err)
		}
		if d.Type().IsRegular() {
			b, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			rel, _ := filepath.Rel(dir, p)
			out[rel] = fmt.Sprintf("%d %x", len(b), sha256.Sum256(b))
		}
		return nil
	})
	return out
}

// judge puts an image on a volume and holds its length and names against those of others. The files of a copy, as
// extract gets them, must be those of dir.
func judge(t *testing.T, img, dir string, length int64, extract func(img, dir string)) (used extent.List) {
	t.Helper()
	vol := onVolume(t, img)
	facts, used := mapImage(t, vol)
	if facts.Whole != "" {
		t.Fatalf("whole: %s", facts.Whole)
	}
	if facts.Len != length || used.Bytes() != length || len(used) != 1 {
		t.Errorf("%d bytes, used %v; others say %d", facts.Len, used, length)
	}
	for _, tag := range []struct{ name, value string }{{"TYPE", facts.Type}, {"UUID", facts.UUID}, {"LABEL", facts.Label}} {
		out, _ := exec.Command("/sbin/blkid", "-p", "-o", "value", "-s", tag.name, vol).Output()
		if got := strings.TrimRight(string(out), "\n"); got != tag.value {
			t.Errorf("%s is %q, blkid says %q", tag.name, tag.value, got)
		}
	}
	out := filepath.Join(t.TempDir(), "out")
	extract(copyUsed(t, vol, used), out)
	if want, got := sums(t, dir), sums(t, out); len(want) < 100 || !maps.Equal(want, got) {
		t.Errorf("%d files, the copy has %d, and they are not the same", len(want), len(got))
	}
	return used
}

// number returns what a program says behind a word.
func number(t testing.TB, out []byte, word string) int64 {
	t.Helper()
	m := regexp.MustCompile(word + `\s*(\d+)`).FindSubmatch(out)
	if m == nil {
		t.Fatalf("nothing is said of %q: %s", word, out)
	}
	n, err := strconv.ParseInt(string(m[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
