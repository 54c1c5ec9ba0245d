package fsmap

import (
	"errors"
	"fmt"
	"io"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/extent"
)

// What may lie behind a filesystem, in the rest of its partition, belongs to what is below it: the superblock of a RAID
// (the last 128 KiB), DRBD's bitmap (at the end, 1/32768 of the size), a hash tree of dm-verity (right behind the
// filesystem, less than 1/100 of its size). So both ends of a long rest are looked at, with room to spare.
const (
	tailWindow = 64 << 20 // bytes at either end
	tailShare  = 50       // and at least 1/50 of the filesystem's length at the front
	tailPiece  = 64 << 10 // pieces of zeros of that length are left out
	tailRead   = 4 << 20
)

// tail returns what is not zero between the end of the filesystem and that of the volume, and a note where a part in
// the middle was not looked at.
func tail(r io.ReaderAt, from, size int64) (extent.List, string, error) {
	if from >= size {
		return nil, "", nil
	}
	front := max(tailWindow, from/tailShare)
	windows := extent.List{{Off: from, Len: size - from}}
	note := ""
	if left := size - from - front - tailWindow; left > 0 {
		windows = extent.List{{Off: from, Len: front}, {Off: size - tailWindow, Len: tailWindow}}
		note = fmt.Sprintf("%d bytes behind the filesystem, in the middle of the unused rest of the volume, are left out", left)
	}
	var out extent.List
	buf := make([]byte, tailRead)
	for _, w := range windows {
		for off := w.Off; off < w.End(); {
			// Pieces lie at multiples of their length.
			b := buf[:min(w.End()-off, tailRead-off%tailPiece)]
			if n, err := r.ReadAt(b, off); n < len(b) {
				if err == nil || errors.Is(err, io.EOF) {
					err = io.ErrUnexpectedEOF
				}
				return nil, "", err
			}
			for len(b) > 0 {
				n := min(int64(len(b)), tailPiece-off%tailPiece)
				if !chunk.IsZero(b[:n]) {
					out.Add(extent.Extent{Off: off, Len: n})
				}
				b, off = b[n:], off+n
			}
		}
	}
	return out, note, nil
}
