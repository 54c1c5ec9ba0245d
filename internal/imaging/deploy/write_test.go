package deploy

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"mimeo/internal/imaging/capture"
	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store/mem"
)

// TestWritesBlocks changes bytes within large chunks: of these only the blocks that differ are written.
func TestWritesBlocks(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 8))
	st := mem.New()
	data := garbage(rng, 4<<20)
	copy(data[3<<20:], data[2<<20:3<<20]) // the same chunks once more
	used := extent.List{{Off: 0, Len: 4 << 20}}
	src := capture.Source{ReaderAt: bytes.NewReader(data), Disk: manifest.Disk{Size: 4 << 20, SectorSize: 512}}
	res, err := capture.Run(t.Context(), src, capture.Plan{Table: manifest.Table{Kind: "none"}, Used: used}, st, capture.Options{ChunkSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	before := slices.Clone(data)
	changed := []int64{1<<20 + 100, 1<<20 + 4095, 2<<20 - 1, 2<<20 + 8192, 3<<20 + 40960, 3<<20 + 45056} // five blocks, two of them side by side
	for _, at := range changed {
		before[at]++
	}
	d := &fakeDisk{data: before, sector: 512}
	got, err := Run(t.Context(), st, res.Manifest, d, Options{Compare: true, Verify: true})
	if err != nil {
		t.Fatal(err)
	}
	checkDisk(t, d.data, data, used)
	wrote := extent.FromUnsorted(slices.Clone(d.writes)).Clip(extent.Extent{Off: 1 << 20, Len: 2<<20 + 512<<10}) // but for the ends, where tables would lie
	want := extent.List{{Off: 1 << 20, Len: 4096}, {Off: 2<<20 - 4096, Len: 4096}, {Off: 2<<20 + 8192, Len: 4096}, {Off: 3<<20 + 40960, Len: 8192}}
	if !slices.Equal(wrote, want) {
		t.Errorf("written: %v, want %v", wrote, want)
	}
	if c := got.Counts; c.Written+c.Skipped > 4<<20 || c.Written+c.Skipped < 4<<20-headLen {
		t.Errorf("counts %+v do not add up", c)
	}
}
