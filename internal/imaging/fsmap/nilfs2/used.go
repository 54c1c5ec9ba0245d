// Package nilfs2 tells which bytes of a NILFS2 filesystem are in use.
//
// It follows the kernel's Documentation/filesystems/nilfs2.rst and include/uapi/linux/nilfs2_ondisk.h: a log in segments of
// equal length, of which each is in use as a whole or not at all. The last log that was written ends with the root of all:
// inodes of a table of addresses (DAT) and of a file that says which segments are in use (SUFILE). Superblock, log and root
// have checksums; the SUFILE is held against its own counts. Where they do not agree the answer is that the volume must be
// captured whole.
package nilfs2

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

	seed       uint32 // of checksums
	block      int64  // bytes
	segments   int64
	perSegment int64 // blocks
	first      int64 // block of the first segment
	inodeLen   int64
	entryLen   int64 // of the table of addresses
	usageLen   int64 // of the file of segments
	lastLog    uint64
	lastSeq    uint64

	dat, sufile inode
}

// Used returns what the filesystem at the start of a volume of size bytes is, and the extents in use, in bytes of the
// volume. Facts.Whole says why the extents do not count where they cannot be trusted. An error means that the volume could
// not be read.
func Used(r io.ReaderAt, size int64) (fact.Facts, extent.List, error) {
	fs := &filesystem{r: r, size: size}
	fs.facts.Type = "nilfs2"
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
	next, err := fs.readLog()
	if err != nil {
		return nil, err
	}
	inUse, err := fs.readUsage()
	if err != nil {
		return nil, err
	}
	// A mount looks for newer logs behind the last one, and in the segment that comes next. On a disk that was in use with
	// the same image there may be some, so what was there when it was made is written over them.
	for _, block := range []uint64{fs.lastLog, next} {
		if n := int64(block) / fs.perSegment; block < uint64(fs.segments*fs.perSegment) {
			inUse.Set(n)
		}
	}
	var g fact.Gather
	g.Add(extent.Extent{Len: fs.first * fs.block})
	for n := range fs.segments {
		if inUse.Has(n) {
			from := max(n*fs.perSegment, fs.first)
			g.Add(extent.Extent{Off: from * fs.block, Len: ((n+1)*fs.perSegment - from) * fs.block})
		}
	}
	return extent.Union(g.List(), extent.List{{Off: fs.secondOff(), Len: secondLen}}), nil
}

// readUsage returns which segments are in use.
func (fs *filesystem) readUsage() (fact.Bitmap, error) {
	const headLen, dirty, failed = 24, 2, 4
	inUse := fact.NewBitmap(fs.segments)
	first, per := (headLen+fs.usageLen-1)/fs.usageLen, fs.block/fs.usageLen
	b := make([]byte, fs.block)
	var clean, used uint64
	count := int64(0)
	for block := int64(0); ; block++ {
		from, to := max(0, block*per-first), min(fs.segments, (block+1)*per-first)
		if from >= fs.segments {
			break
		}
		there, err := fs.readFile(fs.sufile, block, true, b)
		if err != nil {
			return nil, fmt.Errorf("the file of segments: %w", err)
		}
		if !there {
			if block == 0 {
				return nil, damaged("the file of segments is empty")
			}
			continue // none of them was ever in use
		}
		if block == 0 {
			clean, used = le.Uint64(b), le.Uint64(b[8:])
		}
		for n := from; n < to; n++ {
			flags := le.Uint32(b[(n+first-block*per)*fs.usageLen+12:])
			if flags&dirty != 0 {
				count++
			}
			if flags&(dirty|failed) != 0 {
				inUse.Set(n)
			}
		}
	}
	if used != uint64(count) || clean > uint64(fs.segments) || clean+used > uint64(fs.segments) {
		return nil, damaged("%d of %d segments are in use, %d by their count, and %d free", count, fs.segments, used, clean)
	}
	if bad := fs.segments - inUse.Count() - int64(clean); bad < 0 || inUse.Count() < int64(used) {
		return nil, damaged("%d segments are free by their count, and %d in use", clean, inUse.Count())
	}
	return inUse, nil
}
