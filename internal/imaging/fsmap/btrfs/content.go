package btrfs

import (
	"bytes"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// Kinds of file extents and of compression, of the on-disk format's "EXTENT_DATA".
const (
	fileExtentRegular  = 1
	fileExtentPrealloc = 2 // reads as zeros

	compressZlib = 1
	compressLZO  = 2
	compressZstd = 3

	maxUnpacked = 128 << 10 // bytes of an extent that is compressed
)

// fileExtent is a piece of a file.
type fileExtent struct {
	at          uint64 // bytes from the start of the file
	n           uint64 // bytes of the file
	disk        uint64 // logical address; 0 where it is inline, or reads as zeros
	diskLen     uint64
	skip        uint64 // bytes of the extent, unpacked, before those of the file
	unpacked    uint64 // bytes
	room        uint64 // logical address of an extent that is set aside, and reads as zeros; 0 without
	compression byte
	inline      []byte
}

// stretch returns which logical addresses it has, written or not; n is 0 where it has none.
func (e *fileExtent) stretch() (from, n uint64) {
	switch {
	case e.room != 0:
		return e.room + e.skip, e.n
	case e.disk == 0:
		return 0, 0
	case e.compression != 0:
		return e.disk, e.diskLen
	}
	return e.disk + e.skip, e.n
}

// parseFileExtent reads a file extent item.
func parseFileExtent(at uint64, b []byte) (fileExtent, error) {
	if len(b) < 21 {
		return fileExtent{}, damaged("a file extent of %d bytes", len(b))
	}
	e := fileExtent{at: at, unpacked: le.Uint64(b[8:]), compression: b[16]}
	switch {
	case b[17] != 0 || le.Uint16(b[18:]) != 0:
		return e, damaged("a file extent that is encrypted, or encoded otherwise")
	case e.compression > compressZstd:
		return e, damaged("a file extent with compression %d", e.compression)
	case at > 1<<62:
		return e, damaged("a file extent at %d", at)
	case b[20] == fileExtentInline:
		e.inline, e.n = slices.Clone(b[21:]), e.unpacked
		if e.unpacked > maxUnpacked || e.compression == 0 && e.unpacked > uint64(len(e.inline)) {
			return e, damaged("%d bytes of a file, in %d", e.unpacked, len(e.inline))
		}
		return e, nil
	case len(b) != fileExtentLen || b[20] > fileExtentPrealloc:
		return e, damaged("a file extent of %d bytes, of kind %d", len(b), b[20])
	}
	e.disk, e.diskLen, e.skip, e.n = le.Uint64(b[21:]), le.Uint64(b[29:]), le.Uint64(b[37:]), le.Uint64(b[45:])
	switch {
	case e.n == 0 || e.n > 1<<62-at:
		return e, damaged("a file extent of %d bytes at %d", e.n, at)
	case e.disk == 0 || b[20] == fileExtentPrealloc:
		if e.disk <= maxLogical && e.diskLen <= maxLogical && e.skip <= e.diskLen && e.n <= e.diskLen-e.skip {
			e.room = e.disk
		}
		e.disk = 0
		return e, nil
	case e.skip > e.unpacked || e.n > e.unpacked-e.skip:
		return e, damaged("a file extent of %d bytes at %d of %d", e.n, e.skip, e.unpacked)
	case e.compression == 0 && e.unpacked > e.diskLen, e.compression != 0 && (e.unpacked > maxUnpacked || e.diskLen > maxUnpacked):
		return e, damaged("a file extent of %d bytes, unpacked %d", e.diskLen, e.unpacked)
	}
	return e, nil
}

// content is what a file holds. What no extent has reads as zeros.
type content struct {
	fs      *filesystem
	size    int64
	extents []fileExtent // by at, none on another

	mu   sync.Mutex
	last int // the extent that was unpacked last; -1 for none
	have []byte
}

// content returns what a file holds, in size bytes.
func (t *Tree) content(inode uint64, size int64) (*content, error) {
	c := &content{fs: t.fs, size: size, last: -1}
	end := uint64(0)
	err := t.items(inode, itemExtentData, itemExtentData, func(k key, b []byte) error {
		e, err := parseFileExtent(k.off, b)
		switch {
		case err != nil:
			return err
		case e.at < end:
			return damaged("a file extent lies on the one before, which ends at %d", end)
		case len(c.extents) == fileRuns:
			return damaged("it lies in more than %d pieces", fileRuns)
		}
		if end = e.at + e.n; e.disk != 0 || e.inline != nil {
			c.extents = append(c.extents, e)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("file %d: %w", inode, err)
	}
	return c, nil
}

// ReadAt implements io.ReaderAt.
func (c *content) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at offset %d", off)
	}
	if off >= c.size {
		return 0, io.EOF
	}
	var end error
	if rest := c.size - off; int64(len(b)) > rest {
		b, end = b[:rest], io.EOF
	}
	clear(b)
	from, to := uint64(off), uint64(off)+uint64(len(b))
	i, _ := slices.BinarySearchFunc(c.extents, from, func(e fileExtent, at uint64) int {
		if e.at+e.n <= at {
			return -1
		}
		return 1
	})
	for ; i < len(c.extents) && c.extents[i].at < to; i++ {
		e := &c.extents[i]
		a, z := max(e.at, from), min(e.at+e.n, to)
		if err := c.fill(b[a-from:z-from], i, e.skip+a-e.at); err != nil {
			return 0, err
		}
	}
	return len(b), end
}

// fill reads what lies at the given byte of an extent.
func (c *content) fill(b []byte, i int, at uint64) error {
	e := &c.extents[i]
	if e.compression == 0 && e.inline != nil {
		copy(b, e.inline[at:])
		return nil
	}
	if e.compression == 0 {
		return c.fs.readLogical(b, e.disk+at)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last != i {
		packed := e.inline
		if packed == nil {
			packed = make([]byte, e.diskLen)
			if err := c.fs.readLogical(packed, e.disk); err != nil {
				return err
			}
		}
		out, err := unpack(e.compression, packed, int(e.unpacked), int(c.fs.sector))
		if err != nil {
			return damaged("what is compressed at %d of the file: %v", e.at, err)
		}
		c.last, c.have = i, out
	}
	copy(b, c.have[at:])
	return nil
}

// readLogical fills b with what lies at a logical address.
func (fs *filesystem) readLogical(b []byte, logical uint64) error {
	places, err := fs.chunks.places(logical, uint64(len(b)))
	if err != nil {
		return fmt.Errorf("%d bytes at %d: they are not on this device alone", len(b), logical)
	}
	return fs.read(b, places[0])
}

// unpack returns the n bytes that were compressed. What the stream does not have are zeros.
func unpack(kind byte, packed []byte, n, sector int) ([]byte, error) {
	out := make([]byte, n)
	var r io.Reader
	switch kind {
	case compressZlib:
		z, err := zlib.NewReader(bytes.NewReader(packed))
		if err != nil {
			return nil, err
		}
		r = z
	case compressZstd:
		z, err := zstd.NewReader(bytes.NewReader(packed), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(1<<20))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		r = z
	default:
		return out, unpackLZO(out, packed, sector)
	}
	have, err := io.ReadFull(r, out)
	switch {
	case err == nil, errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return out, nil
	case errors.Is(err, zstd.ErrMagicMismatch) && have > 0:
		return out, nil // what fills up the last sector
	}
	return nil, err
}
