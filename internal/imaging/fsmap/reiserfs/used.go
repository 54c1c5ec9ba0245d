// Package reiserfs tells which bytes of a ReiserFS filesystem (formats 3.5 and 3.6) are in use.
//
// It follows the structures of the kernel's fs/reiserfs/reiserfs.h: a map with a bit for each block, in blocks at equal
// distances; a journal behind the first of them; one tree with everything else. Nothing has a checksum, so the map is held
// against the count of free blocks, and against the tree: all of it is read, and each block that is in it, or that a file has,
// must be marked, and belong to nobody else. Where that is not so, or where the journal waits to be replayed, the answer is
// that the volume must be captured whole.
package reiserfs

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

// filesystem is one reading of a filesystem. Places are in blocks.
type filesystem struct {
	r     io.ReaderAt
	size  int64
	facts fact.Facts

	block      int64 // bytes
	blocks     int64
	free       int64
	root       int64
	height     int   // levels of the tree, and one
	maps       int64 // blocks of the map
	journalAt  int64
	journalLen int64 // without its head, which lies behind it

	marked fact.Bitmap // blocks in use by the map
	owned  fact.Bitmap // blocks that belong to something
}

// Used returns what the filesystem at the start of a volume of size bytes is, and the extents in use, in bytes of the
// volume. Facts.Whole says why the extents do not count where they cannot be trusted. An error means that the volume could
// not be read.
func Used(r io.ReaderAt, size int64) (fact.Facts, extent.List, error) {
	fs := &filesystem{r: r, size: size}
	fs.facts.Type = "reiserfs"
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
	if err := fs.readMap(); err != nil {
		return nil, err
	}
	var g fact.Gather
	for n := fs.marked.Next(0, fs.blocks, true); n < fs.blocks; {
		to := fs.marked.Next(n, fs.blocks, false)
		g.Add(extent.Extent{Off: n * fs.block, Len: (to - n) * fs.block})
		n = fs.marked.Next(to, fs.blocks, true)
	}
	fs.owned = fact.NewBitmap(fs.blocks)
	if err := fs.claimOwn(); err != nil {
		return nil, err
	}
	if err := fs.readNode(fs.root, fs.height-1); err != nil {
		return nil, err
	}
	if n := fs.blocks - fs.free - fs.owned.Count(); n > 0 {
		fs.facts.Notes = append(fs.facts.Notes, fmt.Sprintf("%d blocks are marked as used and belong to no file; they are captured", n))
	}
	return g.List(), nil
}

// readMap reads the map. What it has room for behind the last block is marked as used, as all programs do.
func (fs *filesystem) readMap() error {
	fs.marked = make(fact.Bitmap, fs.maps*fs.block)
	for i := range fs.maps {
		if err := fs.read(fs.marked[i*fs.block:][:fs.block], fs.mapPlace(i)*fs.block); err != nil {
			return fmt.Errorf("read block %d of the map: %w", i, err)
		}
	}
	room := fs.maps * fs.perMap()
	if n := fs.marked.Next(fs.blocks, room, false); n < room {
		return damaged("the map goes on behind the last block, %d", fs.blocks-1)
	}
	if n := room - fs.marked.Count(); n != fs.free {
		return damaged("%d blocks are free by the map, %d by the superblock", n, fs.free)
	}
	return nil
}

// claim takes n blocks for something that they belong to.
func (fs *filesystem) claim(at, n int64, what string) error {
	for i := at; i < at+n; i++ {
		switch {
		case i < 0 || i >= fs.blocks:
			return damaged("%s has block %d of %d", what, i, fs.blocks)
		case !fs.marked.Has(i):
			return damaged("%s has block %d, which is marked as free", what, i)
		case fs.owned.Set(i):
			return damaged("%s has block %d, which belongs to something else, too", what, i)
		}
	}
	return nil
}

// claimOwn takes what is not in the tree: all up to the first block of the map, the rest of the map, the journal.
func (fs *filesystem) claimOwn() error {
	if err := fs.claim(0, fs.mapPlace(0), "what lies in front of the map"); err != nil {
		return err
	}
	for i := range fs.maps {
		if err := fs.claim(fs.mapPlace(i), 1, "the map"); err != nil {
			return err
		}
	}
	// A block of the map may lie in the middle of the journal where blocks are small.
	for at := fs.journalAt; at <= fs.journalAt+fs.journalLen; at++ {
		if at%fs.perMap() == 0 {
			continue
		}
		if err := fs.claim(at, 1, "the journal"); err != nil {
			return err
		}
	}
	return nil
}
