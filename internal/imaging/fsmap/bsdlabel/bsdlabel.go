// Package bsdlabel tells which partitions a BSD disklabel has, on a whole disk or in a partition of one.
//
// It follows sys/disklabel.h of FreeBSD, NetBSD and OpenBSD (version 1, with 48-bit numbers): in sector 1 as PCs have it, with a sum
// of exclusive ors over all of it that is zero, or 64 bytes into sector 0 as on Alpha machines and by GNU parted, where nobody looks
// at the sum; little-endian. Partitions count from the start of what the label lies in or, with most systems, from that of the disk;
// then the raw partition "c", or OpenBSD's bounds, say where the label's own start is. Nothing is left out but what the filesystems
// inside do not use.
package bsdlabel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
)

var le = binary.LittleEndian

// offsets are where a label may lie, in bytes.
var offsets = []int64{512, 64}

const (
	sectorLen = 512
	magic     = 0x82564557
	entries   = 148 // where they begin in the label
	entryLen  = 16
	maxParts  = 22 // as many as fit into the sector
	raw       = 2  // "c", the raw partition
	bootLen   = 8 << 10
)

// Is tells whether a volume that starts with head has a label.
func Is(head []byte) bool { return len(head) >= 2*sectorLen && find(head) != nil }

// find returns the label in a volume's first two sectors, up to the end of its own; nil where there is none.
func find(head []byte) []byte {
	for _, off := range offsets {
		l := head[off : off/sectorLen*sectorLen+sectorLen]
		if le.Uint32(l) == magic && le.Uint32(l[132:]) == magic {
			return l
		}
	}
	return nil
}

// part is an entry of the label, in bytes from where the label counts.
type part struct {
	index  int
	off, n int64
	kind   byte
}

// Open reads the label of a volume of size bytes. why says why it cannot be trusted, or is empty; an error means that the volume could
// not be read.
func Open(r io.ReaderAt, size int64) (c fact.Container, why string, err error) {
	b := make([]byte, 2*sectorLen)
	if size < int64(len(b)) {
		return c, "it is too small for a label", nil
	}
	if n, err := r.ReadAt(b, 0); n < len(b) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return c, "", fmt.Errorf("the first %d bytes: %w", len(b), err)
	}
	if b = find(b); b == nil {
		return c, "there is no label", nil
	}
	parts, bases, why := parse(b)
	if why != "" {
		return c, why, nil
	}
	for _, base := range bases {
		if why = place(&c, parts, base, size); why == "" {
			break
		}
		c = fact.Container{}
	}
	return c, why, nil
}

// parse reads the label; bases are where its numbers may count from, in bytes before the volume's start, the likeliest first.
func parse(b []byte) (parts []part, bases []int64, why string) {
	count := int(le.Uint16(b[138:]))
	sector := int64(le.Uint32(b[40:]))
	switch {
	case count < 1 || count > maxParts || entries+count*entryLen > len(b):
		return nil, nil, fmt.Sprintf("the label has %d partitions", count)
	case sector < 512 || sector > 4096 || sector&(sector-1) != 0:
		return nil, nil, fmt.Sprintf("the label counts in sectors of %d bytes", sector)
	}
	var sum uint16
	for i := 0; i < entries+count*entryLen; i += 2 {
		sum ^= le.Uint16(b[i:])
	}
	if sum != 0 && len(b) == sectorLen { // in sector 1
		return nil, nil, "the label's checksum is wrong"
	}
	open := le.Uint16(b[114:]) == 1 // OpenBSD's version 1; the others have a zero there
	for i := range count {
		e := b[entries+i*entryLen:][:entryLen]
		n, off := int64(le.Uint32(e)), int64(le.Uint32(e[4:]))
		if open {
			off |= int64(le.Uint16(e[8:])) << 32
			n |= int64(le.Uint16(e[10:])) << 32
		}
		p := part{index: i, off: off * sector, n: n * sector, kind: e[12]}
		if i == raw {
			bases = append(bases, p.off)
			continue
		}
		if n > 0 && p.kind != 0 { // a partition of type 0 is not in use
			parts = append(parts, p)
		}
	}
	if open {
		bases = append([]int64{(int64(le.Uint32(b[80:])) | int64(le.Uint16(b[76:]))<<32) * sector}, bases...)
	}
	return parts, append(bases, 0), ""
}

// place puts the partitions where they lie in a volume of size bytes; why says what is wrong.
func place(c *fact.Container, parts []part, base, size int64) (why string) {
	var taken extent.List
	outside := 0
	for _, p := range parts {
		e := extent.Extent{Off: p.off - base, Len: p.n}
		if e.Off < 0 || e.Off >= size {
			outside++ // OpenBSD and NetBSD list foreign partitions of the disk, too
			continue
		}
		if e.Len > size-e.Off {
			return fmt.Sprintf("partition %c (%d bytes at %d) reaches past the end of the volume of %d bytes", 'a'+p.index, e.Len, e.Off, size)
		}
		if e.Off == 0 && e.Len == size && len(parts) > 1 {
			continue // NetBSD's raw partition "d"
		}
		if len(taken.Clip(e)) > 0 {
			return fmt.Sprintf("partition %c lies on another", 'a'+p.index)
		}
		taken = extent.Union(taken, extent.List{e})
		c.Parts = append(c.Parts, fact.Part{Name: string(rune('a' + p.index)), Size: e.Len, Spans: []fact.Span{{Off: e.Off, Len: e.Len}}})
	}
	if len(c.Parts) == 0 {
		return "the label has no partition that lies here"
	}
	if outside > 0 {
		c.Notes = append(c.Notes, fmt.Sprintf("%d partitions of the disklabel lie elsewhere on the disk", outside))
	}
	// Space between partitions may be one that was not understood.
	c.Meta = extent.Union(extent.List{{Len: min(bootLen, size)}}, taken.Complement(size))
	return ""
}
