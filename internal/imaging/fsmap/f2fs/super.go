package f2fs

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"unicode/utf16"
)

const (
	superMagic = 0xf2f52010
	superOff   = 1024 // in each of the first two blocks
	superLen   = 3072
	superSums  = 3068 // where the checksum is

	blockSize   = 4096
	blockLog    = 12
	segBlocks   = 512 // of a segment
	segLog      = 9
	maxSegments = 8 << 20

	featureZoned    = 0x0002
	featureReadOnly = 0x4000
	featureFlexible = 0x0040
	featureSum      = 0x0800
	// What is known to change nothing of which blocks are in use: encryption, atomic writes, attributes and checksums of
	// inodes, quota, flexible inline attributes, creation times, lost+found, verity, names without case, compression.
	featuresKnown = 0x0001 | 0x0004 | 0x0008 | 0x0010 | 0x0020 | featureFlexible | 0x0080 | 0x0100 | 0x0200 | 0x0400 | featureSum |
		0x1000 | 0x2000
)

// super is what the superblock says.
type super struct {
	segments  int64 // of the main area
	cpAt      blockNr
	sitAt     blockNr
	sitBlocks int64 // of one copy
	natAt     blockNr
	natBlocks int64 // of one copy
	ssaAt     blockNr
	mainAt    blockNr
	nids      int64 // numbers that nodes may have
	rootNode  uint32
	ownNodes  [2]uint32 // numbers that stand for the filesystem itself
	onlyRead  bool
	flexible  bool // each inode says how much room attributes have in it
}

// Is tells whether a volume that starts with head may be F2FS.
func Is(head []byte) bool {
	return len(head) >= superOff+superLen && le.Uint32(head[superOff:]) == superMagic
}

// crc is the checksum of F2FS (CRC-32, seeded with the magic number, not inverted).
func crc(seed uint32, b []byte) uint32 { return ^crc32.Update(^seed, crc32.IEEETable, b) }

// readSuper reads and checks the superblock and its copy.
func (fs *filesystem) readSuper() error {
	if fs.size < 2*blockSize {
		return damaged("the volume is too small for a filesystem")
	}
	both := make([]byte, 2*blockSize)
	if err := fs.read(both, 0); err != nil {
		return fmt.Errorf("read the superblocks: %w", err)
	}
	b, second := both[superOff:superOff+superLen], both[blockSize+superOff:blockSize+superOff+superLen]
	if !Is(both) {
		return damaged("there is no superblock")
	}
	if len(bytes.Trim(b[108:124], "\x00")) > 0 {
		fs.facts.UUID = fmt.Sprintf("%x-%x-%x-%x-%x", b[108:112], b[112:114], b[114:116], b[116:118], b[118:124])
	}
	var label []uint16
	for at := 124; at < 1148; at += 2 {
		c := le.Uint16(b[at:])
		if c == 0 {
			break
		}
		label = append(label, c)
	}
	fs.facts.Label = string(utf16.Decode(label))
	fs.facts.BlockSize = blockSize
	features := le.Uint32(b[2180:])
	for _, s := range [][]byte{b, second} {
		if features&featureSum != 0 && (le.Uint32(s[32:]) != superSums || le.Uint32(s[superSums:]) != crc(superMagic, s[:superSums])) {
			return damaged("the checksum of a superblock is wrong")
		}
	}
	// Where things lie, and whose filesystem it is.
	if !bytes.Equal(b[:124], second[:124]) || !bytes.Equal(b[1664:1668], second[1664:1668]) || !bytes.Equal(b[2180:2184], second[2180:2184]) {
		return damaged("the two superblocks differ")
	}
	switch {
	case le.Uint32(b[16:]) != blockLog || le.Uint32(b[20:]) != segLog:
		return damaged("superblock: blocks of 2^%d bytes, segments of 2^%d blocks; known are 4096 bytes and 512 blocks", le.Uint32(b[16:]), le.Uint32(b[20:]))
	case features&featureZoned != 0:
		return damaged("it is made for zoned disks")
	case features&featureReadOnly != 0:
		return damaged("it is made to be read only")
	case features&^featuresKnown != 0:
		return damaged("superblock: unknown features %#x", features&^featuresKnown)
	case b[2201] != 0:
		return damaged("it lies on several disks")
	case le.Uint32(b[1664:]) != 0:
		return damaged("it is so large that part of its checkpoint has no checksum")
	case len(bytes.Trim(b[2794:2810], "\x00")) > 0:
		return damaged("Linux found errors on it; run fsck.f2fs")
	}
	return fs.readAreas(b, features)
}

// readAreas reads where things lie: they follow each other without a gap.
func (fs *filesystem) readAreas(b []byte, features uint32) error {
	t := &fs.super
	at := func(i int) int64 { return int64(le.Uint32(b[i:])) }
	blocks, segments := le.Uint64(b[36:]), at(48)
	first, next := at(72), at(76)
	if first != next {
		return damaged("superblock: segments from block %d, checkpoints at %d", first, next)
	}
	for _, area := range []struct {
		count, next int
		name        string
	}{{52, 80, "the SIT"}, {56, 84, "the NAT"}, {60, 88, "the SSA"}, {64, 92, "the main area"}} {
		n := at(area.count)
		if next += n * segBlocks; n == 0 || n > maxSegments || at(area.next) != next {
			return damaged("superblock: %s begins at block %d, not %d", area.name, at(area.next), next)
		}
	}
	t.segments = at(68)
	end := next + t.segments*segBlocks
	switch {
	case first < 2 || t.segments == 0 || t.segments > maxSegments:
		return damaged("superblock: %d segments from block %d", t.segments, first)
	case end > first+segments*segBlocks || blocks > uint64(fs.size/blockSize) || end > int64(blocks):
		return damaged("the filesystem has %d blocks of %d bytes and ends at block %d, the volume has %d bytes", blocks, blockSize, end, fs.size)
	case at(52) != 2 || at(56)%2 != 0 || at(60)%2 != 0:
		return damaged("superblock: %d segments for checkpoints, %d for the SIT, %d for the NAT", at(52), at(56), at(60))
	}
	t.cpAt, t.sitAt, t.natAt, t.ssaAt, t.mainAt = blockNr(first), blockNr(at(80)), blockNr(at(84)), blockNr(at(88)), blockNr(next)
	t.sitBlocks, t.natBlocks = at(56)/2*segBlocks, at(60)/2*segBlocks
	t.nids = t.natBlocks * natPerBlock
	t.rootNode, t.ownNodes = le.Uint32(b[96:]), [2]uint32{le.Uint32(b[100:]), le.Uint32(b[104:])}
	t.flexible = features&featureFlexible != 0
	if (t.segments+sitPerBlock-1)/sitPerBlock > t.sitBlocks || t.segments > at(64)*segBlocks {
		return damaged("superblock: %d segments, too many for the SIT or the SSA", t.segments)
	}
	fs.facts.Len = end * blockSize
	return nil
}
