package capture

import (
	"errors"
	"io"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/manifest"
)

// mergeGap is how many unused bytes the reader reads along rather than start another read: at 16 KiB a seek or a
// system call costs more than the bytes.
const mergeGap = 16 << 10

// maxPieces bounds the pieces of a block, and so what one question to the store asks.
const maxPieces = 1024

// piece is a chunk to be, in a block.
type piece struct {
	off  int64 // on the disk
	pos  int   // in the block's buffer
	n    int
	zero bool
	want bool // the store lacks it, and this block brings it
	id   chunk.ID
}

// block is a stretch of the disk on its way to the store. One goroutine has it at a time.
type block struct {
	buf     []byte
	pieces  []piece
	entries chan []manifest.Entry // takes the pieces' entries once they are hashed; holds one
}

// batch is a block's new chunks, compressed.
type batch struct {
	off    int64 // on the disk, of the first
	chunks []chunk.Encoded
	arena  []byte // their bytes
}

func (b *block) bytes(p *piece) []byte { return b.buf[p.pos : p.pos+p.n] }

// toEntries returns the pieces as a manifest has them, zero ones that touch in one.
func (b *block) toEntries() []manifest.Entry {
	list := make([]manifest.Entry, 0, len(b.pieces))
	for i := range b.pieces {
		p := &b.pieces[i]
		list = appendEntry(list, manifest.Entry{Off: p.off, Len: int64(p.n), Zero: p.zero, ID: p.id})
	}
	return list
}

func appendEntry(list []manifest.Entry, e manifest.Entry) []manifest.Entry {
	if k := len(list) - 1; k >= 0 && e.Zero && list[k].Zero && list[k].Off+list[k].Len == e.Off {
		list[k].Len += e.Len
		return list
	}
	return append(list, e)
}

// packer lays pieces out in blocks.
type packer struct {
	next func() (extent.Extent, bool)
	held extent.Extent // taken from next, not yet placed
	has  bool
}

// fill gives b as many pieces as its buffer takes, and returns the ranges of the disk to be read one after the other
// into the buffer. It returns none when all pieces are placed.
func (p *packer) fill(b *block, reads []extent.Extent) []extent.Extent {
	b.pieces, reads = b.pieces[:0], reads[:0]
	used := 0
	for len(b.pieces) < maxPieces {
		if !p.has {
			if p.held, p.has = p.next(); !p.has {
				return reads
			}
		}
		gap, k := int64(0), len(reads)-1
		if k >= 0 {
			gap = p.held.Off - reads[k].End()
		}
		if merge := k >= 0 && gap <= mergeGap; !merge {
			gap = 0
		}
		if int64(used)+gap+p.held.Len > int64(len(b.buf)) {
			return reads
		}
		if k >= 0 && p.held.Off == reads[k].End()+gap {
			reads[k].Len += gap + p.held.Len
		} else {
			reads = append(reads, p.held)
		}
		used += int(gap)
		b.pieces = append(b.pieces, piece{off: p.held.Off, pos: used, n: int(p.held.Len)})
		used += int(p.held.Len)
		p.has = false
	}
	return reads
}

// readAll reads the ranges one after the other into buf.
func readAll(r io.ReaderAt, reads []extent.Extent, buf []byte) error {
	for _, e := range reads {
		if err := readFull(r, buf[:e.Len], e.Off); err != nil {
			return err
		}
		buf = buf[e.Len:]
	}
	return nil
}

// readFull reads b at off. Where that fails it looks for the first bytes that cannot be read, for the message.
func readFull(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return &ReadError{Off: off + int64(n), Len: int64(len(b) - n), Err: io.ErrUnexpectedEOF}
	}
	const step = 4096 // as large as the sectors of any disk
	for pos := n &^ (step - 1); pos < len(b); pos += step {
		part := b[pos:min(pos+step, len(b))]
		if m, perr := r.ReadAt(part, off+int64(pos)); m < len(part) && perr != nil {
			return &ReadError{Off: off + int64(pos), Len: int64(len(part)), Err: perr}
		}
	}
	return nil // the second try read it all, as with a disk that just woke
}
