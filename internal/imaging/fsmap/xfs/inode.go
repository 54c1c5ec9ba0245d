package xfs

import (
	"bytes"
	"fmt"
	"time"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/tree"
)

// Where things lie in an inode, of the kernel's struct xfs_dinode.
const (
	inodeMagic = 0x494e // "IN"
	inodeHead2 = 100    // bytes in front of the forks, up to version 2
	inodeHead3 = 176    // version 3
	inodeSum   = 100
)

// How a fork keeps its content.
const (
	formatDevice  = 0
	formatLocal   = 1
	formatExtents = 2
	formatTree    = 3
)

const (
	flagRealtime = 0x1  // of di_flags
	flag2Bigtime = 0x8  // of di_flags2
	flag2Nrext64 = 0x10 // of di_flags2
)

const (
	mapMagic4 = 0x424d4150 // BMAP
	mapMagic5 = 0x424d4133 // BMA3
	mapLevels = 9          // of the map of a file's blocks
)

// inode is what is kept of a file.
type inode struct {
	nr  uint64
	raw []byte
}

// fork is one of the two things that an inode leads to: content and attributes.
type fork struct {
	b      []byte
	format byte
	count  uint64 // extents
}

// parseInode checks that b is the inode of that number.
func (fs *filesystem) parseInode(nr uint64, b []byte) (*inode, error) {
	i := &inode{nr, b}
	v := b[4]
	switch {
	case be.Uint16(b) != inodeMagic || v == 0 || v > 3 || (v == 3) != (fs.version == 5):
		return nil, damaged("there is no inode %d", nr)
	case v == 3 && !checked(b, inodeSum):
		return nil, damaged("inode %d: the checksum is wrong", nr)
	case v == 3 && (be.Uint64(b[152:]) != nr || !bytes.Equal(b[160:176], fs.metaUUID)):
		return nil, damaged("inode %d is one of another number or filesystem", nr)
	case i.attrAt() > len(b) || b[82] > 0 && i.attrAt() <= i.head():
		return nil, damaged("inode %d keeps its attributes at byte %d", nr, i.attrAt())
	}
	return i, nil
}

func (i *inode) mode() uint32 { return uint32(be.Uint16(i.raw[2:])) }
func (i *inode) size() uint64 { return be.Uint64(i.raw[56:]) }

func (i *inode) realtime() bool { return be.Uint16(i.raw[90:])&flagRealtime != 0 }

func (i *inode) head() int {
	if i.raw[4] == 3 {
		return inodeHead3
	}
	return inodeHead2
}

// flags2 are those of version 3.
func (i *inode) flags2() uint64 {
	if i.raw[4] < 3 {
		return 0
	}
	return be.Uint64(i.raw[120:])
}

// attrAt is where the attributes lie, the end of the inode where it has none.
func (i *inode) attrAt() int {
	if i.raw[82] == 0 {
		return len(i.raw)
	}
	return i.head() + 8*int(i.raw[82])
}

func (i *inode) links() uint32 {
	if i.raw[4] == 1 {
		return uint32(be.Uint16(i.raw[6:]))
	}
	return be.Uint32(i.raw[16:])
}

// blocks returns how many blocks a file takes, with those of its maps and attributes.
func (i *inode) blocks() uint64 { return be.Uint64(i.raw[64:]) }

// device returns the number of a device file, as Linux has it: on the disk the major one is in the upper 14 bits.
func (i *inode) device() uint32 {
	f := i.content()
	if f.format != formatDevice || len(f.b) < 4 {
		return 0
	}
	n := be.Uint32(f.b)
	major, minor := n>>18&0x1ff, n&(1<<18-1)
	return minor&0xff | major<<8 | (minor&^0xff)<<12
}

// content returns the fork with a file's content.
func (i *inode) content() fork {
	f := fork{b: i.raw[i.head():i.attrAt()], format: i.raw[5], count: uint64(be.Uint32(i.raw[76:]))}
	if i.flags2()&flag2Nrext64 != 0 {
		f.count = be.Uint64(i.raw[24:])
	}
	return f
}

// attributes returns the fork with a file's extended attributes.
func (i *inode) attributes() fork {
	f := fork{b: i.raw[i.attrAt():], format: i.raw[83], count: uint64(be.Uint16(i.raw[80:]))}
	if i.flags2()&flag2Nrext64 != 0 {
		f.count = uint64(be.Uint32(i.raw[76:]))
	}
	if len(f.b) == 0 {
		f.format = formatLocal
	}
	return f
}

// modified returns when a file was last written: seconds and nanoseconds, or nanoseconds since 1901.
func (i *inode) modified() time.Time {
	if i.flags2()&flag2Bigtime != 0 {
		n := be.Uint64(i.raw[40:])
		return time.Unix(int64(n/1e9)-1<<31, int64(n%1e9)).UTC()
	}
	return time.Unix(int64(int32(be.Uint32(i.raw[40:]))), int64(min(be.Uint32(i.raw[44:]), 999_999_999))).UTC()
}

