package xfs

import (
	"bytes"
	"fmt"
	"math/bits"
	"strings"
)

const (
	superMagic = 0x58465342 // "XFSB"
	superLen   = 264        // of the superblock, without what realtime groups add
	sumOff     = 224        // of the superblock's checksum
	sector     = 512        // bytes; what "disk addresses" and the log count in
)

// Features, of the kernel's xfs_format.h.
const (
	versionMask   = 0x000f
	versionShared = 0x0200 // read-only, shared by several machines (IRIX)
	versionLogV2  = 0x0400
	versionSector = 0x0800 // other sectors than 512 bytes
	versionDirV2  = 0x2000
	versionMore   = 0x8000 // features2 counts
	version4Known = 0xfff0 &^ versionShared

	more4Known = 0x2 | 0x8 | 0x80 | 0x200 // lazy counters, attributes of version 2, 32-bit project IDs, types in folders
	moreFtype  = 0x200
	moreLazy   = 0x2

	logKnown = 0x1 // of the log: changes of attributes that a replay finishes

	roFinobt  = 0x1
	roRmap    = 0x2
	roReflink = 0x4
	roKnown   = roFinobt | roRmap | roReflink | 0x8 // the last: counts of the blocks of the trees of inodes

	incompatFtype    = 0x1
	incompatSparse   = 0x2 // chunks of inodes with holes
	incompatMetaUUID = 0x4
	incompatBigtime  = 0x8
	incompatRepair   = 0x10
	incompatNrext64  = 0x20
	incompatZoned    = 0x200
	// exchanged ranges, parent pointers, folders of metadata: nothing of these touches what is read here.
	incompatKnown = incompatFtype | incompatSparse | incompatMetaUUID | incompatBigtime | incompatRepair | incompatNrext64 | 0x40 | 0x80 | 0x100
)

// super is what is needed of the superblock.
type super struct {
	version     int // 4 or 5
	blockSize   int64
	sectorSize  int64
	blocks      uint64
	free        uint64 // blocks
	agBlocks    uint32
	agCount     uint32
	agLog       uint   // bits of the number of a block within its group
	logStart    uint64 // block of the filesystem, with the group in its high bits
	logBlocks   uint32
	uuid        []byte // of the filesystem
	metaUUID    []byte // of its metadata
	hasMetaUUID bool   // that is another one
	logV2       bool   // records of the log may be longer than 32 KiB
	logPad      uint32 // bytes at multiples of which records begin; 0 and 1 for any sector
	logNews     uint32 // features of what is in the log now
	lazy        bool   // after a crash the free blocks are counted anew
	finobt      bool   // there is a tree of free inodes
	rmap        bool   // there is a tree of owners
	reflink     bool   // there is a tree of shared extents

	inodeSize   int64
	inodeLog    uint // inodes of a block, as a power of two
	rootInode   uint64
	sparse      bool // chunks of inodes may have holes
	ftype       bool // folders tell the types of files
	dirV2       bool
	dirLog      uint // blocks of a folder's block, as a power of two
	realtimeExt uint64
}

// readSuper reads and checks the superblock.
func (fs *filesystem) readSuper() error {
	const most = 32 << 10 // bytes of a sector
	b := make([]byte, min(most, fs.size))
	if len(b) < superLen {
		return damaged("the volume is too small for a filesystem")
	}
	if err := fs.read(b, 0); err != nil {
		return fmt.Errorf("read superblock: %w", err)
	}
	if be.Uint32(b) != superMagic {
		return damaged("there is no superblock")
	}
	fs.facts.UUID, fs.facts.Label = uuid(b[32:48]), text(b[108:120])
	s := &fs.super
	s.sectorSize = int64(be.Uint16(b[102:]))
	if n := s.sectorSize; n < sector || n > int64(len(b)) || n&(n-1) != 0 || b[121] != log2(n) {
		return damaged("superblock: sectors of %d bytes", n)
	}
	b = b[:s.sectorSize]
	s.uuid = bytes.Clone(b[32:48])
	s.metaUUID = s.uuid
	if err := s.features(b); err != nil {
		return err
	}
	if s.version == 5 && !checked(b, sumOff) {
		return damaged("superblock: the checksum is wrong")
	}
	if err := s.geometry(b); err != nil {
		return err
	}
	fs.facts.BlockSize = int(s.blockSize)
	if int64(s.blocks) > fs.size/s.blockSize {
		return damaged("the filesystem has %d blocks of %d bytes, more than the volume of %d bytes", s.blocks, s.blockSize, fs.size)
	}
	fs.facts.Len = int64(s.blocks) * s.blockSize
	switch {
	case b[126] != 0:
		return damaged("it is being made or grown: the superblock says so")
	case s.realtimeExt > 0:
		fs.note("what its realtime files hold lies on another device")
	}
	return nil
}

