package agent

import (
	"errors"
	"fmt"
	"io"
	"os"

	"mimeo/internal/agent/hwinfo"
	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/deploy"
	"mimeo/internal/imaging/disk"
	"mimeo/internal/imaging/fsmap"
	"mimeo/internal/imaging/manifest"
)

// source is a disk that is captured. While it is open the kernel lets nobody mount it.
type source struct {
	*disk.Disk
	claim *os.File // holds a block device exclusively; nil for an image file
	info  manifest.Disk
}

// openSource opens a disk for reading. One that is mounted, or otherwise in use, is refused.
func openSource(d hwinfo.Disk) (s *source, err error) {
	s = &source{}
	defer func() {
		if err != nil {
			err = openError(d, errors.Join(err, s.Close()))
			s = nil
		}
	}()
	if err := disk.InUse(d.Path); err != nil {
		return s, err
	}
	if !d.Image {
		if s.claim, err = os.OpenFile(d.Path, os.O_RDONLY|os.O_EXCL, 0); err != nil {
			return s, err
		}
	}
	if s.Disk, err = disk.Open(d.Path, disk.Options{}); err != nil {
		return s, err
	}
	s.info = s.Info()
	if s.info.Serial == "" { // what only a question to the disk itself brought
		s.info.Serial = d.Serial
	}
	return s, nil
}

func (s *source) Close() error {
	var errs []error
	if s.Disk != nil {
		errs = append(errs, s.Disk.Close())
	}
	if s.claim != nil {
		errs = append(errs, s.claim.Close())
	}
	return errors.Join(errs...)
}

// sink is a disk that an image is written to.
type sink struct{ *disk.Disk }

// openSink opens a disk for writing, alone.
func openSink(d hwinfo.Disk, m *manifest.Manifest) (*sink, error) {
	var o disk.Options
	if d.Image {
		o.SectorSize = m.Disk.SectorSize // a file is whatever it is taken for
	}
	f, err := disk.OpenExclusive(d.Path, o)
	if err != nil {
		return nil, openError(d, err)
	}
	return &sink{f}, nil
}

// Zero implements deploy.Target.
func (s *sink) Zero(off, n int64) error { return deploy.ZeroFile(s.File(), off, n) }

// Discard implements deploy.Discarder.
func (s *sink) Discard(off, n int64) error { return deploy.DiscardFile(s.File(), off, n) }

// openError says what stands against a disk's use.
func openError(d hwinfo.Disk, err error) error {
	e := &api.Error{Code: "disk", Message: fmt.Sprintf("open disk %s: %v", d.Name, err)}
	var used *disk.InUseError
	if errors.As(err, &used) {
		e.Code = "disk_in_use"
		e.Hint = "a prescript or a person has mounted it, or the kernel has put a RAID or LVM on it: undo that first"
	}
	return e
}

// volumes lists an image's volumes as they lie on the disk now: the last may have grown. Logical volumes that lie in one
// piece come behind the partition that they lie in; what lies in several pieces would need the kernel's device mapper.
func volumes(d hwinfo.Disk, m *manifest.Manifest) ([]volume, error) {
	f, err := disk.Open(d.Path, disk.Options{})
	if err != nil {
		return nil, fmt.Errorf("read the deployed partition table: %w", err)
	}
	defer f.Close()
	t, err := disk.ReadTable(f, f.Size(), f.SectorSize())
	if err != nil {
		return nil, fmt.Errorf("read the deployed partition table: %w", err)
	}
	var out []volume
	for _, v := range m.Volumes {
		vol := volume{Volume: v}
		for _, p := range t.Partitions {
			if p.Number == v.Partition && p.Off == v.Off {
				vol.Len, vol.partUUID, vol.partName = p.Len, p.UUID, p.Name
			}
		}
		if vol.Off < 0 || vol.Len <= 0 || vol.Len > f.Size()-vol.Off {
			return nil, fmt.Errorf("volume of partition %d (%d bytes at %d) does not lie on disk %s", v.Partition, vol.Len, vol.Off, d.Name)
		}
		out = append(out, vol)
		if vol.Type != "LVM2_member" {
			continue // one disk of a RAID is not written to: the others would not know
		}
		inner, err := fsmap.Inside(io.NewSectionReader(f, vol.Off, vol.Len), vol.Len, vol.Type)
		if err != nil {
			return nil, fmt.Errorf("read what lies in partition %d: %w", v.Partition, err)
		}
		for _, in := range inner {
			if len(in.Spans) != 1 || in.Part.Whole != "" {
				continue
			}
			out = append(out, volume{logical: in.Name, Volume: manifest.Volume{Partition: v.Partition, Off: vol.Off + in.Spans[0].Off, Len: in.Size,
				Type: in.Type, UUID: in.Usage.UUID, Label: in.Label, BlockSize: in.BlockSize, Method: in.Method}})
		}
	}
	return out, nil
}
