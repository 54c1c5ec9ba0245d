package ext4

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strings"
)

var le = binary.LittleEndian

const (
	superOff   = 1024
	superLen   = 1024
	superMagic = 0xef53

	maxGroups = 1 << 20 // 128 TiB with blocks of 4 KiB; bounds the memory
)

// Features, of the kernel's Documentation/filesystems/ext4/super.rst.
const (
	compatJournal    = 0x4
	compatLazyBG     = 0x40
	compatExclude    = 0x180 // inode and bitmaps of snapshots
	compatSparse2    = 0x200
	compatFastCommit = 0x400

	incompatFiletype   = 0x2
	incompatRecover    = 0x4
	incompatJournalDev = 0x8
	incompatMetaBG     = 0x10
	incompat64Bit      = 0x80
	incompatMMP        = 0x100
	incompatFlexBG     = 0x200
	incompatCsumSeed   = 0x2000
	// extents, EA inodes, dirdata, large directories, inline data, encryption, case folding: nothing of these touches the
	// map of used blocks.
	incompatOther = 0x40 | 0x400 | 0x1000 | 0x4000 | 0x8000 | 0x10000 | 0x20000
	incompatKnown = incompatFiletype | incompatRecover | incompatMetaBG | incompat64Bit | incompatMMP | incompatFlexBG | incompatCsumSeed | incompatOther

	roSparse   = 0x1
	roLarge    = 0x2
	roBtree    = 0x4
	roGDTCsum  = 0x10
	roBigalloc = 0x200
	roMetaCsum = 0x400
	// huge files, more than 65000 links, larger inodes, quota, read-only, project quota, blocks that files share (of Android,
	// never written to), verity, orphan file in use.
	roOther = 0x8 | 0x20 | 0x40 | 0x100 | 0x1000 | 0x2000 | 0x4000 | 0x8000 | 0x10000
	roKnown = roSparse | roLarge | roBtree | roGDTCsum | roBigalloc | roMetaCsum | roOther

	stateClean  = 0x1
	stateErrors = 0x2
)

// super is what is needed of the superblock.
type super struct {
	raw                        []byte
	blockSize                  int64
	blocks                     blockNr
	free                       uint64 // blocks
	firstData                  blockNr
	ratio                      uint64 // blocks of a cluster
	blocksPerGroup             uint64
	clustersPerGroup           uint64
	inodes                     uint32
	inodesPerGroup             uint64
	inodeSize                  uint64
	firstInode                 uint64 // that is not reserved
	descSize                   int
	groupCount                 uint64
	compat, incompat, roCompat uint32
	reservedGDT                uint64
	firstMetaBG                uint64
	backupGroups               [2]uint64
	seed                       uint32 // of checksums
	state                      uint16
}

func (s *super) hasGroupCsum() bool { return s.roCompat&(roGDTCsum|roMetaCsum) != 0 }

// clean tells whether the filesystem was unmounted, so that its totals are up to date.
func (s *super) clean() bool { return s.state&stateClean != 0 && s.incompat&incompatRecover == 0 }

// readSuper reads and checks the superblock.
func (fs *filesystem) readSuper() error {
	if fs.size < superOff+superLen {
		return damaged("the volume is too small for a filesystem")
	}
	b := make([]byte, superLen)
	if err := fs.read(b, superOff); err != nil {
		return fmt.Errorf("read superblock: %w", err)
	}
	if le.Uint16(b[0x38:]) != superMagic {
		return damaged("there is no superblock")
	}
	s := &fs.super
	s.raw = b
	s.state = le.Uint16(b[0x3a:])
	s.compat, s.incompat, s.roCompat = le.Uint32(b[0x5c:]), le.Uint32(b[0x60:]), le.Uint32(b[0x64:])
	fs.facts.Type, fs.facts.UUID, fs.facts.Label = s.kind(), uuid(b[0x68:0x78]), text(b[0x78:0x88])
	if s.incompat&incompatJournalDev != 0 {
		return damaged("it is the external journal of another filesystem")
	}
	logBlock := le.Uint32(b[0x18:])
	if logBlock > 6 {
		return damaged("superblock: blocks of 2^(10+%d) bytes", logBlock)
	}
	s.blockSize = 1024 << logBlock
	fs.facts.BlockSize = int(s.blockSize)
	if err := s.checkFeatures(); err != nil {
		return err
	}
	if err := s.checkSum(); err != nil {
		return err
	}
	if err := s.geometry(); err != nil {
		return err
	}
	if int64(s.blocks) > fs.size/s.blockSize {
		return damaged("the filesystem has %d blocks of %d bytes, more than the volume of %d bytes", s.blocks, s.blockSize, fs.size)
	}
	fs.facts.Len = int64(s.blocks) * s.blockSize
	switch {
	case s.state&stateErrors != 0:
		return damaged("the filesystem is marked as having errors: e2fsck it")
	case s.state&stateClean == 0 && s.compat&compatJournal == 0:
		return damaged("it was not unmounted cleanly, and has no journal: e2fsck it")
	}
	return fs.readMMP()
}

