package xfs

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mimeo/internal/imaging/fsmap/tree"
)

// listed is a line for each file that Tree finds, with what it is and a hash of its content.
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
		if f.Type() == tree.Regular {
			line += fmt.Sprintf(" blocks=%d", (f.Size-f.Holes+511)/512)
		}
		if f.Type() != tree.Dir {
			line += fmt.Sprintf(" size=%d", f.Size)
		}
		switch f.Type() {
		case tree.Link:
			line += " -> " + f.Target
		case tree.Char, tree.Block:
			line += fmt.Sprintf(" %#x", f.Device)
		case tree.Regular:
			r, err := tr.Open(f.Inode)
			if err != nil {
				return err
			}
			h := sha256.New()
			if _, err := io.Copy(h, io.NewSectionReader(r, 0, f.Size)); err != nil {
				return err
			}
			line += fmt.Sprintf(" %x", h.Sum(nil))
		}
		out[name] = line
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// listedByKernel is the same as the kernel sees it.
func listedByKernel(t testing.TB, img string) map[string]string {
	t.Helper()
	out := map[string]string{}
	mounted(t, img, "ro,norecovery", func(at, _ string) {
		err := filepath.WalkDir(at, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			var st syscall.Stat_t
			if err := syscall.Lstat(p, &st); err != nil {
				return err
			}
			line := fmt.Sprintf("%o %d:%d links=%d time=%d", st.Mode, st.Uid, st.Gid, st.Nlink, st.Mtim.Nano())
			if st.Mode&tree.TypeMask == tree.Regular {
				line += fmt.Sprintf(" blocks=%d", st.Blocks)
			}
			if st.Mode&tree.TypeMask != tree.Dir {
				line += fmt.Sprintf(" size=%d", st.Size)
			}
			switch st.Mode & tree.TypeMask {
			case tree.Link:
				to, err := os.Readlink(p)
				if err != nil {
					return err
				}
				line += " -> " + to
			case tree.Char, tree.Block:
				line += fmt.Sprintf(" %#x", st.Rdev)
			case tree.Regular:
				b, err := os.ReadFile(p)
				if err != nil {
					return err
				}
				line += fmt.Sprintf(" %x", sha256.Sum256(b))
			}
			rel, _ := filepath.Rel(at, p)
			out[filepath.Join("/", rel)] = line
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	return out
}

// fillTree makes files of all kinds.
func fillTree(at string) error {
	path := func(s string) string { return filepath.Join(at, s) }
	steps := []error{
		os.Mkdir(path("many"), 0o1777), os.MkdirAll(path("a/b/c"), 0o750), os.Mkdir(path("some"), 0o700),
		os.WriteFile(path("a/small"), []byte("a few bytes"), 0o4755), os.WriteFile(path("a/empty"), nil, 0o644),
		os.Link(path("a/small"), path("a/b/hard")), os.Chown(path("a/small"), 70_000, 80_000),
		os.Symlink("../a/small", path("a/b/soft")), os.Symlink("/"+strings.Repeat("long/", 100), path("a/b/softlong")),
		os.Symlink("/"+strings.Repeat("long/", 203), path("a/b/longest")),
		syscall.Mknod(path("a/null"), syscall.S_IFCHR|0o666, 0x103), syscall.Mknod(path("a/large"), syscall.S_IFBLK|0o600, 0x11112c70),
		syscall.Mknod(path("a/pipe"), syscall.S_IFIFO|0o600, 0),
		os.WriteFile(path("a/na\xefve \n name"), []byte("x"), 0o644),
		unix.Setxattr(path("a/small"), "user.small", []byte("value"), 0), unix.Setxattr(path("a/empty"), "user.large", make([]byte, 20_000), 0),
		unix.Setxattr(path("many"), "user.folder", make([]byte, 300), 0),
		os.Chtimes(path("a/empty"), time.Unix(-1_900_000_000, 5), time.Unix(-1_900_000_000, 123_456_789)),
	}
	for i := range 40 { // a block
		steps = append(steps, os.WriteFile(path(fmt.Sprintf("some/file-%04d", i)), []byte{byte(i)}, 0o644))
	}
	for i := range 3000 { // many blocks, with a tree of an index
		steps = append(steps, os.WriteFile(path(fmt.Sprintf("many/a-file-with-a-very-very-very-long-name-%04d", i)), []byte{byte(i)}, 0o644))
	}
	for i := 0; i < 3000; i += 3 {
		steps = append(steps, os.Remove(path(fmt.Sprintf("many/a-file-with-a-very-very-very-long-name-%04d", i))))
	}
	f, err := os.Create(path("sparse"))
	if err != nil {
		return err
	}
	defer f.Close()
	for i := range int64(400) {
		if _, err := f.WriteAt([]byte("some bytes"), i*9000); err != nil {
			return err
		}
	}
	return errors.Join(append(steps, f.Truncate(5_000_000), syscall.Fallocate(int(f.Fd()), 0, 4_500_000, 200_000))...)
}

// TestTree compares Tree with the kernel on filesystems with all that a file can be.
func TestTree(t *testing.T) {
	for _, args := range []string{
		"-i nrext64=1", "-b size=1024", "-s size=4096 -i size=2048", "-b size=65536",
		"-m reflink=0,finobt=0,bigtime=0,inobtcount=0 -i sparse=0 -n size=16384",
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			size := int64(96)
			if strings.Contains(args, "size=65536") {
				size = 300
			}
			img := mkfs(t, size*mib, args)
			mounted(t, img, "rw", func(at, _ string) {
				if err := fillTree(at); err != nil {
					t.Fatal(err)
				}
				change(t, at, 2*mib)
				torn(t, at+"/torn-more", 4096, 900) // a map in blocks of its own
				if !strings.Contains(args, "reflink=0") {
					tool(t, "cp", "--reflink=always", at+"/torn", at+"/again")
				}
			})
			got, want := listed(t, img), listedByKernel(t, img)
			if len(want) < 2000 {
				t.Fatalf("only %d files", len(want))
			}
			for name, line := range want {
				if got[name] != line {
					t.Errorf("%s:\n got %s\nwant %s", name, got[name], line)
				}
			}
			if len(got) != len(want) {
				t.Errorf("%d files, want %d", len(got), len(want))
			}
		})
	}
}

// TestTree4 reads version 4, which this kernel does not mount, and compares it with what was given to mkfs.xfs.
func TestTree4(t *testing.T) {
	proto := sampleTree(t, 600)
	for _, args := range []string{"-m crc=0", "-m crc=0 -b size=512 -n ftype=0", "-m crc=0 -l version=1 -i attr=1,projid32bit=0 -n size=8192"} {
		got := listed(t, mkfs(t, 64*mib, args+" -p "+proto))
		for i := range 600 {
			b := content(i, 1+i*i*13%9000)
			name := fmt.Sprintf("/dir%d/file-with-a-name-%d", i/50*50, i)
			if want := fmt.Sprintf("size=%d %x", len(b), sha256.Sum256(b)); !strings.HasSuffix(got[name], want) {
				t.Errorf("%s: %q, want %s", name, got[name], want)
			}
			if to := fmt.Sprintf("/dir%d/to", i/50*50); !strings.HasSuffix(got[to], "-> ../dir0/file-"+strings.Repeat("x", i/50*10)) {
				t.Errorf("%s: %q", to, got[to])
			}
		}
		if len(got) != 600+12*2+1 {
			t.Errorf("%d files", len(got))
		}
	}
}

// TestTreeOfDamage walks damaged filesystems: it ends, and takes nothing that lies elsewhere.
func TestTreeOfDamage(t *testing.T) {
	for name, b := range images(t) {
		r := rand.New(rand.NewPCG(1, 7))
		failed := 0
		for range 60 {
			bad := bytes.Clone(b)
			for range 300 {
				bad[4096+r.IntN(min(len(bad), 2<<20)-4096)] ^= 1 << r.IntN(8)
			}
			tr, err := OpenTree(bytes.NewReader(bad), int64(len(bad)))
			if err != nil {
				failed++
				continue
			}
			failed += walkAll(t, tr, int64(len(bad)))
		}
		if failed == 0 {
			t.Errorf("%s: nothing was damaged", name)
		}
	}
}

// walkAll looks at all files, and counts what cannot be read.
func walkAll(t testing.TB, tr *Tree, size int64) (failed int) {
	t.Helper()
	root, err := tr.File(tr.Root())
	if err != nil {
		return 1
	}
	n := 0
	stop := errors.New("enough")
	if err := tree.Walk(tr, "/", root, func(name string, f tree.File, err error) error {
		if n++; n > 20_000 {
			return stop
		}
		if err != nil {
			failed++
			return nil
		}
		if f.Type() == tree.Regular {
			rd, err := tr.Open(f.Inode)
			if err != nil {
				failed++
				return nil
			}
			for _, p := range rd.(*tree.Pieced).Pieces {
				if p.Off < 0 || p.Len <= 0 || p.Off+p.Len > size || p.At < 0 {
					t.Fatalf("%s: %+v", name, p)
				}
			}
			rd.ReadAt(make([]byte, 10_000), max(0, f.Size-5000))
		}
		return nil
	}); err != nil && err != stop {
		t.Fatal(err)
	}
	return failed
}
