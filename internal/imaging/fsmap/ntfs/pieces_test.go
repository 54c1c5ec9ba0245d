package ntfs

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
)

// TestPieces holds what Pieces tells against what was written: files that grow in turns, with holes, with streams, and
// one in so many pieces that it takes several records.
func TestPieces(t *testing.T) {
	const block = 4096
	type place struct {
		sum [32]byte
		at  int64
	}
	img := mkntfs(t, 64<<10, "-c", "4096")
	want := map[place]int{}
	mounted(t, img, "", func(dir string) {
		r := rand.New(rand.NewPCG(2, 3))
		files := make([]*os.File, 4)
		for i := range files {
			f, err := os.Create(filepath.Join(dir, fmt.Sprint("file", i)))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			files[i] = f
		}
		for i := range int64(3000) {
			b := noise(r, block)
			at := i / int64(len(files)) * block
			if i%int64(len(files)) == 3 {
				at *= 3 // with holes
			}
			if _, err := files[i%int64(len(files))].WriteAt(b, at); err != nil {
				t.Fatal(err)
			}
			want[place{sha256.Sum256(b), at}]++
		}
		for i := range 200 {
			b := noise(r, 5*block)
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("small", i)), b, 0o644); err != nil {
				t.Fatal(err)
			}
			for at := int64(0); at < int64(len(b)); at += block {
				want[place{sha256.Sum256(b[at:][:block]), at}]++
			}
		}
	})
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	_, used := mapImage(t, img)
	var all fact.Pieces
	if err := Pieces(bytes.NewReader(b), int64(len(b)), all.Add); err != nil {
		t.Fatal(err)
	}
	for _, p := range all.List() {
		if extent.Subtract(extent.List{{Off: p.Off, Len: p.Len}}, used).Bytes() > 0 {
			t.Errorf("%+v is not in use", p)
		}
		for n := int64(0); n < p.Len; n += block {
			k := place{sha256.Sum256(b[p.Off+n:][:block]), p.At + n}
			if want[k] > 0 {
				want[k]--
			}
		}
	}
	lost := 0
	for _, n := range want {
		lost += n
	}
	if lost > 0 {
		t.Errorf("%d blocks are in no piece, or elsewhere in their file", lost)
	}
}

// TestPiecesOfDamage tells of nothing outside of the volume.
func TestPiecesOfDamage(t *testing.T) {
	b := stateImage(t)
	r := rand.New(rand.NewPCG(4, 4))
	for range 200 {
		bad := bytes.Clone(b)
		for range 50 {
			bad[r.IntN(len(bad))] ^= 1 << r.IntN(8)
		}
		if err := Pieces(bytes.NewReader(bad), int64(len(bad)), func(p fact.Piece) {
			if p.Off < 0 || p.Len <= 0 || p.At < 0 || p.Off+p.Len > int64(len(bad)) {
				t.Fatalf("%+v", p)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
}
