package vfat

import (
	"bytes"
	"fmt"
	"sync"

	"mimeo/internal/imaging/fsmap/fact"
)

const (
	maxCopies = 4
	// Multiples of 3, so that the entries of FAT12 are whole, in pairs.
	tableRead = 3 << 19 // bytes of the table that are read at a time
	pageLen   = 3 << 15 // bytes of the table that are kept for those who follow chains
	maxPages  = 256
)

// Entries of a table, as in FAT32; those of the smaller ones are widened.
const (
	entryFree = 0
	entryBad  = 0x0ffffff7
	entryEnd  = 0x0ffffff8 // and above
)

// table is what the file allocation table says. Bits stand for clusters, that of the first cluster first.
type table struct {
	marked fact.Bitmap // in use: all that is not free
	heads  fact.Bitmap // where chains begin; those of known files are cleared
	bad    int64

	mu    sync.Mutex
	pages map[int64][]byte
}

// entry returns entry i of b.
func (v *volume) entry(b []byte, i int64) uint32 {
	var n, all uint32
	switch v.bits {
	case 12:
		n, all = uint32(le.Uint16(b[i*3/2:])), 0xfff
		if i%2 != 0 {
			n >>= 4
		}
		n &= all
	case 16:
		n, all = uint32(le.Uint16(b[i*2:])), 0xffff
	default:
		return le.Uint32(b[i*4:]) & 0x0fffffff // four bits are reserved
	}
	if n >= all-15 {
		n |= 0x0fffffff &^ all
	}
	return n
}

// readTable reads the table, and checks its chains: each link must lead to a cluster that is in use, and no two to the
// same. That leaves one place where a cluster in use may pass for a free one: the beginning of a chain. So the walk
// through the folders looks at those.
func (v *volume) readTable() error {
	n := int64(v.clusters)
	v.marked, v.heads = fact.NewBitmap(n), fact.NewBitmap(n)
	linked := v.heads // until all is read
	counts := max(v.active, 0)
	first := true
	err := v.eachEntries(counts, func(b []byte, at, count int64) error {
		if first {
			if err := v.checkFirst(b); err != nil {
				return err
			}
			first = false
		}
		if v.active < 0 {
			if err := v.compareCopies(b, at, count); err != nil {
				return err
			}
		}
		for i := range count {
			e := v.entry(b, i)
			c := cluster(at + i)
			switch {
			case e == entryFree || c < firstCluster:
				continue
			case !v.has(c):
				if e != entryBad {
					return damaged("the table speaks of cluster %d, there are %d", c, v.clusters)
				}
				continue
			}
			v.marked.Set(int64(c - firstCluster))
			to := cluster(e)
			switch {
			case e >= entryEnd:
				continue
			case e == entryBad:
				v.bad++
				to = c
			case !v.has(to):
				return damaged("cluster %d is followed by cluster %d, there are %d", c, to, v.clusters)
			}
			if linked.Set(int64(to - firstCluster)) {
				return damaged("cluster %d follows two others, or is bad and in a chain", to)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i := range v.marked {
		if wrong := linked[i] &^ v.marked[i]; wrong != 0 {
			return damaged("cluster %d is in a chain and marked as free", fact.Bitmap{wrong}.Next(0, 8, true)+int64(i)*8+int64(firstCluster))
		}
		v.heads[i] = v.marked[i] &^ linked[i]
	}
	if v.bad > 0 {
		v.note("it has %d bad clusters, which are this disk's", v.bad)
	}
	return v.readInactive(counts)
}

// readInactive marks what the copies that do not count call used: Windows looks at one copy only, Linux at the first.
func (v *volume) readInactive(counts int64) error {
	if v.active < 0 {
		return nil
	}
	v.note("only copy %d of its table counts", v.active+1)
	for c := range v.copies {
		if c == counts {
			continue
		}
		err := v.eachEntries(c, func(b []byte, at, count int64) error {
			for i := range count {
				if n := cluster(at + i); v.has(n) && v.entry(b, i) != entryFree {
					v.marked.Set(int64(n - firstCluster))
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// eachEntries calls f with all entries of a copy of the table, piece by piece: count of them, the first is number at.
func (v *volume) eachEntries(copy int64, f func(b []byte, at, count int64) error) error {
	buf := make([]byte, min(tableRead, v.tableLen))
	for off := int64(0); off < v.tableLen; {
		b := buf[:min(int64(len(buf)), v.tableLen-off)]
		if err := v.read(b, v.tableAt+copy*v.tableLen+off); err != nil {
			return fmt.Errorf("read the table: %w", err)
		}
		if err := f(b, off*8/v.bits, int64(len(b))*8/v.bits); err != nil {
			return err
		}
		off += int64(len(b))
	}
	return nil
}

// checkFirst checks the first two entries, which are no clusters: the medium as in the boot sector, and an end with two
// flags (General Overview, "FAT Data Structure").
func (v *volume) checkFirst(b []byte) error {
	if e := v.entry(b, 0); e != 0x0fffff00|uint32(v.raw[0x15]) {
		return damaged("the table does not begin with the medium %#x", v.raw[0x15])
	}
	clean, sound := uint32(0), uint32(0)
	state := v.raw[0x25]
	e := v.entry(b, 1)
	switch v.bits {
	case 16:
		clean, sound = 0x8000, 0x4000
		e = uint32(le.Uint16(b[2:])) | 0x0fff0000
	case 32:
		clean, sound = 0x08000000, 0x04000000
		state = v.raw[0x41]
	}
	if e|clean|sound < entryEnd {
		return damaged("the second entry of the table is %#x", e)
	}
	// Windows has the flags in the table, Linux in the boot sector.
	if e&clean != clean || state&1 != 0 {
		v.note("it was not unmounted cleanly")
	}
	if e&sound != sound || state&2 != 0 {
		v.note("errors of the disk were met on it")
	}
	return nil
}

// compareCopies holds all other copies against a piece of the first.
func (v *volume) compareCopies(b []byte, at, count int64) error {
	buf := make([]byte, len(b))
	for c := int64(1); c < v.copies; c++ {
		if err := v.read(buf, v.tableAt+c*v.tableLen+at*v.bits/8); err != nil {
			return fmt.Errorf("read copy %d of the table: %w", c+1, err)
		}
		if bytes.Equal(b, buf) {
			continue
		}
		for i := range count {
			// Not all systems keep the flags in all copies.
			if at+i >= int64(firstCluster) && v.entry(b, i) != v.entry(buf, i) {
				return damaged("the copies of its table differ at cluster %d, and nothing says which is right", at+i)
			}
		}
	}
	return nil
}

// next returns the cluster that follows n in its chain; 0 at the end.
func (v *volume) next(n cluster) (cluster, error) {
	at := int64(n) * v.bits / 8
	page := at / pageLen
	v.mu.Lock()
	defer v.mu.Unlock()
	b, ok := v.pages[page]
	if !ok {
		if v.pages == nil || len(v.pages) >= maxPages {
			v.pages = map[int64][]byte{}
		}
		b = make([]byte, min(pageLen, v.tableLen-page*pageLen))
		if err := v.read(b, v.tableAt+max(v.active, 0)*v.tableLen+page*pageLen); err != nil {
			return 0, fmt.Errorf("read the table: %w", err)
		}
		v.pages[page] = b
	}
	e := v.entry(b, int64(n)-page*pageLen*8/v.bits)
	switch to := cluster(e); {
	case e >= entryEnd:
		return 0, nil
	case v.has(to):
		return to, nil
	}
	return 0, damaged("cluster %d is followed by %#x", n, e)
}
