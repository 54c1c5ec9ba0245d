package dir

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"

	"github.com/zeebo/blake3"

	"mimeo/internal/imaging/chunk"
)

// The layouts here are those of docs/formats/store.md, sections "Packs" and "Index files". All numbers are little-endian.
const (
	packHead   = 64 // bytes of a pack's head
	recordHead = 56 // bytes before each chunk's data
	indexHead  = 56 // bytes of an index file's head
	indexItem  = 48 // bytes of an item in an index file
	indexSum   = 32 // bytes of the hash at an index file's end

	packVersion  = 1
	indexVersion = 1

	// maxPack is the greatest length of a pack: offsets of records have 32 bits.
	maxPack = math.MaxUint32
)

var (
	packMagic   = []byte("MIMEOPK1")
	recordMagic = []byte("MCK1")
	indexMagic  = []byte("MIMEOIX1")

	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

func crc(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// uid is a random number that tells packs and stores apart.
type uid [16]byte

func appendPackHead(b []byte, number uint32, pack, store uid) []byte {
	start := len(b)
	b = append(b, packMagic...)
	b = binary.LittleEndian.AppendUint32(b, packVersion)
	b = binary.LittleEndian.AppendUint32(b, number)
	b = append(b, pack[:]...)
	b = append(b, store[:]...)
	b = append(b, make([]byte, 12)...)
	return binary.LittleEndian.AppendUint32(b, crc(b[start:]))
}

// parsePackHead reads the first packHead bytes of a pack. The uid is what stands there even where there is an error.
func parsePackHead(b []byte, number uint32) (uid, error) {
	if len(b) < packHead {
		return uid{}, fmt.Errorf("head of %d bytes, want %d", len(b), packHead)
	}
	id := uid(b[16:32])
	switch {
	case !bytes.Equal(b[:8], packMagic):
		return id, fmt.Errorf("magic %q is not that of a pack", b[:8])
	case crc(b[:60]) != binary.LittleEndian.Uint32(b[60:]):
		return id, errors.New("checksum of the head does not match")
	case binary.LittleEndian.Uint32(b[8:]) != packVersion:
		return id, fmt.Errorf("version %d is unknown", binary.LittleEndian.Uint32(b[8:]))
	case binary.LittleEndian.Uint32(b[12:]) != number:
		return id, fmt.Errorf("number %d, the file's name says %d", binary.LittleEndian.Uint32(b[12:]), number)
	}
	return id, nil
}

func appendRecord(b []byte, c chunk.Encoded) []byte {
	start := len(b)
	b = append(b, recordMagic...)
	b = append(b, c.ID[:]...)
	b = binary.LittleEndian.AppendUint32(b, c.RawLen)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(c.Data)))
	b = append(b, byte(c.Codec), 0, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, crc(c.Data))
	b = binary.LittleEndian.AppendUint32(b, crc(b[start:]))
	return append(b, c.Data...)
}

// record is the head of a record.
type record struct {
	id     chunk.ID
	raw    uint32
	stored uint32
	codec  chunk.Codec
	crc    uint32 // of the data
}

// parseRecord reads the first recordHead bytes of a record, and checks its bounds.
func parseRecord(b []byte) (record, error) {
	if len(b) < recordHead {
		return record{}, fmt.Errorf("record's head of %d bytes, want %d", len(b), recordHead)
	}
	if !bytes.Equal(b[:4], recordMagic) {
		return record{}, fmt.Errorf("magic %q is not that of a record", b[:4])
	}
	if crc(b[:52]) != binary.LittleEndian.Uint32(b[52:]) {
		return record{}, errors.New("checksum of the record's head does not match")
	}
	r := record{id: chunk.ID(b[4:36]), raw: binary.LittleEndian.Uint32(b[36:]), stored: binary.LittleEndian.Uint32(b[40:]),
		codec: chunk.Codec(b[44]), crc: binary.LittleEndian.Uint32(b[48:])}
	return r, checkLengths(r.raw, r.stored, r.codec)
}

