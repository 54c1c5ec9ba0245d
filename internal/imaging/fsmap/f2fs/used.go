// Package f2fs tells which bytes of an F2FS filesystem are in use.
//
// It follows the kernel's Documentation/filesystems/f2fs.rst and the structures of include/linux/f2fs_fs.h: the
// superblock leads to two checkpoints, of which the newer one counts; it says which copy of each block of the segment
// information table (SIT) and of the node address table (NAT) is current. The SIT has one bit for each block. Superblock
// and checkpoints have checksums, the tables have none, so the SIT is held against its own counts, against the totals of
// the checkpoint and against the NAT. Where they do not agree, or where files wait to be recovered after a crash, the
// answer is that the volume must be captured whole.
package f2fs

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

// Used returns what the filesystem in the first bytes of a volume of size bytes is, and the extents in use, in bytes of
// the volume. Facts.Whole says why the extents do not count where they cannot be trusted. An error means that the volume
// could not be read.
func Used(r io.ReaderAt, size int64) (fact.Facts, extent.List, error) {
	fs := &filesystem{r: r, size: size}
	fs.facts.Type = "f2fs"
	used, err := fs.used()
	var d damage
	if errors.As(err, &d) {
		fs.facts.Whole = err.Error()
		return fs.facts, nil, nil
	}
	return fs.facts, used, err
}

// blockNr is the number of a block of the filesystem, or of how many.
type blockNr int64

// filesystem is one reading of a filesystem.
type filesystem struct {
	r     io.ReaderAt
	size  int64
	facts fact.Facts

	super
	cp    checkpoint
	sit   journal     // newer than the table
	nat   journal     // newer than the table
	types []byte      // of each segment of the main area
	valid fact.Bitmap // blocks of the main area in use, that of the first block first

	claimed func(block int64) // is told of the blocks of nodes and files; may be nil
}

func (fs *filesystem) used() (extent.List, error) {
	if err := fs.readSuper(); err != nil {
		return nil, err
	}
	if err := fs.readCheckpoint(); err != nil {
		return nil, err
	}
	if err := fs.readJournals(); err != nil {
		return nil, err
	}
	if err := fs.readSegments(); err != nil {
		return nil, err
	}
	if err := fs.checkLogs(); err != nil {
		return nil, err
	}
	// All in front of the main area: superblocks, checkpoints, SIT, NAT, and the summaries of segments (SSA).
	var g fact.Gather
	g.Add(extent.Extent{Len: int64(fs.mainAt) * blockSize})
	end := int64(fs.segments) * segBlocks
	for n := fs.valid.Next(0, end, true); n < end; {
		to := fs.valid.Next(n, end, false)
		g.Add(extent.Extent{Off: (int64(fs.mainAt) + n) * blockSize, Len: (to - n) * blockSize})
		n = fs.valid.Next(to, end, true)
	}
	used := g.List()
	// What follows takes away the bits of all blocks that belong to a file.
	if err := fs.checkFiles(); err != nil {
		return nil, err
	}
	if err := fs.checkNAT(); err != nil {
		return nil, err
	}
	if n := fs.valid.Count(); n > 0 {
		fs.note("%d blocks are marked as used and belong to no file; they are captured", n)
	}
	next, err := fs.checkRecovery()
	if err != nil {
		return nil, err
	}
	return extent.Union(used, next), nil
}

func (fs *filesystem) note(format string, args ...any) {
	fs.facts.Notes = append(fs.facts.Notes, fmt.Sprintf(format, args...))
}

// read fills b with what lies from block n on.
func (fs *filesystem) read(b []byte, n blockNr) error {
	off := int64(n) * blockSize
	got, err := fs.r.ReadAt(b, off)
	if got == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%d bytes at offset %d: %w", len(b), off, err)
}

// maxRead is how many blocks are read at a time.
const maxRead = 256

// eachBlock calls f with n blocks, in order. Those that lie side by side are read together.
func (fs *filesystem) eachBlock(n int64, place func(i int64) blockNr, f func(i int64, b []byte) error) error {
	buf := make([]byte, min(n, maxRead)*blockSize)
	for first := int64(0); first < n; {
		at, count := place(first), int64(1)
		for count < maxRead && first+count < n && place(first+count) == at+blockNr(count) {
			count++
		}
		if err := fs.read(buf[:count*blockSize], at); err != nil {
			return err
		}
		for i := range count {
			if err := f(first+i, buf[i*blockSize:(i+1)*blockSize]); err != nil {
				return err
			}
		}
		first += count
	}
	return nil
}
