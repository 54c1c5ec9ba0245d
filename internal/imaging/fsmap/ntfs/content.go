package ntfs

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"

	"mimeo/internal/imaging/fsmap/fact"
	"mimeo/internal/imaging/fsmap/tree"
)

// Flags of attributes.
const (
	flagCompressed = 0x1
	flagEncrypted  = 0x4000
)

// content is what an attribute holds, of any kind.
type content struct {
	v          *volume
	resident   []byte
	runs       []run // by vcn; holes are left out
	end        cluster
	size, init int64
	flags      uint16
	unit       cluster // clusters that are compressed together
}

// errNone says that a file has no such attribute.
var errNone = errors.New("there is no such attribute")

// gather collects the parts of an attribute.
func (t *Tree) gather(n uint64, typ uint32, name string) (content, error) {
	c := content{v: t.v, size: -1}
	var parts []cluster // where each begins
	_, err := t.eachAttr(n, func(a *attr) error {
		if a.typ != typ || wide(a.name) != name {
			return nil
		}
		if a.resident {
			if c.size >= 0 || len(parts) > 0 {
				return damaged("there are two of attribute %#x", typ)
			}
			c.resident = bytes.Clone(a.value)
			c.size, c.init = int64(len(a.value)), int64(len(a.value))
			return nil
		}
		if c.resident != nil || slices.Contains(parts, a.low) {
			return damaged("there are two of attribute %#x", typ)
		}
		parts = append(parts, a.low)
		if a.low == 0 {
			if c.size, c.init, c.flags = a.size, a.init, a.flags; c.size < 0 || c.init < 0 || a.unit > 16 {
				return damaged("attribute %#x: %d bytes, %d written", typ, c.size, c.init)
			}
			c.unit = 1 << a.unit
		}
		c.end = max(c.end, a.high+1)
		return t.v.runs(a, func(r run) error {
			if r.lcn == hole {
				return nil
			}
			if len(c.runs) == maxRuns || r.n > t.v.clusters-r.lcn {
				return damaged("attribute %#x has too many data runs", typ)
			}
			c.runs = append(c.runs, r)
			return nil
		})
	})
	if err != nil {
		return c, err
	}
	if c.size < 0 {
		return c, errNone
	}
	slices.SortFunc(c.runs, func(a, b run) int { return cmp.Compare(a.vcn, b.vcn) })
	for i := 1; i < len(c.runs); i++ {
		if c.runs[i-1].vcn+c.runs[i-1].n > c.runs[i].vcn {
			return c, damaged("attribute %#x: its data runs lie on each other", typ)
		}
	}
	return c, nil
}

// reader returns the bytes. Behind what was written all is zero.
func (c content) reader() (io.ReaderAt, error) {
	switch {
	case c.resident != nil || c.size == 0:
		return bytes.NewReader(c.resident), nil
	case c.flags&flagEncrypted != 0:
		return nil, errors.New("the file is encrypted")
	case c.flags&flagCompressed != 0 && c.unit > 1:
		return &unpacker{c: c}, nil
	}
	p := &tree.Pieced{Volume: c.v.r, Size: c.size}
	for _, r := range c.runs {
		at := int64(r.vcn) * c.v.clusterSize
		if n := min(int64(r.n)*c.v.clusterSize, min(c.init, c.size)-at); n > 0 {
			p.Pieces = append(p.Pieces, fact.Piece{Off: int64(r.lcn) * c.v.clusterSize, Len: n, At: at})
		}
	}
	return p, nil
}

// unpacker reads a compressed attribute: each unit of clusters is a hole, or whole and as it is, or shorter and packed.
type unpacker struct{ c content }

// maxUnit bounds the bytes of a unit: 16 clusters of 4 KiB is what Windows makes.
const maxUnit = 1 << 20

func (u *unpacker) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at offset %d", off)
	}
	if off >= u.c.size {
		return 0, io.EOF
	}
	var end error
	if rest := u.c.size - off; int64(len(b)) > rest {
		b, end = b[:rest], io.EOF
	}
	unit := int64(u.c.unit) * u.c.v.clusterSize
	if unit > maxUnit {
		return 0, damaged("it is compressed in units of %d bytes", unit)
	}
	buf := make([]byte, unit)
	for done := 0; done < len(b); {
		n := off / unit
		if err := u.unit(buf, cluster(n)*u.c.unit); err != nil {
			return 0, err
		}
		if rest := u.c.init - n*unit; rest < unit {
			clear(buf[max(rest, 0):])
		}
		k := copy(b[done:], buf[off-n*unit:])
		done, off = done+k, off+int64(k)
	}
	return len(b), end
}

// unit reads the unit that begins at a cluster of the attribute.
func (u *unpacker) unit(buf []byte, vcn cluster) error {
	clear(buf)
	packed := make([]byte, 0, len(buf))
	i, _ := slices.BinarySearchFunc(u.c.runs, vcn, func(r run, vcn cluster) int {
		if r.vcn+r.n <= vcn {
			return -1
		}
		return 1
	})
	for ; i < len(u.c.runs) && u.c.runs[i].vcn < vcn+u.c.unit; i++ {
		r := u.c.runs[i]
		from, to := max(r.vcn, vcn), min(r.vcn+r.n, vcn+u.c.unit)
		n := int64(to-from) * u.c.v.clusterSize
		at := len(packed)
		packed = packed[:at+int(n)]
		if err := u.c.v.read(packed[at:], int64(r.lcn+from-r.vcn)*u.c.v.clusterSize); err != nil {
			return err
		}
	}
	switch len(packed) {
	case 0:
		return nil
	case len(buf):
		copy(buf, packed)
		return nil
	}
	return unpack(buf, packed)
}

// unpack decodes LZNT1 ([MS-XCA] 2.5): chunks of 4096 bytes, each behind a head of two bytes with its length and whether
// it is packed. In a packed one a byte of flags goes before eight items: a byte, or a place and length further back,
// with as many bits for the place as the chunk so far needs.
func unpack(dst, src []byte) error {
	const chunk = 4096
	for out := 0; len(src) >= 2 && out < len(dst); {
		head := le.Uint16(src)
		if head == 0 {
			return nil
		}
		n := int(head&0xfff) + 1
		if len(src) < 2+n {
			return damaged("packed data ends within a chunk")
		}
		part := src[2 : 2+n]
		src = src[2+n:]
		room := dst[out:min(out+chunk, len(dst))]
		if head&0x8000 == 0 {
			copy(room, part)
		} else if err := unpackChunk(room, part); err != nil {
			return err
		}
		out += chunk
	}
	return nil
}

func unpackChunk(dst, src []byte) error {
	at := 0
	for len(src) > 0 {
		flags := src[0]
		src = src[1:]
		for bit := 0; bit < 8 && len(src) > 0; bit++ {
			if flags>>bit&1 == 0 {
				if at == len(dst) {
					return damaged("packed data has more than a chunk")
				}
				dst[at] = src[0]
				at, src = at+1, src[1:]
				continue
			}
			if len(src) < 2 || at == 0 {
				return damaged("packed data refers to what is not there")
			}
			word := int(le.Uint16(src))
			src = src[2:]
			lenBits := 12
			for n := at - 1; n >= 0x10; n >>= 1 {
				lenBits--
			}
			n, back := word&(1<<lenBits-1)+3, word>>lenBits+1
			if back > at || n > len(dst)-at {
				return damaged("packed data refers to what is not there")
			}
			for range n {
				dst[at] = dst[at-back]
				at++
			}
		}
	}
	return nil
}
