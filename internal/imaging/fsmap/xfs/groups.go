package xfs

import (
	"bytes"
	"fmt"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
)

const (
	groupMagic = 0x58414746 // "XAGF"
	listMagic  = 0x5841464c // "XAFL"
	groupSum   = 216        // where the checksum of a group's header lies
	listSum    = 32
	listHead   = 36 // bytes in front of the list, version 5
)

// stretch is a piece of free space within a group.
type stretch struct{ from, n uint32 }

// mapGroup adds what is in use of an allocation group. It returns how many blocks the superblock counts as free for it:
// free ones, those kept for the trees of free space, and what these trees use. known are those that must be in use.
func (fs *filesystem) mapGroup(group uint32, used *fact.Gather) (blocks uint64, known []extent.Extent, err error) {
	seen := func(e extent.Extent) { known = append(known, e) }
	heads, kept, err := fs.readHeads(group, seen)
	if err != nil {
		return 0, nil, err
	}
	length := fs.groupLen(group)
	f := heads[fs.sectorSize:]
	free, longest := be.Uint32(f[52:]), be.Uint32(f[56:])

	// The tree by length says the same in another order: it must have as many stretches, blocks, and the same sum.
	var lengths, places tally
	var last stretch
	lengthBlocks, err := fs.walk(byLength, group, agBlock(be.Uint32(f[20:])), be.Uint32(f[32:]), seen, func(b []byte) error {
		s := stretch{be.Uint32(b), be.Uint32(b[4:])}
		if s.n < last.n || s.n == last.n && s.from <= last.from && last.n > 0 {
			return damaged("its records are in no order at block %d", s.from)
		}
		last = s
		return lengths.add(s, length)
	})
	if err != nil {
		return 0, nil, err
	}
	next := uint32(0) // behind the stretch before
	placeBlocks, err := fs.walk(byPlace, group, agBlock(be.Uint32(f[16:])), be.Uint32(f[28:]), seen, func(b []byte) error {
		s := stretch{be.Uint32(b), be.Uint32(b[4:])}
		if s.from < next || s.from == 0 {
			return damaged("its records are in no order at block %d", s.from)
		}
		if err := places.add(s, length); err != nil {
			return err
		}
		if s.from > next {
			used.Add(fs.bytes(group, agBlock(next), int64(s.from-next)))
		}
		next = s.from + s.n
		return nil
	})
	if err != nil {
		return 0, nil, err
	}
	if next < length {
		used.Add(fs.bytes(group, agBlock(next), int64(length-next)))
	}
	switch {
	case places != lengths:
		return 0, nil, damaged("the trees of free space by place and by length do not agree")
	case places.blocks != uint64(free) || last.n != longest:
		return 0, nil, damaged("the header counts %d free blocks, %d in one piece, the trees %d and %d", free, longest, places.blocks, last.n)
	}
	// The roots have their place since the group was made; all other blocks of these trees came from free space.
	trees := uint64(placeBlocks-1) + uint64(lengthBlocks-1)
	if fs.rmap {
		n := be.Uint32(f[80:])
		if n == 0 || n > length {
			return 0, nil, damaged("header: %d blocks in the tree of owners", n)
		}
		trees += uint64(n - 1)
	}
	if counted := be.Uint32(f[60:]); fs.log != nil && uint64(counted) != trees {
		return 0, nil, damaged("the header counts %d blocks in trees of free space and owners, there are %d", counted, trees)
	}
	return places.blocks + uint64(kept) + trees, known, nil
}

// readHeads returns the first four sectors of a group: superblock, free space, inodes, blocks that are kept; and how many
// of these there are. seen is told where all of them lie.
func (fs *filesystem) readHeads(group uint32, seen func(extent.Extent)) (heads []byte, kept uint32, err error) {
	ss := fs.sectorSize
	heads = make([]byte, 4*ss)
	off := fs.bytes(group, 0, 1).Off
	if err := fs.read(heads, off); err != nil {
		return nil, 0, fmt.Errorf("read its headers: %w", err)
	}
	f, list := heads[ss:2*ss], heads[3*ss:]
	replayed := fs.log.overlay(f, off+ss)
	if err := fs.checkHead(f, group, groupMagic, groupSum, 8, 64, replayed); err != nil {
		return nil, 0, prefixed(err, "header")
	}
	if v, n := be.Uint32(f[4:]), be.Uint32(f[12:]); v != 1 || n != fs.groupLen(group) {
		return nil, 0, damaged("header: version %d, %d blocks, the superblock says %d", v, n, fs.groupLen(group))
	}
	seen(fs.bytes(group, 0, (4*ss+fs.blockSize-1)/fs.blockSize))
	kept, err = fs.readKept(group, f, list, fs.log.overlay(list, off+3*ss), seen)
	return heads, kept, err
}

// tally sums up stretches in any order.
type tally struct{ count, blocks, sum uint64 }

func (t *tally) add(s stretch, length uint32) error {
	if s.n == 0 || s.from >= length || s.n > length-s.from {
		return damaged("%d blocks at %d of %d are said to be free", s.n, s.from, length)
	}
	// The finalizer of MurmurHash3, so that no two differences cancel each other out.
	h := uint64(s.from)<<32 | uint64(s.n)
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	t.count, t.blocks, t.sum = t.count+1, t.blocks+uint64(s.n), t.sum+(h^h>>33)
	return nil
}

// checkHead checks the magic number of a group's header, its own number, and what version 5 adds. What the log changes
// gets its checksum when it is written.
func (fs *filesystem) checkHead(b []byte, group, magic uint32, sumAt, groupAt, uuidAt int, replayed bool) error {
	switch {
	case be.Uint32(b) != magic:
		return damaged("the magic number is wrong")
	case fs.version == 5 && !replayed && !checked(b, sumAt):
		return damaged("the checksum is wrong")
	case be.Uint32(b[groupAt:]) != group:
		return damaged("it is that of group %d", be.Uint32(b[groupAt:]))
	case fs.version == 5 && !bytes.Equal(b[uuidAt:uuidAt+16], fs.metaUUID):
		return damaged("it is of another filesystem")
	}
	return nil
}

// readKept reads the list of blocks that are kept for the trees of free space, a ring in the group's fourth sector.
func (fs *filesystem) readKept(group uint32, f, list []byte, replayed bool, seen func(extent.Extent)) (uint32, error) {
	if fs.version == 5 {
		if err := fs.checkHead(list, group, listMagic, listSum, 4, 8, replayed); err != nil {
			return 0, prefixed(err, "list of kept blocks")
		}
		list = list[listHead:]
	}
	size := uint32(len(list) / 4)
	first, last, count := be.Uint32(f[40:]), be.Uint32(f[44:]), be.Uint32(f[48:])
	if first >= size || last >= size || count > size || count > 0 && (first+count-1)%size != last || count == 0 && (last+1)%size != first {
		return 0, damaged("list of kept blocks: %d, from %d to %d of %d", count, first, last, size)
	}
	length := fs.groupLen(group)
	for i := range count {
		n := be.Uint32(list[4*((first+i)%size):])
		if n == 0 || n >= length {
			return 0, damaged("list of kept blocks: block %d of %d", n, length)
		}
		seen(fs.bytes(group, agBlock(n), 1))
	}
	return count, nil
}
