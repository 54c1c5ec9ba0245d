package ntfs

import (
	"bytes"
	"os"
	"testing"
)

// editor changes a volume as no driver does.
type editor struct {
	t   testing.TB
	img string
	b   []byte
	v   *volume // as it was
}

func openEditor(t testing.TB, img string) *editor {
	t.Helper()
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	e := &editor{t: t, img: img, b: b, v: read(t, img)}
	return e
}

func (e *editor) save() {
	e.t.Helper()
	if err := os.WriteFile(e.img, e.b, 0o600); err != nil {
		e.t.Fatal(err)
	}
}

// at returns where a record lies.
func (e *editor) at(n uint64) int64 {
	off := int64(n) * e.v.recordSize
	r := e.v.mft.runs[0]
	if off+e.v.recordSize > int64(r.n)*e.v.clusterSize {
		e.t.Fatalf("MFT record %d is not in the first run", n)
	}
	return int64(r.lcn)*e.v.clusterSize + off
}

func (e *editor) seq(n uint64) uint16 { return le.Uint16(e.b[e.at(n)+0x10:]) }

// record lets f change a record, and its copy in the mirror.
func (e *editor) record(n uint64, f func(b []byte)) {
	e.t.Helper()
	on := e.b[e.at(n):][:e.v.recordSize]
	b := bytes.Clone(on)
	if err := fixup(b); err != nil {
		e.t.Fatal(err)
	}
	f(b)
	protect(b)
	copy(on, b)
	if n < 4 {
		copy(e.b[int64(e.v.mirrorAt)*e.v.clusterSize+int64(n)*e.v.recordSize:], b)
	}
}

// protect is the reverse of fixup.
func protect(b []byte) {
	array := b[le.Uint16(b[4:]):]
	for i := 1; i < int(le.Uint16(b[6:])); i++ {
		copy(array[2*i:2*i+2], b[i*fixupStride-2:])
		copy(b[i*fixupStride-2:i*fixupStride], array)
	}
}

// attrs lets f change the attributes of a record, which is put to use as an extension of base where that is not 0.
func (e *editor) attrs(n, base uint64, f func(as [][]byte) [][]byte) {
	e.t.Helper()
	e.record(n, func(b []byte) {
		first := int(le.Uint16(b[0x14:]))
		var as [][]byte
		for off := first; le.Uint32(b[off:]) != attrEnd; {
			n := int(le.Uint32(b[off+4:]))
			as = append(as, bytes.Clone(b[off:off+n]))
			off += n
		}
		if base != 0 {
			le.PutUint16(b[0x16:], le.Uint16(b[0x16:])|recordInUse)
			le.PutUint64(b[0x20:], base|uint64(e.seq(base))<<48)
			le.PutUint16(b[0x12:], 0)
		}
		off := first
		for _, a := range f(as) {
			off += copy(b[off:], a)
		}
		le.PutUint32(b[off:], attrEnd)
		le.PutUint32(b[off+4:], 0)
		le.PutUint32(b[0x18:], uint32(off+8))
		le.PutUint16(b[0x28:], 10) // instances given so far
	})
}

// setRecordBits marks records as used in the bitmap of the MFT.
func (e *editor) setRecordBits(ns ...uint64) {
	e.t.Helper()
	runs := e.v.records.s.runs
	for _, n := range ns {
		e.b[int64(runs[0].lcn)*e.v.clusterSize+int64(n/8)] |= 1 << (n % 8)
	}
}

// clusterBit marks a cluster as used or free.
func (e *editor) clusterBit(c cluster, used bool) {
	at := int64(e.v.marked.s.runs[0].lcn)*e.v.clusterSize + int64(c/8)
	e.b[at] &^= 1 << (c % 8)
	if used {
		e.b[at] |= 1 << (c % 8)
	}
}

func residentAttr(typ uint32, value []byte, instance uint16) []byte {
	a := make([]byte, 0x18+(len(value)+7)/8*8)
	le.PutUint32(a, typ)
	le.PutUint32(a[4:], uint32(len(a)))
	le.PutUint16(a[0x0a:], 0x18)
	le.PutUint16(a[0x0e:], instance)
	le.PutUint32(a[0x10:], uint32(len(value)))
	le.PutUint16(a[0x14:], 0x18)
	copy(a[0x18:], value)
	return a
}
