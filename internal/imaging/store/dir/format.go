package dir

import (
	"bytes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"slices"

	"github.com/zeebo/blake3"
	"golang.org/x/crypto/chacha20poly1305"

	"mimeo/internal/imaging/chunk"
)

// The layouts here are those of docs/formats/store.md, sections "Packs" and "Index files". All numbers are little-endian.
const (
	packHead   = 64 // bytes of a pack's head
	recordHead = 56 // bytes before each chunk's data
	indexHead  = 56 // bytes of an index file's head
	indexItem  = 48 // bytes of an item in an index file
	indexSum   = 32 // bytes of the hash at an index file's end

	sealedHead = 32                        // bytes of a sealed record before what is sealed
	sealedItem = 40                        // bytes before the data that are sealed with it
	sealedOver = chacha20poly1305.Overhead // bytes after it
	// A sealed record is so much longer than a plain one of the same data. A loc counts it as data.
	sealedMore = sealedHead + sealedItem + sealedOver - recordHead

	packVersion   = 1
	sealedVersion = 2 // of a pack with sealed records
	indexVersion  = 1

	// maxPack is the greatest length of a pack: offsets of records have 32 bits.
	maxPack = math.MaxUint32
)

var (
	packMagic   = []byte("MIMEOPK1")
	recordMagic = []byte("MCK1")
	sealedMagic = []byte("MCE1")
	indexMagic  = []byte("MIMEOIX1")

	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

func crc(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// uid is a random number that tells packs and stores apart.
type uid [16]byte

// form is how a store writes packs: plain where box is nil, else with records that box seals.
type form struct{ box cipher.AEAD }

func (f form) version() uint32 {
	if f.box != nil {
		return sealedVersion
	}
	return packVersion
}

func (f form) magic() []byte {
	if f.box != nil {
		return sealedMagic
	}
	return recordMagic
}

// more is by how many bytes the length of a record in a loc is greater than that of its data.
func (f form) more() uint32 {
	if f.box != nil {
		return sealedMore
	}
	return 0
}

func (f form) appendPackHead(b []byte, number uint32, pack, store uid, effort uint8) []byte {
	start := len(b)
	b = append(b, packMagic...)
	b = binary.LittleEndian.AppendUint32(b, f.version())
	b = binary.LittleEndian.AppendUint32(b, number)
	b = append(b, pack[:]...)
	b = append(b, store[:]...)
	b = append(b, effort)
	b = append(b, make([]byte, 11)...)
	return binary.LittleEndian.AppendUint32(b, crc(b[start:]))
}

// effortAt is where a pack's head says with which level all its records were tried.
const effortAt = 48

// parsePackHead reads the first packHead bytes of a pack. The uid is what stands there even where there is an error.
func (f form) parsePackHead(b []byte, number uint32) (uid, error) {
	if len(b) < packHead {
		return uid{}, fmt.Errorf("head of %d bytes, want %d", len(b), packHead)
	}
	id := uid(b[16:32])
	switch {
	case !bytes.Equal(b[:8], packMagic):
		return id, fmt.Errorf("magic %q is not that of a pack", b[:8])
	case crc(b[:60]) != binary.LittleEndian.Uint32(b[60:]):
		return id, errors.New("checksum of the head does not match")
	case binary.LittleEndian.Uint32(b[8:]) != f.version():
		return id, fmt.Errorf("version %d, want %d", binary.LittleEndian.Uint32(b[8:]), f.version())
	case binary.LittleEndian.Uint32(b[12:]) != number:
		return id, fmt.Errorf("number %d, the file's name says %d", binary.LittleEndian.Uint32(b[12:]), number)
	}
	return id, nil
}

// appendRecord appends the record of a chunk, whose raw length and codec are those of a chunk.
func (f form) appendRecord(b []byte, c chunk.Encoded) ([]byte, error) {
	start := len(b)
	if f.box == nil {
		b = append(b, recordMagic...)
		b = append(b, c.ID[:]...)
		b = binary.LittleEndian.AppendUint32(b, c.RawLen)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(c.Data)))
		b = append(b, byte(c.Codec), 0, 0, 0)
		b = binary.LittleEndian.AppendUint32(b, crc(c.Data))
		b = binary.LittleEndian.AppendUint32(b, crc(b[start:]))
		return append(b, c.Data...), nil
	}
	b = slices.Grow(b, sealedHead+sealedItem+len(c.Data)+sealedOver)
	b = append(b, sealedMagic...)
	b = binary.LittleEndian.AppendUint32(b, uint32(sealedItem+len(c.Data)+sealedOver))
	b = b[:start+sealedHead]
	if _, err := rand.Read(b[start+8:]); err != nil {
		return b[:start], err
	}
	b = append(b, c.ID[:]...)
	b = binary.LittleEndian.AppendUint32(b, c.RawLen)
	b = append(b, byte(c.Codec), 0, 0, 0)
	b = append(b, c.Data...)
	head, text := b[start:start+sealedHead], b[start+sealedHead:]
	return b[:start+sealedHead+len(f.box.Seal(text[:0], head[8:], text, head[:8]))], nil
}

