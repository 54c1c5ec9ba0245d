package chunk

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// ErrHash says that a chunk's bytes are not those that its name was made of.
var ErrHash = errors.New("bytes do not match the chunk's name")

// maxWindow is the largest zstd window that Decode accepts. Encoders need no more than MaxLen.
const maxWindow = 2 * MaxLen

// zstdDecoder is shared: DecodeAll keeps nothing between calls and may be called from any goroutine.
var zstdDecoder = sync.OnceValue(func() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(MaxLen+1),
		zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic(fmt.Sprintf("zstd decoder: %v", err)) // only for options out of range, and these are constants
	}
	return d
})

// Check says what is wrong with the frame of c, without decoding it: the bounds that every reader must hold.
func (c Encoded) Check() error {
	switch {
	case c.RawLen == 0 || c.RawLen > MaxLen:
		return fmt.Errorf("chunk %s: raw length %d is not within 1 to %d", c.ID, c.RawLen, MaxLen)
	case c.Codec > S2:
		return fmt.Errorf("chunk %s: codec %d is unknown", c.ID, c.Codec)
	case c.Codec == Raw && len(c.Data) != int(c.RawLen):
		return fmt.Errorf("chunk %s: %d bytes stored raw, raw length %d", c.ID, len(c.Data), c.RawLen)
	case len(c.Data) == 0 || len(c.Data) > int(c.RawLen):
		return fmt.Errorf("chunk %s: %d bytes stored is not within 1 and the raw length %d", c.ID, len(c.Data), c.RawLen)
	}
	return nil
}

// Decode returns the raw bytes of c, checked against their name, in dst's memory where its capacity is enough. It
// never allocates more than RawLen bytes for them, whatever the frame claims. The error wraps ErrHash where only the
// name does not fit.
func Decode(c Encoded, dst []byte) ([]byte, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	n := int(c.RawLen)
	dst = slices.Grow(dst[:0], n)[:0:n]
	var err error
	switch c.Codec {
	case Raw:
		dst = append(dst, c.Data...)
	case Zstd:
		dst, err = zstdDecoder().DecodeAll(c.Data, dst)
	case S2:
		var claimed int
		if claimed, err = s2.DecodedLen(c.Data); err == nil && claimed != n {
			err = fmt.Errorf("s2 block of %d bytes", claimed)
		}
		if err == nil {
			dst, err = s2.Decode(dst[:n], c.Data)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("chunk %s: decode: %w", c.ID, err)
	}
	if len(dst) != n {
		return nil, fmt.Errorf("chunk %s: %d bytes decoded, want %d", c.ID, len(dst), n)
	}
	if Sum(dst) != c.ID {
		return nil, fmt.Errorf("chunk %s: %w", c.ID, ErrHash)
	}
	return dst, nil
}
