package f2fs

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"mimeo/internal/imaging/extent"
)

// blocks returns n blocks as bytes.
func blocks(at blockNr, n int64) extent.Extent {
	return extent.Extent{Off: int64(at) * blockSize, Len: n * blockSize}
}

// metadata is where superblocks, checkpoints, what is current of SIT and NAT, and nodes lie.
func metadata(t testing.TB, fs *filesystem) extent.List {
	t.Helper()
	list := extent.List{{Off: superOff, Len: superLen}}
	list.Add(extent.Extent{Off: blockSize + superOff, Len: superLen})
	list.Add(blocks(fs.cpAt, 8))
	list.Add(blocks(fs.cpAt+segBlocks, 8))
	for i := range (fs.segments + sitPerBlock - 1) / sitPerBlock {
		at := fs.sitAt + blockNr(i)
		if bit(fs.cp.sitCurrent, i) {
			at += blockNr(fs.sitBlocks)
		}
		list.Add(blocks(at, 1))
	}
	for i := range int64(2) {
		list.Add(blocks(fs.natPlace(i), 1))
	}
	for seg, typ := range fs.types {
		if typ >= hotNode {
			list.Add(blocks(fs.mainAt+blockNr(seg)*segBlocks, 40))
		}
	}
	return list
}

// journals returns all bits of the counts and numbers in the journals, and some of what else they have.
func journals(fs *filesystem) []int64 {
	var out []int64
	add := func(off, n int64) {
		for i := range n * 8 {
			out = append(out, off*8+i)
		}
	}
	sums := int64(fs.cp.at+blockNr(fs.cp.sums)) * blockSize
	add(sums, 2+4)
	add(sums+journalLen, 2)
	for i := range int64(505 / (4 + sitLen)) {
		add(sums+journalLen+2+i*(4+sitLen), 4+2+4)
	}
	return out
}

// TestFlippedBits damages metadata bit by bit. Whatever the damage, nothing that is in use may be left out: the answer
// is the same, more, or that the volume must be captured whole.
func TestFlippedBits(t *testing.T) {
	for _, name := range []string{"default", "full"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := testdata(t, name)
			fs := open(t, b)
			_, want, err := Used(bytes.NewReader(b), int64(len(b)))
			if err != nil {
				t.Fatal(err)
			}
			// The block where recovery would begin is of no use to anybody.
			want = extent.Subtract(want, extent.List{blocks(fs.mainAt+blockNr(fs.cp.seg[warmNode]*segBlocks+fs.cp.next[warmNode]), 1)})
			places := metadata(t, fs)
			bits := journals(fs)
			for i := range int64(128 * 8) {
				if i%5 == 0 {
					bits = append(bits, superOff*8+i)
				}
			}
			r := rand.New(rand.NewPCG(5, 6))
			for range 400 {
				e := places[r.IntN(len(places))]
				bits = append(bits, e.Off*8+r.Int64N(e.Len*8))
			}
			whole, more := 0, 0
			for _, bit := range bits {
				b[bit/8] ^= 1 << (bit % 8)
				facts, used, err := Used(bytes.NewReader(b), int64(len(b)))
				b[bit/8] ^= 1 << (bit % 8)
				if err != nil {
					t.Fatalf("bit %d of byte %d: %v", bit%8, bit/8, err)
				}
				if facts.Whole != "" {
					whole++
					continue
				}
				used = extent.Union(used, extent.List{{Off: facts.Len, Len: int64(len(b)) - facts.Len}})
				if lost := extent.Subtract(want, used); len(lost) > 0 {
					t.Fatalf("bit %d of byte %#x: lost %v", bit%8, bit/8, lost)
				}
				if used.Bytes() > want.Bytes()+blockSize {
					more++
				}
			}
			t.Logf("%d flips: %d times whole, %d times more", len(bits), whole, more)
			if whole < len(bits)/5 {
				t.Errorf("only %d of %d flips were noticed", whole, len(bits))
			}
		})
	}
}

// FuzzUsed patches the metadata of a filesystem: each five bytes of the input are a place and what to write there. The
// checksums of the checkpoint are made good where the first byte says so.
func FuzzUsed(f *testing.F) {
	base := testdata(f, "full")
	fs := open(f, base)
	var places []int64
	for _, p := range metadata(f, fs) {
		for i := range p.Len {
			places = append(places, p.Off+i)
		}
	}
	f.Add(uint8(0), []byte{})
	for i := range byte(60) {
		f.Add(uint8(1), []byte{0, 0, i * 2, 0xff, 0})
		f.Add(uint8(1), []byte{0, byte(2*superLen>>8) + i/40, 3 * i, 0xff, 0})
	}
	f.Fuzz(func(t *testing.T, how uint8, patch []byte) {
		old := map[int64]byte{}
		set := func(at int64, c byte) {
			if _, ok := old[at]; !ok {
				old[at] = base[at]
			}
			base[at] = c
		}
		for ; len(patch) >= 5; patch = patch[5:] {
			at := (int(patch[0])<<16 | int(patch[1])<<8 | int(patch[2])) % (len(places) - 1)
			set(places[at], patch[3])
			set(places[at+1], patch[4])
		}
		if how&1 != 0 {
			for _, at := range []int64{0, fs.cp.blocks - 1} {
				b := base[(int64(fs.cp.at)+at)*blockSize:][:blockSize]
				sum := le.AppendUint32(nil, crc(superMagic, b[:sumsHigh]))
				for i, c := range sum {
					set((int64(fs.cp.at)+at)*blockSize+sumsHigh+int64(i), c)
				}
			}
		}
		facts, used, err := Used(bytes.NewReader(base), int64(len(base)))
		for at, c := range old {
			base[at] = c
		}
		if err != nil {
			t.Fatal(err)
		}
		if facts.Whole == "" && (used.Valid() != nil || used[len(used)-1].End() > int64(len(base)) || facts.Len > int64(len(base))) {
			t.Fatalf("%v of %d bytes", used, len(base))
		}
	})
}
