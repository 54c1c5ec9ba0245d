package btrfs

import (
	"encoding/binary"
	"fmt"
	"strings"
)

var le = binary.LittleEndian

// The superblock, of the on-disk format's section of that name. Offsets in it are from its start.
const (
	superLen   = 4096
	superMagic = "_BHRfS_M"
	magicAt    = 0x40
	arrayAt    = 0x32b
	arrayLen   = 2048
	devItemAt  = 0xc9
	devItemLen = 98

	maxLevel = 8 // levels of a tree
)

// superOff are the places of the superblock and its copies, in bytes of the device.
var superOff = [...]int64{64 << 10, 64 << 20, 256 << 30}

// Features.
const (
	incompatMixedBackref = 1 << 0
	incompatMetadataUUID = 1 << 10
	incompatZoned        = 1 << 12
	incompatExtentTreeV2 = 1 << 13
	incompatStripeTree   = 1 << 14
	// default subvolume, mixed groups, LZO, zstd, large nodes, extended references, RAID 5/6, skinny metadata, no holes, RAID1C3/4,
	// simple quotas: nothing of these changes what is said of used bytes, or it says so itself.
	incompatOther = 1<<1 | 1<<2 | 1<<3 | 1<<4 | 1<<5 | 1<<6 | 1<<7 | 1<<8 | 1<<9 | 1<<11 | 1<<16
	incompatKnown = incompatMixedBackref | incompatMetadataUUID | incompatOther

	roFreeSpaceTree  = 1 << 0
	roFreeSpaceValid = 1 << 1
	roVerity         = 1 << 2
	roBlockGroupTree = 1 << 3
	roKnown          = roFreeSpaceTree | roFreeSpaceValid | roVerity | roBlockGroupTree

	// Superblock flags: written, being relocated (unused by now), a seed for other filesystems.
	flagError = 1 << 2
	flagsFine = 1<<0 | 1<<1 | 1<<32
)

// super is what is needed of the superblock.
type super struct {
	raw        []byte
	fsid       [16]byte
	metaID     [16]byte // the filesystem's identity in tree blocks
	generation uint64
	root       ref
	chunkRoot  ref
	logRoot    ref // with a logical address of 0 where there is no log
	used       uint64
	devices    uint64
	sector     uint64
	node       uint64 // bytes of a tree block
	array      []byte
	compatRO   uint64
	incompat   uint64
	sumKind    uint16
	dev        device
}

// device is what is known of the device at hand.
type device struct {
	id    uint64
	total uint64 // bytes
	used  uint64 // bytes given to chunks
	uuid  [16]byte
}

// parseDevice reads a device item, of devItemLen bytes.
func parseDevice(b []byte) device {
	return device{id: le.Uint64(b), total: le.Uint64(b[8:]), used: le.Uint64(b[16:]), uuid: [16]byte(b[66:82])}
}

// readSuper reads and checks the superblock, and holds its copies against it.
func (fs *filesystem) readSuper() error {
	b, err := fs.readCopy(0)
	if err != nil {
		return err
	}
	if b == nil {
		return damaged("the volume is too small for a superblock")
	}
	s := &fs.super
	s.raw = b
	s.fsid = [16]byte(b[0x20:0x30])
	fs.facts.UUID, fs.facts.Label = uuid(s.fsid), text(b[0x12b:0x22b])
	s.incompat, s.compatRO, s.sumKind = le.Uint64(b[0xbc:]), le.Uint64(b[0xb4:]), le.Uint16(b[0xc4:])
	if err := checkCopy(b, 0); err != nil {
		return fs.zoned(err)
	}
	if err := s.checkFeatures(); err != nil {
		return err
	}
	if err := s.geometry(); err != nil {
		return err
	}
	if s.dev.total > uint64(fs.size) {
		return damaged("the filesystem has %d bytes on this device, more than the volume of %d bytes", s.dev.total, fs.size)
	}
	fs.facts.BlockSize, fs.facts.Len = int(s.sector), int64(s.dev.total)
	return fs.compareCopies()
}

// zoned says so where the superblock is in its place for zones, at the start of the first one; else it returns err.
func (fs *filesystem) zoned(err error) error {
	b := make([]byte, magicAt+len(superMagic))
	if err := fs.read(b, 0); err != nil {
		return fmt.Errorf("read the first bytes: %w", err)
	}
	if string(b[magicAt:]) == superMagic {
		return damaged("the filesystem is made for a disk with zones")
	}
	return err
}

// readCopy returns a copy of the superblock; nil where the volume ends before it.
func (fs *filesystem) readCopy(i int) ([]byte, error) {
	if superOff[i] > fs.size-superLen {
		return nil, nil
	}
	b := make([]byte, superLen)
	if err := fs.read(b, superOff[i]); err != nil {
		return nil, fmt.Errorf("read superblock %d: %w", i, err)
	}
	return b, nil
}

