// Package exfat tells which bytes of an exFAT volume are in use.
//
// It follows Microsoft's "exFAT file system specification" (1.00): the boot sector leads to the root, which has an entry
// for the allocation bitmap, with one bit a cluster. The boot region, the entries of files and the up-case table have
// checksums; the bitmap and the table of chains have none, so the bitmap is held against the files: all folders are
// read, and every cluster that a file has must be marked as used, and be nobody else's. Where it is not, the answer is
// that the volume must be captured whole.
package exfat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
)

var le = binary.LittleEndian

// cluster is the number of a cluster, or of how many. The first of the volume is number 2.
type cluster int64

const firstCluster cluster = 2

// damage is a reason why the map cannot be trusted. It is no error of the disk.
type damage string

func (d damage) Error() string { return string(d) }

func damaged(format string, args ...any) error { return damage(fmt.Sprintf(format, args...)) }

// Used returns what the filesystem in the first bytes of a volume of size bytes is, and the extents in use, in bytes of
// the volume. Facts.Whole says why the extents do not count where they cannot be trusted. An error means that the volume
// could not be read.
func Used(r io.ReaderAt, size int64) (fact.Facts, extent.List, error) {
	v := &volume{r: r, size: size}
	v.facts.Type = "exfat"
	used, err := v.used()
	var d damage
	if errors.As(err, &d) {
		v.facts.Whole = err.Error()
		return v.facts, nil, nil
	}
	return v.facts, used, err
}

// volume is one reading of a volume. Bits of the bitmaps stand for clusters, that of the first cluster first.
type volume struct {
	r     io.ReaderAt
	size  int64
	facts fact.Facts

	boot
	mu      sync.Mutex
	pages   map[int64][]byte                // of the table of chains
	found   func(s stream, file bool) error // is called with what has clusters; may be nil
	marked  fact.Bitmap                     // in use: the allocation bitmap that counts
	other   fact.Bitmap                     // the other one of TexFAT
	claimed fact.Bitmap                     // of a file, or of the filesystem itself
}

func (v *volume) used() (extent.List, error) {
	if err := v.look(); err != nil {
		return nil, err
	}
	if err := v.lost(); err != nil {
		return nil, err
	}
	all := v.marked
	for i := range v.other {
		all[i] |= v.other[i]
	}
	var g fact.Gather
	g.Add(extent.Extent{Len: v.heapAt})
	end := int64(v.clusters)
	for n := all.Next(0, end, true); n < end; {
		to := all.Next(n, end, false)
		g.Add(extent.Extent{Off: v.heapAt + n*v.clusterSize, Len: (to - n) * v.clusterSize})
		n = all.Next(to, end, true)
	}
	// The sectors behind the last whole cluster, so far as something lies there.
	rest := v.heapAt + end*v.clusterSize
	behind, err := fact.Written(v.r, extent.Extent{Off: rest, Len: v.facts.Len - rest})
	if err != nil {
		return nil, fmt.Errorf("read behind the last cluster: %w", err)
	}
	for _, e := range behind {
		g.Add(e)
	}
	return g.List(), nil
}

// lost tells of clusters that are marked as used and belong to no file. They are captured.
func (v *volume) lost() error {
	bad, lost := 0, 0
	for i := range v.marked {
		left := v.marked[i] &^ v.claimed[i]
		for bit := int64(0); left != 0; bit, left = bit+1, left>>1 {
			n := firstCluster + cluster(int64(i)*8+bit)
			if left&1 == 0 || !v.has(n) {
				continue
			}
			e, err := v.entry(n)
			if err != nil {
				return err
			}
			if e == entryBad {
				bad++
			} else {
				lost++
			}
		}
	}
	if bad > 0 {
		v.note("it has %d bad clusters, which are this disk's", bad)
	}
	if lost > 0 {
		v.note("%d clusters are marked as used and belong to no file; they are captured", lost)
	}
	return nil
}

func (v *volume) note(format string, args ...any) {
	v.facts.Notes = append(v.facts.Notes, fmt.Sprintf(format, args...))
}

// read fills b with what lies at off.
func (v *volume) read(b []byte, off int64) error {
	n, err := v.r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%d bytes at offset %d: %w", len(b), off, err)
}
