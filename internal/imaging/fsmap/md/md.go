// Package md tells where the array lies on a disk of a Linux software RAID (MD), and whether it can be read there.
//
// It follows the superblocks of the kernel's include/uapi/linux/raid/md_p.h: version 0.90 in the last whole 64 KiB before the last
// 64 KiB boundary, 1.0 near the end, 1.1 at the start, 1.2 at 4 KiB. Their checksums, places and bounds must agree. A member of a
// RAID1 that was in sync holds the whole array; of all others nothing can be told from one disk.
package md

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
)

const (
	magic  = 0xa92b4efc
	sector = 512
	// window is what is kept of a very long rest behind the array, at each of its ends. All that MD keeps there lies near the end.
	window = 64 << 20
)

// damage is a reason why a superblock cannot be trusted. It is no error of the disk.
type damage string

func (d damage) Error() string { return string(d) }

func damaged(format string, args ...any) error { return damage(fmt.Sprintf(format, args...)) }

// super is what a superblock says, of whatever version.
type super struct {
	version  string
	at       int64 // of the superblock, bytes from the start of the volume
	len      int64 // bytes
	uuid     string
	name     string
	level    int32
	disks    uint32
	data     int64       // where the array begins, bytes
	size     int64       // what it takes of this disk, bytes
	beside   extent.List // what else MD keeps on the disk: bitmap, list of bad blocks
	unsynced string      // why this disk may differ from the others, or ""
}

// Is tells whether a volume of size bytes has the mark of a RAID member. Errors of the disk count as no.
func Is(r io.ReaderAt, size int64) bool {
	for _, p := range places(size) {
		var b [4]byte
		if n, _ := r.ReadAt(b[:], p.at); n == len(b) && p.marked(b[:]) {
			return true
		}
	}
	return false
}

// place is where a superblock may lie.
type place struct {
	version string
	at      int64
}

func (p place) marked(b []byte) bool {
	return binary.LittleEndian.Uint32(b) == magic || p.version == "0.90" && binary.BigEndian.Uint32(b) == magic
}

// places lists where superblocks may lie, in the order in which blkid looks.
func places(size int64) []place {
	var out []place
	if at := size&^(64<<10-1) - 64<<10; at >= 0 {
		out = append(out, place{"0.90", at})
	}
	if at := (size/sector - 16) &^ 7 * sector; at >= 0 {
		out = append(out, place{"1.0", at})
	}
	for _, p := range []place{{"1.1", 0}, {"1.2", 4096}} {
		if p.at+4096 <= size {
			out = append(out, p)
		}
	}
	return out
}

// Open reads the superblock of a member of size bytes. The container has one part, the array. why says why the superblock cannot be
// trusted, or is empty; an error means that the volume could not be read.
func Open(r io.ReaderAt, size int64) (c fact.Container, why string, err error) {
	var found []super
	for _, p := range places(size) {
		b := make([]byte, 4096)
		if n, err := r.ReadAt(b, p.at); n < len(b) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return c, "", fmt.Errorf("4096 bytes at offset %d: %w", p.at, err)
		}
		if !p.marked(b) {
			continue
		}
		s, err := p.parse(b, size)
		if c.UUID == "" {
			c.UUID = s.uuid
		}
		if err != nil {
			return fact.Container{UUID: c.UUID}, "its superblock of version " + p.version + ": " + err.Error(), nil
		}
		found = append(found, s)
	}
	if len(found) != 1 {
		return c, fmt.Sprintf("it has %d superblocks", len(found)), nil
	}
	c, err = found[0].container(size)
	if err != nil {
		return fact.Container{UUID: c.UUID}, err.Error(), nil
	}
	return c, "", nil
}

// Behind returns where the superblock lies of a member of size bytes that begins with the array itself, as those of versions 0.90 and
// 1.0 do. ok is false where there is none that can be believed.
func Behind(r io.ReaderAt, size int64) (at extent.Extent, ok bool, err error) {
	for _, p := range places(size) {
		if p.version != "0.90" && p.version != "1.0" {
			continue
		}
		b := make([]byte, 4096)
		if n, err := r.ReadAt(b, p.at); n < len(b) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return at, false, fmt.Errorf("4096 bytes at offset %d: %w", p.at, err)
		}
		if !p.marked(b) {
			continue
		}
		if s, err := p.parse(b, size); err == nil && s.data == 0 && s.size <= s.at {
			return extent.Extent{Off: s.at, Len: s.len}, true, nil
		}
	}
	return at, false, nil
}

func (p place) parse(b []byte, size int64) (super, error) {
	s := super{version: p.version, at: p.at, len: 4096}
	var err error
	if p.version == "0.90" {
		err = s.parse0(b)
	} else {
		err = s.parse1(b)
	}
	if err != nil {
		return s, err
	}
	if s.data < 0 || s.size <= 0 || s.data > size || s.size > size-s.data {
		return s, damaged("the array's %d bytes at %d do not lie on this disk", s.size, s.data)
	}
	array := extent.Extent{Off: s.data, Len: s.size}
	for _, e := range append(extent.List{{Off: s.at, Len: s.len}}, s.beside...) {
		if e.Off < 0 || e.Len < 0 || e.Off > size || e.Len > size-e.Off || e.Off < array.End() && array.Off < e.End() {
			return s, damaged("%d bytes at %d lie outside of the disk or in the array", e.Len, e.Off)
		}
	}
	return s, nil
}

// container makes a container of the array, with what lies around it.
func (s *super) container(size int64) (fact.Container, error) {
	end := s.data + s.size
	meta := extent.List{{Off: 0, Len: s.data}}
	if s.data == 0 {
		meta = nil
	}
	if rest := size - end; rest > 2*window {
		meta = extent.Union(meta, extent.List{{Off: end, Len: window}, {Off: size - window, Len: window}})
	} else if rest > 0 {
		meta = extent.Union(meta, extent.List{{Off: end, Len: rest}})
	}
	own := extent.FromUnsorted(append([]extent.Extent{{Off: s.at, Len: s.len}}, s.beside...))
	part := fact.Part{Name: "md", UUID: s.uuid, Size: s.size, Spans: []fact.Span{{At: 0, Off: s.data, Len: s.size}}}
	if s.name != "" {
		part.Name = s.name
	}
	switch {
	case s.level != 1:
		part.Whole = "it is one of the disks of a " + levelName(s.level)
	case s.unsynced != "":
		part.Whole = s.unsynced
	}
	c := fact.Container{UUID: s.uuid, Label: s.name, Meta: extent.Union(meta, own), Parts: []fact.Part{part}}
	note := fmt.Sprintf("a disk of a %s of %d (MD %s)", levelName(s.level), s.disks, s.version)
	if s.disks > 1 {
		note += ": capture the others, too, or add new disks to the array"
	}
	c.Notes = []string{note}
	return c, nil
}

func levelName(level int32) string {
	switch level {
	case 0, 1, 4, 5, 6, 10:
		return fmt.Sprintf("RAID%d", level)
	case -1:
		return "linear array"
	case -4:
		return "multipath array"
	}
	return fmt.Sprintf("RAID of level %d", level)
}

// Version returns the version of the superblock that Open reads, as the kernel names it: "1.2"; "" without one.
func Version(r io.ReaderAt, size int64) string {
	for _, p := range places(size) {
		var b [4]byte
		if n, _ := r.ReadAt(b[:], p.at); n == len(b) && p.marked(b[:]) {
			return p.version
		}
	}
	return ""
}
