package chunk

import (
	"encoding/binary"
	"math/bits"
	"unsafe"
)

// An s2Encoder writes chunks as S2 blocks (docs/formats/store.md). It is made for speed: it looks for repeats of 5 bytes at
// least, knows the last place of each of 8192 hashes, and decides little by branches that a processor foresees wrongly. Next
// to the assembly of s2.Encode it is about a fifth faster; its blocks are up to 7 % longer (BenchmarkS2).
//
// It reads and writes without bounds checks, which would cost an eighth of the speed; TestS2Bounds holds it to its bounds.
type s2Encoder struct {
	last [1 << hashBits]uint16 // places in the piece, by hash
}

const (
	hashBits = 13
	minMatch = 5
	pieceLen = 1 << 16 // matches lie within a piece, so that a place takes 16 bits
	tailLen  = 32      // no match begins in a piece's last bytes: what is read for one ends within the piece
	skipBits = 5       // bytes passed over at once grow by one for each 1<<skipBits bytes without a match
)

// encode writes src over dst and returns the block. It returns nil where that would save less than 1/32 of the bytes.
// dst must have a capacity of MaxEncodedLen(len(src)).
func (z *s2Encoder) encode(dst, src []byte) []byte {
	if n := MaxEncodedLen(len(src)); cap(dst) < n {
		dst = make([]byte, 0, n)
	}
	room := len(src) - len(src)/32
	out := binary.AppendUvarint(dst[:0], uint64(len(src)))
	for len(src) > 0 {
		piece := src[:min(len(src), pieceLen)]
		src = src[len(piece):]
		if out = z.piece(out, piece, room); out == nil {
			return nil
		}
	}
	if len(out) > room {
		return nil
	}
	return out
}

// piece appends src, at most pieceLen bytes, to out, whose capacity must be enough. It returns nil where it sees in time
// that out would be longer than room.
//
// A literal and the match behind it take no more than the bytes that they stand for; where the literal is longer than 256,
// one byte more. A store reaches less than 24 bytes beyond its element, and while matches are sought tailLen-2 bytes are
// left. So what MaxEncodedLen allows is never passed.
func (z *s2Encoder) piece(out, src []byte, room int) []byte {
	in := unsafe.Pointer(unsafe.SliceData(src))
	to := unsafe.Add(unsafe.Pointer(unsafe.SliceData(out)), len(out))
	done := uint(0) // bytes of src that are written
	if len(src) > tailLen {
		clear(z.last[:])
		done, to = z.matches(to, in, uint(len(src)))
	}
	n := int(uintptr(to) - uintptr(unsafe.Pointer(unsafe.SliceData(out))))
	rest := src[done:]
	if n+len(rest) > room {
		return nil
	}
	out = out[:n]
	if len(rest) > 0 {
		out = appendLiteral(out, rest)
	}
	return out
}

// matches writes the n bytes at in to out as far as its last match goes. It returns how many these are, and where out
// ends.
func (z *s2Encoder) matches(out, in unsafe.Pointer, n uint) (uint, unsafe.Pointer) {
	last := &z.last
	limit := n - tailLen
	s, done := uint(1), uint(0)
	for s < limit {
		// The next three places. One branch for each lets the processor go on as if it knew which of them matches, where
		// choosing among them by arithmetic would let it wait for all.
		v0, v1, v2 := load64(in, s), load64(in, s+1), load64(in, s+2)
		h0, h1, h2 := hash(v0), hash(v1), hash(v2)
		m := uint(last[h0])
		last[h0] = uint16(s)
		x := v0 ^ load64(in, m)
		if x<<(64-8*minMatch) != 0 {
			m = uint(last[h1])
			last[h1] = uint16(s + 1)
			x = v1 ^ load64(in, m)
			if x<<(64-8*minMatch) != 0 {
				m = uint(last[h2])
				last[h2] = uint16(s + 2)
				x = v2 ^ load64(in, m)
				if x<<(64-8*minMatch) != 0 {
					s += 3 + (s-done)>>skipBits
					continue
				}
				s++
			}
			s++
		}

		// Most matches are shorter than 16 bytes: their length takes no branch.
		length := uint(bits.TrailingZeros64(x)) / 8
		more := uint(bits.TrailingZeros64(load64(in, s+8)^load64(in, m+8))) / 8
		if length += more & -(length >> 3); length == 16 {
			for s+length < limit+8 {
				if x := load64(in, s+length) ^ load64(in, m+length); x != 0 {
					length += uint(bits.TrailingZeros64(x)) / 8
					break
				}
				length += 8
			}
		}

		if lit := s - done; lit <= 16 {
			*(*byte)(out) = byte(lit-1) << 2
			out = unsafe.Add(out, (lit+31)>>5) // nothing, where there is no literal
			*(*[16]byte)(out) = *(*[16]byte)(unsafe.Add(in, done))
			out = unsafe.Add(out, lit)
		} else {
			out = putLiteral(out, unsafe.Add(in, done), lit)
		}
		offset := s - m
		s += length
		done = s
		if length > 64 {
			out = putLong(out, offset, length)
			continue
		}
		tag, size := uint32(offset)<<8|uint32(length-1)<<2|2, uint(3)
		near := uint32(offset&0xff)<<8 | uint32(offset>>8)<<5 | uint32(length-4)<<2 | 1
		both := (offset - 2048) & (length - 12) // negative where both are
		if int(both) < 0 {
			tag = near
		}
		size -= both >> (bits.UintSize - 1)
		binary.LittleEndian.PutUint32((*[4]byte)(out)[:], tag)
		out = unsafe.Add(out, size)
	}
	return done, out
}

func hash(v uint64) uint64 { return v << (64 - 8*minMatch) * 889523592379 >> (64 - hashBits) }

func load64(p unsafe.Pointer, i uint) uint64 {
	return binary.LittleEndian.Uint64((*[8]byte)(unsafe.Add(p, i))[:])
}

// putLiteral writes a literal of n bytes at in, at most pieceLen, to out and returns where it ends.
//
//go:noinline
func putLiteral(out, in unsafe.Pointer, n uint) unsafe.Pointer {
	b := appendLiteral(unsafe.Slice((*byte)(out), n+3)[:0], unsafe.Slice((*byte)(in), n))
	return unsafe.Add(out, len(b))
}

func appendLiteral(out, lit []byte) []byte {
	switch n := len(lit) - 1; {
	case n < 60:
		out = append(out, byte(n)<<2)
	case n < 1<<8:
		out = append(out, 60<<2, byte(n))
	default:
		out = append(out, 61<<2, byte(n), byte(n>>8))
	}
	return append(out, lit...)
}

// putLong writes a match of more than 64 bytes to out and returns where it ends: a copy of 64 bytes, and the rest with the
// same offset.
//
//go:noinline
func putLong(out unsafe.Pointer, offset, length uint) unsafe.Pointer {
	b := unsafe.Slice((*byte)(out), 8)[:0]
	first := min(length-4, 64) // a repeat has 4 bytes at least
	b = append(b, byte(first-1)<<2|2, byte(offset), byte(offset>>8))
	switch n := length - first - 4; {
	case n <= 4:
		b = append(b, byte(n)<<2|1, 0)
	case n < 4+1<<8:
		b = append(b, 5<<2|1, 0, byte(n-4))
	default:
		n -= 1 << 8
		b = append(b, 6<<2|1, 0, byte(n), byte(n>>8))
	}
	return unsafe.Add(out, len(b))
}
