// Package lvm tells which logical volumes lie on a physical volume of LVM2, and where.
//
// It follows LVM2's label and metadata formats (lib/format_text/layout.h, lib/label/label.h): the label in one of the
// first four sectors leads to metadata areas, whose header leads to a text in a ring. Checksums, bounds and UUIDs must
// agree, and so must the copies of the text. A logical volume can be looked into where it is made of linear or striped segments
// that all lie on this disk, on one of its physical volumes or several, is a mirror with a leg here that was in sync, or a RAID 4, 5, 6
// or 10 of which all images lie here and were in sync. Of all others the physical extents are known, and must be captured whole.
package lvm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
)

var le = binary.LittleEndian

const (
	sector   = 512
	labelLen = 4 * sector // where the label is looked for
	crcInit  = 0xf597a6cf
	maxAreas = 16
	maxText  = 16 << 20 // bytes of the metadata of a volume group
)

// damage is a reason why the metadata cannot be trusted. It is no error of the disk.
type damage string

func (d damage) Error() string { return string(d) }

func damaged(format string, args ...any) error { return damage(fmt.Sprintf(format, args...)) }

// Is tells whether a volume that starts with head is a physical volume.
func Is(head []byte) bool {
	for off := 0; off+32 <= min(len(head), labelLen); off += sector {
		if string(head[off:off+8]) == "LABELONE" && string(head[off+24:off+32]) == "LVM2 001" {
			return true
		}
	}
	return false
}

// Open reads the metadata of a physical volume, which is the i-th of the volumes of a disk. Others of its group may lie on the same
// disk. The container has all parts of which this volume has some, and everything in it is in bytes of the disk. why says why the
// metadata cannot be trusted, or is empty; an error means that the disk could not be read.
func Open(disk io.ReaderAt, volumes []extent.Extent, i int) (c fact.Container, why string, err error) {
	p := newPV(disk, volumes[i])
	c, err = p.open(disk, volumes)
	var d damage
	if errors.As(err, &d) {
		return fact.Container{UUID: c.UUID}, err.Error(), nil
	}
	return c, "", err
}

// pv is one reading of a physical volume.
type pv struct {
	r    io.ReaderAt // the volume
	at   extent.Extent
	size int64 // bytes
	uuid string
	meta extent.List // bytes of the disk
}

func newPV(disk io.ReaderAt, at extent.Extent) *pv {
	return &pv{r: io.NewSectionReader(disk, at.Off, at.Len), at: at, size: at.Len}
}

func (p *pv) read(off int64, n int) ([]byte, error) {
	if off < 0 || n < 0 || int64(n) > p.size-off {
		return nil, damaged("%d bytes at %d lie outside of the volume", n, off)
	}
	b := make([]byte, n)
	if got, err := p.r.ReadAt(b, off); got < n {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("%d bytes at offset %d: %w", n, off, err)
	}
	return b, nil
}

// sum is LVM2's checksum: CRC-32 from an initial value of its own, not inverted.
func sum(b []byte) uint32 { return ^crc32.Update(^uint32(crcInit), crc32.IEEETable, b) }

func (p *pv) open(disk io.ReaderAt, volumes []extent.Extent) (fact.Container, error) {
	text, err := p.own()
	c := fact.Container{UUID: p.uuid}
	if err != nil {
		return c, err
	}
	members, text, err := p.others(disk, volumes, text)
	switch {
	case err != nil:
		return c, err
	case text == nil && len(p.meta) == 0:
		return c, damaged("it has no metadata of its volume group; another disk of the group has")
	case text == nil:
		// A physical volume without a group: there is nothing on it.
		return c, damaged("its metadata areas are empty")
	}
	return p.group(disk, text, members)
}

// own reads the text of this volume: nil where it has none.
func (p *pv) own() (text []byte, err error) {
	areas, err := p.label()
	if err != nil {
		return nil, err
	}
	for i, a := range areas {
		b, err := p.text(a)
		if err != nil {
			return nil, fmt.Errorf("metadata area %d: %w", i+1, err)
		}
		if b == nil {
			continue
		}
		if text != nil && string(text) != string(b) {
			return nil, damaged("its metadata areas differ")
		}
		text = b
	}
	return text, nil
}

// others finds the physical volumes of the same group on the disk, this one among them. Where this one has no text theirs is
// returned. One that cannot be read is not known to belong to the group.
func (p *pv) others(disk io.ReaderAt, volumes []extent.Extent, text []byte) ([]*pv, []byte, error) {
	type found struct {
		*pv
		text []byte
	}
	var all []found
	for _, v := range volumes {
		if v == p.at {
			continue
		}
		o := newPV(disk, v)
		head, err := o.read(0, int(min(labelLen, v.Len)))
		if err != nil && !errors.As(err, new(damage)) {
			return nil, nil, err
		}
		if err != nil || !Is(head) {
			continue
		}
		own, err := o.own()
		if errors.As(err, new(damage)) {
			continue
		} else if err != nil {
			return nil, nil, err
		}
		all = append(all, found{o, own})
	}
	if text == nil && p.uuid != "" {
		for _, o := range all {
			if g, err := nameGroup(o.text); err == nil && g.has(p.uuid) {
				text = o.text
				break
			}
		}
	}
	members := []*pv{p}
	if text == nil {
		return members, nil, nil
	}
	g, err := nameGroup(text)
	if err != nil {
		return nil, nil, err
	}
	for _, o := range all {
		if o.text != nil {
			if other, err := nameGroup(o.text); err != nil || other.id != g.id {
				continue
			}
			if string(o.text) != string(text) {
				return nil, nil, damaged("it and the volume at %d of the same disk say different things of volume group %s", o.at.Off, g.name)
			}
		}
		if g.has(o.uuid) {
			members = append(members, o.pv)
		}
	}
	return members, text, nil
}

