package exfat

import (
	"fmt"
	"math/bits"
	"unicode/utf16"

	"mimeo/internal/imaging/fsmap/fact"
)

const (
	entryLen = 32 // bytes of an entry of a folder

	// Types of entries (specification, section 7). Those from 0xa0 and from 0xe0 may be passed over by who does not
	// know them, but may have clusters all the same.
	typeBitmap    = 0x81
	typeUpcase    = 0x82
	typeLabel     = 0x83
	typeFile      = 0x85
	typePadding   = 0xa1
	typeStream    = 0xc0
	typeName      = 0xc1
	typeBenign    = 0xa0
	typeSecondary = 0xc0 // bits of those that follow another

	attrFolder  = 0x10
	hasClusters = 1 << 0 // where it does not, the numbers have no meaning
	hasNoChain  = 1 << 1

	maxFolder  = 256 << 20 // bytes, by section 6
	maxUpcase  = 128 << 10 // bytes: two for each of 65536 characters
	maxPending = 2 << 20   // folders that are still to be read: 24 bytes each
	readLen    = 256 << 10
)

// system is where the root says that the filesystem's own files lie.
type system struct {
	bitmaps [2]stream
	upcase  stream
	sum     uint32 // of the up-case table
}

// readRoot reads what the root says of the filesystem itself.
func (v *volume) readRoot() (system, error) {
	var s system
	found := map[byte]int{}
	err := v.eachSet(v.rootStream(), func(set []byte, _ int64) error {
		at := stream{first: cluster(le.Uint32(set[20:])), size: int64(min(le.Uint64(set[24:]), 1<<62))}
		switch set[0] {
		case typeBitmap:
			which := int64(set[1] & 1)
			if found[typeBitmap]++; which >= v.tables || s.bitmaps[which].first != 0 {
				return damaged("too many allocation bitmaps")
			}
			s.bitmaps[which] = at
		case typeUpcase:
			found[typeUpcase]++
			s.upcase, s.sum = at, le.Uint32(set[4:])
		case typeLabel:
			found[typeLabel]++
			n := int(set[1])
			if n > 11 {
				return damaged("a label of %d characters", n)
			}
			var label []uint16
			for i := range n {
				label = append(label, le.Uint16(set[2+2*i:]))
			}
			v.facts.Label = string(utf16.Decode(label))
		}
		return nil
	})
	if err == nil && (found[typeBitmap] != int(v.tables) || found[typeUpcase] != 1 || found[typeLabel] > 1) {
		err = damaged("%d allocation bitmaps, %d up-case tables, %d labels", found[typeBitmap], found[typeUpcase], found[typeLabel])
	}
	return s, err
}

func (v *volume) rootStream() stream { return stream{first: v.root, size: -1} }

// readBitmaps reads the allocation bitmap, with TexFAT both.
func (v *volume) readBitmaps(s system) error {
	need := (int64(v.clusters) + 7) / 8
	for i := range v.tables {
		b, err := stream{}, error(nil)
		if b = s.bitmaps[i]; b.size < need || b.size > need+v.clusterSize {
			return damaged("an allocation bitmap of %d bytes for %d clusters", b.size, v.clusters)
		}
		// What lies in the clusters of one that does not count is of no concern, but it must be readable.
		var m fact.Bitmap
		if m, err = v.readAll(b, need); err != nil {
			return fmt.Errorf("allocation bitmap: %w", err)
		}
		if i == v.active {
			v.marked = m
		} else {
			v.other = m
		}
	}
	v.claimed = fact.NewBitmap(int64(v.clusters))
	return nil
}

// walk reads all folders. Every cluster that a file has must be marked as used, and be nobody else's.
func (v *volume) walk(s system) error {
	if s.upcase.size <= 0 || s.upcase.size > maxUpcase {
		return damaged("an up-case table of %d bytes", s.upcase.size)
	}
	b, err := v.readAll(s.upcase, s.upcase.size)
	if err != nil {
		return fmt.Errorf("up-case table: %w", err)
	}
	var sum uint32
	for _, c := range b {
		sum = bits.RotateLeft32(sum, -1) + uint32(c)
	}
	if sum != s.sum {
		return damaged("the checksum of the up-case table is wrong")
	}
	own := append([]stream{v.rootStream(), s.upcase}, s.bitmaps[:v.tables]...)
	for _, o := range own {
		if err := v.claim(o, false); err != nil {
			return fmt.Errorf("the root, the bitmap or the up-case table: %w", err)
		}
	}
	todo := []stream{v.rootStream()}
	for len(todo) > 0 {
		d := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		err := v.eachSet(d, func(set []byte, _ int64) error { return v.checkSet(set, &todo) })
		if err != nil {
			return fmt.Errorf("the folder at cluster %d: %w", d.first, err)
		}
	}
	return nil
}

