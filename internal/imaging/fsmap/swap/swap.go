// Package swap tells which bytes of a swap area must be captured: its first page.
package swap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
)

// pageSizes are those of the processors that make swap areas. The signature is in the last ten bytes of the first page.
var pageSizes = []int{4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10}

const (
	signatureLen = 10
	headerOff    = 1024 // the first 1024 bytes are for a boot loader; then union swap_header of linux/swap.h
	badPagesOff  = 1536
)

// The signatures of a page: of a swap area, of its oldest form, and of systems that sleep in one (kernel and uswsusp).
var (
	current  = "SWAPSPACE2"
	old      = "SWAP-SPACE"
	sleeping = []string{"S1SUSPEND", "S2SUSPEND", "ULSUSPEND", "LINHIB0001", "\xed\xc3\x02\xe9\x98\x56\xe5\x0c"}
)

func signature(head []byte, page int) string {
	if len(head) < page {
		return ""
	}
	s := string(head[page-signatureLen : page])
	if s == current || s == old {
		return s
	}
	for _, m := range sleeping {
		if strings.HasPrefix(s, m) {
			return m
		}
	}
	return ""
}

// Is tells whether a volume that starts with head is a swap area. head is 64 KiB or the whole volume.
func Is(head []byte) bool {
	for _, p := range pageSizes {
		if signature(head, p) != "" {
			return true
		}
	}
	return false
}

// Used returns what the swap area is, and its first page: the header with UUID, label and the list of bad pages. What
// was swapped out is of no use after a reboot; a system that sleeps there (hibernation) is, and then the whole area is
// captured. So it is with headers that cannot be believed. size is in bytes. An error means that the area could not be
// read.
func Used(r io.ReaderAt, size int64) (fact.Facts, extent.List, error) {
	v := fact.Facts{Type: "swap", Len: size}
	head := make([]byte, min(size, int64(pageSizes[len(pageSizes)-1])))
	if n, err := r.ReadAt(head, 0); n < len(head) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return v, nil, err
	}
	var found string
	page := 0
	for _, p := range pageSizes {
		s := signature(head, p)
		if s == "" {
			continue
		}
		if found != "" {
			v.Whole = fmt.Sprintf("it has the headers of two swap areas, of pages of %d and %d bytes", page, p)
			return v, nil, nil
		}
		found, page = s, p
	}
	switch found {
	case "":
		v.Whole = "it is no swap area"
		return v, nil, nil
	case current:
	case old:
		v.Whole = "it is a swap area of the old form, without UUID and label"
		return v, nil, nil
	default:
		v.Type = "swsuspend"
		v.Whole = fmt.Sprintf("a hibernated system sleeps in it (%.9q)", found)
		v.Notes = []string{"a hibernated system sleeps in this swap area: what it had open is lost if the copy starts without it"}
		return v, nil, nil
	}
	v.BlockSize = page
	order := byteOrder(head)
	if order == nil {
		v.Whole = "its header has an unknown version"
		return v, nil, nil
	}
	last, bad := order.Uint32(head[headerOff+4:]), order.Uint32(head[headerOff+8:])
	v.UUID = uuid(head[headerOff+12 : headerOff+28])
	v.Label = text(head[headerOff+28 : headerOff+44])
	switch {
	case last == 0 || (int64(last)+1)*int64(page) > size:
		v.Whole = fmt.Sprintf("its header speaks of %d pages of %d bytes, the volume has %d bytes", int64(last)+1, page, size)
	case int64(bad) > int64(page-signatureLen-badPagesOff)/4:
		v.Whole = fmt.Sprintf("its header lists %d bad pages, more than there is room for", bad)
	}
	if v.Whole != "" {
		return v, nil, nil
	}
	if bad > 0 {
		v.Notes = []string{fmt.Sprintf("the swap area has a list of %d bad pages, which are this disk's", bad)}
	}
	v.Head = true
	return v, extent.List{{Off: 0, Len: int64(page)}}, nil
}

// byteOrder tells the order of the machine that made the area by the version, which is 1.
func byteOrder(head []byte) binary.ByteOrder {
	b := head[headerOff : headerOff+4]
	switch {
	case binary.LittleEndian.Uint32(b) == 1:
		return binary.LittleEndian
	case binary.BigEndian.Uint32(b) == 1:
		return binary.BigEndian
	}
	return nil
}

// uuid is "" for one of zeros.
func uuid(b []byte) string {
	if bytes.Equal(b, make([]byte, 16)) {
		return ""
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

func text(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return strings.ToValidUTF8(string(b), "�")
}
