// Package ext4 tells which bytes of an ext2, ext3 or ext4 filesystem are in use.
//
// It follows the kernel's Documentation/filesystems/ext4: the superblock leads to the group descriptors, they lead to
// one bitmap a group. All of it must agree: magic numbers, checksums where the filesystem has them, bounds, the free
// counts of descriptors and superblock with the bitmaps, and all metadata must be marked as used. Otherwise the answer
// is that the volume must be captured whole.
//
// After a crash the bitmaps on disk are behind the journal. Then the journal is read: the state after its replay is
// what is checked, and what is in use before or after it, or written by it, counts as used.
package ext4

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
)

// Is tells whether a volume that starts with head may be such a filesystem.
func Is(head []byte) bool {
	return len(head) >= superOff+superLen && le.Uint16(head[superOff+0x38:]) == superMagic
}

// damage is a reason why the map cannot be trusted. It is no error of the disk.
type damage string

func (d damage) Error() string { return string(d) }

func damaged(format string, args ...any) error { return damage(fmt.Sprintf(format, args...)) }

// Used returns what the filesystem in the first bytes of a volume of size bytes is, and the extents in use, in bytes of
// the volume. Facts.Whole says why the extents do not count where they cannot be trusted. An error means that the volume
// could not be read.
func Used(r io.ReaderAt, size int64) (fact.Facts, extent.List, error) {
	fs := &filesystem{r: r, size: size}
	fs.facts.Type = "ext4"
	used, err := fs.used()
	var d damage
	if errors.As(err, &d) {
		fs.facts.Whole = string(d)
		return fs.facts, nil, nil
	}
	return fs.facts, used, err
}

// blockNr is the number of a block of the filesystem.
type blockNr uint64

// filesystem is one reading of a filesystem.
type filesystem struct {
	r     io.ReaderAt
	size  int64
	facts fact.Facts

	super
	groups []group
	log    *replay // nil where the journal has nothing to say
}

func (fs *filesystem) used() (extent.List, error) {
	if err := fs.readSuper(); err != nil {
		return nil, err
	}
	if err := fs.readJournal(); err != nil {
		return nil, err
	}
	meta := newGather(fs.blockSize)
	if err := fs.readGroups(meta); err != nil {
		return nil, err
	}
	static, err := fs.checkMetadata(meta)
	if err != nil {
		return nil, err
	}
	used := newGather(fs.blockSize)
	if err := fs.readBitmaps(used); err != nil {
		return nil, err
	}
	if err := fs.checkTotals(static, used); err != nil {
		return nil, err
	}
	list := extent.Union(static, used.list())
	if fs.log != nil {
		list = extent.Union(list, fs.log.touched)
	}
	// The boot block, which no bitmap speaks of, and the superblock.
	list = extent.Union(list, extent.List{{Off: 0, Len: superOff + superLen}})
	return list.Clip(extent.Extent{Len: fs.facts.Len}), nil
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

// readBlock returns a block as it lies on the disk.
func (fs *filesystem) readBlock(n blockNr) ([]byte, error) {
	if n >= fs.blocks {
		return nil, damaged("block %d is asked for, there are %d", n, fs.blocks)
	}
	b := make([]byte, fs.blockSize)
	return b, fs.read(b, int64(n)*fs.blockSize)
}

// bytes returns the bytes of n blocks.
func (fs *filesystem) bytes(first, n blockNr) extent.Extent {
	return extent.Extent{Off: int64(first) * fs.blockSize, Len: int64(n) * fs.blockSize}
}

// maxExtents bounds the memory of a list (16 bytes each). Beyond it, small free gaps count as used.
const maxExtents = 2 << 20

// gather collects extents in any order, in bounded memory.
type gather struct {
	es    []extent.Extent
	block int64
	gap   int64 // gaps shorter than that were closed
	most  int   // extents, at most
}

func newGather(block int64) *gather { return &gather{block: block, most: maxExtents} }

func (g *gather) add(e extent.Extent) {
	if n := len(g.es); n > 0 && g.es[n-1].End() == e.Off {
		g.es[n-1].Len += e.Len
		return
	}
	if len(g.es) == g.most {
		g.shrink()
	}
	g.es = append(g.es, e)
}

// shrink closes gaps until there is room again.
func (g *gather) shrink() {
	g.es = extent.FromUnsorted(g.es)
	for g.gap = max(g.gap, g.block); len(g.es) > g.most/2; g.gap *= 2 {
		w := 0
		for _, e := range g.es[1:] {
			if e.Off-g.es[w].End() < 2*g.gap {
				g.es[w].Len = e.End() - g.es[w].Off
			} else {
				w++
				g.es[w] = e
			}
		}
		g.es = g.es[:w+1]
	}
}

func (g *gather) list() extent.List {
	g.es = extent.FromUnsorted(g.es)
	return slices.Clip(extent.List(g.es))
}
