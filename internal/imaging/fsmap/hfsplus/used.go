// Package hfsplus tells which bytes of an HFS+ filesystem are in use, with or without regard to case, or in a HFS wrapper.
//
// It follows Apple's technical note TN1150, "HFS Plus Volume Format": the allocation file has a bit for each block; trees have
// the files, the rest of the extents of those in many pieces, and attributes. Nothing has a checksum, so the bits are held
// against the count of free blocks, and against the trees: each block that a file, a tree or an attribute has must be marked
// and belong to nobody else. Where that is not so the answer is that the volume must be captured whole.
package hfsplus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
)

var le, be = binary.LittleEndian, binary.BigEndian

// damage is a reason why the map cannot be trusted. It is no error of the disk.
type damage string

func (d damage) Error() string { return string(d) }

func damaged(format string, args ...any) error { return damage(fmt.Sprintf(format, args...)) }

// filesystem is one reading of a filesystem. Places are in blocks.
type filesystem struct {
	r     io.ReaderAt
	size  int64
	facts fact.Facts

	block  int64 // bytes
	blocks int64
	free   int64

	allocation, extents, catalog, attributes, startup fork

	more   map[part][]run // extents that their files have no room for, by the tree of extents
	runs   int            // of them
	marked fact.Bitmap    // blocks in use by the allocation file
	owned  fact.Bitmap    // blocks that belong to something
}

// Used returns what the filesystem at the start of a volume of size bytes is, and the extents in use, in bytes of the
// volume. Facts.Whole says why the extents do not count where they cannot be trusted. An error means that the volume could
// not be read.
func Used(r io.ReaderAt, size int64) (fact.Facts, extent.List, error) {
	facts, used, err := find(r, size)
	facts.Type = "hfsplus"
	var d damage
	if errors.As(err, &d) {
		facts.Whole = err.Error()
		return facts, nil, nil
	}
	return facts, used, err
}

// find reads a filesystem, or that in a wrapper, of which all else is in use.
func find(r io.ReaderAt, size int64) (fact.Facts, extent.List, error) {
	fs := &filesystem{r: r, size: size}
	b := make([]byte, min(headerLen, max(0, size-headerOff)))
	if err := fs.read(b, headerOff); err != nil {
		return fs.facts, nil, err
	}
	if len(b) < headerLen || !isWrapper(b) {
		used, err := fs.used()
		return fs.facts, used, err
	}
	off, n, end, err := findEmbedded(b, size)
	if err != nil {
		return fs.facts, nil, err
	}
	fs.r, fs.size = io.NewSectionReader(r, off, n), n
	used, err := fs.used()
	if err != nil {
		return fs.facts, nil, err
	}
	rest := extent.List{{Off: 0, Len: off}}
	rest.Add(extent.Extent{Off: off + fs.facts.Len, Len: end - off - fs.facts.Len})
	fs.facts.Len = end
	return fs.facts, extent.Union(used.Shift(off), rest), nil
}

func (fs *filesystem) used() (extent.List, error) {
	if err := fs.readHeader(); err != nil {
		return nil, err
	}
	if err := fs.readMore(); err != nil {
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
	if err := fs.claimFiles(); err != nil {
		return nil, err
	}
	if n := fs.blocks - fs.free - fs.owned.Count(); n > 0 {
		fs.facts.Notes = append(fs.facts.Notes, fmt.Sprintf("%d blocks are marked as used and belong to no file; they are captured", n))
	}
	ends := extent.List{{Off: 0, Len: headerOff + headerLen}}
	ends.Add(extent.Extent{Off: max(0, fs.facts.Len-endLen), Len: min(endLen, fs.facts.Len)})
	return extent.Union(g.List(), ends), nil
}

// readMap reads the allocation file. The highest bit of a byte is its first.
func (fs *filesystem) readMap() error {
	pieces, err := fs.pieces(allocationFile, dataFork, fs.allocation)
	if err != nil {
		return err
	}
	need := (fs.blocks + 7) / 8
	if fs.allocation.blocks*fs.block < need || fs.allocation.size < uint64(need) {
		return damaged("the allocation file has %d bytes, not %d", fs.allocation.size, need)
	}
	fs.marked = make(fact.Bitmap, need)
	b := fs.marked
	for _, p := range pieces {
		n := min(int64(len(b)), p.n*fs.block)
		if err := fs.read(b[:n], p.at*fs.block); err != nil {
			return fmt.Errorf("read the allocation file: %w", err)
		}
		b = b[n:]
	}
	for i, c := range fs.marked {
		fs.marked[i] = bits.Reverse8(c)
	}
	// What the last byte has room for behind the last block does not count.
	for n := fs.blocks; n < need*8; n++ {
		fs.marked.Clear(n)
	}
	if n := fs.blocks - fs.marked.Count(); n != fs.free {
		return damaged("%d blocks are free by the allocation file, %d by the header", n, fs.free)
	}
	return nil
}
