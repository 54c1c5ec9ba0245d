// Package vfat tells which bytes of a FAT12, FAT16 or FAT32 volume are in use.
//
// It follows Microsoft's "FAT: General Overview of On-Disk Format" (1.03): the boot sector leads to the file allocation
// table, which has an entry for each cluster. FAT has no checksums, so the table is held against its own copy, its
// chains against each other, and against the folders: all are read, and where each file begins there must be a chain.
// Where these do not agree, the answer is that the volume must be captured whole.
package vfat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

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
	v.facts.Type = "vfat"
	used, err := v.used()
	var d damage
	if errors.As(err, &d) {
		v.facts.Whole = err.Error()
		return v.facts, nil, nil
	}
	return v.facts, used, err
}

// volume is one reading of a volume.
type volume struct {
	r     io.ReaderAt
	size  int64
	facts fact.Facts

	boot
	table
	found   func(n cluster, size int64, folder bool) error // is called with each file and folder that has clusters; may be nil
	witness bool                                           // something confirms where the clusters begin, and how large they are
}

func (v *volume) used() (extent.List, error) {
	if err := v.readAll(); err != nil {
		return nil, err
	}
	var g fact.Gather
	g.Add(extent.Extent{Len: v.dataAt})
	n, end := v.marked.Next(0, int64(v.clusters), true), int64(v.clusters)
	if n < end && !v.witness {
		return nil, damaged("nothing confirms where its clusters begin: there is no folder, and no copy of the boot sector")
	}
	for n < end {
		to := v.marked.Next(n, end, false)
		g.Add(extent.Extent{Off: v.dataAt + n*v.clusterSize, Len: (to - n) * v.clusterSize})
		n = v.marked.Next(to, end, true)
	}
	// The sectors behind the last whole cluster.
	if rest := v.dataAt + end*v.clusterSize; rest < v.facts.Len {
		g.Add(extent.Extent{Off: rest, Len: v.facts.Len - rest})
	}
	if err := v.lost(); err != nil {
		return nil, err
	}
	return g.List(), v.readInfo()
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