// recordLen returns the length of a record, in bytes, of which the first recordHead are given. Of a sealed one it is not
// proved.
func (f form) recordLen(head []byte) (int64, error) {
	if f.box == nil {
		r, err := parseRecord(head)
		return recordHead + int64(r.stored), err
	}
	if len(head) < recordHead {
		return 0, fmt.Errorf("record's head of %d bytes, want %d", len(head), recordHead)
	}
	if !bytes.Equal(head[:4], sealedMagic) {
		return 0, fmt.Errorf("magic %q is not that of a sealed record", head[:4])
	}
	n := binary.LittleEndian.Uint32(head[4:])
	if n <= sealedItem+sealedOver || n > sealedItem+sealedOver+chunk.MaxLen {
		return 0, fmt.Errorf("sealed record of %d bytes", n)
	}
	return sealedHead + int64(n), nil
}

// parse reads a whole record and checks it but for the data's hash. The chunk's data lie in b, or of a sealed record in
// to, whose room is used: at least len(b).
func (f form) parse(b, to []byte) (chunk.Encoded, error) {
	n, err := f.recordLen(b[:min(len(b), recordHead)])
	switch {
	case err != nil:
		return chunk.Encoded{}, err
	case n != int64(len(b)):
		return chunk.Encoded{}, fmt.Errorf("record of %d bytes, want %d", n, len(b))
	case f.box == nil:
		r, _ := parseRecord(b)
		if crc(b[recordHead:]) != r.crc {
			return chunk.Encoded{}, fmt.Errorf("checksum of the %d bytes of data of chunk %s does not match", r.stored, r.id)
		}
		return chunk.Encoded{ID: r.id, RawLen: r.raw, Codec: r.codec, Data: b[recordHead:]}, nil
	}
	text, err := f.box.Open(to[:0], b[8:sealedHead], b[sealedHead:], b[:8])
	if err != nil {
		return chunk.Encoded{}, errors.New("the sealed record is damaged")
	}
	c := chunk.Encoded{ID: chunk.ID(text[:32]), RawLen: binary.LittleEndian.Uint32(text[32:]), Codec: chunk.Codec(text[36]), Data: text[sealedItem:]}
	return c, checkLengths(c.RawLen, uint32(len(c.Data)), c.Codec)
}

// record is the head of a plain record.
type record struct {
	id     chunk.ID
	raw    uint32
	stored uint32
	codec  chunk.Codec
	crc    uint32 // of the data
}

// parseRecord reads the first recordHead bytes of a plain record, and checks its bounds.
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
func encodeIndex(number uint32, pack uid, length int64, effort uint8, items []indexed) []byte {
	b := make([]byte, 0, indexHead+len(items)*indexItem+indexSum)
	b = append(b, indexMagic...)
	b = binary.LittleEndian.AppendUint32(b, indexVersion)
	b = binary.LittleEndian.AppendUint32(b, number)
	b = append(b, pack[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(length))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(items)))
	b = append(b, effort)
	b = append(b, make([]byte, 11)...)
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

// indexEffort returns the effort that an index file has, which parseIndex has read.
func indexEffort(b []byte) uint8 { return b[44] }

// parseIndex reads the index file of the pack with that number and length.
func (f form) parseIndex(b []byte, number uint32, length int64) (uid, []indexed, error) {
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
		if it.stored <= f.more() {
			return uid{}, nil, fmt.Errorf("item %d: stored length %d", i, it.stored)
		}
		if err := checkLengths(it.raw, it.stored-f.more(), it.codec); err != nil {
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
