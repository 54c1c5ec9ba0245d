package chunk

import (
	"bytes"

	"github.com/zeebo/blake3"
)

// Sum names raw bytes.
func Sum(raw []byte) ID { return ID(blake3.Sum256(raw)) }

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
