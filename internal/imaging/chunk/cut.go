package chunk

import (
	"iter"

	"mimeo/internal/imaging/extent"
)

// DefaultSize is the grid on which used extents are cut, in bytes. Larger compresses a little better and makes fewer
// chunks (8 for each MiB here, some 160 bytes of index and manifest each), smaller makes a second capture cheaper,
// since one changed block costs one chunk. At 128 KiB zstd is within a few per cent of its ratio on a long stream,
// and a store of 10 million chunks is 1.3 TB of raw data.
const DefaultSize = 128 << 10

// Grid says where to cut from a place on the disk on, until the next Grid's place: a cut lies at Off, and wherever
// the distance from Origin is a multiple of Size.
//
// A volume has one with Off and Origin at its start. One extent of a file that should be found again wherever its
// filesystem puts it has Off at the extent's start and Origin at the place where the file would begin, and is
// followed by another Grid at its end that goes back to the volume's.
type Grid struct {
	Off    int64 // bytes from the start of the disk
	Origin int64 // bytes from the start of the disk; may be negative, and after Off
	Size   int64 // bytes, at most MaxLen; 0 means DefaultSize
}

// A Cutter cuts used extents into pieces of at most one grid cell. No piece crosses a cut or the end of an extent.
type Cutter struct {
	used  extent.List
	grids func() (Grid, bool) // nil after the last
	grid  Grid                // in force
	ahead Grid                // the next one, where there is one
	pos   int64               // of the next piece, where it lies in used[0]
}

// NewCutter returns a Cutter of the used extents of a disk. Next gives the grids in ascending order of Off, and false
// after the last; of two at the same place the later one counts, and what lies before the first is cut by Grid{}. The
// Cutter keeps used, and does not change it.
func NewCutter(used extent.List, next func() (Grid, bool)) *Cutter {
	c := &Cutter{used: used, grids: next, grid: Grid{Size: DefaultSize}}
	c.turn()
	return c
}

// turn takes the next grid.
func (c *Cutter) turn() {
	var ok bool
	if c.ahead, ok = c.grids(); !ok {
		c.grids = nil
	}
}

// Next returns the next piece in ascending order, or false after the last.
func (c *Cutter) Next() (extent.Extent, bool) {
	if len(c.used) == 0 {
		return extent.Extent{}, false
	}
	e := c.used[0]
	off := max(c.pos, e.Off)
	for c.grids != nil && c.ahead.Off <= off {
		c.grid = c.ahead
		c.turn()
		if c.grid.Size <= 0 {
			c.grid.Size = DefaultSize
		}
		c.grid.Size = min(c.grid.Size, MaxLen)
	}
	into := (off - c.grid.Origin) % c.grid.Size
	if into < 0 {
		into += c.grid.Size
	}
	n := min(c.grid.Size-into, e.End()-off)
	if c.grids != nil {
		n = min(n, c.ahead.Off-off)
	}
	c.pos = off + n
	if c.pos == e.End() {
		c.used = c.used[1:]
	}
	return extent.Extent{Off: off, Len: n}, true
}

// All returns the pieces that are left, in ascending order.
func (c *Cutter) All() iter.Seq[extent.Extent] {
	return func(yield func(extent.Extent) bool) {
		for {
			p, ok := c.Next()
			if !ok || !yield(p) {
				return
			}
		}
	}
}