// features reads which kind of XFS it is.
func (s *super) features(b []byte) error {
	flags := be.Uint16(b[100:])
	s.version, s.dirV2, s.logV2 = int(flags&versionMask), flags&versionDirV2 != 0, flags&versionLogV2 != 0
	more := uint32(0)
	if flags&versionMore != 0 {
		more = be.Uint32(b[200:])
	}
	switch s.version {
	case 4:
		switch {
		case flags&^(versionMask|version4Known) != 0:
			return damaged("superblock: features %#x are not supported", flags&^(versionMask|version4Known))
		case more&^more4Known != 0:
			return damaged("superblock: unknown features %#x", more&^more4Known)
		}
		s.ftype, s.lazy = more&moreFtype != 0, more&moreLazy != 0
		return nil
	case 5:
	default:
		return damaged("superblock: version %d is not supported", s.version)
	}
	ro, incompat := be.Uint32(b[212:]), be.Uint32(b[216:])
	switch {
	case incompat&incompatZoned != 0:
		return damaged("superblock: realtime zones on the same device are not supported")
	case incompat&^incompatKnown != 0:
		return damaged("superblock: unknown incompatible features %#x", incompat&^incompatKnown)
	case ro&^roKnown != 0:
		return damaged("superblock: unknown features %#x of what is read-only to others", ro&^roKnown)
	case incompat&incompatRepair != 0:
		return damaged("it is marked as damaged: xfs_repair it")
	}
	s.finobt, s.rmap, s.reflink = ro&roFinobt != 0, ro&roRmap != 0, ro&roReflink != 0
	s.lazy, s.logNews = true, be.Uint32(b[220:])
	s.sparse, s.ftype, s.dirV2 = incompat&incompatSparse != 0, incompat&incompatFtype != 0, true
	if incompat&incompatMetaUUID != 0 {
		s.metaUUID, s.hasMetaUUID = bytes.Clone(b[248:264]), true
	}
	return nil
}

// geometry reads the sizes and counts, and checks that they can be true together.
func (s *super) geometry(b []byte) error {
	s.blockSize, s.blocks, s.free = int64(be.Uint32(b[4:])), be.Uint64(b[8:]), be.Uint64(b[144:])
	s.agBlocks, s.agCount, s.agLog = be.Uint32(b[84:]), be.Uint32(b[88:]), uint(b[124])
	s.logStart, s.logBlocks = be.Uint64(b[48:]), be.Uint32(b[96:])
	s.rootInode, s.inodeSize, s.inodeLog, s.dirLog = be.Uint64(b[56:]), int64(be.Uint16(b[104:])), uint(b[123]), uint(b[192])
	s.realtimeExt, s.logPad = be.Uint64(b[24:]), be.Uint32(b[196:])
	perBlock := be.Uint16(b[106:])
	least := int64(512)
	if s.version == 5 {
		least = 1024
	}
	switch n := s.blockSize; {
	case n < least || n > 64<<10 || n&(n-1) != 0 || b[120] != log2(n):
		return damaged("superblock: blocks of %d bytes", n)
	case s.sectorSize > n:
		return damaged("superblock: sectors of %d bytes, blocks of %d", s.sectorSize, n)
	case s.agBlocks < 64 || s.agBlocks > 1<<31 || s.agLog != uint(bits.Len32(s.agBlocks-1)):
		return damaged("superblock: allocation groups of %d blocks", s.agBlocks)
	case s.agCount == 0 || s.blocks > 1<<54 || s.blocks <= uint64(s.agCount-1)*uint64(s.agBlocks) || s.blocks > uint64(s.agCount)*uint64(s.agBlocks):
		return damaged("superblock: %d blocks in %d allocation groups of %d", s.blocks, s.agCount, s.agBlocks)
	case s.free > s.blocks:
		return damaged("superblock: %d of %d blocks are free", s.free, s.blocks)
	case s.inodeSize < 256 || s.inodeSize > 2048 || s.inodeSize > n || s.inodeSize&(s.inodeSize-1) != 0 || b[122] != log2(s.inodeSize),
		int64(perBlock) != n/s.inodeSize || b[123] != log2(int64(perBlock)):
		return damaged("superblock: inodes of %d bytes, %d in a block", s.inodeSize, perBlock)
	case s.dirLog > 16 || n<<s.dirLog > 64<<10:
		return damaged("superblock: folders have blocks of 2^%d blocks", s.dirLog)
	case s.agLog+s.inodeLog > 32:
		return damaged("superblock: the numbers of inodes have %d bits within a group", s.agLog+s.inodeLog)
	}
	return nil
}

// groupLen returns how many blocks an allocation group has: the last may be shorter.
func (s *super) groupLen(group uint32) uint32 {
	return uint32(min(uint64(s.agBlocks), s.blocks-uint64(group)*uint64(s.agBlocks)))
}

// split returns the group of a block of the filesystem, and its place there.
func (s *super) split(block uint64) (uint32, agBlock, bool) {
	group, at := block>>s.agLog, block&(1<<s.agLog-1)
	if group >= uint64(s.agCount) || at >= uint64(s.groupLen(uint32(group))) {
		return 0, 0, false
	}
	return uint32(group), agBlock(at), true
}

func log2(n int64) byte { return byte(bits.TrailingZeros64(uint64(n))) }

// uuid is "" for one of zeros.
func uuid(b []byte) string {
	if bytes.Equal(b, make([]byte, 16)) {
		return ""
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

func text(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return strings.ToValidUTF8(string(b), "�")
}
