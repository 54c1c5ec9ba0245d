// Package chunk cuts extents into chunks, names each by the hash of its raw bytes, and encodes it for the store.
package chunk

import (
	"encoding/hex"
	"fmt"
)

// MaxLen is the greatest length of a chunk in raw bytes. Readers refuse longer ones, which bounds their memory.
const MaxLen = 4 << 20

// ID names a chunk: the BLAKE3-256 hash of its raw (uncompressed) bytes.
type ID [32]byte

// String returns the ID in lower-case hexadecimal, 64 digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// ParseID reads what String wrote.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 2*len(id) {
		return id, fmt.Errorf("chunk ID %q: want %d hexadecimal digits", s, 2*len(id))
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return id, fmt.Errorf("chunk ID %q: %w", s, err)
	}
	return id, nil
}

// MarshalText and UnmarshalText make an ID a JSON string.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (id *ID) UnmarshalText(b []byte) (err error) { *id, err = ParseID(string(b)); return err }

// Codec says how a chunk's bytes are encoded in store and on the wire. The numbers are stored: never reuse one.
type Codec uint8

// The codecs of store format 1.
const (
	Raw  Codec = 0 // the raw bytes
	Zstd Codec = 1 // one zstd frame (RFC 8878)
	S2   Codec = 2 // one s2 block (snappy-compatible block format, klauspost/compress/s2)
)

// Encoded is a chunk as it travels and is kept. Data must not be changed by whoever receives it.
type Encoded struct {
	ID     ID
	RawLen uint32 // length of the raw bytes, at most MaxLen
	Codec  Codec
	Data   []byte
}
