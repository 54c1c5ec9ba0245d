package chunk

import (
	"bytes"

	"mimeo/internal/imaging/chunk/blake3"
)

// Sum names raw bytes.
func Sum(raw []byte) ID { return blake3.Sum(raw) }

// Summer names many pieces, several times as fast as Sum where they are small. It is for one goroutine at a time. Its zero
// value is ready.
type Summer struct {
	hasher blake3.Hasher
	pieces [][]byte
	to     []*ID
	sums   [][32]byte
}

// Add has the next Sum name raw, which must not change until then, and put the name into to.
func (s *Summer) Add(raw []byte, to *ID) {
	s.pieces, s.to, s.sums = append(s.pieces, raw), append(s.to, to), append(s.sums, [32]byte{})
}

// Sum names what was added since the last one.
func (s *Summer) Sum() {
	s.hasher.Sums(s.pieces, s.sums)
	for i, sum := range s.sums {
		*s.to[i] = sum
	}
	clear(s.pieces)
	clear(s.to)
	s.pieces, s.to, s.sums = s.pieces[:0], s.to[:0], s.sums[:0]
}

// IsZero tells whether all of b is zero bytes; an empty b is.
func IsZero(b []byte) bool {
	if len(b) == 0 {
		return true
	}
	// Most data fails here: at its ends or in the middle.
	if b[0]|b[len(b)-1]|b[len(b)/2] != 0 {
		return false
	}
	// The first byte is zero, and each equals the one after it.
	return bytes.Equal(b[:len(b)-1], b[1:])
}