// area is a range of bytes.
type area struct{ off, n int64 }

// label reads the label and the header behind it, and returns the metadata areas.
func (p *pv) label() ([]area, error) {
	head, err := p.read(0, int(min(labelLen, p.size)))
	if err != nil {
		return nil, err
	}
	found := -1
	for off := 0; off+sector <= len(head); off += sector {
		if !Is(head[off : off+sector]) {
			continue
		}
		if found >= 0 {
			return nil, damaged("there are two labels")
		}
		found = off
	}
	if found < 0 {
		return nil, damaged("there is no label")
	}
	b := head[found : found+sector]
	if n := le.Uint64(b[8:]); n != uint64(found/sector) {
		return nil, damaged("the label says that it lies in sector %d, it lies in %d", n, found/sector)
	}
	if sum(b[20:]) != le.Uint32(b[16:]) {
		return nil, damaged("the checksum of the label is wrong")
	}
	at := int(le.Uint32(b[20:]))
	if at < 32 || at+40 > sector {
		return nil, damaged("the label's header lies at %d", at)
	}
	h := b[at:]
	p.uuid = uuid(string(h[:32]))
	device := le.Uint64(h[32:])
	if device > uint64(p.size) {
		return nil, damaged("it was made on a device of %d bytes, this one has %d", device, p.size)
	}
	// Two lists of places end with zeros: data areas, then metadata areas.
	h = h[40:]
	var lists [2][]area
	for i := range lists {
		for {
			if len(h) < 16 || len(lists[i]) == maxAreas {
				return nil, damaged("the label's lists have no end")
			}
			off, n := le.Uint64(h), le.Uint64(h[8:])
			h = h[16:]
			if off == 0 {
				break
			}
			if off > uint64(p.size) || n > uint64(p.size)-off {
				return nil, damaged("the label names %d bytes at %d, the volume has %d", n, off, p.size)
			}
			lists[i] = append(lists[i], area{int64(off), int64(n)})
		}
	}
	if len(lists[0]) != 1 {
		return nil, damaged("it has %d data areas", len(lists[0]))
	}
	return lists[1], nil
}

// text reads the metadata of an area; nil where the area is empty or set to be ignored.
func (p *pv) text(a area) ([]byte, error) {
	b, err := p.read(a.off, sector)
	if err != nil {
		return nil, err
	}
	switch {
	case sum(b[4:]) != le.Uint32(b):
		return nil, damaged("the checksum of its header is wrong")
	case string(b[4:20]) != " LVM2 x[5A%r0N*>":
		return nil, damaged("its header is none")
	case le.Uint32(b[20:]) != 1:
		return nil, damaged("version %d is not known", le.Uint32(b[20:]))
	case le.Uint64(b[24:]) != uint64(a.off) || le.Uint64(b[32:]) != uint64(a.n) && a.n != 0:
		return nil, damaged("its header says that it has %d bytes at %d", le.Uint64(b[32:]), le.Uint64(b[24:]))
	}
	n := int64(le.Uint64(b[32:]))
	if n < 2*sector || n > p.size-a.off {
		return nil, damaged("it has %d bytes", n)
	}
	p.meta.Add(extent.Extent{Off: p.at.Off + a.off, Len: n})
	off, size, want, flags := le.Uint64(b[40:]), le.Uint64(b[48:]), le.Uint32(b[56:]), le.Uint32(b[60:])
	if off == 0 || flags&1 != 0 {
		return nil, nil
	}
	ring := uint64(n - sector)
	if off < sector || off >= uint64(n) || size == 0 || size > ring || size > maxText {
		return nil, damaged("its text has %d bytes at %d", size, off)
	}
	// The text may go on at the start of the ring.
	first := min(size, uint64(n)-off)
	out, err := p.read(a.off+int64(off), int(first))
	if err != nil {
		return nil, err
	}
	if rest := size - first; rest > 0 {
		more, err := p.read(a.off+sector, int(rest))
		if err != nil {
			return nil, err
		}
		out = append(out, more...)
	}
	if sum(out) != want {
		return nil, damaged("the checksum of its text is wrong")
	}
	return out, nil
}

// uuid puts the hyphens in, as LVM2 and blkid show it.
func uuid(s string) string {
	if len(s) != 32 || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return ""
	}
	out := ""
	for i, n := range []int{6, 4, 4, 4, 4, 4, 6} {
		if i > 0 {
			out += "-"
		}
		out, s = out+s[:n], s[n:]
	}
	return out
}
