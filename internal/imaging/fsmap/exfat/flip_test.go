package exfat

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"mimeo/internal/imaging/extent"
)

// metadata is where the boot regions, the used part of the table of chains, the bitmap, the up-case table and the
// folders lie.
func metadata(e *editor) extent.List {
	v := e.v
	list := extent.List{{Off: 0, Len: 2 * (bootSectors + 1) * v.sector}}
	last := cluster(0)
	for n := firstCluster; v.has(n); n++ {
		if v.marked.Has(int64(n - firstCluster)) {
			last = n
		}
	}
	list.Add(extent.Extent{Off: v.tableAt, Len: int64(last+2) * 4})
	add := func(s stream) {
		v.eachRun(s, func(r run) error {
			list.Add(extent.Extent{Off: v.place(r.first), Len: int64(r.n) * v.clusterSize})
			return nil
		})
	}
	s, err := v.readRoot()
	if err != nil {
		e.t.Fatal(err)
	}
	add(s.upcase)
	add(s.bitmaps[0])
	add(v.rootStream())
	for _, name := range []string{"FOLDER", "INNER"} {
		add(stream{first: e.first(name), size: v.clusterSize, plain: true})
	}
	return list
}

// TestFlippedBits damages metadata bit by bit. Whatever the damage, nothing that is in use may be left out: the answer
// is the same, more, or that the volume must be captured whole.
func TestFlippedBits(t *testing.T) {
	img := stateImage(t)
	second := edit(t, img)
	second.tex(1)
	for _, c := range []struct {
		name string
		b    []byte
	}{{"exFAT", img}, {"TexFAT", second.b}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e := edit(t, c.b)
			b := e.b
			_, want, err := Used(bytes.NewReader(b), int64(len(b)))
			if err != nil {
				t.Fatal(err)
			}
			places := metadata(e)
			if second := e.v.tableAt; c.name == "TexFAT" {
				places.Add(extent.Extent{Off: second, Len: 2000})
			}
			var bits []int64
			for i := range int64(128 * 8) { // all numbers of the boot sector
				bits = append(bits, i)
			}
			for i := range int64(e.v.clusters) { // all of the bitmap
				bits = append(bits, e.v.place(2)*8+i)
			}
			r := rand.New(rand.NewPCG(5, 6))
			for len(bits) < 12000 {
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
				if used.Bytes() > want.Bytes() {
					more++
				}
			}
			t.Logf("%d flips: %d times whole, %d times more", len(bits), whole, more)
			if whole < len(bits)/20 {
				t.Errorf("only %d of %d flips were noticed", whole, len(bits))
			}
		})
	}
}

// FuzzUsed patches the metadata of a volume: each five bytes of the input are a place and what to write there. Most of
// it has checksums, which are made good where the first byte says so.
func FuzzUsed(f *testing.F) {
	img := stateImage(f)
	base := edit(f, img)
	tex := edit(f, img)
	tex.tex(1)
	var places []int64
	for _, p := range metadata(base) {
		for i := range p.Len {
			places = append(places, p.Off+i)
		}
	}
	f.Add(uint8(0), []byte{})
	for i := range byte(48) {
		f.Add(uint8(1), []byte{0, 0, 64 + i, 0xff, 0})
		f.Add(uint8(3), []byte{0, 0, 64 + i, 3, 0})
	}
	f.Fuzz(func(t *testing.T, how uint8, patch []byte) {
		b := bytes.Clone(base.b)
		if how&2 != 0 {
			b = bytes.Clone(tex.b)
		}
		for ; len(patch) >= 5; patch = patch[5:] {
			at := (int(patch[0])<<16 | int(patch[1])<<8 | int(patch[2])) % (len(places) - 1)
			b[places[at]], b[places[at+1]] = patch[3], patch[4]
		}
		if how&1 != 0 {
			e := &editor{t, b, base.v}
			e.boots()
			for at := e.v.heapAt; at+3*entryLen <= int64(len(b)); at += entryLen {
				if b[at] == typeFile && b[at+1] == 2 {
					le.PutUint16(b[at+2:], sum(b[at:at+3*entryLen]))
				}
			}
		}
		facts, used, err := Used(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		if facts.Whole == "" && (used.Valid() != nil || used[len(used)-1].End() > int64(len(b)) || facts.Len > int64(len(b))) {
			t.Fatalf("%v of %d bytes", used, len(b))
		}
	})
}
