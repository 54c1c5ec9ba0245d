package xfs

import (
	"bytes"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"mimeo/internal/imaging/extent"

	"mimeo/internal/imaging/fsmap/maptest"
)

// part is a piece of metadata with a checksum of its own, at sum; none where that is negative.
type part struct {
	at  extent.Extent
	sum int
}

// parts returns what Used reads of a good filesystem.
func parts(t testing.TB, b []byte) []part {
	t.Helper()
	fs := &filesystem{r: bytes.NewReader(b), size: int64(len(b))}
	if err := fs.readSuper(); err != nil {
		t.Fatal(err)
	}
	out := []part{{extent.Extent{Len: fs.sectorSize}, sumOff}}
	for n := range fs.agCount {
		at := fs.bytes(n, 0, 1).Off
		f := b[at+fs.sectorSize:]
		out = append(out, part{extent.Extent{Off: at + fs.sectorSize, Len: fs.sectorSize}, groupSum})
		out = append(out, part{extent.Extent{Off: at + 3*fs.sectorSize, Len: fs.sectorSize}, listSum})
		for i, k := range []kind{byPlace, byLength} {
			if _, err := fs.walk(k, n, agBlock(be.Uint32(f[16+4*i:])), be.Uint32(f[28+4*i:]), func(e extent.Extent) {
				out = append(out, part{e, 52})
			}, func([]byte) error { return nil }); err != nil {
				t.Fatal(err)
			}
		}
	}
	if fs.version == 4 {
		for i := range out {
			out[i].sum = -1
		}
	}
	e := fs.logExtent()
	return append(out, part{extent.Extent{Off: e.Off, Len: 4 * sector}, -1})
}

// images are small filesystems whose free space is in pieces.
func images(t testing.TB) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	proto := sampleTree(t, 600)
	for name, args := range map[string]string{
		"v4": "-m crc=0 -b size=512 -d agcount=2", "v5": "-b size=1024 -m rmapbt=1 -d agcount=2",
	} {
		img := mkfs(t, 32*mib, args+" -p "+proto)
		erase(t, img, 2)
		b, err := os.ReadFile(img)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = b
	}
	return out
}

// TestFlippedBits damages metadata bit by bit, and makes its checksum good again. Whatever the damage, nothing that is
// in use may be left out: the answer is the same, more, or that the volume must be captured whole.
func TestFlippedBits(t *testing.T) {
	t.Parallel()
	for name, b := range images(t) {
		_, want, err := Used(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		ps := parts(t, b)
		if len(ps) < 10 {
			t.Fatalf("only %d pieces of metadata", len(ps))
		}
		r := rand.New(rand.NewPCG(5, 6))
		whole, same := 0, 0
		const tries = 3000
		for i := range tries {
			p := ps[r.IntN(len(ps))]
			piece := b[p.at.Off:p.at.End()]
			old := slices.Clone(piece)
			at := r.IntN(len(piece))
			if i%2 == 0 {
				at = r.IntN(min(len(piece), 270))
			}
			for range 1 + i%3/2 { // one, and now and then two close to each other
				piece[min(at+r.IntN(9), len(piece)-1)] ^= 1 << r.IntN(8)
			}
			if p.sum >= 0 && i%8 > 0 {
				seal(piece, p.sum)
			}
			facts, got, err := Used(bytes.NewReader(b), int64(len(b)))
			copy(piece, old)
			if err != nil {
				t.Fatalf("%s: byte %d of %v: %v", name, at, p.at, err)
			}
			if facts.Whole != "" {
				whole++
				continue
			}
			got = extent.Union(got, extent.List{{Off: facts.Len, Len: int64(len(b)) - facts.Len}})
			if lost := extent.Subtract(want, got); len(lost) > 0 {
				t.Errorf("%s: byte %d of %v: lost %v", name, at, p.at, lost)
			}
			if len(extent.Subtract(got, want)) == 0 {
				same++
			}
		}
		t.Logf("%s: %d of %d whole, %d the same", name, whole, tries, same)
		if whole < tries/5 {
			t.Errorf("%s: only %d of %d flips were noticed", name, whole, tries)
		}
	}
}

// FuzzUsed writes anything into the metadata of a small filesystem, and makes its checksums good again. Used must not
// fail, hang, or say what cannot be.
func FuzzUsed(f *testing.F) {
	var bases [][]byte
	var all [][]part
	list := images(f)
	for _, name := range []string{"v4", "v5"} {
		bases = append(bases, list[name])
		all = append(all, parts(f, list[name]))
	}
	f.Add(uint8(0), []byte{})
	for i := range byte(40) {
		f.Add(i%2, []byte{i, 0, i * 3, 1, i, 0, 28 + i%8, 0xff})
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
		maptest.Files(t, Files, p, int64(len(p.base)))
		facts, used, err := Used(p, int64(len(p.base)))
		if err != nil {
			t.Fatal(err)
		}
		if facts.Whole == "" && (used.Valid() != nil || used[len(used)-1].End() > facts.Len || facts.Len > int64(len(p.base))) {
			t.Fatalf("%v of %d bytes", used, len(p.base))
		}
		w := &writes{patched: p}
		if err := renew(w, int64(len(p.base)), 99); err != nil || facts.Whole == "" && len(extent.Subtract(extent.FromUnsorted(w.list), used)) > 0 {
			t.Fatalf("RenewLog: %v, wrote %v", err, w.list)
		}
	})
}

// patched is an image with some pieces changed.
type patched struct {
	base   []byte
	blocks map[int64][]byte
}

func (p *patched) ReadAt(b []byte, off int64) (int, error) {
	n, err := bytes.NewReader(p.base).ReadAt(b, off)
	for at, block := range p.blocks {
		if at < off+int64(n) && at+int64(len(block)) > off {
			from, to := max(at, off), min(at+int64(len(block)), off+int64(n))
			copy(b[from-off:to-off], block[from-at:to-at])
		}
	}
	return n, err
}

// writes remembers where something was to be written.
type writes struct {
	*patched
	list []extent.Extent
}

func (w *writes) WriteAt(b []byte, off int64) (int, error) {
	w.list = append(w.list, extent.Extent{Off: off, Len: int64(len(b))})
	return len(b), nil
}
