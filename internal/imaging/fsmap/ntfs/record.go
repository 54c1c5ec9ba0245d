package ntfs

import (
	"bytes"
	"fmt"
)

// Files with fixed places in the MFT.
const (
	recMFT = iota
	recMirror
	recLog
	recVolume
	recAttrDef
	recRoot
	recBitmap
	recBoot
	recBadClus

	recReserved = 12 // from here to recFirst records are set aside, some without content
	recFirst    = 24
)

// Types of attributes.
const (
	attrList       = 0x20
	attrFileName   = 0x30
	attrVolumeName = 0x60
	attrVolumeInfo = 0x70
	attrData       = 0x80
	attrBitmap     = 0xb0
	attrEnd        = 0xffffffff
)

const (
	recordInUse = 1
	refMask     = 1<<48 - 1 // of a reference the number of the record; above it a sequence number
	fixupStride = 512       // bytes, whatever the sectors have
)

// fixup puts back the last two bytes of each 512, which are kept in an array of the record while it is on the disk, so
// that a record that was written in part can be told.
func fixup(b []byte) error {
	off, count := int(le.Uint16(b[4:])), int(le.Uint16(b[6:]))
	if count != len(b)/fixupStride+1 || off&1 != 0 || off < 8 || off+2*count > fixupStride-2 {
		return damaged("its update sequence has %d entries at %d", count, off)
	}
	array := b[off : off+2*count]
	for i := 1; i < count; i++ {
		end := b[i*fixupStride-2 : i*fixupStride]
		if end[0] != array[0] || end[1] != array[1] {
			return damaged("its update sequence does not fit, it was written in part")
		}
	}
	for i := 1; i < count; i++ {
		copy(b[i*fixupStride-2:], array[2*i:2*i+2])
	}
	return nil
}

// record is one of the MFT, with its fixups done.
type record struct {
	b     []byte // up to its used length
	base  uint64 // the record that this one is an extension of; 0 for none
	inUse bool
	seq   uint16
}

// parse makes a record of its bytes on the disk, in place.
func parse(b []byte, n int64) (record, error) {
	if string(b[:4]) != "FILE" {
		return record{}, damaged("it starts with %q", b[:4])
	}
	if err := fixup(b); err != nil {
		return record{}, err
	}
	attrs, used, alloc := int(le.Uint16(b[0x14:])), le.Uint32(b[0x18:]), le.Uint32(b[0x1c:])
	if used > uint32(len(b)) || attrs < 0x2a || attrs&7 != 0 || attrs+8 > int(used) || alloc != uint32(len(b)) {
		return record{}, damaged("it has %d bytes, %d in use, attributes at %d", alloc, used, attrs)
	}
	// NTFS 3.1 knows the number; some programs leave it 0.
	if own := le.Uint32(b[0x2c:]); le.Uint16(b[4:]) >= 0x30 && own != uint32(n) && own != 0 {
		return record{}, damaged("by its own word it is record %d", own)
	}
	return record{
		b: b[:used], base: le.Uint64(b[0x20:]) & refMask,
		inUse: le.Uint16(b[0x16:])&recordInUse != 0, seq: le.Uint16(b[0x10:]),
	}, nil
}

// attr is an attribute of a record: the whole, or a part where it takes several records.
type attr struct {
	typ      uint32
	name     []byte // UTF-16
	flags    uint16
	resident bool
	value    []byte // of a resident one

	low, high         cluster // VCNs
	alloc, size, init int64   // bytes; of the first part only
	unit              uint8   // clusters that are compressed together are 2 to this; of the first part only
	pairs             []byte
}

// each calls f with each attribute of a record. a is only good during the call.
func (rec record) each(f func(a *attr) error) error {
	var a attr
	b := rec.b
	for off := int(le.Uint16(b[0x14:])); ; {
		if off+4 > len(b) {
			return damaged("its attributes have no end")
		}
		typ := le.Uint32(b[off:])
		if typ == attrEnd {
			return nil
		}
		if off+0x18 > len(b) {
			return damaged("attribute at %d: it is too long", off)
		}
		n := le.Uint32(b[off+4:])
		if n < 0x18 || n&7 != 0 || n > uint32(len(b)-off) {
			return damaged("attribute at %d: it has %d bytes", off, n)
		}
		if err := a.parse(b[off : off+int(n)]); err != nil {
			return fmt.Errorf("attribute %#x: %w", typ, err)
		}
		if err := f(&a); err != nil {
			return fmt.Errorf("attribute %#x: %w", typ, err)
		}
		off += int(n)
	}
}

