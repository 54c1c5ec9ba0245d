package minix

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	superOff = 1024
	superLen = 32

	stateValid = 1
	stateError = 2

	maxZones  = 1 << 28
	maxInodes = 1 << 26 // those of version 3 are a word
)

// version is what differs between the versions of the filesystem.
type version struct {
	name      string
	magic     uint16
	at        int // of the magic number
	inodeLen  int
	zoneLen   int // bytes of the number of a zone
	zones     int // numbers of zones in an inode
	levels    int // of zones with numbers of others
	firstZone int // where the first number is
}

var versions = []version{
	{"1", 0x137f, 16, 32, 2, 9, 2, 14},
	{"1, long names", 0x138f, 16, 32, 2, 9, 2, 14},
	{"2", 0x2468, 16, 64, 4, 10, 3, 24},
	{"2, long names", 0x2478, 16, 64, 4, 10, 3, 24},
	{"3", 0x4d5a, 24, 64, 4, 10, 3, 24},
}

// find returns the version of the filesystem that a volume starts with, and whether its numbers have the high byte first.
func find(head []byte) (v *version, big bool) {
	if len(head) < superOff+superLen {
		return nil, false
	}
	for i := range versions {
		v := &versions[i]
		b := head[superOff:]
		for _, order := range []binary.ByteOrder{le, binary.BigEndian} {
			// The magic number is short. There is a map of inodes and one of zones, and both lie in front of the first zone.
			maps := b[4:]
			if v.magic == 0x4d5a {
				maps = b[6:]
			}
			imap, zmap, first := order.Uint16(maps), order.Uint16(maps[2:]), order.Uint16(maps[4:])
			if order.Uint16(b[v.at:]) == v.magic && imap > 0 && zmap > 0 && (first == 0 && v.magic == 0x4d5a || int(first) > int(imap)+int(zmap)) {
				return v, order != le
			}
		}
	}
	return nil, false
}

// Is tells whether a volume that starts with head may be a minix filesystem.
func Is(head []byte) bool {
	v, _ := find(head)
	return v != nil
}

// readSuper reads where things lie.
func (fs *filesystem) readSuper() error {
	if fs.size < superOff+superLen {
		return damaged("the volume is too small for a filesystem")
	}
	head := make([]byte, superOff+superLen)
	if err := fs.read(head, 0); err != nil {
		return fmt.Errorf("read the superblock: %w", err)
	}
	v, big := find(head)
	if v == nil {
		return damaged("there is no superblock")
	}
	if big {
		return damaged("it was made by a computer with the high byte first: how its map is to be read depends on which one")
	}
	fs.version = v
	b := head[superOff:]
	fs.block = 1024
	imapBlocks, zmapBlocks, first, log := int64(le.Uint16(b[4:])), int64(le.Uint16(b[6:])), int64(le.Uint16(b[8:])), le.Uint16(b[10:])
	fs.inodes, fs.zones = int64(le.Uint16(b)), int64(le.Uint16(b[2:]))
	state := le.Uint16(b[18:])
	switch v.magic {
	case 0x2468, 0x2478:
		fs.zones = int64(le.Uint32(b[20:]))
	case 0x4d5a:
		imapBlocks, zmapBlocks, first, log = int64(le.Uint16(b[6:])), int64(le.Uint16(b[8:])), int64(le.Uint16(b[10:])), le.Uint16(b[12:])
		fs.inodes, fs.zones, fs.block = int64(le.Uint32(b)), int64(le.Uint32(b[20:])), int64(le.Uint16(b[28:]))
		state = stateValid // it has none
	}
	fs.facts.BlockSize = int(fs.block)
	switch {
	case fs.block < 1024 || fs.block > 32768 || fs.block&(fs.block-1) != 0:
		return damaged("superblock: blocks of %d bytes", fs.block)
	case log != 0:
		return damaged("superblock: zones of %d blocks; known are zones of one", int64(1)<<min(log, 40))
	case fs.inodes == 0 || fs.inodes > maxInodes || fs.zones > maxZones:
		return damaged("superblock: %d inodes, %d zones", fs.inodes, fs.zones)
	case fs.zones*fs.block > fs.size:
		return damaged("the filesystem has %d bytes, the volume %d", fs.zones*fs.block, fs.size)
	}
	fs.imapAt = max(2, superOff/fs.block+1)
	fs.zmapAt = fs.imapAt + imapBlocks
	fs.tableAt = fs.zmapAt + zmapBlocks
	perBlock := fs.block / int64(v.inodeLen)
	end := fs.tableAt + (fs.inodes+perBlock-1)/perBlock
	if first == 0 && v.magic == 0x4d5a {
		first = end // too large for its field
	}
	fs.first = first
	// The programs that make one may keep a block more for the map of zones than is needed.
	need := blocksFor(fs.zones-fs.first+1, fs.block)
	switch {
	case first != end || first >= fs.zones:
		return damaged("superblock: the first zone is %d of %d, the inodes end at %d", first, fs.zones, end)
	case imapBlocks != blocksFor(fs.inodes+1, fs.block) || zmapBlocks < need || zmapBlocks > need+1:
		return damaged("superblock: maps of %d and %d blocks for %d inodes and %d zones", imapBlocks, zmapBlocks, fs.inodes, fs.zones)
	case state&stateError != 0:
		return damaged("Linux found errors on it; run fsck.minix")
	}
	if state&stateValid == 0 {
		fs.note("it was not unmounted cleanly; its files and its map agree all the same")
	}
	fs.facts.Len = fs.zones * fs.block
	return nil
}

// blocksFor returns how many blocks n bits take.
func blocksFor(n, block int64) int64 { return (n + 8*block - 1) / (8 * block) }

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
