// Package layout tells what of a whole disk is to be captured: its partition table, its volumes, and which bytes.
package layout

import (
	"fmt"
	"io"

	"mimeo/internal/imaging/disk"
	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap"
	"mimeo/internal/imaging/fsmap/fixed"
	"mimeo/internal/imaging/fsmap/md"
	"mimeo/internal/imaging/manifest"
)

// Source is the disk that is looked at. *disk.Disk is one.
type Source interface {
	io.ReaderAt
	Info() manifest.Disk // Size and SectorSize are needed
}

// Layout is what was found on a disk.
type Layout struct {
	Disk    manifest.Disk
	Table   *disk.Table
	Volumes []Volume    // by their offset; they do not overlap
	Outside extent.List // bytes of the disk that are captured and lie in no volume: tables, boot code
	Used    extent.List // all bytes of the disk that are captured: Outside and those of the volumes
	Zeros   extent.List // of these, all that is captured as zeros, whatever is there
	Notes   []string    // what a person should know, for the manifest's warnings
}

// Volume is a part of the disk, with the bytes of it that are captured.
type Volume struct {
	manifest.Volume
	Notes   []string
	Extents extent.List // bytes of the disk
}

// Plan reads the partition table and the maps of all volumes. Damaged content is captured whole and noted; an error
// means that the disk could not be read.
//
// Captured are: of each volume what fsmap says; all from the start of the disk to the first partition (boot code, the
// GPT, what a boot loader keeps there), of a very long gap the first 64 MiB; the tables of logical partitions with the
// gap behind each; the backup GPT. Space between and behind partitions belongs to nobody and is left out. A disk
// without a table is one volume, and one whose table cannot be believed is captured whole.
func Plan(src Source) (*Layout, error) {
	l := &Layout{Disk: src.Info()}
	size := l.Disk.Size
	var err error
	if l.Table, err = disk.ReadTable(src, size, l.Disk.SectorSize); err != nil {
		return nil, err
	}
	array, err := l.array(src)
	if err != nil {
		return nil, err
	}
	if array {
		l.Table = &disk.Table{Table: manifest.Table{Kind: "none"}}
		l.Notes = append(l.Notes, "the whole disk is one of a RAID, which keeps its superblock at the end, and the partition table is the array's: "+
			"deploy it onto a disk of the same size")
	}
	for _, n := range l.Table.Notes {
		l.Notes = append(l.Notes, "partition table: "+n)
	}
	switch {
	case l.Table.Whole != "":
		v := manifest.Volume{Off: 0, Len: size, Type: "unknown", Method: manifest.MethodWhole, Reason: "partition table: " + l.Table.Whole}
		l.add(Volume{Volume: v, Extents: extent.List{{Off: 0, Len: size}}})
	case l.Table.Kind == "none":
		if err := l.volume(fsmap.Disk{ReaderAt: src, Volumes: []extent.Extent{{Len: size}}}, 0, 0); err != nil {
			return nil, fmt.Errorf("volume on the bare disk: %w", err)
		}
	default:
		if err := l.partitions(src); err != nil {
			return nil, err
		}
	}
	l.Used = l.Outside
	for _, v := range l.Volumes {
		l.Used = extent.Union(l.Used, v.Extents)
	}
	return l, nil
}

// array tells whether the whole disk belongs to a Linux RAID that keeps its superblock at the end. Then the table at the start of the
// disk is that of the array. A superblock in a partition is a matter of that, and so is one before a backup GPT: it is a remnant.
func (l *Layout) array(src Source) (bool, error) {
	if l.Table.Kind == "none" {
		return false, nil
	}
	size := l.Disk.Size
	own, ok, err := md.Behind(src, size)
	if err != nil || !ok {
		return false, err
	}
	for _, p := range l.Table.Partitions {
		if own.Off < p.Off+p.Len {
			return false, nil
		}
	}
	n := int64(l.Disk.SectorSize)
	return !l.Table.Regions.ContainsAll(extent.Extent{Off: size/n*n - n, Len: n}), nil
}

func (l *Layout) partitions(src Source) error {
	var note string
	if l.Outside, note = l.Table.Outside(l.Disk.Size); note != "" {
		l.Notes = append(l.Notes, note)
	}
	parts := l.Table.Volumes()
	d := fsmap.Disk{ReaderAt: src}
	for _, p := range parts {
		d.Volumes = append(d.Volumes, extent.Extent{Off: p.Off, Len: p.Len})
	}
	for i, p := range parts {
		if err := l.volume(d, i, p.Number); err != nil {
			return fmt.Errorf("partition %d: %w", p.Number, err)
		}
	}
	return l.hybrid(src)
}

// hybrid takes all of an image for optical discs that can be started from a disk, too: its partitions lie within an ISO 9660 that
// begins where the disk does, and are files of that. What is left of such an image, behind other partitions, does not count.
func (l *Layout) hybrid(src Source) error {
	size := l.Disk.Size
	head := make([]byte, min(size, fixed.HeadLen))
	if _, err := src.ReadAt(head, 0); err != nil {
		return fmt.Errorf("read the start of the disk: %w", err)
	}
	if !fixed.Is(head) {
		return nil
	}
	facts, used, err := fixed.Used(src, size)
	if err != nil || facts.Type != "iso9660" || facts.Whole != "" {
		return err
	}
	const padding = 1 << 20 // programs fill the last partition up to a whole cylinder
	for _, p := range l.Table.Partitions {
		if p.Off+p.Len > facts.Len+padding {
			return nil
		}
	}
	l.Outside = extent.Union(l.Outside, used)
	l.Notes = append(l.Notes, "the disk holds an image for optical discs (iso9660), its partitions are parts of that; all of it is captured")
	return nil
}

// volume maps the i-th volume.
func (l *Layout) volume(d fsmap.Disk, i, partition int) error {
	off, n := d.Volumes[i].Off, d.Volumes[i].Len
	u, err := d.Map(i)
	if err != nil {
		return err
	}
	v := Volume{Notes: u.Notes, Extents: u.Used.Shift(off), Volume: manifest.Volume{
		Partition: partition, Off: off, Len: n, Type: u.Type, UUID: u.UUID, Label: u.Label, BlockSize: u.BlockSize,
		Method: u.Method, Reason: u.Reason,
	}}
	l.add(v)
	l.Zeros = extent.Union(l.Zeros, u.Zeros.Shift(off))
	return nil
}

func (l *Layout) add(v Volume) {
	v.Used = v.Extents.Bytes()
	where := "the disk"
	if v.Partition > 0 {
		where = fmt.Sprintf("partition %d", v.Partition)
	}
	for _, n := range v.Notes {
		l.Notes = append(l.Notes, fmt.Sprintf("%s (%s): %s", where, v.Type, n))
	}
	l.Volumes = append(l.Volumes, v)
}

// Manifest returns the volumes as a manifest lists them.
func (l *Layout) Manifest() []manifest.Volume {
	out := make([]manifest.Volume, len(l.Volumes))
	for i, v := range l.Volumes {
		out[i] = v.Volume
	}
	return out
}
