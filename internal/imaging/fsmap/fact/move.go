package fact

import (
	"fmt"
	"io"
	"slices"

	"mimeo/internal/imaging/extent"
)

// Disk is a volume that is written.
type Disk interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

const moveLen = 1 << 20 // bytes that are moved at a time

// MoveUp moves what lies in list by so many bytes towards the end, from the last byte to the first, so that what is moved
// may lie where something else was before.
func MoveUp(f Disk, list extent.List, by int64) error {
	buf := make([]byte, moveLen)
	for _, e := range slices.Backward(list) {
		for end := e.End(); end > e.Off; {
			n := min(moveLen, end-e.Off)
			if err := Copy(f, buf[:n], end-n, end-n+by); err != nil {
				return err
			}
			end -= n
		}
	}
	return nil
}

// Copy copies len(buf) bytes by way of buf.
func Copy(f Disk, buf []byte, from, to int64) error {
	if n, err := f.ReadAt(buf, from); n < len(buf) {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read %d bytes at offset %d: %w", len(buf), from, err)
	}
	return Put(f, buf, to)
}

// Put writes b at off.
func Put(f Disk, b []byte, off int64) error {
	if _, err := f.WriteAt(b, off); err != nil {
		return fmt.Errorf("write %d bytes at offset %d: %w", len(b), off, err)
	}
	return nil
}

// Zero makes n bytes at off zeros.
func Zero(f Disk, off, n int64) error {
	buf := make([]byte, min(moveLen, max(n, 0)))
	for n > 0 {
		b := buf[:min(int64(len(buf)), n)]
		if err := Put(f, b, off); err != nil {
			return err
		}
		off, n = off+int64(len(b)), n-int64(len(b))
	}
	return nil
}