func checkLengths(raw, stored uint32, codec chunk.Codec) error {
	if raw == 0 || raw > chunk.MaxLen || stored == 0 || stored > raw || codec > chunk.S2 || codec == chunk.Raw && stored != raw {
		return fmt.Errorf("record: raw length %d, stored length %d, codec %d", raw, stored, codec)
	}
	return nil
}

// indexed is an item of an index file.
type indexed struct {
	id chunk.ID
	loc
}

// encodeIndex returns the index file of a pack whose first length bytes hold items, in ascending order.
func encodeIndex(number uint32, pack uid, length int64, items []indexed) []byte {
	b := make([]byte, 0, indexHead+len(items)*indexItem+indexSum)
	b = append(b, indexMagic...)
	b = binary.LittleEndian.AppendUint32(b, indexVersion)
	b = binary.LittleEndian.AppendUint32(b, number)
	b = append(b, pack[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(length))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(items)))
	b = append(b, make([]byte, 12)...)
	for _, it := range items {
		b = append(b, it.id[:]...)
		b = binary.LittleEndian.AppendUint32(b, it.off)
		b = binary.LittleEndian.AppendUint32(b, it.stored)
		b = binary.LittleEndian.AppendUint32(b, it.raw)
		b = append(b, byte(it.codec), 0, 0, 0)
	}
	sum := blake3.Sum256(b)
	return append(b, sum[:]...)
}

// parseIndex reads the index file of the pack with that number and length.
func parseIndex(b []byte, number uint32, length int64) (uid, []indexed, error) {
	if len(b) < indexHead+indexSum || (len(b)-indexHead-indexSum)%indexItem != 0 {
		return uid{}, nil, fmt.Errorf("index of %d bytes", len(b))
	}
	body, sum := b[:len(b)-indexSum], b[len(b)-indexSum:]
	if got := blake3.Sum256(body); !bytes.Equal(got[:], sum) {
		return uid{}, nil, errors.New("hash of the index does not match")
	}
	n := (len(body) - indexHead) / indexItem
	switch {
	case !bytes.Equal(body[:8], indexMagic):
		return uid{}, nil, fmt.Errorf("magic %q is not that of an index", body[:8])
	case binary.LittleEndian.Uint32(body[8:]) != indexVersion:
		return uid{}, nil, fmt.Errorf("index version %d is unknown", binary.LittleEndian.Uint32(body[8:]))
	case binary.LittleEndian.Uint32(body[12:]) != number:
		return uid{}, nil, fmt.Errorf("index of pack %d, not %d", binary.LittleEndian.Uint32(body[12:]), number)
	case binary.LittleEndian.Uint64(body[32:]) != uint64(length):
		return uid{}, nil, fmt.Errorf("index of %d bytes of the pack, which has %d", binary.LittleEndian.Uint64(body[32:]), length)
	case binary.LittleEndian.Uint32(body[40:]) != uint32(n):
		return uid{}, nil, fmt.Errorf("index says %d items and holds %d", binary.LittleEndian.Uint32(body[40:]), n)
	}
	items := make([]indexed, n)
	var end int64
	for i, p := 0, body[indexHead:]; i < n; i, p = i+1, p[indexItem:] {
		it := indexed{chunk.ID(p[:32]), loc{pack: number, off: binary.LittleEndian.Uint32(p[32:]),
			stored: binary.LittleEndian.Uint32(p[36:]), raw: binary.LittleEndian.Uint32(p[40:]), codec: chunk.Codec(p[44])}}
		if err := checkLengths(it.raw, it.stored, it.codec); err != nil {
			return uid{}, nil, fmt.Errorf("item %d: %w", i, err)
		}
		if int64(it.off) < end || it.end() > length {
			return uid{}, nil, fmt.Errorf("item %d at %d: overlaps, or lies outside the pack", i, it.off)
		}
		end = it.end()
		items[i] = it
	}
	return uid(body[16:32]), items, nil
}
