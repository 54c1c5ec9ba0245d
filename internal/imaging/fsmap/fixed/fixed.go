// Package fixed tells how long filesystems are that are made once and never written to: squashfs, erofs and ISO 9660.
//
// Such a filesystem lies in one piece at the start of its volume. It has no map: all of it is in use, and what lies
// behind it is not. So its length is held against all that says the same, and the volume is taken as a whole where
// anything else may be on it.
package fixed

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
)

var le, be = binary.LittleEndian, binary.BigEndian

// kind is a kind of filesystem.
type kind struct {
	name  string
	off   int // of the magic number
	magic string
	read  func(v *volume) error // sets the length; a damage where it cannot be believed
}

var kinds = []kind{
	{"squashfs", 0, "hsqs", (*volume).readSquashfs},
	{"erofs", erofsOff, "\xe2\xe1\xf5\xe0", (*volume).readErofs},
	{"iso9660", isoOff, "\x01CD001\x01", (*volume).readISO},
}

// HeadLen is as much of a volume as Is needs.
const HeadLen = isoOff + isoSector

// find returns the kind of filesystem that a volume starts with; nil without.
func find(head []byte) *kind {
	for i, k := range kinds {
		if end := k.off + len(k.magic); end <= len(head) && string(head[k.off:end]) == k.magic {
			return &kinds[i]
		}
	}
	return nil
}

// Is tells whether a volume that starts with head may have such a filesystem.
func Is(head []byte) bool { return find(head) != nil }

// damage is a reason why the length cannot be trusted. It is no error of the disk.
type damage string

func (d damage) Error() string { return string(d) }

func damaged(format string, args ...any) error { return damage(fmt.Sprintf(format, args...)) }

// volume is one reading of a volume.
type volume struct {
	r     io.ReaderAt
	size  int64
	facts fact.Facts
}

// Used returns what the filesystem at the start of a volume of size bytes is, and its length as the extent in use.
// Facts.Whole says why that does not count where it cannot be trusted. An error means that the volume could not be read.
func Used(r io.ReaderAt, size int64) (fact.Facts, extent.List, error) {
	v := &volume{r: r, size: size}
	head := make([]byte, min(size, HeadLen))
	err := v.read(head, 0)
	if err == nil {
		k := find(head)
		if k == nil {
			return v.facts, nil, errors.New("no such filesystem")
		}
		v.facts.Type = k.name
		err = k.read(v)
	}
	var d damage
	if errors.As(err, &d) {
		v.facts.Whole = string(d)
		return v.facts, nil, nil
	}
	if err != nil {
		return v.facts, nil, err
	}
	return v.facts, extent.List{{Off: 0, Len: v.facts.Len}}, nil
}

// setLen takes the length of the filesystem, in bytes.
func (v *volume) setLen(n uint64) error {
	if n == 0 || n > uint64(v.size) {
		return damaged("the filesystem has %d bytes, the volume %d", n, v.size)
	}
	v.facts.Len = int64(n)
	return nil
}

// read fills b with what lies at off.
func (v *volume) read(b []byte, off int64) error {
	n, err := v.r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%d bytes at offset %d: %w", len(b), off, err)
}

func uuid(b []byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}
