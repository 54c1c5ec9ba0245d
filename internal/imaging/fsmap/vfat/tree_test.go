package vfat

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

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
		line := fmt.Sprintf("%x", f.Mode)
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

// seen is the same as mtools see it.
func seen(t testing.TB, img string) map[string]string {
	t.Helper()
	t.Setenv("TZ", "UTC")
	dir := t.TempDir()
	tool(t, "mcopy", "-s", "-m", "-Q", "-i", img, "::", dir)
	out := map[string]string{}
	if err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		name := filepath.Join("/", rel)
		if out[name] = "41ed"; d.IsDir() {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		b, err := os.ReadFile(p)
		mode := "81a4"
		if name == "/UPPER" { // mcopy does not keep it
			mode = "8124"
		}
		out[name] = fmt.Sprintf("%s size=%d time=%d %x", mode, len(b), info.ModTime().Unix(), sha256.Sum256(b))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// names are files whose names try what FAT does with them.
var names = []string{"UPPER.TXT", "lower.txt", "small.BIG", "BIG.sml", "UPPER", "no.ext.at.all", "thirteen char", strings.Repeat("x", 255),
	"ümläut und größe.txt", "日本語のファイル", "many   blanks and (brackets)", "a+b,c;d=[e]"}

// TestTree compares Tree with mtools.
func TestTree(t *testing.T) {
	for _, c := range []struct {
		kib  int64
		args string
		cs   int64
	}{{1440, "-F 12", 512}, {9 << 10, "-F 16 -s 1", 512}, {40 << 10, "-F 16 -s 8", 4096}, {68 << 10, "-F 32 -s 2", 1024}} {
		t.Run(c.args, func(t *testing.T) {
			img := mkfs(t, c.kib, strings.Fields(c.args)...)
			fill(t, img, c.kib<<10/4, c.cs)
			dir := t.TempDir()
			when := time.Date(2031, 7, 8, 9, 10, 12, 0, time.UTC)
			for i, name := range names {
				p := filepath.Join(dir, name)
				if err := os.WriteFile(p, bytes.Repeat([]byte(name), i), 0o644); err != nil {
					t.Fatal(err)
				}
				os.Chtimes(p, when, when.Add(time.Duration(i)*time.Hour))
				t.Setenv("TZ", "UTC")
				tool(t, "mcopy", "-m", "-i", img, p, "::")
			}
			tool(t, "mattrib", "+r", "-i", img, "::UPPER")
			tool(t, "mmd", "-i", img, "::deep", "::deep/er", "::deep/er/st")
			many := filepath.Join(dir, "many")
			os.Mkdir(many, 0o755)
			for i := range 60 { // a folder of several clusters
				if err := os.WriteFile(filepath.Join(many, "a file with a long name "+strconv.Itoa(i)), []byte{byte(i)}, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			tool(t, "mcopy", "-s", "-i", img, many, "::deep/er/st")
			b, err := os.ReadFile(img)
			if err != nil {
				t.Fatal(err)
			}
			got, want := listed(t, b), seen(t, img)
			if len(want) < 100 {
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
			var all fact.Pieces
			if err := Pieces(bytes.NewReader(b), int64(len(b)), all.Add); err != nil {
				t.Fatal(err)
			}
			// All that files have lies in a piece, and what claims nothing is not in use.
			size := int64(0)
			for _, p := range all.List() {
				size += p.Len
			}
			sum := int64(0)
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
			var own extent.List
			var list []extent.Extent
			why, err := Claims(bytes.NewReader(b), int64(len(b)), func(e extent.Extent) { list = append(list, e) })
			if err != nil || why != "" {
				t.Fatal(why, err)
			}
			total := int64(0)
			for _, e := range list {
				total += e.Len
			}
			if own = extent.FromUnsorted(list); own.Bytes() != total {
				t.Errorf("claims of %d bytes cover %d", total, own.Bytes())
			}
			if d := extent.Subtract(own, used); len(d) > 0 {
				t.Errorf("claimed and not in use: %v", d)
			}
			if d := extent.Subtract(used, own); d.Bytes() > c.cs { // behind the last whole cluster
				t.Errorf("in use and claimed by nothing: %v", d)
			}
		})
	}
}

// TestTreeOfDamage reads the files of damaged volumes: errors are fine, no more than that.
func TestTreeOfDamage(t *testing.T) {
	img := mkfs(t, 5<<10, "-F", "16", "-s", "1")
	fill(t, img, 300<<10, 512)
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
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

// FuzzTree reads the files of patched volumes: each five bytes of the input are a place and what to write there.
func FuzzTree(f *testing.F) {
	e := edit(f, stateImage(f, "-F", "16"))
	var at []int64
	for _, p := range metadata(e) {
		for i := range p.Len {
			at = append(at, p.Off+i)
		}
	}
	f.Add([]byte{})
	for i := range byte(0x30) {
		f.Add([]byte{0, 0, 0x0b + i, 0xff, 0})
	}
	f.Fuzz(func(t *testing.T, patch []byte) {
		b := bytes.Clone(e.b)
		for ; len(patch) >= 5; patch = patch[5:] {
			i := (int(patch[0])<<16 | int(patch[1])<<8 | int(patch[2])) % (len(at) - 1)
			b[at[i]], b[at[i+1]] = patch[3], patch[4]
		}
		walkAll(t, b)
	})
}
