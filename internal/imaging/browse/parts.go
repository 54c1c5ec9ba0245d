package browse

import (
	"errors"
	"fmt"
	"io"

	"mimeo/internal/imaging/fsmap"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/view"
)

// Part is a volume of a captured disk: a partition, or a volume inside one.
type Part struct {
	manifest.Volume             // of the partition
	Name            string      // of a volume inside: "vg0/root"; empty of the partition itself
	Type            string      // of what is on it: "ext4", ..., "unknown"
	Size            int64       // bytes
	Content         io.ReaderAt // Size bytes

	disk  *view.Disk
	outer func(off, n int64, fn func(at, off, n int64)) // where a stretch of it lies on the disk
}

// Disk returns the whole captured disk.
func (i *Image) Disk() *view.Disk { return i.disk }

// Parts returns all volumes of the disk, each partition before the volumes inside it. The error says of which partitions
// those inside are not known; the rest is good.
func (i *Image) Parts() ([]Part, error) {
	var all []Part
	var failed error
	d := fsmap.DiskOf(i.disk, i.m.Volumes)
	for k, v := range i.m.Volumes {
		parts, err := i.parts(d, k)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("partition %d: %w", v.Partition, err))
		}
		all = append(all, parts...)
	}
	return all, failed
}

// parts returns the k-th partition and the volumes inside it.
func (i *Image) parts(d fsmap.Disk, k int) ([]Part, error) {
	v := i.m.Volumes[k]
	list := []Part{{Volume: v, Type: v.Type, Size: v.Len, Content: d.Volume(k), disk: i.disk,
		outer: func(off, n int64, fn func(at, off, n int64)) { fn(off, v.Off+off, n) }}}
	inner, err := d.Inside(k, v.Type)
	for _, in := range inner {
		if in.Part.Whole != "" {
			continue // where all of it lies is not known
		}
		list = append(list, Part{Volume: v, Name: in.Name, Type: in.Type, Size: in.Size, Content: in.Reader(i.disk), disk: i.disk, outer: in.Outer})
	}
	return list, err
}

// HasFiles tells whether the files of this kind of filesystem can be read.
func (p Part) HasFiles() bool { return fsmap.HasTree(p.Type) }

// Files opens the filesystem on the volume.
func (p Part) Files() (*Volume, error) {
	t, err := fsmap.Tree(p.Content, p.Size, p.Type)
	if err != nil {
		return nil, err
	}
	return &Volume{FS: t, Volume: p.Volume, Name: p.Name, size: p.Size, disk: p.disk, outer: p.outer}, nil
}

// Extents calls fn with the stretches of the volume that were captured and are not zeros, of those that end after off, by
// their offsets on it. It stops where fn returns false.
func (p Part) Extents(off int64, fn func(off, n int64) bool) error {
	stop := errors.New("enough")
	var failed error
	p.outer(off, p.Size-off, func(at, from, n int64) {
		if failed != nil {
			return
		}
		failed = p.disk.Entries(from, from+n, func(e manifest.Entry) error {
			a, b := max(e.Off, from), min(e.Off+e.Len, from+n)
			if !e.Zero && !fn(at+a-from, b-a) {
				return stop
			}
			return nil
		})
	})
	if errors.Is(failed, stop) {
		return nil
	}
	return failed
}

// Extents is Part.Extents of the whole disk.
func (i *Image) Extents(off int64, fn func(off, n int64) bool) error {
	whole := Part{Size: i.disk.Size(), disk: i.disk, outer: func(off, n int64, fn func(at, off, n int64)) { fn(off, off, n) }}
	return whole.Extents(off, fn)
}
