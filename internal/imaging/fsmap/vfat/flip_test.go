package vfat

import (
	"bytes"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"mimeo/internal/imaging/extent"
)

// metadata is where the boot sectors, FSInfo, the used parts of the tables and the folders lie.
func metadata(e *editor) extent.List {
	v := e.v
	list := extent.List{{Off: 0, Len: 0x60}}
	list.Add(extent.Extent{Off: v.backup * v.sector, Len: 0x60})
	list.Add(extent.Extent{Off: v.info * v.sector, Len: bootLen})
	last := int64(0)
	for n := range int64(v.clusters) {
		if v.marked.Has(n) {
			last = n
		}
	}
	for c := range v.copies {
		list.Add(extent.Extent{Off: v.tableAt + c*v.tableLen, Len: (last + 4) * v.bits / 8})
	}
	list.Add(extent.Extent{Off: v.rootAt, Len: v.rootLen})
	// A cluster that begins as a folder is one; the root of FAT32 begins with the label.
	for n := range int64(v.clusters) {
		at := v.dataAt + n*v.clusterSize
		if b := e.b[at:]; v.marked.Has(n) && (string(b[:11]) == ".          " || string(b[:11]) == "SOME LABEL ") {
			list.Add(extent.Extent{Off: at, Len: v.clusterSize})
		}
	}
	return list
}

// TestFlippedBits damages metadata bit by bit. Whatever the damage, nothing that is in use may be left out: the answer
// is the same, more, or that the volume must be captured whole. What lies behind the filesystem is captured by others.
func TestFlippedBits(t *testing.T) {
	for _, c := range []struct {
		name string
		kib  int64
		args string
	}{
		{"12", 1440, "-F 12"},
		{"12-one-table", 1440, "-F 12 -f 1"},
		{"16", 5 << 10, "-F 16 -s 1"},
		{"16-one-table", 5 << 10, "-F 16 -s 1 -f 1"},
		{"32", 34 << 10, "-F 32 -s 1"},
		{"32-one-table", 34 << 10, "-F 32 -s 1 -f 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			img := mkfs(t, c.kib, strings.Fields(c.args)...)
			fill(t, img, 300<<10, 512)
			b, err := os.ReadFile(img)
			if err != nil {
				t.Fatal(err)
			}
			facts, want := mapImage(t, img)
			if facts.Whole != "" {
				t.Fatal(facts.Whole)
			}
			b = append(b, make([]byte, 1<<20)...) // so that a longer filesystem has room
			places := metadata(edit(t, b))
			var bits []int64
			for i := range int64(0x5a * 8) {
				bits = append(bits, i)
			}
			r := rand.New(rand.NewPCG(5, 6))
			for len(bits) < 2500 {
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
				used = extent.Union(used, extent.List{{Off: facts.Len, Len: int64(len(b)) - facts.Len}}).Clip(extent.Extent{Len: c.kib << 10})
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

// TestFreedClusters frees each cluster in use in turn, in all copies of the table: none may go unnoticed.
func TestFreedClusters(t *testing.T) {
	for _, kind := range []string{"12", "16"} {
		img := mkfs(t, 5<<10, "-F", kind, "-s", map[string]string{"12": "4", "16": "1"}[kind])
		fill(t, img, 300<<10, 512)
		b, err := os.ReadFile(img)
		if err != nil {
			t.Fatal(err)
		}
		e := edit(t, b)
		for n := firstCluster; n < e.v.clusters+firstCluster; n++ {
			old := e.get(n)
			if old == entryFree {
				continue
			}
			e.set(n, entryFree)
			facts, _, err := Used(bytes.NewReader(e.b), int64(len(e.b)))
			if e.set(n, old); err != nil || facts.Whole == "" {
				t.Fatalf("FAT%s: cluster %d is free, and nobody sees it: %+v, %v", kind, n, facts, err)
			}
		}
	}
}

// FuzzUsed patches the metadata of a volume: each five bytes of the input are a place and what to write there.
func FuzzUsed(f *testing.F) {
	var bases [][]byte
	var places [][]int64
	for _, kind := range []string{"12", "16", "32"} {
		e := edit(f, stateImage(f, "-F", kind))
		var at []int64
		for _, p := range metadata(e) {
			for i := range p.Len {
				at = append(at, p.Off+i)
			}
		}
		bases, places = append(bases, e.b), append(places, at)
	}
	f.Add(uint8(0), []byte{})
	for kind := range uint8(3) {
		for i := range byte(0x30) {
			f.Add(kind, []byte{0, 0, 0x0b + i, 0xff, 0})
			f.Add(kind, []byte{0, 0, 0x60 + i, 0x03, 0})
		}
	}
	f.Fuzz(func(t *testing.T, kind uint8, patch []byte) {
		kind %= 3
		b, places := bytes.Clone(bases[kind]), places[kind]
		for ; len(patch) >= 5; patch = patch[5:] {
			at := (int(patch[0])<<16 | int(patch[1])<<8 | int(patch[2])) % (len(places) - 1)
			b[places[at]], b[places[at+1]] = patch[3], patch[4]
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
