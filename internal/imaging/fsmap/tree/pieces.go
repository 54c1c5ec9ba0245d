package tree

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"mimeo/internal/imaging/fsmap/fact"
)

// Pieced is the content of a file that lies on a volume in pieces. What no piece covers reads as zeros.
type Pieced struct {
	Volume io.ReaderAt
	Pieces []fact.Piece // by At
	Size   int64        // bytes of the file
}

// ReadAt implements io.ReaderAt.
func (p *Pieced) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at offset %d", off)
	}
	if off >= p.Size {
		return 0, io.EOF
	}
	var end error
	if rest := p.Size - off; int64(len(b)) > rest {
		b, end = b[:rest], io.EOF
	}
	clear(b)
	i, _ := slices.BinarySearchFunc(p.Pieces, off, func(f fact.Piece, off int64) int {
		if f.At+f.Len <= off {
			return -1
		}
		return 1
	})
	for ; i < len(p.Pieces) && p.Pieces[i].At < off+int64(len(b)); i++ {
		f := p.Pieces[i]
		from, to := max(f.At, off), min(f.At+f.Len, off+int64(len(b)))
		part := b[from-off : to-off]
		if n, err := p.Volume.ReadAt(part, f.Off+from-f.At); n < len(part) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
	}
	return len(b), end
}
