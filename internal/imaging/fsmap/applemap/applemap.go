// Package applemap tells which partitions a disk with an Apple partition map has.
//
// It follows Inside Macintosh: Devices, chapter 3, and Apple's IOApplePartitionScheme.h: the driver descriptor record in block 0, one
// block for each partition from block 1 on, all big-endian. Entries must agree on how many there are, and none may lie on another.
// Nothing is left out but free space that the map itself calls so, and what the filesystems inside do not use.
package applemap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
)

var be = binary.BigEndian

// maxParts bounds how many entries are read; Apple's own tools make at most 63.
const maxParts = 256

// Is tells whether a volume that starts with head has a map. Disc images that have one beside their ISO 9660 filesystem do not count.
func Is(head []byte) bool {
	n, ok := block(head)
	return ok && len(head) >= 2*n && string(head[n:n+2]) == "PM" && !(len(head) >= 32774 && string(head[32769:32774]) == "CD001")
}

// block returns the bytes of a block as the driver descriptor record says.
func block(head []byte) (int, bool) {
	if len(head) < 512 || string(head[:2]) != "ER" {
		return 0, false
	}
	n := int(be.Uint16(head[2:]))
	return n, n >= 512 && n <= 4096 && n&(n-1) == 0
}

// Open reads the map of a disk of size bytes. why says why it cannot be trusted, or is empty; an error means that the disk could not
// be read.
func Open(r io.ReaderAt, size int64) (c fact.Container, why string, err error) {
	read := func(off, n int64) ([]byte, error) {
		b := make([]byte, n)
		if off > size-n {
			return b, nil // zeros: no entry
		}
		if got, err := r.ReadAt(b, off); int64(got) < n {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, fmt.Errorf("%d bytes at offset %d: %w", n, off, err)
		}
		return b, nil
	}
	head, err := read(0, 512)
	if err != nil {
		return c, "", err
	}
	n, ok := block(head)
	if !ok {
		return c, "there is no driver descriptor record", nil
	}
	unit := int64(n)
	var taken, free extent.List
	count := uint32(1)
	for i := uint32(1); i <= count; i++ {
		b, err := read(int64(i)*unit, 512)
		if err != nil {
			return c, "", err
		}
		first, blocks := int64(be.Uint32(b[8:])), int64(be.Uint32(b[12:]))
		if i == 1 {
			count = be.Uint32(b[4:])
		}
		e := extent.Extent{Off: first * unit, Len: blocks * unit}
		kind := text(b[48:80])
		switch {
		case string(b[:2]) != "PM":
			return fact.Container{}, fmt.Sprintf("entry %d of its map is none", i), nil
		case count < 1 || count > maxParts || be.Uint32(b[4:]) != count:
			return fact.Container{}, fmt.Sprintf("entry %d of its map says that there are %d", i, be.Uint32(b[4:])), nil
		case e.Off > size || e.Len > size-e.Off:
			return fact.Container{}, fmt.Sprintf("partition %d (%d bytes at %d) does not lie on the disk of %d bytes", i, e.Len, e.Off, size), nil
		case e.Len == 0:
			continue
		case len(taken.Clip(e)) > 0:
			return fact.Container{}, fmt.Sprintf("partition %d lies on another", i), nil
		}
		taken = extent.Union(taken, extent.List{e})
		switch kind {
		case "Apple_Free":
			free = extent.Union(free, extent.List{e})
		case "Apple_partition_map":
			c.Meta = extent.Union(c.Meta, extent.List{e})
		default:
			c.Parts = append(c.Parts, fact.Part{Name: fmt.Sprint(i), Size: e.Len, Spans: []fact.Span{{Off: e.Off, Len: e.Len}}})
		}
	}
	table := extent.List{{Len: min((int64(count)+1)*unit, size)}}
	if len(free.Clip(table[0])) > 0 {
		return fact.Container{}, "its map lies in free space", nil
	}
	c.Meta = extent.Union(extent.Union(c.Meta, table), taken.Complement(size))
	return c, "", nil
}

// text is a string that ends with a zero.
func text(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}
