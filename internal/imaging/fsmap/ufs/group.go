package ufs

import (
	"fmt"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
)

const (
	groupHead  = 168 // bytes, without the maps behind it
	groupMagic = 0x090255
	summaryLen = 16
)

// readGroup adds what of a group is in use, and returns what is free.
func (fs *filesystem) readGroup(n int64, g *fact.Gather) (summary, error) {
	var free summary
	first := n * fs.perGroup
	count := min(fs.perGroup, fs.fragments-first)
	at := fs.start(n) + fs.groupAt
	if at >= fs.fragments || fs.start(n)+fs.superAt >= fs.fragments {
		return free, damaged("group %d begins behind the end", n)
	}
	b := make([]byte, fs.groupLen)
	if err := fs.read(b, at*fs.fragment); err != nil {
		return free, fmt.Errorf("read group %d: %w", n, err)
	}
	num := func(at int) int64 { return int64(int32(fs.order.Uint32(b[at:]))) }
	mapAt, mapLen := num(96), (count+7)/8
	if num(4) != groupMagic || num(12) != n || num(20) != count || mapAt < groupHead || mapAt+mapLen > fs.groupLen {
		return free, damaged("the head of group %d makes no sense", n)
	}
	m := fact.Bitmap(b[mapAt:][:mapLen])
	var runs [9]int64 // of free fragments in blocks that are not free, by length
	for from := int64(0); from < count; from += fs.perBlock {
		to := min(from+fs.perBlock, count)
		if to-from == fs.perBlock && m.Next(from, to, false) == to {
			free.blocks++
			continue
		}
		for i := m.Next(from, to, true); i < to; {
			end := m.Next(i, to, false)
			free.fragments += end - i
			runs[end-i]++
			i = m.Next(end, to, true)
		}
	}
	for i := int64(1); i < fs.perBlock; i++ {
		if num(52+4*int(i)) != runs[i] {
			return free, damaged("group %d has %d times %d free fragments by its map, %d by its count", n, runs[i], i, num(52+4*int(i)))
		}
	}
	if num(28) != free.blocks || num(36) != free.fragments {
		return free, damaged("group %d has %d free blocks and %d free fragments by its map, %d and %d by its counts", n, free.blocks, free.fragments, num(28), num(36))
	}
	if err := fs.checkSummary(n, free); err != nil {
		return free, err
	}
	if fs.clusters > 0 {
		if err := fs.checkClusters(n, b, m, count); err != nil {
			return free, err
		}
	}
	for i := m.Next(0, count, false); i < count; {
		end := m.Next(i, count, true)
		g.Add(extent.Extent{Off: (first + i) * fs.fragment, Len: (end - i) * fs.fragment})
		i = m.Next(end, count, false)
	}
	return free, nil
}

// checkSummary holds what of a group is free against the summary of all groups.
func (fs *filesystem) checkSummary(n int64, free summary) error {
	b := make([]byte, summaryLen)
	if err := fs.read(b, fs.summaryAt*fs.fragment+n*summaryLen); err != nil {
		return fmt.Errorf("read the summary: %w", err)
	}
	if got := (summary{int64(int32(fs.order.Uint32(b[4:]))), int64(int32(fs.order.Uint32(b[12:])))}); got != free {
		return damaged("group %d has %d free blocks and %d free fragments, %d and %d by the summary", n, free.blocks, free.fragments, got.blocks, got.fragments)
	}
	return nil
}

// checkClusters holds the map of free fragments against that of the blocks that are free as a whole.
func (fs *filesystem) checkClusters(n int64, b []byte, m fact.Bitmap, count int64) error {
	at, blocks := int64(int32(fs.order.Uint32(b[108:]))), int64(int32(fs.order.Uint32(b[112:])))
	if at < groupHead || blocks != count/fs.perBlock || at+(blocks+7)/8 > fs.groupLen {
		return damaged("group %d has a map of %d free blocks at byte %d", n, blocks, at)
	}
	c := fact.Bitmap(b[at:][:(blocks+7)/8])
	for i := range blocks {
		from := i * fs.perBlock
		if free := m.Next(from, from+fs.perBlock, false) == from+fs.perBlock; free != c.Has(i) {
			return damaged("the two maps of group %d differ", n)
		}
	}
	return nil
}
