package xfs

import (
	"bytes"
	"fmt"

	"mimeo/internal/imaging/extent"
)

// kind is one of the trees within an allocation group.
type kind struct {
	name   string
	magic4 uint32
	magic5 uint32
	keyLen int // bytes of a key in a node
	recLen int // bytes of a record in a leaf
	same   int // bytes that a key and what it leads to have in common
}

var (
	byPlace   = kind{"by place", 0x41425442, 0x41423342, 8, 8, 8}   // ABTB, AB3B
	byLength  = kind{"by length", 0x41425443, 0x41423343, 8, 8, 8}  // ABTC, AB3C
	inodes    = kind{"of inodes", 0x49414254, 0x49414233, 4, 16, 4} // IABT, IAB3
	noInodes  = kind{"of free inodes", 0, 0x46494233, 4, 16, 4}     // FIB3
	owners    = kind{"of owners", 0, 0x524d4233, 40, 24, 4}         // RMB3
	refcounts = kind{"of shared extents", 0, 0x52334643, 4, 12, 4}  // R3FC
)

const (
	noBlock   = agBlock(0xffffffff)
	maxLevels = 12 // more than the largest group can need
)

// walker visits a tree within an allocation group, from its lowest record to its highest.
type walker struct {
	fs      *filesystem
	kind    kind
	group   uint32
	length  uint32 // blocks of the group
	read    uint32 // blocks that were read
	seen    func(extent.Extent)
	record  func(b []byte) error
	last    [maxLevels]agBlock // of each level, the block visited last
	right   [maxLevels]agBlock // what it says follows
	started [maxLevels]bool
}

// walk visits the tree with that root and so many levels. seen is told where each block of the tree lies.
func (fs *filesystem) walk(k kind, group uint32, root agBlock, levels uint32, seen func(extent.Extent), record func(b []byte) error) (blocks uint32, err error) {
	if levels == 0 || levels > maxLevels {
		return 0, damaged("the tree %s has %d levels", k.name, levels)
	}
	w := &walker{fs: fs, kind: k, group: group, length: fs.groupLen(group), seen: seen, record: record}
	if err := w.visit(root, int(levels)-1, true, nil); err != nil {
		return 0, prefixed(err, "tree %s", k.name)
	}
	for level := range levels {
		if w.right[level] != noBlock {
			return 0, damaged("tree %s: block %d is said to follow the last one", k.name, w.right[level])
		}
	}
	return w.read, nil
}

// visit reads a block and what is below it. Its first key must be that of its parent, where there is one.
func (w *walker) visit(n agBlock, level int, root bool, key []byte) error {
	b, err := w.block(n, level)
	if err != nil {
		return err
	}
	head := 16
	if w.fs.version == 5 {
		head = 56
	}
	count := int(be.Uint16(b[6:]))
	unit := w.kind.recLen
	if level > 0 {
		unit = w.kind.keyLen + 4
	}
	most := (len(b) - head) / unit
	if count > most || count == 0 && (level > 0 || !root) {
		return damaged("block %d has %d records", n, count)
	}
	if count == 0 {
		return nil
	}
	if key != nil && !bytes.Equal(key, b[head:][:len(key)]) {
		return damaged("block %d does not begin where its parent says", n)
	}
	if level == 0 {
		for i := range count {
			if err := w.record(b[head+i*unit:][:unit]); err != nil {
				return err
			}
		}
		return nil
	}
	keys, children := b[head:][:count*w.kind.keyLen], b[head+most*w.kind.keyLen:]
	for i := range count {
		child := agBlock(be.Uint32(children[4*i:]))
		if err := w.visit(child, level-1, false, keys[i*w.kind.keyLen:][:w.kind.same]); err != nil {
			return err
		}
	}
	return nil
}

// block reads a block of the tree and checks that it is what it should be.
func (w *walker) block(n agBlock, level int) ([]byte, error) {
	fs := w.fs
	if uint32(n) >= w.length {
		return nil, damaged("block %d is asked for, there are %d", n, w.length)
	}
	if w.read++; w.read > w.length {
		return nil, damaged("it has more blocks than the group")
	}
	at := fs.bytes(w.group, n, 1)
	b := make([]byte, fs.blockSize)
	if err := fs.read(b, at.Off); err != nil {
		return nil, fmt.Errorf("read a tree: %w", err)
	}
	replayed := fs.log.overlay(b, at.Off)
	magic := w.kind.magic4
	if fs.version == 5 {
		magic = w.kind.magic5
	}
	left, right := agBlock(be.Uint32(b[8:])), agBlock(be.Uint32(b[12:]))
	switch {
	case be.Uint32(b) != magic:
		return nil, damaged("block %d is not of the tree", n)
	case int(be.Uint16(b[4:])) != level:
		return nil, damaged("block %d is of level %d, its parent says %d", n, be.Uint16(b[4:]), level)
	case !w.started[level] && left != noBlock, w.started[level] && (left != w.last[level] || w.right[level] != n):
		return nil, damaged("block %d and those beside it do not agree", n)
	}
	if fs.version == 5 {
		switch {
		case !replayed && !checked(b, 52):
			return nil, damaged("block %d: the checksum is wrong", n)
		case be.Uint64(b[16:]) != uint64(at.Off/sector) || be.Uint32(b[48:]) != w.group || !bytes.Equal(b[32:48], fs.metaUUID):
			return nil, damaged("block %d is one of another place, group or filesystem", n)
		}
	}
	w.started[level], w.last[level], w.right[level] = true, n, right
	if w.seen != nil {
		w.seen(at)
	}
	return b, nil
}
