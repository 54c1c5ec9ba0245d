package reiserfs

import "fmt"

const (
	nodeHead = 24
	itemHead = 24
	keyLen   = 16
	childLen = 8

	// Types of items, in keys of either format.
	indirect    = 1
	oldIndirect = 0xfffffffe

	safeLinks = 0xffffffff // folder of what an interrupted truncation has to do: its items have no numbers of blocks
)

// readNode reads a block of the tree, and what is below it. Leaves are of level 1.
func (fs *filesystem) readNode(at int64, level int) error {
	if err := fs.claim(at, 1, "the tree"); err != nil {
		return err
	}
	b := make([]byte, fs.block)
	if err := fs.read(b, at*fs.block); err != nil {
		return fmt.Errorf("read the tree: %w", err)
	}
	n := int(le.Uint16(b[2:]))
	if got := int(le.Uint16(b)); got != level {
		return damaged("block %d of the tree is of level %d, not %d", at, got, level)
	}
	if level == 1 {
		return fs.readLeaf(at, b, n)
	}
	first := nodeHead + n*keyLen
	if n == 0 || first+(n+1)*childLen+int(le.Uint16(b[4:])) != len(b) {
		return damaged("block %d of the tree has %d keys", at, n)
	}
	for i := range n + 1 {
		if err := fs.readNode(int64(le.Uint32(b[first+i*childLen:])), level-1); err != nil {
			return err
		}
	}
	return nil
}

// readLeaf takes the blocks that the items of a leaf have.
func (fs *filesystem) readLeaf(at int64, b []byte, n int) error {
	end := len(b) // items lie from the end on, their heads in front
	if n == 0 || nodeHead+n*itemHead > end {
		return damaged("block %d of the tree has %d items", at, n)
	}
	for i := range n {
		h := b[nodeHead+i*itemHead:][:itemHead]
		length, place, version := int(le.Uint16(h[18:])), int(le.Uint16(h[20:])), le.Uint16(h[22:])
		if place+length != end || place < nodeHead+n*itemHead {
			return damaged("item %d of block %d of the tree lies at byte %d and has %d", i, at, place, length)
		}
		end = place
		switch {
		case le.Uint32(h) == safeLinks:
			continue
		case version == 0 && le.Uint32(h[12:]) == oldIndirect, version == 1 && h[15]>>4 == indirect:
		case version > 1:
			return damaged("item %d of block %d of the tree is of format %d", i, at, version)
		default:
			continue // it has no blocks
		}
		if length%4 != 0 {
			return damaged("item %d of block %d of the tree has %d bytes of numbers", i, at, length)
		}
		for ; length > 0; length -= 4 {
			block := int64(le.Uint32(b[place+length-4:]))
			if block == 0 {
				continue // a hole
			}
			if err := fs.claim(block, 1, fmt.Sprintf("object %d of folder %d", le.Uint32(h[4:]), le.Uint32(h))); err != nil {
				return err
			}
		}
	}
	if free := end - nodeHead - n*itemHead; free != int(le.Uint16(b[4:])) {
		return damaged("block %d of the tree has %d bytes free, and says %d", at, free, le.Uint16(b[4:]))
	}
	return nil
}
