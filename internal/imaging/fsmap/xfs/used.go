// Package xfs tells which bytes of an XFS filesystem are in use, and reads its files.
//
// It follows the XFS Algorithms & Data Structures document of xfs-documentation and the structures of the kernel's
// fs/xfs/libxfs/xfs_format.h and xfs_log_format.h: the superblock leads to allocation groups, each of which has two
// B+trees of its free space, one by place and one by length. What no tree has is in use: headers, trees, the list of
// blocks kept for the trees, the log. Both trees must agree with each other and with the counts in header and
// superblock; checksums must be good where the filesystem has them (version 5). After a crash the trees on disk are
// behind the log. Then it is read, as the kernel's fs/xfs/xfs_log_recover.c does, and what is looked at are the trees as they
// will be. Where anything does not agree, the answer is that the volume must be captured whole.
package xfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
)

var be = binary.BigEndian

// Is tells whether a volume that starts with head may be such a filesystem.
func Is(head []byte) bool { return len(head) >= superLen && be.Uint32(head) == superMagic }

// damage is a reason why the map cannot be trusted. It is no error of the disk.
type damage string

func (d damage) Error() string { return string(d) }

func damaged(format string, args ...any) error { return damage(fmt.Sprintf(format, args...)) }

// Used returns what the filesystem in the first bytes of a volume of size bytes is, and the extents in use, in bytes of
// the volume. Facts.Whole says why the extents do not count where they cannot be trusted. An error means that the volume
// could not be read.
func Used(r io.ReaderAt, size int64) (fact.Facts, extent.List, error) {
	fs := &filesystem{r: r, size: size}
	fs.facts.Type = "xfs"
	used, err := fs.used()
	var d damage
	if errors.As(err, &d) {
		fs.facts.Whole = err.Error()
		return fs.facts, nil, nil
	}
	return fs.facts, used, err
}

// agBlock is the number of a block within its allocation group.
type agBlock uint32

// filesystem is one reading of a filesystem.
type filesystem struct {
	r     io.ReaderAt
	size  int64
	facts fact.Facts
	log   *replay // what a mount will replay; nil for nothing

	super
}

func (fs *filesystem) used() (extent.List, error) {
	if err := fs.readSuper(); err != nil {
		return nil, err
	}
	err := fs.checkLog()
	if errors.Is(err, notReplayed) {
		err = fs.readLog()
	}
	if err != nil {
		return nil, err
	}
	var g fact.Gather
	free := uint64(0)
	for n := range fs.agCount {
		blocks, known, err := fs.mapGroup(n, &g)
		if err != nil {
			return nil, prefixed(err, "allocation group %d", n)
		}
		for _, e := range known {
			if !g.List().ContainsAll(e) {
				return nil, damaged("what lies at %v is in use, and free in the trees of free space", e)
			}
		}
		free += blocks
	}
	if fs.log == nil && free != fs.free { // after a crash a mount counts anew
		return nil, damaged("the superblock counts %d free blocks, the allocation groups %d: xfs_repair it", fs.free, free)
	}
	if e := fs.logExtent(); !g.List().ContainsAll(e) {
		return nil, damaged("the log lies at %v, which is free in the trees of free space", e)
	}
	if fs.log == nil {
		return g.List(), nil
	}
	fs.note("it was not unmounted: its log is captured, and is replayed when the copy is mounted")
	return extent.Union(g.List(), extent.FromUnsorted(fs.log.touched)), nil
}

// prefixed says where the damage is.
func prefixed(err error, format string, args ...any) error {
	where := fmt.Sprintf(format, args...)
	var d damage
	if errors.As(err, &d) {
		return damaged("%s: %s", where, d)
	}
	return fmt.Errorf("%s: %w", where, err)
}

func (fs *filesystem) note(format string, args ...any) {
	fs.facts.Notes = append(fs.facts.Notes, fmt.Sprintf(format, args...))
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

// bytes returns the bytes of n blocks of an allocation group.
func (fs *filesystem) bytes(group uint32, first agBlock, n int64) extent.Extent {
	return extent.Extent{Off: (int64(group)*int64(fs.agBlocks) + int64(first)) * fs.blockSize, Len: n * fs.blockSize}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checked tells whether the checksum of b is good, which lies at byte at of it, the lowest byte first.
func checked(b []byte, at int) bool {
	c := crc32.Update(0, castagnoli, b[:at])
	c = crc32.Update(c, castagnoli, make([]byte, 4))
	c = crc32.Update(c, castagnoli, b[at+4:])
	return c == binary.LittleEndian.Uint32(b[at:])
}
