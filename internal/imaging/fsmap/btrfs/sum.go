package btrfs

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"
	"math/bits"

	"golang.org/x/crypto/blake2b"
)

// Kinds of checksums, of the on-disk format's "Superblock", field csum_type.
const (
	sumCRC32C = iota
	sumXXHash
	sumSHA256
	sumBlake2b
	sumKinds
)

// sumLen is the room for a checksum at the start of a superblock or tree block.
const sumLen = 32

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sum returns the checksum of a kind over b, as its bytes lie on the disk.
func sum(kind uint16, b []byte) []byte {
	switch kind {
	case sumCRC32C:
		return binary.LittleEndian.AppendUint32(nil, crc32.Checksum(b, castagnoli))
	case sumXXHash:
		return binary.LittleEndian.AppendUint64(nil, xxhash64(b))
	case sumSHA256:
		s := sha256.Sum256(b)
		return s[:]
	default:
		s := blake2b.Sum256(b)
		return s[:]
	}
}

// sumOK tells whether the checksum at the start of a block is that of what follows. The room behind a short one says
// nothing.
func sumOK(kind uint16, block []byte) bool {
	s := sum(kind, block[sumLen:])
	return bytes.Equal(block[:len(s)], s)
}

// The primes of XXH64, of the "xxHash fast digest algorithm" document.
const (
	prime1 = 0x9e3779b185ebca87
	prime2 = 0xc2b2ae3d27d4eb4f
	prime3 = 0x165667b19e3779f9
	prime4 = 0x85ebca77c2b2ae63
	prime5 = 0x27d4eb2f165667c5
)

// xxhash64 is XXH64 with seed 0.
func xxhash64(b []byte) uint64 {
	round := func(acc, lane uint64) uint64 {
		return bits.RotateLeft64(acc+lane*prime2, 31) * prime1
	}
	h, n := uint64(prime5), uint64(len(b))
	if len(b) >= 32 {
		p := uint64(prime1) // a variable: the sums wrap around
		acc := [4]uint64{p + prime2, prime2, 0, -p}
		for ; len(b) >= 32; b = b[32:] {
			for i := range acc {
				acc[i] = round(acc[i], binary.LittleEndian.Uint64(b[8*i:]))
			}
		}
		h = bits.RotateLeft64(acc[0], 1) + bits.RotateLeft64(acc[1], 7) + bits.RotateLeft64(acc[2], 12) + bits.RotateLeft64(acc[3], 18)
		for _, a := range acc {
			h = (h^round(0, a))*prime1 + prime4
		}
	}
	h += n
	for ; len(b) >= 8; b = b[8:] {
		h = bits.RotateLeft64(h^round(0, binary.LittleEndian.Uint64(b)), 27)*prime1 + prime4
	}
	if len(b) >= 4 {
		h = bits.RotateLeft64(h^uint64(binary.LittleEndian.Uint32(b))*prime1, 23)*prime2 + prime3
		b = b[4:]
	}
	for _, x := range b {
		h = bits.RotateLeft64(h^uint64(x)*prime5, 11) * prime1
	}
	h = (h ^ h>>33) * prime2
	h = (h ^ h>>29) * prime3
	return h ^ h>>32
}
