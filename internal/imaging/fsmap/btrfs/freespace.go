package btrfs

import (
	"errors"
	"iter"

	"mimeo/internal/imaging/fsmap/fact"
)

// span is a range of logical addresses.
type span struct{ start, n uint64 }

// bitmapBytes is the most that an item of the free-space tree has.
const bitmapBytes = 256

// errStop says that nobody asks any more.
var errStop = errors.New("stop")

// freeSpans is a reading of the free-space tree, of the on-disk format's "Free space tree": of each block group an item
// that tells how many free ranges there are, and then the ranges, or bitmaps with a bit for each free sector.
type freeSpans struct {
	fs      *filesystem
	yield   func(span, error) bool
	group   *chunk // that is being read; nil before the first
	stale   bool   // what comes is of a block group that was removed: mkfs.btrfs leaves some behind
	bitmaps bool
	want    uint32 // ranges of the group
	have    uint32
	at      uint64 // end of what the items of the group tell
	last    span   // which the next may continue
}

// freeSpace returns the free ranges of all block groups, in ascending order, as long as they can be.
func (fs *filesystem) freeSpace(root ref) iter.Seq2[span, error] {
	return func(yield func(span, error) bool) {
		f := &freeSpans{fs: fs, yield: yield}
		err := fs.tree("free-space", treeFreeSpace, f.item).walk(root)
		if err == nil {
			err = f.finish()
		}
		if err != nil && !errors.Is(err, errStop) {
			yield(span{}, err)
		}
	}
}

func (f *freeSpans) item(k key, data []byte) error {
	if f.stale && k.typ != itemSpaceInfo {
		return nil
	}
	switch k.typ {
	case itemSpaceInfo:
		if err := f.finish(); err != nil {
			return err
		}
		c := f.fs.chunks.find(k.obj)
		if f.stale = c == nil || c.start != k.obj || c.length != k.off; f.stale {
			return nil
		}
		if len(data) != 8 || le.Uint32(data[4:]) > 1 {
			return damaged("%d bytes, or unknown flags, of a block group's free space", len(data))
		}
		f.group, f.at, f.last, f.have = c, c.start, span{}, 0
		f.want, f.bitmaps = le.Uint32(data), le.Uint32(data[4:]) == 1
	case itemSpaceExtent:
		if f.bitmaps || len(data) != 0 {
			return damaged("a free range among bitmaps")
		}
		if err := f.within(k); err != nil {
			return err
		}
		return f.add(k.obj, k.off)
	case itemSpaceBitmap:
		sector := f.fs.sector
		if !f.bitmaps || k.off > bitmapBytes*8*sector || uint64(len(data)) != (k.off/sector+7)/8 {
			return damaged("a bitmap of %d bytes", len(data))
		}
		if err := f.within(k); err != nil {
			return err
		}
		m, n := fact.Bitmap(data), int64(k.off/sector)
		for from := m.Next(0, n, true); from < n; {
			to := m.Next(from, n, false)
			if err := f.add(k.obj+uint64(from)*sector, uint64(to-from)*sector); err != nil {
				return err
			}
			from = m.Next(to, n, true)
		}
	}
	return nil
}

// within checks that an item lies in its block group, behind the one before.
func (f *freeSpans) within(k key) error {
	if f.group == nil || k.obj < f.at || k.off == 0 || k.off > f.group.length || k.obj > f.group.end()-k.off ||
		k.obj%f.fs.sector != 0 || k.off%f.fs.sector != 0 {
		return damaged("%d bytes are not within a block group, or lie on those before", k.off)
	}
	f.at = k.obj + k.off
	return nil
}

// add takes a free range.
func (f *freeSpans) add(start, n uint64) error {
	if f.last.n > 0 && f.last.start+f.last.n == start {
		f.last.n += n
		return nil
	}
	if err := f.flush(); err != nil {
		return err
	}
	f.last = span{start, n}
	return nil
}

// flush gives away the last range.
func (f *freeSpans) flush() error {
	if f.last.n == 0 {
		return nil
	}
	f.have++
	s := f.last
	f.last = span{}
	if !f.yield(s, nil) {
		return errStop
	}
	return nil
}

// finish ends a block group.
func (f *freeSpans) finish() error {
	if err := f.flush(); err != nil {
		return err
	}
	defer func() { f.group = nil }()
	if f.group != nil && f.have != f.want {
		return damaged("free-space tree: block group %d has %d free ranges, not %d", f.group.start, f.have, f.want)
	}
	return nil
}
