package ntfs

import (
	"fmt"
	"math/bits"

	"mimeo/internal/imaging/extent"
)

// Pages of a bitmap are kept in memory, all of it up to 2 TiB with clusters of 4 KiB. Beyond that, what was read longest
// ago goes.
const (
	pageLen  = 64 << 10 // bytes
	maxPages = 1024
)

// bitmap is one that lies in an attribute.
type bitmap struct {
	s     stream
	pages map[int64][]byte
	order []int64 // of pages, as they were read
	next  int     // the oldest, once all are taken
}

// page returns the page with the given byte, and where in it that is.
func (m *bitmap) page(off int64) ([]byte, int64, error) {
	n := off / pageLen
	b, ok := m.pages[n]
	if ok {
		return b, off % pageLen, nil
	}
	if m.pages == nil {
		m.pages = map[int64][]byte{}
	}
	length := min(pageLen, m.s.size-n*pageLen)
	if length <= off%pageLen {
		return nil, 0, damaged("byte %d of a bitmap of %d is asked for", off, m.s.size)
	}
	if len(m.order) < maxPages {
		b = make([]byte, pageLen)
		m.order = append(m.order, n)
	} else {
		old := m.order[m.next]
		b = m.pages[old][:pageLen]
		delete(m.pages, old)
		m.order[m.next] = n
		m.next = (m.next + 1) % maxPages
	}
	b = b[:length]
	if err := m.s.read(b, n*pageLen); err != nil {
		return nil, 0, err
	}
	m.pages[n] = b
	return b, off % pageLen, nil
}

// clear returns the first of n bits from first that is not set; -1 where all are.
func (m *bitmap) clear(first, n int64) (int64, error) {
	for n > 0 {
		b, at, err := m.page(first / 8)
		if err != nil {
			return 0, err
		}
		from := at*8 + first%8
		to := min(from+n, int64(len(b))*8)
		if i := nextBit(b, from, to, true); i < to {
			return first + i - from, nil
		}
		first, n = first+to-from, n-(to-from)
	}
	return -1, nil
}

// nextBit returns the first bit from from that is set, or clear, of the first n; n where there is none.
func nextBit(b []byte, from, n int64, clear bool) int64 {
	flip := byte(0)
	if clear {
		flip = 0xff
	}
	for from < n {
		if from%64 == 0 && from/8+8 <= int64(len(b)) {
			w := le.Uint64(b[from/8:])
			if clear {
				w = ^w
			}
			if w != 0 {
				return min(from+int64(bits.TrailingZeros64(w)), n)
			}
			from += 64
			continue
		}
		if x := (b[from/8] ^ flip) >> (from % 8); x != 0 {
			return min(from+int64(bits.TrailingZeros8(x)), n)
		}
		from += 8 - from%8
	}
	return n
}

// maxExtents bounds the memory of a list (16 bytes each). Beyond it, small free gaps count as used.
const maxExtents = 2 << 20

// gather makes a list of extents that come in ascending order, in bounded memory.
type gather struct {
	list extent.List
	gap  int64 // gaps shorter than that are closed
	most int   // extents, at most
}

func (g *gather) add(e extent.Extent) {
	if n := len(g.list); n > 0 && e.Off-g.list[n-1].End() < max(g.gap, 1) {
		g.list[n-1].Len = e.End() - g.list[n-1].Off
		return
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

// scan returns what $Bitmap says is in use, and how many clusters these are.
func (v *volume) scan() (extent.List, cluster, error) {
	g := gather{most: maxExtents}
	var marked cluster
	b := make([]byte, 1<<20)
	for first := int64(0); first < int64(v.clusters); first += int64(len(b)) * 8 {
		b = b[:min(int64(len(b)), v.marked.s.size-first/8)]
		if err := v.marked.s.read(b, first/8); err != nil {
			return nil, 0, fmt.Errorf("read $Bitmap: %w", err)
		}
		n := min(int64(len(b))*8, int64(v.clusters)-first)
		for at := nextBit(b, 0, n, false); at < n; {
			end := nextBit(b, at, n, true)
			marked += cluster(end - at)
			g.add(extent.Extent{Off: (first + at) * v.clusterSize, Len: (end - at) * v.clusterSize})
			at = nextBit(b, end, n, false)
		}
	}
	return g.list, marked, nil
}
