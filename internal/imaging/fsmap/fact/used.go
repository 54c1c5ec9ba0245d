package fact

import (
	"encoding/binary"
	"math/bits"

	"mimeo/internal/imaging/extent"
)

// MaxExtents bounds the memory of a Gather: 16 bytes each.
const MaxExtents = 2 << 20

// Gather collects extents in use that come in ascending order, at most MaxExtents. Beyond that the shortest gaps count
// as used.
type Gather struct {
	list extent.List
	gap  int64 // bytes; shorter gaps are closed
	most int
}

// Add takes an extent that begins at or behind the end of the one before.
func (g *Gather) Add(e extent.Extent) {
	if n := len(g.list); n > 0 && e.Off-g.list[n-1].End() < max(g.gap, 1) {
		g.list[n-1].Len = e.End() - g.list[n-1].Off
		return
	}
	if g.most == 0 {
		g.most = MaxExtents
	}
	for g.list = append(g.list, e); len(g.list) > g.most; {
		g.gap = max(2*g.gap, 1024)
		old := g.list
		g.list = g.list[:1]
		for _, e := range old[1:] {
			if last := &g.list[len(g.list)-1]; e.Off-last.End() < g.gap {
				last.Len = e.End() - last.Off
			} else {
				g.list = append(g.list, e)
			}
		}
	}
}

// List returns what was collected.
func (g *Gather) List() extent.List { return g.list }

// Bitmap has a bit for each of many things, the lowest of a byte first.
type Bitmap []byte

// NewBitmap returns one of n bits, none of them set.
func NewBitmap(n int64) Bitmap { return make(Bitmap, (n+7)/8) }

// Has tells whether bit i is set.
func (m Bitmap) Has(i int64) bool { return m[i/8]>>(i%8)&1 != 0 }

// Set sets bit i, and tells whether it was set before.
func (m Bitmap) Set(i int64) bool {
	old := m[i/8]
	m[i/8] |= 1 << (i % 8)
	return m[i/8] == old
}

// Clear clears bit i, and tells whether it was set before.
func (m Bitmap) Clear(i int64) bool {
	old := m[i/8]
	m[i/8] &^= 1 << (i % 8)
	return m[i/8] != old
}

// Next returns the first bit from from on that is as set says, of the first n; n where there is none.
func (m Bitmap) Next(from, n int64, set bool) int64 {
	flip := ^uint64(0)
	if set {
		flip = 0
	}
	for from < n {
		if from%64 == 0 && from/8+8 <= int64(len(m)) {
			if w := binary.LittleEndian.Uint64(m[from/8:]) ^ flip; w != 0 {
				return min(from+int64(bits.TrailingZeros64(w)), n)
			}
			from += 64
			continue
		}
		if x := (m[from/8] ^ byte(flip)) >> (from % 8); x != 0 {
			return min(from+int64(bits.TrailingZeros8(x)), n)
		}
		from += 8 - from%8
	}
	return n
}

// Count returns how many bits are set.
func (m Bitmap) Count() int64 {
	var n int64
	for i := 0; i < len(m); {
		if i+8 <= len(m) {
			n += int64(bits.OnesCount64(binary.LittleEndian.Uint64(m[i:])))
			i += 8
			continue
		}
		n += int64(bits.OnesCount8(m[i]))
		i++
	}
	return n
}
