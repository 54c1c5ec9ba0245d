package jfs

import (
	"bytes"
	"math/bits"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
)

const (
	perPage   = 8192 // blocks
	pageLog   = 13
	workOff   = 2048 // the map while it is mounted
	keptOff   = 3072 // the map after a crash
	mapLen    = 1024
	maxGroups = 128
)

// mapPage returns the page that has a block's bit: behind a page for the whole, and one for each of three levels of a tree of
// 1024 each, which are repeated where they are full.
func mapPage(block int64) int64 {
	return block>>pageLog + block>>(pageLog+10) + block>>(pageLog+20) + 4
}

// readMap adds what the map says is in use, in ascending order.
func (fs *filesystem) readMap(g *fact.Gather) error {
	b := make([]byte, blockSize)
	if err := fs.readPage(b, 0); err != nil {
		return err
	}
	total, free, groups, perGroup := int64(le.Uint64(b)), int64(le.Uint64(b[8:])), int64(le.Uint32(b[20:])), int64(le.Uint64(b[1080:]))
	if total != fs.blocks || le.Uint32(b[16:]) != 0 || perGroup != fs.agBlocks || perGroup < perPage || perGroup%perPage != 0 ||
		groups != (total+perGroup-1)/perGroup || groups > maxGroups {
		return damaged("the map speaks of %d blocks in %d groups of %d, the superblock of %d in groups of %d", total, groups, perGroup, fs.blocks, fs.agBlocks)
	}
	var inGroup [maxGroups]int64
	for i := range inGroup {
		inGroup[i] = int64(le.Uint64(b[56+8*i:]))
	}
	var sum int64
	var got [maxGroups]int64
	for first := int64(0); first < total; first += perPage {
		if err := fs.readPage(b, mapPage(first)); err != nil {
			return err
		}
		n := min(perPage, total-first)
		if int64(le.Uint32(b)) != n || int64(le.Uint64(b[8:])) != first {
			return damaged("the page of the map for %d blocks from block %d on speaks of %d from %d on", n, first, le.Uint32(b), le.Uint64(b[8:]))
		}
		work := b[workOff : workOff+mapLen]
		if !bytes.Equal(work, b[keptOff:keptOff+mapLen]) {
			return damaged("the two maps of the blocks from block %d on differ", first)
		}
		clear := addUsed(g, work, first, n)
		if int64(le.Uint32(b[4:])) != clear {
			return damaged("of the blocks from block %d on %d are free by the map, %d by its count", first, clear, le.Uint32(b[4:]))
		}
		got[first/perGroup] += clear
		sum += clear
	}
	if sum != free {
		return damaged("%d blocks are free by the map, %d by its count", sum, free)
	}
	if got != inGroup {
		return damaged("the counts of free blocks in the groups differ from the map")
	}
	return nil
}

// addUsed adds the blocks of a page of the map that are in use, and returns how many are not. The highest bit of a word of 32
// is its first.
func addUsed(g *fact.Gather, b []byte, first, n int64) int64 {
	m := make(fact.Bitmap, len(b)) // the lowest bit first
	for i := range b {
		m[i] = bits.Reverse8(b[i^3])
	}
	clear := n
	for at := m.Next(0, n, true); at < n; {
		to := m.Next(at, n, false)
		g.Add(extent.Extent{Off: (first + at) * blockSize, Len: (to - at) * blockSize})
		clear -= to - at
		at = m.Next(to, n, true)
	}
	return clear
}
