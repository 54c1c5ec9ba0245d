package capture

import (
	"testing"

	"mimeo/internal/imaging/fsmap/fact"
	"mimeo/internal/imaging/manifest"
)

// TestGridOfMetadata: what belongs to no file is cut finely where all files are known, coarsely where only some are, and as
// anything else where none is.
func TestGridOfMetadata(t *testing.T) {
	p := Plan{
		Volumes: []manifest.Volume{{Off: 1 << 20, Len: 1 << 20}, {Off: 2 << 20, Len: 1 << 20}, {Off: 3 << 20, Len: 1 << 20}},
		Pieces:  []fact.Piece{{Off: 1<<20 + 8192, Len: 4096}, {Off: 2<<20 + 8192, Len: 4096}},
		Partial: map[int]bool{1: true},
	}
	next := p.grids(128 << 10)
	got := map[int64]int64{} // size of the grid that begins with each volume
	for g, ok := next(); ok; g, ok = next() {
		if g.Off >= 1<<20 && g.Off%(1<<20) == 0 {
			got[g.Off>>20] = g.Size
		}
	}
	for mib, want := range map[int64]int64{1: metaSize, 2: partialSize, 3: 128 << 10} {
		if got[mib] != want {
			t.Errorf("volume at %d MiB: metadata is cut every %d bytes, want %d", mib, got[mib], want)
		}
	}
}