// checkSet claims the clusters of a file, and puts a folder on todo.
func (v *volume) checkSet(set []byte, todo *[]stream) error {
	switch typ := set[0]; {
	case typ == typeBitmap || typ == typeUpcase || typ == typeLabel || typ == typePadding:
		return nil
	case typ == typeFile:
		if len(set) < 3*entryLen || set[entryLen] != typeStream || set[2*entryLen] != typeName {
			return damaged("a file without a stream or name")
		}
	case typ < typeBenign:
		return damaged("an entry of unknown type %#x", typ)
	case set[4]&hasClusters != 0:
		if _, err := v.claimEntry(set[:entryLen], set[4], false); err != nil {
			return err
		}
	}
	for e := set[entryLen:]; len(e) > 0; e = e[entryLen:] {
		if e[0] == typeName {
			continue
		}
		if e[0] != typeStream && e[0] < 0xe0 {
			return damaged("an entry of unknown type %#x", e[0])
		}
		folder := le.Uint16(set[4:])&attrFolder != 0
		s, err := v.claimEntry(e[:entryLen], e[1], e[0] == typeStream && !folder)
		if err != nil {
			return err
		}
		if e[0] != typeStream || !folder || s.first == 0 || s.size == 0 {
			continue
		}
		if len(*todo) == maxPending {
			return damaged("it has too many folders")
		}
		*todo = append(*todo, s)
	}
	return nil
}

// claimEntry claims what an entry of the usual form has (specification, section 6.2 to 6.4).
func (v *volume) claimEntry(e []byte, flags byte, file bool) (stream, error) {
	s := streamOf(e, flags)
	if s.first == 0 {
		return s, nil
	}
	return s, v.claim(s, file)
}

// streamOf returns where an entry of the usual form says that its clusters are; an empty one where it has none.
func streamOf(e []byte, flags byte) stream {
	if flags&hasClusters == 0 || le.Uint32(e[20:]) == 0 {
		return stream{}
	}
	return stream{first: cluster(le.Uint32(e[20:])), size: int64(min(le.Uint64(e[24:]), 1<<62)), plain: flags&hasNoChain != 0}
}

// eachSet calls f with the entries of a folder: each primary one with those that belong to it, and where on the volume
// it lies.
func (v *volume) eachSet(d stream, f func(set []byte, at int64) error) error {
	if d.size > maxFolder {
		return damaged("it has %d bytes", d.size)
	}
	left := int64(maxFolder)
	if d.size >= 0 {
		left = d.size
	}
	var set []byte
	var first int64 // where the set begins
	missing, ended := 0, false
	take := func(e []byte, at int64) error {
		if missing > 0 {
			if e[0] < typeSecondary {
				return damaged("a set of entries ends too early")
			}
			set = append(set, e...)
			if missing--; missing > 0 {
				return nil
			}
			if sum(set) != le.Uint16(set[2:]) {
				return damaged("the checksum of a set of entries is wrong")
			}
			return f(set, first)
		}
		switch typ := e[0]; {
		case typ == 0:
			ended = true
		case typ < 0x80: // deleted
		case typ >= typeSecondary:
			return damaged("a set of entries without a beginning")
		case typ == typeFile || typ >= typeBenign && typ != typePadding:
			if missing = int(e[1]); missing > 0 {
				set, first = append(set[:0], e...), at
				return nil
			}
			if sum(e) != le.Uint16(e[2:]) {
				return damaged("the checksum of an entry is wrong")
			}
			return f(e, at)
		default:
			return f(e, at)
		}
		return nil
	}
	buf := make([]byte, min(readLen, v.clusterSize))
	err := v.eachRun(d, func(r run) error {
		for at, end := v.place(r.first), v.place(r.first+r.n); at < end && !ended; {
			b := buf[:min(int64(len(buf)), left)]
			if len(b) < entryLen {
				if d.size < 0 {
					return damaged("it has more than %d bytes", maxFolder)
				}
				return nil // more clusters than it needs
			}
			if err := v.read(b, at); err != nil {
				return err
			}
			left -= int64(len(b))
			for ; len(b) >= entryLen && !ended; b, at = b[entryLen:], at+entryLen {
				if err := take(b[:entryLen], at); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err == nil && missing > 0 {
		err = damaged("a set of entries ends too early")
	}
	return err
}

// sum is the checksum of a set of entries (specification, section 6.3.3).
func sum(set []byte) uint16 {
	var s uint16
	for i, c := range set {
		if i != 2 && i != 3 {
			s = bits.RotateLeft16(s, -1) + uint16(c)
		}
	}
	return s
}
