package btrfs

import (
	"iter"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
)

// extentTreeBlock is a flag of an extent item: it is a tree block, and no data.
const extentTreeBlock = 2

// freeSpaceCounts tells whether the free-space tree is as new as the rest. Where it is not, the kernel makes it anew.
func (fs *filesystem) freeSpaceCounts() bool {
	return fs.compatRO&(roFreeSpaceTree|roFreeSpaceValid) == roFreeSpaceTree|roFreeSpaceValid
}

// extents is a reading of the extent tree.
type extents struct {
	fs   *filesystem
	i    int    // chunk that is being filled
	at   uint64 // end of the last extent in it
	used fact.Gather
	free func() (span, error, bool) // next gap by the free-space tree; nil without
}

// readExtents returns the logical addresses in use, checked against block groups and free space.
func (fs *filesystem) readExtents(roots map[uint64]ref) (extent.List, error) {
	x := &extents{fs: fs}
	if len(fs.chunks) == 0 {
		return nil, damaged("chunk tree: there are no chunks")
	}
	x.at = fs.chunks[0].start
	if fs.freeSpaceCounts() {
		next, stop := iter.Pull2(fs.freeSpace(roots[treeFreeSpace]))
		defer stop()
		x.free = next
	}
	groupTree := fs.compatRO&roBlockGroupTree != 0
	t := fs.tree("extent", treeExtent, func(k key, data []byte) error {
		switch k.typ {
		case itemExtent, itemMetadata:
			return x.add(k, data)
		case itemBlockGroup:
			if groupTree {
				return damaged("a block group, where there is a tree for these")
			}
			return fs.group(k, data)
		}
		return nil // who refers to extents
	})
	if err := t.walk(roots[treeExtent]); err != nil {
		return nil, err
	}
	for x.i < len(fs.chunks) {
		if err := x.finish(); err != nil {
			return nil, err
		}
	}
	if x.free != nil {
		switch s, err, more := x.free(); {
		case err != nil:
			return nil, err
		case more:
			return nil, damaged("free-space tree: %d bytes at %d lie behind all chunks", s.n, s.start)
		}
	}
	if groupTree {
		t := fs.tree("block group", treeBlockGroup, func(k key, data []byte) error {
			if k.typ != itemBlockGroup {
				return nil
			}
			return fs.group(k, data)
		})
		if err := t.walk(roots[treeBlockGroup]); err != nil {
			return nil, err
		}
	}
	return x.used.List(), fs.checkTotals()
}

// add takes an extent item.
func (x *extents) add(k key, data []byte) error {
	if len(data) < 24 {
		return damaged("an extent item of %d bytes", len(data))
	}
	start, n := k.obj, k.off
	block := le.Uint64(data[16:])&extentTreeBlock != 0
	if k.typ == itemMetadata {
		if n = x.fs.node; !block || k.off >= maxLevel {
			return damaged("it is not a tree block, or one of level %d", k.off)
		}
	}
	if n == 0 || n%x.fs.sector != 0 || start%x.fs.sector != 0 || block && n != x.fs.node {
		return damaged("an extent of %d bytes", n)
	}
	cs := x.fs.chunks
	for x.i < len(cs) && cs[x.i].end() <= start {
		if err := x.finish(); err != nil {
			return err
		}
	}
	if x.i == len(cs) || start < cs[x.i].start || n > cs[x.i].end()-start {
		return damaged("an extent of %d bytes is not within a chunk", n)
	}
	c := cs[x.i]
	if start < x.at {
		return damaged("it lies on the extent before, which ends at %d", x.at)
	}
	kinds := uint64(typeData)
	if block {
		kinds = typeMetadata | typeSystem
	}
	if c.typ&kinds == 0 {
		return damaged("it is in a chunk of type %#x", c.typ)
	}
	if err := x.gap(x.at, start); err != nil {
		return err
	}
	x.at = start + n
	c.found += n
	x.used.Add(extent.Extent{Off: int64(start), Len: int64(n)})
	return nil
}

// finish goes on to the next chunk.
func (x *extents) finish() error {
	cs := x.fs.chunks
	if err := x.gap(x.at, cs[x.i].end()); err != nil {
		return err
	}
	if x.i++; x.i < len(cs) {
		x.at = cs[x.i].start
	}
	return nil
}

// gap holds a range of a chunk that is in no extent against the free-space tree.
func (x *extents) gap(from, to uint64) error {
	if x.free == nil || from == to {
		return nil
	}
	s, err, more := x.free()
	switch {
	case err != nil:
		return err
	case !more:
		return damaged("free-space tree: it has no word of the %d bytes at %d, which are in no extent", to-from, from)
	case s.start != from || s.n != to-from:
		return damaged("free-space tree: %d bytes at %d are free, by the extents %d at %d", s.n, s.start, to-from, from)
	}
	return nil
}

// group takes a block group item.
func (fs *filesystem) group(k key, data []byte) error {
	if len(data) != 24 {
		return damaged("a block group item of %d bytes", len(data))
	}
	c := fs.chunks.find(k.obj)
	if c == nil || c.start != k.obj || c.length != k.off || c.typ != le.Uint64(data[16:]) || c.hasGroup {
		return damaged("a block group of %d bytes and type %#x is no chunk", k.off, le.Uint64(data[16:]))
	}
	c.hasGroup, c.used = true, le.Uint64(data)
	return nil
}

// checkTotals holds the sums of extents against block groups and superblock.
func (fs *filesystem) checkTotals() error {
	var all uint64
	for _, c := range fs.chunks {
		switch {
		case !c.hasGroup:
			return damaged("the chunk at %d has no block group", c.start)
		case c.used != c.found:
			return damaged("block group %d: %d bytes are used, its extents have %d", c.start, c.used, c.found)
		}
		all += c.found
	}
	if all != fs.super.used {
		return damaged("%d bytes are in extents, the superblock says %d", all, fs.super.used)
	}
	return nil
}
