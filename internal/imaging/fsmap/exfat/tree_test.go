package exfat

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
	"mimeo/internal/imaging/fsmap/tree"
)

// listed is a line for each file that Tree finds.
func listed(t testing.TB, b []byte) map[string]string {
	t.Helper()
	tr, err := OpenTree(bytes.NewReader(b), int64(len(b)))
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
		if f.Inode>>56 != 0 {
			return fmt.Errorf("%s has number %#x: a mount, which keeps the volume's number in the upper bits, cannot show it", name, f.Inode)
		}
		line := fmt.Sprintf("%x", f.Type())
		if f.Type() == tree.Regular {
			r, err := tr.Open(f.Inode)
			if err != nil {
				return err
			}
			h := sha256.New()
			if n, err := io.Copy(h, io.NewSectionReader(r, 0, f.Size)); err != nil || n != f.Size {
				return fmt.Errorf("%s: %d bytes of %d, %w", name, n, f.Size, err)
			}
			line += fmt.Sprintf(" size=%d time=%d %x", f.Size, f.Modified.Unix(), h.Sum(nil))
		}
		out[name] = line
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// seen is the same as exfat-fuse sees it.
func seen(t testing.TB, img string) map[string]string {
	t.Helper()
	out := map[string]string{}
	mounted(t, img, func(dir string) {
		if err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rel, _ := filepath.Rel(dir, p)
			name := filepath.Join("/", rel)
			if out[name] = "4000"; d.IsDir() {
				return nil
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			b, err := os.ReadFile(p)
			out[name] = fmt.Sprintf("8000 size=%d time=%d %x", len(b), info.ModTime().Unix(), sha256.Sum256(b))
			return err
		}); err != nil {
			t.Error(err)
		}
	})
	return out
}

// TestTree compares Tree with exfat-fuse.
func TestTree(t *testing.T) {
	for _, c := range []struct {
		mib    int64
		sector int
		args   []string
		cs     int64
	}{{16, 512, []string{"-c", "512", "-b", "4K"}, 512}, {24, 512, []string{"-c", "4K", "-b", "64K"}, 4096}, {32, 4096, []string{"-c", "4K", "-b", "64K"}, 4096}} {
		t.Run(fmt.Sprint(c.cs, " ", c.sector), func(t *testing.T) {
			t.Parallel()
			img := mkfs(t, c.mib<<10, c.sector, c.args...)
			mounted(t, img, func(dir string) {
				fill(t, dir, c.mib<<20/4, c.cs)
				many := filepath.Join(dir, "many \U0001f4be")
				if err := os.Mkdir(many, 0o755); err != nil {
					t.Fatal(err)
				}
				for i := range 120 { // a folder of several clusters, in pieces
					if err := os.WriteFile(filepath.Join(many, fmt.Sprintf("a file with a name of %d or so characters", i)), []byte{byte(i)}, 0o644); err != nil {
						t.Fatal(err)
					}
				}
				// A file whose end was never written.
				f, err := os.Create(filepath.Join(dir, "longer"))
				if err != nil {
					t.Fatal(err)
				}
				f.Write([]byte("begin"))
				f.Truncate(3*c.cs + 7)
				f.Close()
			})
			b, err := os.ReadFile(img)
			if err != nil {
				t.Fatal(err)
			}
			got, want := listed(t, b), seen(t, img)
			if len(want) < 200 {
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
			size, sum := int64(0), int64(0)
			var all fact.Pieces
			if err := Pieces(bytes.NewReader(b), int64(len(b)), all.Add); err != nil {
				t.Fatal(err)
			}
			for _, p := range all.List() {
				size += p.Len
			}
			for _, line := range want {
				var mode string
				var n int64
				fmt.Sscanf(line, "%s size=%d", &mode, &n)
				sum += n
			}
			if size != sum {
				t.Errorf("the pieces have %d bytes, the files %d", size, sum)
			}
			_, used := mapImage(t, img)
			var list []extent.Extent
			why, err := Claims(bytes.NewReader(b), int64(len(b)), func(e extent.Extent) { list = append(list, e) })
			if err != nil || why != "" {
				t.Fatal(why, err)
			}
			total := int64(0)
			for _, e := range list {
				total += e.Len
			}
			own := extent.FromUnsorted(list)
			if own.Bytes() != total {
				t.Errorf("claims of %d bytes cover %d", total, own.Bytes())
			}
			if d := extent.Subtract(own, used); len(d) > 0 {
				t.Errorf("claimed and not in use: %v", d)
			}
			if d := extent.Subtract(used, own); d.Bytes() >= c.cs { // behind the last whole cluster
				t.Errorf("in use and claimed by nothing: %v", d)
			}
		})
	}
}

// TestTreeOfDamage reads the files of damaged volumes: errors are fine, no more than that.
func TestTreeOfDamage(t *testing.T) {
	b := stateImage(t)
	places := metadata(edit(t, b))
	r := rand.New(rand.NewPCG(8, 8))
	failed := 0
	for range 300 {
		bad := bytes.Clone(b)
		for range 1 + r.IntN(40) {
			e := places[r.IntN(len(places))]
			bad[e.Off+r.Int64N(e.Len)] ^= 1 << r.IntN(8)
		}
		if walkAll(t, bad) != nil {
			failed++
		}
	}
	if failed < 30 {
		t.Errorf("only %d damaged volumes gave an error", failed)
	}
}

// walkAll reads all files, and returns the first error.
func walkAll(t testing.TB, b []byte) (first error) {
	add := func(p fact.Piece) {
		if p.Off < 0 || p.Len <= 0 || p.At < 0 || p.Off+p.Len > int64(len(b)) {
			t.Fatalf("%+v", p)
		}
	}
	if err := Pieces(bytes.NewReader(b), int64(len(b)), add); err != nil {
		t.Fatal(err)
	}
	tr, err := OpenTree(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return err
	}
	root, err := tr.File(tr.Root())
	if err != nil {
		return err
	}
	entries := 0
	tree.Walk(tr, "/", root, func(_ string, f tree.File, err error) error {
		if entries++; entries > 5000 {
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

// FuzzTree reads the files of patched volumes, whose sets of entries get their checksums back: each five bytes of the
// input are a place and what to write there.
func FuzzTree(f *testing.F) {
	base := stateImage(f)
	var at []int64
	for _, p := range metadata(edit(f, base)) {
		for i := range p.Len {
			at = append(at, p.Off+i)
		}
	}
	f.Add([]byte{})
	for i := range byte(0x30) {
		f.Add([]byte{0, 0, 0x50 + i, 0xff, 0})
	}
	f.Fuzz(func(t *testing.T, patch []byte) {
		b := bytes.Clone(base)
		for ; len(patch) >= 5; patch = patch[5:] {
			i := (int(patch[0])<<16 | int(patch[1])<<8 | int(patch[2])) % (len(at) - 1)
			b[at[i]], b[at[i+1]] = patch[3], patch[4]
		}
		walkAll(t, b)
	})
}