// kind names the filesystem as blkid does: by the features that older kernels know.
func (s *super) kind() string {
	switch {
	case s.incompat&incompatJournalDev != 0:
		return "jbd"
	case s.incompat&^(incompatFiletype|incompatRecover|incompatMetaBG) != 0 || s.roCompat&^(roSparse|roLarge|roBtree) != 0:
		return "ext4"
	case s.compat&compatJournal != 0:
		return "ext3"
	case s.incompat&incompatRecover != 0:
		return "ext4"
	}
	return "ext2"
}

func (s *super) checkFeatures() error {
	switch {
	case s.incompat&^incompatKnown != 0:
		return damaged("superblock: unknown incompatible features %#x", s.incompat&^incompatKnown)
	case s.roCompat&^roKnown != 0:
		return damaged("superblock: unknown features %#x of what is read-only to others", s.roCompat&^roKnown)
	case s.compat&(compatLazyBG|compatExclude) != 0:
		return damaged("superblock: features %#x, of snapshots or lazy groups, are not supported", s.compat&(compatLazyBG|compatExclude))
	case le.Uint32(s.raw[0x4c:]) > 1:
		return damaged("superblock: unknown revision %d", le.Uint32(s.raw[0x4c:]))
	}
	return nil
}

// checkSum checks the superblock's checksum, and sets the seed of all others.
func (s *super) checkSum() error {
	if s.incompat&incompatCsumSeed != 0 {
		s.seed = le.Uint32(s.raw[0x270:])
	} else {
		s.seed = crc32c(^uint32(0), s.raw[0x68:0x78])
	}
	if s.roCompat&roMetaCsum == 0 {
		return nil
	}
	if kind := s.raw[0x175]; kind != 1 {
		return damaged("superblock: checksums of unknown kind %d", kind)
	}
	if crc32c(^uint32(0), s.raw[:0x3fc]) != le.Uint32(s.raw[0x3fc:]) {
		return damaged("superblock: the checksum is wrong")
	}
	return nil
}

