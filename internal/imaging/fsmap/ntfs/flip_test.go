package ntfs

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"mimeo/internal/imaging/extent"

	"mimeo/internal/imaging/fsmap/maptest"
)

// metadata is where the boot sector, the MFT, its mirror, both bitmaps, the head of the log and the backup lie.
func metadata(t testing.TB, v *volume) extent.List {
	t.Helper()
	list := extent.List{{Off: 0, Len: bootLen}}
	add := func(s stream, n int64) {
		for _, r := range s.runs {
			e := extent.Extent{Off: int64(r.lcn) * v.clusterSize, Len: min(int64(r.n)*v.clusterSize, n)}
			list.Add(e)
			n -= e.Len
		}
	}
	mirror, err := v.open(recMirror, attrData)
	if err != nil {
		t.Fatal(err)
	}
	log, err := v.open(recLog, attrData)
	if err != nil {
		t.Fatal(err)
	}
	add(v.mft, v.mft.init)
	add(mirror, 4*v.recordSize)
	add(v.records.s, v.records.s.size)
	add(v.marked.s, v.marked.s.size)
	add(log, 8192)
	list.Add(extent.Extent{Off: v.sectors * v.sector, Len: bootLen})
	return list
}

// TestFlippedBits damages metadata bit by bit. Whatever the damage, nothing that is in use may be left out: the answer
// is the same, more, or that the volume must be captured whole. What lies behind the filesystem is captured by others.
func TestFlippedBits(t *testing.T) {
	img := mkntfs(t, 3<<10, "-c", "512")
	mounted(t, img, "", func(dir string) { fill(t, dir, 600<<10, 512) })
	e := openEditor(t, img)
	setLog(e, restartPage(100, 1, 0, 2), restartPage(90, 1, 0, 0))
	e.save()
	split := mkntfs(t, 8<<10, "-c", "512")
	mounted(t, split, "", func(dir string) { fragment(t, dir) })
	for _, c := range []struct {
		name, img string
		tries     int
	}{{"files", img, 3000}, {"pieces", split, 800}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b, err := os.ReadFile(c.img)
			if err != nil {
				t.Fatal(err)
			}
			places := metadata(t, read(t, c.img))
			facts, want := mapImage(t, c.img)
			if facts.Whole != "" {
				t.Fatal(facts.Whole)
			}
			var bits []int64
			// All of the boot sector but its program; of the rest as many as there is time for.
			for i := range int64(0x54 * 8) {
				bits = append(bits, i)
			}
			r := rand.New(rand.NewPCG(5, 6))
			for len(bits) < c.tries {
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
					t.Fatalf("bit %d of byte %d: lost %v", bit%8, bit/8, lost)
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

// TestBitmapBits frees each cluster in use in turn: none may go unnoticed.
func TestBitmapBits(t *testing.T) {
	img := mkntfs(t, 2<<10, "-c", "2048")
	mounted(t, img, "", func(dir string) { fill(t, dir, 300<<10, 2048) })
	e := openEditor(t, img)
	for c := range e.v.clusters {
		if free, err := e.v.marked.clear(int64(c), 1); err != nil {
			t.Fatal(err)
		} else if free >= 0 {
			continue
		}
		e.clusterBit(c, false)
		facts, _, err := Used(bytes.NewReader(e.b), int64(len(e.b)))
		e.clusterBit(c, true)
		if err != nil || facts.Whole == "" {
			t.Fatalf("cluster %d is free, and nobody sees it: %+v, %v", c, facts, err)
		}
	}
}

// FuzzUsed patches the metadata of a volume: each five bytes of the input are a place and what to write there.
func FuzzUsed(f *testing.F) {
	img := mkntfs(f, 1100, "-c", "512")
	for i, name := range []string{"one", "two", "hiberfil.sys"} {
		file := filepath.Join(f.TempDir(), name)
		if err := os.WriteFile(file, bytes.Repeat([]byte(name), 1000*i), 0o600); err != nil {
			f.Fatal(err)
		}
		tool(f, "ntfscp", "-q", "-f", img, file, name)
	}
	e := openEditor(f, img)
	setLog(e, restartPage(100, 1, 0, 2), restartPage(90, 1, 0, 0))
	base := e.b
	var places []int64
	for _, p := range metadata(f, e.v) {
		for i := range p.Len {
			places = append(places, p.Off+i)
		}
	}
	f.Add([]byte{})
	f.Add([]byte{0, 0, 0x0d, 0xf4, 0})
	f.Add([]byte{0, 0, 0x28, 0xff, 0x7f})
	for rec := range 12 {
		at := 512 + rec*int(e.v.recordSize)
		f.Add([]byte{byte(at >> 16), byte(at >> 8), byte(at) + 0x16, 1, 0})
		f.Add([]byte{byte((at + 0x140) >> 16), byte((at + 0x140) >> 8), byte(at + 0x140), 0xff, 0xff})
	}
	f.Fuzz(func(t *testing.T, patch []byte) {
		b := bytes.Clone(base)
		for ; len(patch) >= 5; patch = patch[5:] {
			at := (int(patch[0])<<16 | int(patch[1])<<8 | int(patch[2])) % (len(places) - 1)
			b[places[at]], b[places[at+1]] = patch[3], patch[4]
		}
		maptest.Files(t, Files, bytes.NewReader(b), int64(len(b)))
		facts, used, err := Used(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		if facts.Whole == "" && (used.Valid() != nil || used[len(used)-1].End() > int64(len(b)) || facts.Len > int64(len(b))) {
			t.Fatalf("%v of %d bytes", used, len(b))
		}
	})
}

// FuzzRuns decodes data runs alone.
func FuzzRuns(f *testing.F) {
	f.Add([]byte{0x21, 0x18, 0x34, 0x56, 0x01, 0x20, 0x11, 0x30, 0x60, 0})
	f.Add([]byte{0x88, 1, 2, 3, 4, 5, 6, 7, 0x7f, 1, 2, 3, 4, 5, 6, 7, 0x80, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		v := volume{boot: boot{clusters: 1 << 40, clusterSize: 4096}}
		next := cluster(5)
		end, err := v.eachRun(b, 5, func(r run) error {
			if r.vcn != next || r.n <= 0 || r.lcn < hole || r.lcn != hole && r.lcn > v.clusters-r.n {
				t.Fatalf("%+v at %d", r, next)
			}
			next += r.n
			return nil
		})
		if err == nil && end != next {
			t.Fatalf("ends at %d, not %d", end, next)
		}
	})
}
