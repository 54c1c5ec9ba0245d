package fixed

import (
	"hash/crc32"
	"strings"
)

// Of the superblock of erofs, of the kernel's fs/erofs/erofs_fs.h.
const (
	erofsOff  = 1024
	erofsLen  = 128
	erofsSlot = 32 // bytes; inodes are numbered by these

	erofsCompatSum = 1
	// padding of LZ4, settings of compression, large clusters, chunks, a second algorithm, inline tails, fragments and
	// shared data, prefixes of attributes. A table of devices shares its bit with the second algorithm.
	erofsKnown = 0x7f
)

// readErofs reads the superblock. Its checksum is what confirms the length.
func (v *volume) readErofs() error {
	b := make([]byte, erofsLen)
	if v.size < erofsOff+erofsLen {
		return damaged("the volume is too small for a superblock")
	}
	if err := v.read(b, erofsOff); err != nil {
		return err
	}
	label, _, _ := strings.Cut(string(b[64:80]), "\x00")
	v.facts.UUID, v.facts.Label = uuid(b[48:64]), strings.ToValidUTF8(label, "�")
	bits := b[12]
	if bits < 9 || bits > 16 {
		return damaged("superblock: blocks of 2^%d bytes", bits)
	}
	v.facts.BlockSize = 1 << bits
	switch features := le.Uint32(b[80:]); {
	case features&^erofsKnown != 0:
		return damaged("superblock: unknown incompatible features %#x", features&^erofsKnown)
	case le.Uint16(b[86:]) != 0:
		return damaged("a part of its data lies on %d other devices", le.Uint16(b[86:]))
	case le.Uint32(b[8:])&erofsCompatSum == 0:
		return damaged("superblock: it has no checksum, so that nothing confirms its length")
	}
	if err := v.sumErofs(1 << bits); err != nil {
		return err
	}
	if err := v.setLen(uint64(le.Uint32(b[36:])) << bits); err != nil {
		return err
	}
	// The root.
	at := uint64(le.Uint32(b[40:]))<<bits + uint64(le.Uint16(b[14:]))*erofsSlot
	if at > uint64(v.facts.Len-erofsSlot) {
		return damaged("superblock: the root at %d lies behind the end", at)
	}
	inode := make([]byte, erofsSlot)
	if err := v.read(inode, int64(at)); err != nil {
		return err
	}
	if mode := le.Uint16(inode[4:]); mode>>12 != 4 {
		return damaged("the root at %d is no folder (mode %#o)", at, mode)
	}
	return nil
}

// sumErofs checks the superblock's checksum, which is over the rest of its block.
func (v *volume) sumErofs(block int64) error {
	n := block
	if block > erofsOff {
		n -= erofsOff
	}
	if n < erofsLen || erofsOff+n > v.size {
		return damaged("superblock: a block of %d bytes is too short, or behind the end", block)
	}
	b := make([]byte, n)
	if err := v.read(b, erofsOff); err != nil {
		return err
	}
	want := le.Uint32(b[4:])
	clear(b[4:8])
	// Without the inversion at the end.
	if ^crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) != want {
		return damaged("superblock: the checksum is wrong")
	}
	return nil
}
