package ntfs

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
	"testing"

	"golang.org/x/sys/unix"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/tree"
)

// listed is a line for each file that Tree finds.
func listed(t *testing.T, img string) map[string]string {
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
	if err := tree.Walk(tr, "/", root, func(name string, f tree.File, err error) error {
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%x", f.Type())
		switch f.Type() {
		case tree.Link:
			line += " -> " + f.Target
		case tree.Regular:
			r, err := tr.Open(f.Inode)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			h := sha256.New()
			if n, err := io.Copy(h, io.NewSectionReader(r, 0, f.Size)); err != nil || n != f.Size {
				return fmt.Errorf("%s: %d bytes of %d, %w", name, n, f.Size, err)
			}
			line += fmt.Sprintf(" links=%d size=%d time=%d %x", f.Links, f.Size, f.Modified.UnixNano(), h.Sum(nil))
		}
		out[name] = line
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// seen is the same as ntfs-3g sees it.
func seen(t *testing.T, img string) map[string]string {
	t.Helper()
	out := map[string]string{}
	mounted(t, img, "ro", func(dir string) {
		if err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			var st unix.Stat_t
			if err := unix.Lstat(p, &st); err != nil {
				return err
			}
			line := fmt.Sprintf("%x", st.Mode&tree.TypeMask)
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
				line += fmt.Sprintf(" links=%d size=%d time=%d %x", st.Nlink, st.Size, st.Mtim.Nano(), sha256.Sum256(b))
			}
			rel, _ := filepath.Rel(dir, p)
			out[filepath.Join("/", rel)] = line
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
	return out
}

// TestTree compares Tree with ntfs-3g.
func TestTree(t *testing.T) {
	for _, c := range []struct {
		kib int64
		cs  string
	}{{48 << 10, "4096"}, {24 << 10, "512"}, {24 << 10, "1024"}, {64 << 10, "65536"}} {
		t.Run(c.cs, func(t *testing.T) {
			img := mkntfs(t, c.kib, "-c", c.cs)
			var cs int64
			fmt.Sscan(c.cs, &cs)
			mounted(t, img, "", func(dir string) {
				fill(t, dir, c.kib<<10/4, cs)
				if err := errors.Join(os.Mkdir(filepath.Join(dir, "many"), 0o755), os.WriteFile(filepath.Join(dir, "\u00fcml\u00e4ut \U0001f4be"), []byte("x"), 0o444)); err != nil {
					t.Fatal(err)
				}
				for i := range 900 { // enough for an index of several levels
					if err := os.WriteFile(filepath.Join(dir, "many", fmt.Sprintf("a file with a long name %d", i)), []byte{byte(i)}, 0o644); err != nil {
						t.Fatal(err)
					}
				}
				for i := 0; i < 900; i += 4 {
					if err := os.Remove(filepath.Join(dir, "many", fmt.Sprintf("a file with a long name %d", i))); err != nil {
						t.Fatal(err)
					}
				}
			})
			got, want := listed(t, img), seen(t, img)
			if len(want) < 700 {
				t.Fatalf("only %d files", len(want))
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
		})
	}
}

// TestTreeOfPieces reads a file whose runs take several records.
func TestTreeOfPieces(t *testing.T) {
	img := mkntfs(t, 64<<10, "-c", "512")
	mounted(t, img, "", func(dir string) { fragment(t, dir) })
	got, want := listed(t, img), seen(t, img)
	for name, line := range want {
		if got[name] != line {
			t.Errorf("%s:\n got %s\nwant %s", name, got[name], line)
		}
	}
}

// TestClaims holds the claims of a sound volume against each other and against its map.
func TestClaims(t *testing.T) {
	b := stateImage(t)
	var all []extent.Extent
	sum := int64(0)
	why, err := Claims(bytes.NewReader(b), int64(len(b)), func(e extent.Extent) { all, sum = append(all, e), sum+e.Len })
	if err != nil || why != "" {
		t.Fatalf("%q, %v", why, err)
	}
	list := extent.FromUnsorted(all)
	if list.Bytes() != sum {
		t.Errorf("claims of %d bytes lie on each other", sum-list.Bytes())
	}
	_, used, err := Used(bytes.NewReader(b), int64(len(b)))
	if err != nil || extent.Subtract(list, used).Bytes() > 0 || extent.Subtract(used, list).Bytes() > 64<<10 {
		t.Errorf("%v: claimed %d, used %d", err, list.Bytes(), used.Bytes())
	}
}

// TestTreeOfDamage walks damaged volumes: it ends, and takes nothing that lies elsewhere.
func TestTreeOfDamage(t *testing.T) {
	b := stateImage(t)
	r := rand.New(rand.NewPCG(6, 6))
	failed := 0
	stop := errors.New("enough")
	for range 150 {
		bad := bytes.Clone(b)
		for range 100 {
			bad[r.IntN(len(bad))] ^= 1 << r.IntN(8)
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
					rd.ReadAt(make([]byte, 100_000), max(0, f.Size-50_000))
				}
			}
			return nil
		}); err != nil && err != stop {
			t.Fatal(err)
		}
	}
	if failed == 0 {
		t.Error("nothing was damaged")
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add([]byte{0x03, 0xb0, 0x02, 'a', 0x01, 0x00})
	f.Add([]byte{0xff, 0x3f, 1, 2, 3})
	f.Fuzz(func(t *testing.T, src []byte) {
		dst := make([]byte, 16<<10)
		_ = unpack(dst, src)
	})
}
