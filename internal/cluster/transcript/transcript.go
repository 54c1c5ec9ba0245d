// Package transcript reads and writes what a node's serial console showed, and when. docs/formats/console.md has the format.
package transcript

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"
)

// Version is that of the format.
const Version = 1

// MaxData bounds one record's bytes.
const MaxData = 64 << 10

const (
	magic     = "mimeo console\n"
	headerLen = len(magic) + 2
	frontLen  = 12 // of a record: kind, length, time
)

// Kind is what a record holds.
type Kind byte

// The kinds. Readers pass over others.
const (
	Output Kind = 'o' // bytes that the node sent
	Note   Kind = 'n' // what happened beside, as a text: the line was lost, somebody attached
)

// Record is one of them.
type Record struct {
	Kind Kind
	Time time.Time // kept in microseconds
	Data []byte
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// AppendHeader adds what a transcript begins with.
func AppendHeader(b []byte) []byte {
	return binary.BigEndian.AppendUint16(append(b, magic...), Version)
}

// Append adds the record; more than MaxData becomes several.
func (r Record) Append(b []byte) []byte {
	for {
		n := min(len(r.Data), MaxData)
		start := len(b)
		b = append(b, byte(r.Kind), byte(n>>16), byte(n>>8), byte(n))
		b = binary.BigEndian.AppendUint64(b, uint64(r.Time.UnixMicro()))
		b = append(b, r.Data[:n]...)
		b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
		if r.Data = r.Data[n:]; len(r.Data) == 0 {
			return b
		}
	}
}

// ErrBroken says that a transcript is damaged, or was cut off in the midst of a record. What came before is good.
var ErrBroken = errors.New("the transcript is broken here")

// Reader reads records. Transcripts may follow each other without anything between them.
type Reader struct {
	r     *bufio.Reader
	off   int64 // behind the last good record
	begun bool
}

// NewReader makes one.
func NewReader(r io.Reader) *Reader { return &Reader{r: bufio.NewReaderSize(r, 64<<10)} }

// Offset is how many bytes were read and found good.
func (t *Reader) Offset() int64 { return t.off }

// Next returns the next record of a known kind, io.EOF at the end, or an error that is ErrBroken.
func (t *Reader) Next() (Record, error) {
	for {
		front, err := t.r.Peek(frontLen)
		if len(front) == 0 && errors.Is(err, io.EOF) {
			if !t.begun {
				return Record{}, t.broken("it is empty")
			}
			return Record{}, io.EOF
		}
		if err != nil {
			return Record{}, t.cut(err)
		}
		if string(front) == magic[:frontLen] || !t.begun {
			if err := t.header(); err != nil {
				return Record{}, err
			}
			continue
		}
		n := int(front[1])<<16 | int(front[2])<<8 | int(front[3])
		if n > MaxData {
			return Record{}, t.broken(fmt.Sprintf("a record of %d bytes", n))
		}
		b := make([]byte, frontLen+n+4)
		if _, err := io.ReadFull(t.r, b); err != nil {
			return Record{}, t.cut(err)
		}
		if crc32.Checksum(b[:frontLen+n], castagnoli) != binary.BigEndian.Uint32(b[frontLen+n:]) {
			return Record{}, t.broken("a checksum does not match")
		}
		t.off += int64(len(b))
		if k := Kind(b[0]); k == Output || k == Note {
			return Record{Kind: k, Time: time.UnixMicro(int64(binary.BigEndian.Uint64(b[4:]))), Data: b[frontLen : frontLen+n]}, nil
		}
	}
}

func (t *Reader) header() error {
	var b [headerLen]byte
	if _, err := io.ReadFull(t.r, b[:]); err != nil {
		return t.cut(err)
	}
	if string(b[:len(magic)]) != magic {
		return t.broken("no transcript begins here")
	}
	if v := binary.BigEndian.Uint16(b[len(magic):]); v != Version {
		return t.broken(fmt.Sprintf("it has version %d, and this program knows %d", v, Version))
	}
	t.begun = true
	t.off += int64(headerLen)
	return nil
}

func (t *Reader) broken(why string) error {
	return fmt.Errorf("after %d bytes: %w: %s", t.off, ErrBroken, why)
}

func (t *Reader) cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return t.broken("it ends in the midst of a record")
	}
	return fmt.Errorf("read transcript: %w", err)
}