// file returns what is told of a file.
func (i *inode) file() tree.File {
	return tree.File{
		Inode: i.nr, Mode: i.mode(), UID: be.Uint32(i.raw[8:]), GID: be.Uint32(i.raw[12:]), Links: i.links(), Modified: i.modified(),
	}
}

// run is a part of a file that lies in one piece.
type run struct {
	from      uint64 // block of the file
	n         uint64
	at        extent.Extent // bytes of the volume
	unwritten bool          // reads as zeros, whatever lies there
}

// mapping walks the map of one fork, from its first block to its last.
type mapping struct {
	fs    *filesystem
	inode uint64
	nodes int // blocks of the map that may still be read, which bounds the work
	visit func(run) error
	seen  func(extent.Extent) // called with each block of the map itself; nil means nobody asks

	next  uint64 // block of the file behind the last run
	count uint64
}

// walk visits the runs of a fork; one that lies in the inode has none.
func (m *mapping) walk(f fork) error {
	var err error
	switch f.format {
	case formatDevice, formatLocal:
		return nil
	case formatExtents:
		if f.count > uint64(len(f.b)/16) {
			return damaged("inode %d is said to hold %d extents", m.inode, f.count)
		}
		err = m.extents(f.b, int(f.count))
	case formatTree:
		err = m.root(f.b)
	default:
		return damaged("inode %d has a fork of kind %d", m.inode, f.format)
	}
	if err == nil && m.count != f.count {
		return damaged("inode %d is said to have %d extents, its map has %d", m.inode, f.count, m.count)
	}
	return err
}

// extents reads n records.
func (m *mapping) extents(b []byte, n int) error {
	fs := m.fs
	for ; n > 0; n, b = n-1, b[16:] {
		hi, lo := be.Uint64(b), be.Uint64(b[8:])
		r := run{from: hi >> 9 & (1<<54 - 1), n: lo & (1<<21 - 1), unwritten: hi>>63 != 0}
		group, at, ok := fs.split(hi&0x1ff<<43 | lo>>21)
		if !ok || r.n == 0 || r.n > uint64(fs.groupLen(group)-uint32(at)) || r.from < m.next {
			return damaged("inode %d: the map of its blocks is damaged at block %d", m.inode, r.from)
		}
		r.at = fs.bytes(group, at, int64(r.n))
		m.next, m.count = r.from+r.n, m.count+1
		if err := m.visit(r); err != nil {
			return err
		}
	}
	return nil
}

// root reads the root of a tree, which lies in the inode.
func (m *mapping) root(b []byte) error {
	if len(b) < 4 {
		return damaged("inode %d has no room for a tree", m.inode)
	}
	level, n := int(be.Uint16(b)), int(be.Uint16(b[2:]))
	most := (len(b) - 4) / 16
	if level == 0 || level > mapLevels || n == 0 || n > most {
		return damaged("inode %d: the map of its blocks has %d levels, %d records in the root", m.inode, level, n)
	}
	return m.children(b[4+8*most:], n, level)
}

// children visits n blocks below one of the given level.
func (m *mapping) children(b []byte, n, level int) error {
	for ; n > 0; n, b = n-1, b[8:] {
		if err := m.block(be.Uint64(b), level-1); err != nil {
			return err
		}
	}
	return nil
}

// block reads a block of a tree.
func (m *mapping) block(nr uint64, level int) error {
	fs := m.fs
	if m.nodes--; m.nodes < 0 {
		return damaged("inode %d: the map of its blocks is too large", m.inode)
	}
	group, at, ok := fs.split(nr)
	if !ok {
		return damaged("inode %d: the map of its blocks leads to block %#x", m.inode, nr)
	}
	e := fs.bytes(group, at, 1)
	b := make([]byte, fs.blockSize)
	if err := fs.read(b, e.Off); err != nil {
		return fmt.Errorf("read the map of inode %d: %w", m.inode, err)
	}
	head, magic := 24, uint32(mapMagic4)
	if fs.version == 5 {
		head, magic = 72, mapMagic5
	}
	n, most := int(be.Uint16(b[6:])), (len(b)-head)/16
	switch {
	case be.Uint32(b) != magic || int(be.Uint16(b[4:])) != level || n == 0 || n > most,
		fs.version == 5 && (!checked(b, 64) || be.Uint64(b[24:]) != uint64(e.Off/sector) || be.Uint64(b[56:]) != m.inode || !bytes.Equal(b[40:56], fs.metaUUID)):
		return damaged("inode %d: the map of its blocks is damaged at %#x", m.inode, nr)
	}
	if m.seen != nil {
		m.seen(e)
	}
	if level == 0 {
		return m.extents(b[head:], n)
	}
	return m.children(b[head+8*most:], n, level)
}
