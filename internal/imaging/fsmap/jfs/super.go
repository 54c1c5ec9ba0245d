package jfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

const (
	superOff  = 0x8000
	secondOff = 0xf000
	superLen  = 184
	tableOff  = 0xb000 // of the inodes of the filesystem itself
	tableLen  = 4      // blocks
	inodeLen  = 512
	mapInode  = 2
	blockSize = 4096 // Linux knows no other

	flagInlineLog = 0x0800
	flagExtending = 8 // of the state
	maxBlocks     = 1 << 34

	logMagic = 0x87654321
	logDone  = 1
)

// area is a number of blocks that lie side by side.
type area struct{ at, n int64 }

// readArea reads a pxd_t.
func readArea(b []byte) area {
	first := le.Uint32(b)
	return area{int64(first>>24)<<32 | int64(le.Uint32(b[4:])), int64(first & 0xffffff)}
}

// Is tells whether a volume that starts with head may be JFS.
func Is(head []byte) bool {
	return len(head) >= superOff+superLen && string(head[superOff:superOff+4]) == "JFS1"
}

func (fs *filesystem) readSuper() error {
	if fs.size < 16*blockSize {
		return damaged("the volume is too small for a filesystem")
	}
	head := make([]byte, 16*blockSize)
	if err := fs.read(head, 0); err != nil {
		return fmt.Errorf("read the superblocks: %w", err)
	}
	if !Is(head) {
		return damaged("there is no superblock")
	}
	b, second := head[superOff:], head[secondOff:]
	if id := b[136:152]; len(bytes.Trim(id, "\x00")) > 0 {
		fs.facts.UUID = fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
	}
	fs.facts.Label, _, _ = strings.Cut(string(b[152:168]), "\x00")
	fs.facts.BlockSize = blockSize
	version, sectors, sector := le.Uint32(b[4:]), le.Uint64(b[8:]), int64(le.Uint32(b[24:]))
	flags, state := le.Uint32(b[36:]), le.Uint32(b[40:])
	switch {
	case version != 1 && version != 2:
		return damaged("superblock: version %d", version)
	case le.Uint32(b[16:]) != blockSize || le.Uint16(b[20:]) != 12:
		return damaged("superblock: blocks of %d bytes, Linux knows 4096 only", le.Uint32(b[16:]))
	case sector < 512 || sector > blockSize || sector&(sector-1) != 0:
		return damaged("superblock: sectors of %d bytes", sector)
	case !bytes.Equal(b[:40], second[:40]) || !bytes.Equal(b[48:64], second[48:64]) || !bytes.Equal(b[72:88], second[72:88]):
		return damaged("the two superblocks differ")
	case state&flagExtending != 0:
		return damaged("it is being made larger")
	case state != 0:
		return damaged("it was not unmounted cleanly, and its map may be behind its log; mount and unmount it, or run fsck.jfs")
	}
	per := uint64(blockSize / sector)
	if sectors == 0 || sectors%per != 0 || sectors/per > min(maxBlocks, uint64(fs.size/blockSize)) {
		return damaged("the filesystem has %d sectors of %d bytes, the volume has %d bytes", sectors, sector, fs.size)
	}
	fs.blocks = int64(sectors / per)
	fs.agBlocks = int64(le.Uint32(b[32:]))
	fs.workspace = readArea(b[80:])
	end := fs.blocks
	if fs.workspace.n > 0 {
		if fs.workspace.at != end {
			return damaged("superblock: fsck's room begins at block %d, the filesystem has %d", fs.workspace.at, end)
		}
		end += fs.workspace.n
	}
	if flags&flagInlineLog == 0 {
		return damaged("its log lies on another disk, and it alone tells whether all was written")
	}
	fs.log = readArea(b[72:])
	if fs.log.n < 2 || fs.log.at != end {
		return damaged("superblock: the log of %d blocks begins at block %d, all else ends at %d", fs.log.n, fs.log.at, end)
	}
	if end += fs.log.n; end > fs.size/blockSize {
		return damaged("the filesystem with its log has %d blocks, the volume has %d bytes", end, fs.size)
	}
	fs.facts.Len = end * blockSize
	return fs.readLog()
}

// readLog makes sure that the log has nothing to say.
func (fs *filesystem) readLog() error {
	b := make([]byte, 64)
	if err := fs.read(b, (fs.log.at+1)*blockSize); err != nil {
		return fmt.Errorf("read the superblock of the log: %w", err)
	}
	if le.Uint32(b) != logMagic || int64(le.Uint32(b[12:])) > fs.log.n {
		return damaged("the superblock of the log makes no sense")
	}
	if le.Uint32(b[28:]) != logDone {
		return damaged("the log was not closed; mount and unmount it, or run fsck.jfs")
	}
	return nil
}

// read fills b with what lies at off.
func (fs *filesystem) read(b []byte, off int64) error {
	n, err := fs.r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%d bytes at offset %d: %w", len(b), off, err)
}
