package xfs

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
)

// mounted runs f with an image mounted by the kernel; it returns when all is written.
func mounted(t testing.TB, img, options string, f func(dir, loop string)) {
	t.Helper()
	alone(t, func() {
		dir := filepath.Join(t.TempDir(), "mnt")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		loop := strings.TrimSpace(string(tool(t, "losetup", "--find", "--show", img)))
		defer tool(t, "losetup", "-d", loop)
		tool(t, "mount", "-t", "xfs", "-o", "nouuid,"+options, loop, dir)
		defer unmount(t, dir)
		f(dir, loop)
	})
	if t.Failed() {
		t.FailNow()
	}
}

func unmount(t testing.TB, dir string) {
	t.Helper()
	// A program that is just being started elsewhere may have a file open for a moment.
	for range 100 {
		if err := unix.Unmount(dir, 0); err == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	tool(t, "umount", dir)
}

// sums returns a hash of each file below dir.
func sums(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		out[strings.TrimPrefix(path, dir)] = fmt.Sprintf("%d %x", len(b), sha256.Sum256(b))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// filesOf returns the files of an image as the kernel sees them.
func filesOf(t testing.TB, img string) (files map[string]string) {
	t.Helper()
	mounted(t, img, "ro,norecovery", func(dir, _ string) { files = sums(t, dir) })
	return files
}

// snapshot copies an image as it is at this moment, holes as holes.
func snapshot(t testing.TB, img string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "snapshot")
	tool(t, "cp", "--sparse=always", img, path)
	return path
}

// content is n bytes that differ from those of other seeds.
func content(seed, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(seed*i + i>>5 + seed>>3)
	}
	return b
}

// change writes files of all sizes, deletes a third of them, and writes some in pieces.
func change(t testing.TB, dir string, bytes int) {
	t.Helper()
	for round := range 5 {
		for i, left := 0, bytes/5; left > 0; i++ {
			n := 1 + i*i*37%60_000
			sub := filepath.Join(dir, fmt.Sprintf("d%d/e%d", i%7, i%3))
			if err := os.MkdirAll(sub, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("file%d-%d", round, i)), content(round+i, n), 0o644); err != nil {
				t.Fatal(err)
			}
			left -= n
		}
		unix.Sync()
		gone, err := filepath.Glob(filepath.Join(dir, fmt.Sprintf("d*/e*/file%d-*[147]", round)))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range gone {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	torn(t, filepath.Join(dir, "torn"), 4096, 300)
}

// torn writes a file of n blocks with holes between them, in no order, so that each lies by itself.
func torn(t testing.TB, name string, block, n int) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := range n {
		if _, err := f.WriteAt(content(i, block), int64(i*7%n)*int64(2*block)); err != nil {
			t.Fatal(err)
		}
		if i%20 == 0 {
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// overwrite writes every other of n blocks of a file.
func overwrite(t testing.TB, name string, block, n int) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := 0; i < n; i += 2 {
		if _, err := f.WriteAt(content(i, block), int64(i)*int64(block)); err != nil {
			t.Fatal(err)
		}
	}
}

// pierce makes a hole of every other block of a file, so that free space is in as many pieces.
func pierce(t testing.TB, dir string, block, n int64) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "pierced"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, 2*n*block); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 2*i*block, block); err != nil {
			t.Fatal(err)
		}
	}
}

// kernelVariants are filled by the kernel, which mounts no version 4 here.
var kernelVariants = []struct {
	name string
	mib  int64
	args string
	more func(t testing.TB, dir, img, loop string)
}{
	{"default", 96, "", nil},
	{"owners", 96, "-m rmapbt=1 -d agcount=3", func(t testing.TB, dir, _, _ string) { pierce(t, dir, 4096, 2000) }},
	{"sector-4096", 96, "-s size=4096", nil},
	{"pierced", 64, "-b size=1024 -d agcount=2", func(t testing.TB, dir, _, _ string) {
		pierce(t, dir, 1024, 17_000)
		manyFolders(t, dir+"/many", 200) // trees of inodes with two levels
	}},
	{"block-64k", 300, "-b size=65536", nil},
	{"folders-64k", 96, "-n size=65536 -i size=2048", nil},
	{"plain", 96, "-m reflink=0,rmapbt=0,finobt=0,bigtime=0,inobtcount=0 -i sparse=0", nil},
	{"log-stripe", 200, "-d su=64k,sw=2,agcount=2 -l su=256k,size=20m", nil},
	{"shared", 96, "-i nrext64=1", func(t testing.TB, dir, _, _ string) {
		tool(t, "cp", "--reflink=always", dir+"/torn", dir+"/again")
		torn(t, dir+"/again", 4096, 200)
		tool(t, "cp", "-r", "--reflink=always", dir+"/d1", dir+"/d1-again")
		tool(t, "cp", "-r", "--reflink=always", dir+"/d2", dir+"/d2-again")
		tool(t, "sh", "-euc", `head -c 5000000 /dev/urandom >"$1/long"; cp --reflink=always "$1/long" "$1/long-again"`, "sh", dir)
		overwrite(t, dir+"/long-again", 4096, 1200) // a tree of shared extents with two levels
		os.RemoveAll(dir + "/d1")
		tool(t, "fallocate", "-l", "5M", dir+"/later")
		tool(t, "setfattr", "-n", "user.x", "-v", strings.Repeat("y", 9000), dir+"/later")
	}},
	{"grown", 96, "", func(t testing.TB, dir, img, loop string) {
		if err := os.Truncate(img, 230*mib); err != nil {
			t.Fatal(err)
		}
		tool(t, "losetup", "-c", loop)
		tool(t, "xfs_growfs", dir)
		change(t, filepath.Join(dir, "d1"), 20*mib)
	}},
	{"small-log", 96, "-l size=4m -b size=1024", func(t testing.TB, dir, _, _ string) {
		for range 5 { // around the log's end
			manyFolders(t, dir+"/many", 40)
			tool(t, "sync", "-f", dir)
			if err := os.RemoveAll(dir + "/many"); err != nil {
				t.Fatal(err)
			}
			tool(t, "sync", "-f", dir)
		}
	}},
}

