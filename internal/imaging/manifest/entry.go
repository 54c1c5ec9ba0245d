package manifest

import (
	"encoding/binary"
	"fmt"
	"math"

	"mimeo/internal/imaging/chunk"
)

// EntrySize is the length of an entry's record in bytes.
const EntrySize = 48

// zeroBit marks the record of an entry that is all zero.
const zeroBit = 1 << 63

// AppendEntry appends e's record to b: offset, length and ID as docs/formats/manifest.md has them.
func AppendEntry(b []byte, e Entry) []byte {
	n := uint64(e.Len)
	if e.Zero {
		n |= zeroBit
		e.ID = chunk.ID{}
	}
	b = binary.LittleEndian.AppendUint64(b, uint64(e.Off))
	b = binary.LittleEndian.AppendUint64(b, n)
	return append(b, e.ID[:]...)
}

// DecodeEntry reads one record, which is the first EntrySize bytes of b.
func DecodeEntry(b []byte) (Entry, error) {
	if len(b) < EntrySize {
		return Entry{}, fmt.Errorf("entry of %d bytes, want %d", len(b), EntrySize)
	}
	off, n := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
	e := Entry{Off: int64(off), Len: int64(n &^ zeroBit), Zero: n&zeroBit != 0, ID: chunk.ID(b[16:EntrySize])}
	if off > math.MaxInt64 {
		return Entry{}, fmt.Errorf("entry at offset %d", off)
	}
	return e, e.check()
}

func (e Entry) check() error {
	switch {
	case e.Off < 0 || e.Len <= 0 || e.Len > math.MaxInt64-e.Off:
		return fmt.Errorf("entry: %d bytes at offset %d", e.Len, e.Off)
	case !e.Zero && e.Len > chunk.MaxLen:
		return fmt.Errorf("entry at offset %d: %d bytes in one chunk, at most %d", e.Off, e.Len, chunk.MaxLen)
	case e.Zero && e.ID != chunk.ID{}:
		return fmt.Errorf("entry at offset %d: all zero, and yet names a chunk", e.Off)
	}
	return nil
}