func (a *attr) parse(b []byte) error {
	*a = attr{typ: le.Uint32(b), flags: le.Uint16(b[0x0c:]), resident: b[8] == 0}
	if b[8] > 1 || a.typ == 0 || a.typ&15 != 0 {
		return damaged("its header makes no sense")
	}
	if n, off := 2*int(b[9]), int(le.Uint16(b[0x0a:])); n > 0 {
		if off+n > len(b) {
			return damaged("its name is outside of it")
		}
		a.name = b[off : off+n]
	}
	if a.resident {
		n, off := le.Uint32(b[0x10:]), le.Uint16(b[0x14:])
		if off < 0x18 || uint64(off)+uint64(n) > uint64(len(b)) {
			return damaged("its value is outside of it")
		}
		a.value = b[off : uint32(off)+n]
		return nil
	}
	if len(b) < 0x40 {
		return damaged("it has %d bytes", len(b))
	}
	low, high, pairs := le.Uint64(b[0x10:]), le.Uint64(b[0x18:]), le.Uint16(b[0x20:])
	if low > uint64(maxVCN) || high+1 < low || high+1 > uint64(maxVCN) || pairs < 0x40 || int(pairs) > len(b) {
		return damaged("it goes from cluster %d to %d of it, with its data runs at %d", low, int64(high), pairs)
	}
	a.low, a.high, a.pairs = cluster(low), cluster(high), b[pairs:]
	a.unit = b[0x22]
	a.alloc, a.size, a.init = int64(le.Uint64(b[0x28:])), int64(le.Uint64(b[0x30:])), int64(le.Uint64(b[0x38:]))
	return nil
}

// runs decodes the data runs, which must have as many clusters as the attribute says.
func (v *volume) runs(a *attr, f func(run) error) error {
	end, err := v.eachRun(a.pairs, a.low, f)
	if err == nil && end != a.high+1 {
		err = damaged("its data runs end at cluster %d of it, it ends at %d", end, a.high+1)
	}
	return err
}

// readRecord returns a record that must be in use and whole.
func (v *volume) readRecord(n uint64) (record, error) {
	if n >= uint64(v.mft.init/v.recordSize) {
		return record{}, damaged("MFT record %d is asked for, there are %d", n, v.mft.init/v.recordSize)
	}
	b := make([]byte, v.recordSize)
	if err := v.mft.read(b, int64(n)*v.recordSize); err != nil {
		return record{}, fmt.Errorf("read MFT record %d: %w", n, err)
	}
	rec, err := parse(b, int64(n))
	if err == nil && !rec.inUse {
		err = damaged("it is not in use")
	}
	return rec, about(err, n)
}

// about says which record is damaged.
func about(err error, n uint64) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("MFT record %d: %w", n, err)
}

// named tells whether a record is the one of a file of the system, which all lie in the root. Where the name was moved
// to another record, that there is a list of these must do.
func (rec record) named(name string) bool {
	names, found, list := 0, false, false
	err := rec.each(func(a *attr) error {
		switch a.typ {
		case attrFileName:
			names++
			found = found || a.isFile(name)
		case attrList:
			list = true
		}
		return nil
	})
	return err == nil && (found || list && names == 0)
}

// isFile tells whether it is the name of a file in the root. name is in lower case; case is ignored.
func (a *attr) isFile(name string) bool {
	if a.typ != attrFileName || !a.resident || len(a.value) != 0x42+2*len(name) || int(a.value[0x40]) != len(name) {
		return false
	}
	return le.Uint64(a.value)&refMask == recRoot && bytes.EqualFold(narrow(a.value[0x42:]), []byte(name))
}

// narrow drops the upper halves of UTF-16; where they are not zero, so is not the result.
func narrow(b []byte) []byte {
	out := make([]byte, len(b)/2)
	for i := range out {
		if out[i] = b[2*i]; b[2*i+1] != 0 {
			out[i] = 0
		}
	}
	return out
}