// filled makes a filesystem and has the kernel fill it.
func filled(t testing.TB, mibs int64, args string, more func(t testing.TB, dir, img, loop string)) string {
	t.Helper()
	img := mkfs(t, mibs*mib, args)
	mounted(t, img, "rw", func(dir, loop string) {
		change(t, dir, int(mibs*mib/16))
		if more != nil {
			more(t, dir, img, loop)
		}
	})
	return img
}

// TestAgainstKernel has the kernel fill filesystems, and read and change all of the copies.
func TestAgainstKernel(t *testing.T) {
	for _, v := range kernelVariants {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			img := filled(t, v.mib, v.args, v.more)
			dup := judge(t, img)
			checkPieces(t, img, v.name == "shared")
			if v.name == "small-log" {
				fs := open(t, img)
				l := fs.ring()
				if _, err := l.head(); err != nil || l.round < 2 {
					t.Errorf("the log is in round %d: %v", l.round, err)
				}
			}
			if want, got := filesOf(t, img), filesOf(t, dup); len(got) < 50 || !maps.Equal(got, want) {
				t.Errorf("%d files, the copy has %d, and they are not the same", len(want), len(got))
			}
			mounted(t, dup, "rw", func(dir, _ string) { change(t, filepath.Join(dir, "d1"), 2*mib) })
			compare(t, dup)
			check(t, dup)
		})
	}
}

// TestNotUnmounted takes images in the middle of things: the log knows of what the trees do not.
func TestNotUnmounted(t *testing.T) {
	img := mkfs(t, 64*mib, "")
	var taken []string
	mounted(t, img, "rw", func(dir, _ string) {
		frozen := func() {
			tool(t, "xfs_freeze", "-f", dir)
			taken = append(taken, snapshot(t, img))
			tool(t, "xfs_freeze", "-u", dir)
		}
		taken = append(taken, snapshot(t, img))
		change(t, dir, mib)
		frozen()
		frozen()
		tool(t, "mount", "-o", "remount,ro", dir)
		taken = append(taken, snapshot(t, img)) // like an unmount
		tool(t, "mount", "-o", "remount,rw", dir)
		tool(t, "rm", "-r", dir+"/d1")
		frozen()
	})
	for i, img := range taken {
		if i == 0 || i == 3 { // as it was before
			judge(t, img)
			continue
		}
		f, err := os.ReadFile(img)
		if err != nil {
			t.Fatal(err)
		}
		for _, err := range []error{opened(f), claimed(f), listedFiles(f)} {
			if err == nil || !strings.Contains(err.Error(), string(notReplayed)) {
				t.Errorf("image %d: what its files are is believed: %v", i, err)
			}
		}
		if facts, _ := mapImage(t, img); facts.Whole != "" || len(facts.Notes) != 1 {
			t.Errorf("image %d: %+v", i, facts)
		}
		if i == 4 {
			judgeCrash(t, img)
		}
	}
}

// Three ways in which files are read.

func opened(b []byte) error {
	_, err := OpenTree(bytes.NewReader(b), int64(len(b)))
	return err
}

func claimed(b []byte) error {
	why, err := Claims(bytes.NewReader(b), int64(len(b)), func(extent.Extent) {})
	return errors.Join(err, errors.New(why))
}

func listedFiles(b []byte) error {
	why, err := Files(bytes.NewReader(b), int64(len(b)), func(fact.File) error { return nil }, func(extent.Extent) {})
	return errors.Join(err, errors.New(why))
}
