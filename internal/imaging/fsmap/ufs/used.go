// Package ufs tells which bytes of a UFS filesystem (versions 1 and 2, of the BSDs, in either byte order) are in use.
//
// It follows FreeBSD's sys/ufs/ffs/fs.h: a filesystem has groups, each with a map of its free fragments, of which up to eight
// make a block, and one of the blocks that are free as a whole. Nothing has a checksum that all versions know. So the two
// maps are held against each other, against the counts in each group, those in a summary of all groups, and the totals in the
// superblock. Where they do not agree the answer is that the volume must be captured whole.
package ufs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
)

// damage is a reason why the map cannot be trusted. It is no error of the disk.
type damage string

func (d damage) Error() string { return string(d) }

func damaged(format string, args ...any) error { return damage(fmt.Sprintf(format, args...)) }

// filesystem is one reading of a filesystem. Places are in fragments.
type filesystem struct {
	r     io.ReaderAt
	size  int64
	facts fact.Facts

	order     binary.ByteOrder
	version   int
	block     int64 // bytes
	fragment  int64 // bytes
	perBlock  int64
	fragments int64
	groups    int64
	perGroup  int64
	shift     int64 // of groups against each other
	shiftMask int64

	// Where the parts of a group lie, from its start.
	superAt, groupAt, inodesAt, dataAt int64

	groupLen   int64 // bytes of the head of a group
	clusters   int64 // whether there are maps of free blocks
	total      summary
	summaryAt  int64
	summaryLen int64 // bytes
}

// summary is what is free.
type summary struct {
	blocks    int64
	fragments int64 // in other blocks
}

// Used returns what the filesystem at the start of a volume of size bytes is, and the extents in use, in bytes of the
// volume. Facts.Whole says why the extents do not count where they cannot be trusted. An error means that the volume could
// not be read.
func Used(r io.ReaderAt, size int64) (fact.Facts, extent.List, error) {
	fs := &filesystem{r: r, size: size}
	fs.facts.Type = "ufs"
	used, err := fs.used()
	var d damage
	if errors.As(err, &d) {
		fs.facts.Whole = err.Error()
		return fs.facts, nil, nil
	}
	return fs.facts, used, err
}

func (fs *filesystem) used() (extent.List, error) {
	if err := fs.readSuper(); err != nil {
		return nil, err
	}
	var g fact.Gather
	var sum summary
	for n := range fs.groups {
		s, err := fs.readGroup(n, &g)
		if err != nil {
			return nil, err
		}
		sum.blocks, sum.fragments = sum.blocks+s.blocks, sum.fragments+s.fragments
	}
	if sum != fs.total {
		return nil, damaged("%d blocks and %d fragments are free by the groups, %d and %d by the superblock", sum.blocks, sum.fragments, fs.total.blocks, fs.total.fragments)
	}
	used := g.List()
	own := extent.List{{Off: 0, Len: fs.dataAt * fs.fragment}}
	for n := range fs.groups {
		at := fs.start(n)
		own.Add(extent.Extent{Off: (at + fs.superAt) * fs.fragment, Len: (min(at+fs.dataAt, fs.fragments) - at - fs.superAt) * fs.fragment})
	}
	own.Add(extent.Extent{Off: fs.summaryAt * fs.fragment, Len: fs.summaryLen})
	if free := extent.Subtract(own, used); len(free) > 0 {
		return nil, damaged("bytes %v belong to the filesystem itself and are marked as free", free[0])
	}
	return used, nil
}