// geometry reads the sizes and counts, and checks that they can be true together.
func (s *super) geometry() error {
	b := s.raw
	s.blocks, s.free = blockNr(le.Uint32(b[0x4:])), uint64(le.Uint32(b[0xc:]))
	s.descSize = 32
	if s.incompat&incompat64Bit != 0 {
		s.blocks |= blockNr(le.Uint32(b[0x150:])) << 32
		s.free |= uint64(le.Uint32(b[0x158:])) << 32
		s.descSize = int(le.Uint16(b[0xfe:]))
		if n := s.descSize; n < 64 || n > 1024 || n&(n-1) != 0 || int64(n) > s.blockSize {
			return damaged("superblock: group descriptors of %d bytes", n)
		}
	}
	s.firstData = blockNr(le.Uint32(b[0x14:]))
	s.ratio = 1
	logBlock, logCluster := le.Uint32(b[0x18:]), le.Uint32(b[0x1c:])
	s.blocksPerGroup, s.clustersPerGroup = uint64(le.Uint32(b[0x20:])), uint64(le.Uint32(b[0x24:]))
	if s.roCompat&roBigalloc != 0 {
		if logCluster < logBlock || logCluster > 20 {
			return damaged("superblock: clusters of 2^(10+%d) bytes", logCluster)
		}
		s.ratio = 1 << (logCluster - logBlock)
	} else {
		s.clustersPerGroup = s.blocksPerGroup
	}
	s.inodes = le.Uint32(b[0:])
	s.inodesPerGroup, s.inodeSize, s.firstInode = uint64(le.Uint32(b[0x28:])), 128, 11
	if le.Uint32(b[0x4c:]) > 0 {
		s.inodeSize, s.firstInode = uint64(le.Uint16(b[0x58:])), uint64(le.Uint32(b[0x54:]))
	}
	s.reservedGDT, s.firstMetaBG = uint64(le.Uint16(b[0xce:])), uint64(le.Uint32(b[0x104:]))
	s.backupGroups = [2]uint64{uint64(le.Uint32(b[0x24c:])), uint64(le.Uint32(b[0x250:]))}
	bits := uint64(8 * s.blockSize)
	switch {
	case (s.firstData == 1) != (s.blockSize == 1024 && s.roCompat&roBigalloc == 0) || s.firstData > 1:
		return damaged("superblock: the first data block is %d, with blocks of %d bytes", s.firstData, s.blockSize)
	case s.blocks <= s.firstData || s.blocks > 1<<48:
		return damaged("superblock: %d blocks", s.blocks)
	case s.clustersPerGroup == 0 || s.clustersPerGroup > bits || s.clustersPerGroup%8 != 0 || s.blocksPerGroup != s.clustersPerGroup*s.ratio:
		return damaged("superblock: groups of %d blocks, %d clusters", s.blocksPerGroup, s.clustersPerGroup)
	case s.inodeSize < 128 || int64(s.inodeSize) > s.blockSize || s.inodeSize&(s.inodeSize-1) != 0:
		return damaged("superblock: inodes of %d bytes", s.inodeSize)
	case s.inodesPerGroup == 0 || s.inodesPerGroup > bits:
		return damaged("superblock: %d inodes in a group", s.inodesPerGroup)
	case s.reservedGDT > uint64(s.blockSize/4):
		return damaged("superblock: %d blocks reserved for group descriptors", s.reservedGDT)
	case s.free > uint64(s.blocks):
		return damaged("superblock: %d of %d blocks are free", s.free, s.blocks)
	}
	s.groupCount = (uint64(s.blocks-s.firstData) + s.blocksPerGroup - 1) / s.blocksPerGroup
	if s.groupCount > maxGroups {
		return damaged("%d groups are more than are supported (%d)", s.groupCount, maxGroups)
	}
	if want := s.groupCount * s.inodesPerGroup; uint64(s.inodes) != want {
		return damaged("superblock: %d inodes, its %d groups hold %d", s.inodes, s.groupCount, want)
	}
	return nil
}

// mmpClean is the sequence number of multi-mount protection while nobody has the filesystem mounted.
const mmpClean = 0xff4d4d50

// readMMP notes when another machine may have the filesystem mounted.
func (fs *filesystem) readMMP() error {
	if fs.incompat&incompatMMP == 0 {
		return nil
	}
	n := blockNr(le.Uint64(fs.raw[0x168:]))
	if n == 0 || n >= fs.blocks {
		return damaged("superblock: the block of multi-mount protection is %d of %d", n, fs.blocks)
	}
	b, err := fs.readBlock(n)
	if err != nil {
		return fmt.Errorf("read the block of multi-mount protection: %w", err)
	}
	if le.Uint32(b) == 0x4d4d50 && le.Uint32(b[4:]) != mmpClean {
		fs.facts.Notes = append(fs.facts.Notes, "multi-mount protection says that it is mounted, here or on another machine")
	}
	return nil
}

// castagnoli is the polynomial of ext4's checksums.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crc32c goes on with a checksum as ext4 does: without the inversion at either end.
func crc32c(c uint32, b []byte) uint32 { return ^crc32.Update(^c, castagnoli, b) }

// crc16 goes on with the checksum of gdt_csum (polynomial x^16+x^15+x^2+1, low bit first).
func crc16(c uint16, b []byte) uint16 {
	for _, x := range b {
		c ^= uint16(x)
		for range 8 {
			if c&1 != 0 {
				c = c>>1 ^ 0xa001
			} else {
				c >>= 1
			}
		}
	}
	return c
}

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
