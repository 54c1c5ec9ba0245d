package xfs

import (
	"bytes"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
	"mimeo/internal/imaging/fsmap/tree"
)

// treePieces returns where all files lie by Tree, which is held against the kernel elsewhere.
func treePieces(t testing.TB, r io.ReaderAt, size int64) map[fact.Piece]bool {
	t.Helper()
	tr, err := OpenTree(r, size)
	if err != nil {
		t.Fatal(err)
	}
	root, err := tr.File(tr.Root())
	if err != nil {
		t.Fatal(err)
	}
	out := map[fact.Piece]bool{}
	if err := tree.Walk(tr, "/", root, func(name string, f tree.File, err error) error {
		if err != nil || f.Type() != tree.Regular {
			return err
		}
		r, err := tr.Open(f.Inode)
		if err != nil {
			return err
		}
		for _, p := range r.(*tree.Pieced).Pieces {
			end := (f.Size + tr.fs.blockSize - 1) / tr.fs.blockSize * tr.fs.blockSize
			p.Len = min(p.Len, end-p.At)
			out[p] = true
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// checkPieces holds what Pieces and Claims tell of a sound filesystem against Tree and Used.
func checkPieces(t testing.TB, img string, shared bool) {
	t.Helper()
	r, size := disk(t, img)
	got := map[fact.Piece]bool{}
	if err := Pieces(r, size, func(p fact.Piece) { got[p] = true }); err != nil {
		t.Fatal(err)
	}
	if want := treePieces(t, r, size); !maps.Equal(got, want) || len(got) < 100 {
		t.Errorf("%d pieces, the files have %d, and they are not the same", len(got), len(want))
	}
	var all []extent.Extent
	why, err := Claims(r, size, func(e extent.Extent) { all = append(all, e) })
	if err != nil || why != "" {
		t.Fatalf("%q, %v", why, err)
	}
	sum := extent.List(all).Bytes()
	claimed := extent.FromUnsorted(all)
	_, used := mapImage(t, img)
	if lost, over := extent.Subtract(used, claimed), extent.Subtract(claimed, used); len(lost)+len(over) > 0 {
		t.Errorf("in use and nobody's: %v, claimed and free: %v", lost, over)
	}
	if twice := sum - claimed.Bytes(); (twice > 0) != shared {
		t.Errorf("%d bytes are claimed twice", twice)
	}
}

// TestPiecesOfDamage flips bits anywhere: whatever comes lies on the volume, and it ends.
func TestPiecesOfDamage(t *testing.T) {
	list := images(t)
	for _, name := range slices.Sorted(maps.Keys(list)) {
		r := rand.New(rand.NewPCG(1, 9))
		whys := 0
		for range 150 {
			bad := bytes.Clone(list[name])
			for range 200 {
				bad[4096+r.IntN(min(len(bad), 2<<20)-4096)] ^= 1 << r.IntN(8)
			}
			if err := Pieces(bytes.NewReader(bad), int64(len(bad)), func(p fact.Piece) {
				if p.Off < 0 || p.Len <= 0 || p.Off+p.Len > int64(len(bad)) || p.At < 0 {
					t.Fatalf("%+v", p)
				}
			}); err != nil {
				t.Fatal(err)
			}
			why, err := Claims(bytes.NewReader(bad), int64(len(bad)), func(e extent.Extent) {
				if e.Off < 0 || e.Len <= 0 || e.End() > int64(len(bad)) {
					t.Fatalf("%v", e)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			if why != "" {
				whys++
			}
		}
		if whys < 20 { // version 4 has no checksums
			t.Errorf("%s: only %d of 150 were noticed", name, whys)
		}
	}
}

// FuzzFiles writes anything into inodes and folders, and makes their checksums good again. Reading the files must end,
// and take nothing from elsewhere.
func FuzzFiles(f *testing.F) {
	list := images(f)
	var bases [][]byte
	var all [][]part
	for _, name := range []string{"v4", "v5"} {
		b := list[name]
		bases = append(bases, b)
		var ps []part
		for at := int64(0); at < int64(len(b)); at += 256 {
			sum := -1
			switch be.Uint32(b[at:]) {
			case blockMagic4, dataMagic4, blockMagic5, dataMagic5:
				n := int64(512)
				if name == "v5" {
					n, sum = 1024, 4
				}
				ps = append(ps, part{extent.Extent{Off: at, Len: n}, sum})
			}
			if be.Uint16(b[at:]) == inodeMagic && len(ps) < 200 {
				n := int64(256)
				if name == "v5" {
					n, sum = 512, inodeSum
				}
				ps = append(ps, part{extent.Extent{Off: at, Len: n}, sum})
			}
		}
		if len(ps) < 100 {
			f.Fatalf("%s: only %d", name, len(ps))
		}
		all = append(all, ps)
	}
	f.Add(uint8(0), []byte{})
	for i := range byte(40) {
		f.Add(i%2, []byte{i, 0, i * 3, 1, i, 0, 5, i % 5})
	}
	f.Fuzz(func(t *testing.T, which uint8, ops []byte) {
		ps := all[which%2]
		p := &patched{base: bases[which%2], blocks: map[int64][]byte{}}
		for ; len(ops) >= 4; ops = ops[4:] {
			at := ps[int(ops[0])%len(ps)]
			if p.blocks[at.at.Off] == nil {
				p.blocks[at.at.Off] = slices.Clone(p.base[at.at.Off:at.at.End()])
			}
			b := p.blocks[at.at.Off]
			b[(int(ops[1])<<8|int(ops[2]))%len(b)] = ops[3]
			if at.sum >= 0 {
				seal(b, at.sum)
			}
		}
		size := int64(len(p.base))
		tr, err := OpenTree(p, size)
		if err != nil {
			t.Fatal(err)
		}
		walkAll(t, tr, size)
		if err := Pieces(p, size, func(f fact.Piece) {
			if f.Off < 0 || f.Len <= 0 || f.Off+f.Len > size || f.At < 0 {
				t.Fatalf("%+v", f)
			}
		}); err != nil {
			t.Fatal(err)
		}
		if _, err := Claims(p, size, func(extent.Extent) {}); err != nil {
			t.Fatal(err)
		}
	})
}
