package chunk

import (
	"fmt"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// An Encoder compresses chunks. Each goroutine has its own.
type Encoder struct {
	zstd *zstd.Encoder
	s2   s2Encoder
}

// NewEncoder returns an Encoder, which holds about 1 MiB.
func NewEncoder() *Encoder { return newEncoder(zstd.SpeedFastest) }

// NewPacker returns an Encoder that takes time to make chunks small: it compresses as Zstandard does with about that level,
// from 1 to 22. It holds some 100 MiB with the highest.
func NewPacker(level int) *Encoder { return newEncoder(zstd.EncoderLevelFromZstd(level)) }

func newEncoder(level zstd.EncoderLevel) *Encoder {
	// No CRC: the chunk's name is checked. One thread: the caller runs as many encoders as it wants.
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithWindowSize(MaxLen), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), zstd.WithZeroFrames(true))
	if err != nil {
		panic(fmt.Sprintf("zstd encoder: %v", err)) // only for options out of range, and these are constants
	}
	return &Encoder{zstd: z}
}

// MaxEncodedLen returns the capacity that a dst needs so that Encode never allocates for n raw bytes.
func MaxEncodedLen(n int) int { return max(s2.MaxEncodedLen(n), n+n/64+64) }

// Encode compresses raw, which is named id, with the codec wanted; where that does not save at least 1/32 of the
// bytes it takes Raw. Data is written over dst, in its memory where the capacity is enough, and never shares memory
// with raw: raw may be reused at once. It panics where raw is longer than MaxLen, as no store could keep that.
func (e *Encoder) Encode(id ID, raw, dst []byte, want Codec) Encoded {
	if len(raw) > MaxLen {
		panic(fmt.Sprintf("chunk of %d bytes: at most %d", len(raw), MaxLen))
	}
	out := Encoded{ID: id, RawLen: uint32(len(raw)), Codec: want}
	switch want {
	case Zstd:
		out.Data = e.zstd.EncodeAll(raw, dst[:0])
	case S2:
		out.Data = e.s2.encode(dst, raw)
	}
	if len(out.Data) == 0 || len(out.Data) > len(raw)-len(raw)/32 || len(out.Data) >= len(raw) {
		out.Codec = Raw
		out.Data = append(dst[:0], raw...)
	}
	return out
}
