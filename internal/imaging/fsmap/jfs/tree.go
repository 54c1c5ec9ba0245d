package jfs

import (
	"fmt"
	"sort"
)

const (
	rootOff   = 224 // of an inode
	rootLen   = inodeLen - rootOff
	entryLen  = 16
	firstIn   = 2 // entry behind the header
	flagLeaf  = 0x02
	flagInner = 0x04
	maxDepth  = 8
	maxPieces = 1 << 16
)

// piece is a part of a file.
type piece struct {
	off int64 // blocks from the start of the file
	area
}

// findMap finds the pieces of the file with the map.
func (fs *filesystem) findMap() error {
	b := make([]byte, inodeLen)
	if err := fs.read(b, tableOff+mapInode*inodeLen); err != nil {
		return fmt.Errorf("read the inode of the map: %w", err)
	}
	if le.Uint32(b[4:]) != 1 || le.Uint32(b[8:]) != mapInode || readArea(b[16:]) != (area{tableOff / blockSize, tableLen}) {
		return damaged("the inode of the map makes no sense")
	}
	if err := fs.readTree(b[rootOff:], maxDepth); err != nil {
		return err
	}
	next := int64(0)
	for _, p := range fs.pieces {
		if p.off != next {
			return damaged("the map has no block %d", next)
		}
		next += p.n
	}
	if want := mapPage(fs.blocks-1) + 1; next < want || le.Uint64(b[24:]) < uint64(want)*blockSize {
		return damaged("the map has %d blocks and %d bytes, not %d blocks", next, le.Uint64(b[24:]), want)
	}
	return nil
}

// readTree reads a page of the tree with the pieces of a file, and what is below it.
func (fs *filesystem) readTree(b []byte, depth int) error {
	flags, n, most := b[16], int(le.Uint16(b[18:])), int(le.Uint16(b[20:]))
	if n < firstIn || n > most || most*entryLen > len(b) || flags&(flagLeaf|flagInner) == flagLeaf|flagInner {
		return damaged("a page of the map's tree has %d entries of %d", n, most)
	}
	for i := firstIn; i < n; i++ {
		e := b[i*entryLen:][:entryLen]
		p := piece{int64(e[3])<<32 | int64(le.Uint32(e[4:])), readArea(e[8:])}
		if p.n == 0 || p.at+p.n > fs.blocks {
			return damaged("the map has %d blocks from block %d on, the filesystem has %d", p.n, p.at, fs.blocks)
		}
		switch {
		case flags&flagLeaf != 0:
			if fs.pieces = append(fs.pieces, p); len(fs.pieces) > maxPieces {
				return damaged("the map has more than %d pieces", maxPieces)
			}
		case flags&flagInner == 0 || depth == 0:
			return damaged("a page of the map's tree is neither a leaf nor above one")
		default:
			page := make([]byte, blockSize)
			if err := fs.read(page, p.at*blockSize); err != nil {
				return fmt.Errorf("read the tree of the map: %w", err)
			}
			if readArea(page[24:]) != p.area {
				return damaged("a page of the map's tree lies at block %d and says another place", p.at)
			}
			if err := fs.readTree(page, depth-1); err != nil {
				return err
			}
		}
	}
	return nil
}

// readPage reads a page of the map.
func (fs *filesystem) readPage(b []byte, page int64) error {
	i := sort.Search(len(fs.pieces), func(i int) bool { return fs.pieces[i].off+fs.pieces[i].n > page })
	if i == len(fs.pieces) {
		return damaged("the map has no page %d", page)
	}
	p := fs.pieces[i]
	if err := fs.read(b, (p.at+page-p.off)*blockSize); err != nil {
		return fmt.Errorf("read page %d of the map: %w", page, err)
	}
	return nil
}
