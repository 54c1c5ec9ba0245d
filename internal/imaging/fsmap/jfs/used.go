// Package jfs tells which bytes of a JFS filesystem are in use.
//
// It follows the structures of the kernel's fs/jfs (jfs_superblock.h, jfs_dmap.h, jfs_dinode.h, jfs_xtree.h): a file of the
// filesystem's own has a page for each 8192 blocks with two maps of them, one that counts while it is mounted and one that
// does after a crash. After an unmount both are the same. There are no checksums: the two maps, the counts of each page, of
// each group and of all confirm each other. Where they do not, the answer is that the volume must be captured whole.
package jfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
)

var le = binary.LittleEndian

// damage is a reason why the map cannot be trusted. It is no error of the disk.
type damage string

func (d damage) Error() string { return string(d) }

func damaged(format string, args ...any) error { return damage(fmt.Sprintf(format, args...)) }

// filesystem is one reading of a filesystem.
type filesystem struct {
	r     io.ReaderAt
	size  int64
	facts fact.Facts

	blocks    int64 // that the map speaks of
	agBlocks  int64 // of an allocation group
	workspace area  // of fsck
	log       area
	pieces    []piece // of the file with the map
}

// Used returns what the filesystem at the start of a volume of size bytes is, and the extents in use, in bytes of the
// volume. Facts.Whole says why the extents do not count where they cannot be trusted. An error means that the volume could
// not be read.
func Used(r io.ReaderAt, size int64) (fact.Facts, extent.List, error) {
	fs := &filesystem{r: r, size: size}
	fs.facts.Type = "jfs"
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
	if err := fs.findMap(); err != nil {
		return nil, err
	}
	var g fact.Gather
	if err := fs.readMap(&g); err != nil {
		return nil, err
	}
	// Behind what the map speaks of lie fsck's room and the log, up to the end.
	end := fs.blocks * blockSize
	g.Add(extent.Extent{Off: end, Len: fs.facts.Len - end})
	used := g.List()
	// What the filesystem cannot be without must be in the map.
	for _, a := range append([]area{{0, 16}}, fs.areas()...) {
		if !used.ContainsAll(extent.Extent{Off: a.at * blockSize, Len: a.n * blockSize}) {
			return nil, damaged("%d blocks from block %d on belong to the filesystem itself and are marked as free", a.n, a.at)
		}
	}
	return used, nil
}

func (fs *filesystem) areas() []area {
	var out []area
	for _, p := range fs.pieces {
		out = append(out, p.area)
	}
	return out
}
