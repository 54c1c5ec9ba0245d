package nilfs2

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
)

const (
	superOff  = 1024
	superLen  = 1024 // room for it
	superMin  = 280  // bytes that its checksum covers
	superMagc = 0x3434
	sumOff    = 16
	secondLen = 4096

	stateValid  = 1
	stateError  = 2
	stateResize = 4
	knownCompat = 1 // of what only forbids to write: a count of blocks in inodes

	maxSegments = 1 << 22
	maxLogBytes = 1 << 30 // of a segment
)

// crc is the checksum of NILFS2 (CRC-32, not inverted).
func crc(seed uint32, b []byte) uint32 { return ^crc32.Update(^seed, crc32.IEEETable, b) }

// Is tells whether a volume that starts with head may be NILFS2.
func Is(head []byte) bool {
	return len(head) >= superOff+superLen && le.Uint16(head[superOff+6:]) == superMagc
}

// goodSuper tells whether the checksum of a superblock is good.
func goodSuper(b []byte) bool {
	n := int(le.Uint16(b[8:]))
	if le.Uint16(b[6:]) != superMagc || n < superMin || n > superLen {
		return false
	}
	sum := crc(le.Uint32(b[12:]), b[:sumOff])
	sum = crc(sum, make([]byte, 4))
	return crc(sum, b[sumOff+4:n]) == le.Uint32(b[sumOff:])
}

// readSuper reads the superblocks. Linux writes the two by turns, and believes the one that knows of more.
func (fs *filesystem) readSuper() error {
	if fs.size < 1<<20 {
		return damaged("the volume is too small for a filesystem")
	}
	b := make([]byte, superLen)
	if err := fs.read(b, superOff); err != nil {
		return fmt.Errorf("read the superblock: %w", err)
	}
	if !goodSuper(b) {
		return damaged("the checksum of the superblock is wrong")
	}
	dev := le.Uint64(b[32:])
	if dev > uint64(fs.size) || dev < 2*secondLen {
		return damaged("the filesystem has %d bytes, the volume has %d", dev, fs.size)
	}
	fs.facts.Len = int64(dev)
	second := make([]byte, superLen)
	if err := fs.read(second, fs.secondOff()); err != nil {
		return fmt.Errorf("read the second superblock: %w", err)
	}
	switch {
	case !goodSuper(second):
		fs.facts.Notes = append(fs.facts.Notes, "the second superblock is damaged")
	case !bytes.Equal(b[12:16], second[12:16]) || !bytes.Equal(b[20:52], second[20:52]) || !bytes.Equal(b[144:168], second[144:168]):
		return damaged("the two superblocks are of different filesystems")
	case le.Uint64(second[56:]) > le.Uint64(b[56:]):
		b = second
	}
	return fs.useSuper(b)
}

func (fs *filesystem) useSuper(b []byte) error {
	if id := b[152:168]; len(bytes.Trim(id, "\x00")) > 0 {
		fs.facts.UUID = fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
	}
	fs.facts.Label, _, _ = strings.Cut(string(b[168:248]), "\x00")
	state := le.Uint16(b[116:])
	switch {
	case le.Uint32(b) != 2:
		return damaged("superblock: revision %d", le.Uint32(b))
	case le.Uint32(b[20:]) > 6:
		return damaged("superblock: blocks of 2^%d KiB", le.Uint32(b[20:]))
	case le.Uint64(b[272:]) != 0 || le.Uint64(b[264:])&^knownCompat != 0:
		return damaged("superblock: unknown features %#x, %#x", le.Uint64(b[272:]), le.Uint64(b[264:]))
	case state&stateError != 0:
		return damaged("Linux found errors on it")
	case state&stateResize != 0:
		return damaged("it is being resized")
	case state&stateValid == 0:
		return damaged("it was not unmounted cleanly, and what was written last is found by a mount only; mount and unmount it")
	case le.Uint16(b[144:]) < 128 || le.Uint16(b[146:]) < 32 || le.Uint16(b[150:]) < 16:
		return damaged("superblock: inodes of %d bytes, entries of %d, of %d for segments", le.Uint16(b[144:]), le.Uint16(b[146:]), le.Uint16(b[150:]))
	}
	fs.seed = le.Uint32(b[12:])
	fs.block = 1024 << le.Uint32(b[20:])
	fs.facts.BlockSize = int(fs.block)
	segments, first, per := le.Uint64(b[24:]), le.Uint64(b[40:]), int64(le.Uint32(b[48:]))
	if segments == 0 || segments > maxSegments || per < 16 || per > maxLogBytes/fs.block ||
		segments*uint64(per)*uint64(fs.block) > uint64(fs.secondOff()) || first >= uint64(per) || first*uint64(fs.block) < superOff+superLen {
		return damaged("the filesystem has %d segments of %d blocks of %d bytes from block %d on, and %d bytes in all", segments, per, fs.block, first, fs.facts.Len)
	}
	fs.segments, fs.perSegment, fs.first = int64(segments), per, int64(first)
	fs.inodeLen, fs.entryLen, fs.usageLen = int64(le.Uint16(b[144:])), int64(le.Uint16(b[146:])), int64(le.Uint16(b[150:]))
	if fs.inodeLen > fs.block/4 || fs.entryLen > fs.block || fs.usageLen > fs.block {
		return damaged("superblock: inodes of %d bytes, entries of %d, of %d for segments", fs.inodeLen, fs.entryLen, fs.usageLen)
	}
	fs.lastLog, fs.lastSeq = le.Uint64(b[64:]), le.Uint64(b[72:])

	return nil
}

// secondOff returns where the second superblock lies, in bytes.
func (fs *filesystem) secondOff() int64 { return (fs.facts.Len/secondLen - 1) * secondLen }

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
