// Package browse reads the files of captured disks out of their store, and tells how two of them differ.
package browse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"mimeo/internal/imaging/fsmap"
	"mimeo/internal/imaging/fsmap/tree"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/view"
)

// Image is a captured disk whose files can be read.
type Image struct {
	disk *view.Disk
	m    *manifest.Manifest
}

// Open opens a captured disk. ctx holds for all that is read of it.
func Open(ctx context.Context, from store.Reader, m *manifest.Manifest) (*Image, error) {
	d, err := view.Open(ctx, from, m)
	if err != nil {
		return nil, err
	}
	return &Image{d, m}, nil
}

// Volume is the filesystem of a captured disk: of a partition, or of a volume inside one.
type Volume struct {
	tree.FS
	manifest.Volume        // of the partition
	Name            string // of a volume inside: "vg0/root"
	size            int64  // of the filesystem's volume
	disk            *view.Disk
	outer           func(off, n int64, fn func(at, off, n int64)) // where a stretch of it lies on the disk
}

// VolumeError says that it is not clear which volume is meant, or that the files of it cannot be read.
type VolumeError struct {
	Partition int // asked for; 0 where none was
	Volumes   []manifest.Volume
}

// Error lists what there is.
func (e *VolumeError) Error() string {
	var have []string
	for _, v := range e.Volumes {
		s := fmt.Sprintf("%d (%s)", v.Partition, v.Type)
		if !readable(v.Type) {
			s += ", which cannot be read by files"
		}
		have = append(have, s)
	}
	what := "no volume whose files can be read"
	if e.Partition > 0 {
		what = fmt.Sprintf("no files can be read of partition %d", e.Partition)
	}
	if len(have) == 0 {
		return what + "; the image has no volumes"
	}
	return what + "; the image has partitions " + strings.Join(have, ", ")
}

// Volume opens the filesystem of a partition. Where partition is 0 it is the one of the operating system: the first
// with /etc/os-release, /etc/fstab or /Windows, else the largest whose files can be read.
//
// In a partition that holds volumes of its own, as one of LVM2 does, the same choice is made among these.
func (i *Image) Volume(partition int) (*Volume, error) {
	var best *Volume
	var failed error
	d := fsmap.DiskOf(i.disk, i.m.Volumes)
	for k, v := range i.m.Volumes {
		if partition > 0 && v.Partition != partition || !readable(v.Type) {
			continue
		}
		vols, err := i.open(d, k)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("partition %d: %w", v.Partition, err))
		}
		for _, vol := range vols {
			if vol.system() {
				return vol, nil
			}
			if best == nil || vol.size > best.size {
				best = vol
			}
		}
	}
	switch {
	case best != nil:
		return best, nil
	case failed != nil:
		return nil, failed
	}
	return nil, &VolumeError{partition, i.m.Volumes}
}

// readable tells whether files may be found in a volume of that type.
func readable(typ string) bool { return fsmap.HasTree(typ) || fsmap.Holds(typ) }

// open opens the filesystem of the k-th partition, or those of the volumes inside it.
func (i *Image) open(d fsmap.Disk, k int) ([]*Volume, error) {
	parts, failed := i.parts(d, k)
	var out []*Volume
	for _, p := range parts {
		if !fsmap.HasTree(p.Type) {
			continue
		}
		vol, err := p.Files()
		if err != nil && p.Name != "" {
			err = fmt.Errorf("%s: %w", p.Name, err)
		}
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		out = append(out, vol)
	}
	return out, failed
}

// system tells whether an operating system lives here.
func (v *Volume) system() bool {
	for _, name := range []string{"/etc/os-release", "/etc/fstab", "/Windows"} {
		if _, err := tree.Lookup(v, name, true); err == nil {
			return true
		}
	}
	return false
}

// span is a part of a chunk in a file.
type span struct {
	id   manifest.ID
	from int64 // within the chunk
	len  int64
	at   int64 // within the file
}

// spans returns which chunks hold a file's content, or false where that is not known. Zeros are left out.
func (v *Volume) spans(r io.ReaderAt) ([]span, bool) {
	p, ok := r.(*tree.Pieced)
	if !ok {
		return nil, false
	}
	var list []span
	for _, f := range p.Pieces {
		var failed error
		v.outer(f.Off, min(f.Len, p.Size-f.At), func(at, from, n int64) {
			err := v.disk.Entries(from, from+n, func(e manifest.Entry) error {
				if e.Zero {
					return nil
				}
				a, b := max(e.Off, from), min(e.Off+e.Len, from+n)
				list = append(list, span{e.ID, a - e.Off, b - a, f.At + at - f.Off + a - from})
				return nil
			})
			failed = errors.Join(failed, err)
		})
		if failed != nil {
			return nil, false
		}
	}
	return list, true
}