// checkCopy checks that b is a superblock in its place.
func checkCopy(b []byte, i int) error {
	kind := le.Uint16(b[0xc4:])
	switch {
	case string(b[magicAt:magicAt+8]) != superMagic:
		return damaged("superblock %d: there is none", i)
	case kind >= sumKinds:
		return damaged("superblock %d: checksums of unknown kind %d", i, kind)
	case !sumOK(kind, b):
		return damaged("superblock %d: the checksum is wrong", i)
	case le.Uint64(b[0x30:]) != uint64(superOff[i]):
		return damaged("superblock %d: it says that it lies at %d", i, le.Uint64(b[0x30:]))
	}
	return nil
}

// compareCopies looks at the copies of the superblock. The first is the one that counts for the kernel, and it alone
// leads to the log. Where another is newer, the kernel would go on from an older state than a person might.
func (fs *filesystem) compareCopies() error {
	for i := 1; i < len(superOff) && superOff[i]+superLen <= fs.facts.Len; i++ {
		b, err := fs.readCopy(i)
		if err != nil {
			return err
		}
		if checkCopy(b, i) != nil || [16]byte(b[0x20:0x30]) != fs.fsid {
			fs.facts.Notes = append(fs.facts.Notes, fmt.Sprintf("copy %d of the superblock is damaged", i))
			continue
		}
		if gen := le.Uint64(b[0x48:]); gen > fs.generation {
			return damaged("copy %d of the superblock is newer (generation %d) than the first (%d)", i, gen, fs.generation)
		}
	}
	return nil
}

func (s *super) checkFeatures() error {
	flags := le.Uint64(s.raw[0x38:])
	switch {
	case s.incompat&incompatZoned != 0:
		return damaged("the filesystem is made for a disk with zones")
	case s.incompat&incompatExtentTreeV2 != 0:
		return damaged("the filesystem has the extent tree of version 2, which is not final")
	case s.incompat&incompatStripeTree != 0:
		return damaged("the filesystem has a tree of stripes, which is not known")
	case s.incompat&^incompatKnown != 0:
		return damaged("superblock: unknown incompatible features %#x", s.incompat&^incompatKnown)
	case s.incompat&incompatMixedBackref == 0:
		return damaged("the filesystem is of a version before Linux 2.6.31")
	case s.compatRO&^roKnown != 0:
		return damaged("superblock: unknown features %#x of what is read-only to others", s.compatRO&^roKnown)
	case flags&flagError != 0:
		return damaged("the filesystem is marked as having errors: btrfs check it")
	case flags&^flagsFine != 0:
		return damaged("superblock: flags %#x: it is a dump of metadata, or is being changed by btrfstune or btrfs-convert", flags&^flagsFine)
	}
	return nil
}

// geometry reads sizes, counts and roots, and checks that they can be true.
func (s *super) geometry() error {
	b := s.raw
	s.metaID = s.fsid
	if s.incompat&incompatMetadataUUID != 0 {
		s.metaID = [16]byte(b[0x23b:0x24b])
	}
	s.generation, s.used, s.devices = le.Uint64(b[0x48:]), le.Uint64(b[0x78:]), le.Uint64(b[0x88:])
	s.sector, s.node = uint64(le.Uint32(b[0x90:])), uint64(le.Uint32(b[0x94:]))
	s.root = ref{logical: le.Uint64(b[0x50:]), level: b[0xc6], gen: s.generation}
	s.chunkRoot = ref{logical: le.Uint64(b[0x58:]), level: b[0xc7], gen: le.Uint64(b[0xa4:])}
	// The log is of the transaction that was under way.
	s.logRoot = ref{logical: le.Uint64(b[0x60:]), level: b[0xc8], gen: s.generation + 1}
	s.dev = parseDevice(b[devItemAt : devItemAt+devItemLen])
	n := le.Uint32(b[0xa0:])
	power := func(x, from, to uint64) bool { return x >= from && x <= to && x&(x-1) == 0 }
	switch {
	case !power(s.sector, 1024, 64<<10):
		return damaged("superblock: sectors of %d bytes", s.sector)
	case !power(s.node, s.sector, 64<<10):
		return damaged("superblock: tree blocks of %d bytes", s.node)
	case s.root.level >= maxLevel || s.chunkRoot.level >= maxLevel || s.logRoot.level >= maxLevel:
		return damaged("superblock: a tree of more than %d levels", maxLevel)
	case n > arrayLen:
		return damaged("superblock: %d bytes of system chunks", n)
	case s.devices == 0 || s.dev.id == 0:
		return damaged("superblock: device %d of %d: it is being replaced, or was never a member", s.dev.id, s.devices)
	case s.dev.total > 1<<62 || s.dev.used > s.dev.total:
		return damaged("superblock: %d of %d bytes of the device are given to chunks", s.dev.used, s.dev.total)
	case [16]byte(b[devItemAt+82:devItemAt+98]) != s.metaID:
		return damaged("superblock: the device is one of another filesystem")
	}
	s.array = b[arrayAt : arrayAt+n]
	return nil
}

func uuid(b [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// text returns a label that ends with its first zero, without white space behind it, as blkid prints it.
func text(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	return strings.ToValidUTF8(strings.TrimRight(s, " \t\n\v\f\r"), "�")
}
