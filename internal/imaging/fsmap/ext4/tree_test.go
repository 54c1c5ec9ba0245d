package ext4

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

	"mimeo/internal/imaging/fsmap/tree"
)

// listed is a line for each file that Tree finds, with what it is and a hash of its content.
func listed(t *testing.T, img string) map[string]string {
	t.Helper()
	f, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
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
		line := fmt.Sprintf("%o %d:%d links=%d", f.Mode, f.UID, f.GID, f.Links)
		if f.Type() != tree.Dir {
			line += fmt.Sprintf(" size=%d time=%d", f.Size, f.Modified.UnixNano())
		}
		switch f.Type() {
		case tree.Link:
			line += " -> " + f.Target
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

// mounted is the same as the kernel sees it.
func mounted(t *testing.T, img string) map[string]string {
	t.Helper()
	at := t.TempDir()
	tool(t, "mount", "-t", "ext4", "-o", "loop,ro", img, at)
	defer tool(t, "umount", at)
	out := map[string]string{}
	err := filepath.WalkDir(at, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(p, &st); err != nil {
			return err
		}
		line := fmt.Sprintf("%o %d:%d links=%d", st.Mode, st.Uid, st.Gid, st.Nlink)
		if st.Mode&tree.TypeMask != tree.Dir {
			line += fmt.Sprintf(" size=%d time=%d", st.Size, st.Mtim.Nano())
		}
		switch st.Mode & tree.TypeMask {
		case tree.Link:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			line += " -> " + to
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
	return out
}

func sameListing(t *testing.T, img string) map[string]string {
	t.Helper()
	got, want := listed(t, img), mounted(t, img)
	if len(want) < 20 {
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
	return got
}

// TestTree compares Tree with the kernel on filesystems with all that a file can be.
func TestTree(t *testing.T) {
	for _, args := range []string{
		"-t ext4", "-t ext4 -b 1024 -O ^64bit", "-t ext4 -b 4096 -O inline_data -I 512", "-t ext4 -O ^metadata_csum,bigalloc -C 16384",
		"-t ext3", "-t ext2 -b 1024", "-t ext2 -I 128 -b 1024", "-t ext2 -r 0 -b 1024", "-t ext4 -O meta_bg,^resize_inode -b 1024 -g 1024",
	} {
		t.Run(args, func(t *testing.T) {
			img, at := mke2fs(t, 48<<10, args), t.TempDir()
			tool(t, "mount", "-t", "ext4", "-o", "loop", img, at)
			err := fillTree(at, strings.Contains(args, "-r 0"))
			tool(t, "umount", at)
			if err != nil {
				t.Fatal(err)
			}
			sameListing(t, img)
		})
	}
}

// fillTree makes files of all kinds; old filesystems have no large owners.
func fillTree(at string, old bool) error {
	path := func(s string) string { return filepath.Join(at, s) }
	steps := []error{
		os.Mkdir(path("many"), 0o1777), os.MkdirAll(path("a/b/c"), 0o750),
		os.WriteFile(path("a/small"), []byte("a few bytes"), 0o4755), os.WriteFile(path("a/middle"), bytes.Repeat([]byte("inline?"), 22), 0o600),
		os.WriteFile(path("a/empty"), nil, 0o644), os.Link(path("a/small"), path("a/b/hard")),
		os.Symlink("../a/small", path("a/b/soft")), os.Symlink("/"+strings.Repeat("long/", 100), path("a/b/softlong")),
		syscall.Mknod(path("a/null"), syscall.S_IFCHR|0o666, 0x103), syscall.Mknod(path("a/pipe"), syscall.S_IFIFO|0o600, 0),
		os.WriteFile(path("a/na\xefve \n name"), []byte("x"), 0o644),
	}
	if !old {
		steps = append(steps, os.Chown(path("a/small"), 70_000, 80_000))
	}
	for i := range 700 { // enough for a hashed index
		steps = append(steps, os.WriteFile(path(fmt.Sprintf("many/a-file-with-a-long-name-%04d", i)), []byte{byte(i)}, 0o644))
	}
	for i := 0; i < 700; i += 3 {
		steps = append(steps, os.Remove(path(fmt.Sprintf("many/a-file-with-a-long-name-%04d", i))))
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
	steps = append(steps, f.Truncate(5_000_000), syscall.Fallocate(int(f.Fd()), 0, 4_500_000, 200_000))
	if old || steps[len(steps)-1] == syscall.EOPNOTSUPP { // block maps have nothing unwritten
		steps = steps[:len(steps)-1]
	}
	return errors.Join(steps...)
}

// TestTreeAfterACrash reads files that only the journal knows.
func TestTreeAfterACrash(t *testing.T) {
	img := crashed(t, 28<<10, "-t ext4 -b 1024 -g 2048", "")
	got := listed(t, img)
	replayed(t, img)
	want := listed(t, img)
	for name, line := range want {
		if name != "/lost+found" && got[name] != line {
			t.Errorf("%s:\n got %s\nwant %s", name, got[name], line)
		}
	}
	if len(got) != len(want) || len(want) < 60 {
		t.Errorf("%d files, want %d", len(got), len(want))
	}
}

// TestTreeOfDamage walks damaged filesystems: it ends, and takes nothing that lies elsewhere.
func TestTreeOfDamage(t *testing.T) {
	for _, args := range []string{"-t ext4 -b 1024 -g 1024 -O ^metadata_csum,inline_data -I 256", "-t ext2 -b 1024 -g 1024"} {
		img, at := mke2fs(t, 8<<10, args), t.TempDir()
		tool(t, "mount", "-t", "ext4", "-o", "loop", img, at)
		err := fillTree(at, false)
		tool(t, "umount", at)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(img)
		if err != nil {
			t.Fatal(err)
		}
		r := rand.New(rand.NewPCG(1, 7))
		failed := 0
		for range 60 {
			bad := bytes.Clone(b)
			for range 300 {
				bad[2048+r.IntN(min(len(bad), 2<<20)-2048)] ^= 1 << r.IntN(8)
			}
			tr, err := OpenTree(bytes.NewReader(bad), int64(len(bad)))
			if err != nil {
				failed++
				continue
			}
			root, err := tr.File(tr.Root())
			if err != nil {
				failed++
				continue
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
					if rd, err := tr.Open(f.Inode); err == nil {
						rd.ReadAt(make([]byte, 10_000), max(0, f.Size-5000))
					}
				}
				tr.Attributes(f.Inode)
				return nil
			}); err != nil && err != stop {
				t.Fatal(err)
			}
		}
		if failed == 0 {
			t.Error("nothing was damaged")
		}
	}
}

func FuzzAttributes(f *testing.F) {
	entry := []byte{4, 1, 24, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 'n', 'a', 'm', 'e', 0, 0, 0, 0, 'o', 'k'}
	f.Add(entry)
	f.Add([]byte{0, 2, 20, 0, 0, 0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 6, 0, 9, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		out := map[string][]byte{}
		if err := (&Tree{&filesystem{}}).attributes(b, b, out); err == nil && bytes.Equal(b, entry) && string(out["user.name"]) != "ok" {
			t.Errorf("%q", out)
		}
		for name, value := range out {
			if name == "" || len(value) > 2*len(b)+4 {
				t.Errorf("%q has %d bytes", name, len(value))
			}
		}
	})
}
