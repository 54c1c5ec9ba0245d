// Package layout tells what of a whole disk is to be captured: its partition table, its volumes, and which bytes.
package layout

import (
	"cmp"
	"fmt"
	"io"
	"slices"

	"mimeo/internal/imaging/disk"
	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap"
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
	Notes   []string    // what a person should know, for the manifest's warnings
}

// Volume is a part of the disk, with the bytes of it that are captured.
type Volume struct {
	manifest.Volume
	Notes   []string
	Extents extent.List // bytes of the disk
}

const (
	// bootLen is what is taken at the start of a disk whose table has no partitions.
	bootLen = 1 << 20
	// maxGap bounds what is taken before the first partition. Boot loaders take less than 1 MiB there.
	maxGap = 64 << 20
)

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

func (l *Layout) partitions(src Source) error {
	parts := slices.Clone(l.Table.Partitions)
	slices.SortFunc(parts, func(a, b manifest.Partition) int { return cmp.Compare(a.Off, b.Off) })
	first := min(bootLen, l.Disk.Size)
	if len(parts) > 0 {
		first = parts[0].Off
	}
	if first > maxGap {
		l.Notes = append(l.Notes, fmt.Sprintf("the first partition begins at %d: what lies from %d on before it is left out", first, maxGap))
		first = maxGap
	}
	l.Outside = extent.Union(l.Table.Regions, extent.List{{Off: 0, Len: first}})
	parts = slices.DeleteFunc(parts, func(p manifest.Partition) bool {
		return p.Len == 0 || slices.Contains(l.Table.Extended, p.Number)
	})
	d := fsmap.Disk{ReaderAt: src}
	for _, p := range parts {
		d.Volumes = append(d.Volumes, extent.Extent{Off: p.Off, Len: p.Len})
	}
	for i, p := range parts {
		if err := l.volume(d, i, p.Number); err != nil {
			return fmt.Errorf("partition %d: %w", p.Number, err)
		}
	}
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
