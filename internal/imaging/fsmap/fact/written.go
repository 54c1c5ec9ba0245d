package fact

import (
	"errors"
	"io"

	"mimeo/internal/imaging/extent"
)

const (
	writtenPiece = 4 << 10  // the granularity of Written
	writtenMost  = 32 << 20 // bytes that it reads: the largest cluster there is
)

// Written returns what is not all zero of a stretch that no map speaks of, in pieces of 4 KiB from its beginning on: the
// sectors behind the last whole cluster, which the filesystem does not use. Of more than 32 MiB it returns
// all.
func Written(r io.ReaderAt, e extent.Extent) (extent.List, error) {
	if e.Len > writtenMost {
		return extent.List{e}, nil
	}
	var list extent.List
	buf := make([]byte, max(0, min(e.Len, 1<<20)))
	for off := e.Off; off < e.End(); {
		b := buf[:min(int64(len(buf)), e.End()-off)]
		if n, err := r.ReadAt(b, off); n < len(b) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		for len(b) > 0 {
			n := min(len(b), writtenPiece)
			for _, c := range b[:n] {
				if c != 0 {
					list.Add(extent.Extent{Off: off, Len: int64(n)})
					break
				}
			}
			b, off = b[n:], off+int64(n)
		}
	}
	return list, nil
}
