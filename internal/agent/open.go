package agent

import (
	"errors"
	"fmt"
	"os"

	"mimeo/internal/agent/hwinfo"
	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/deploy"
	"mimeo/internal/imaging/disk"
	"mimeo/internal/imaging/fsmap"
	"mimeo/internal/imaging/fsmap/md"
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

// volumes lists an image's volumes as they lie on the disk now: one may have grown. What lies inside a volume, as in one of
// LVM or a RAID1, comes behind it.
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
	outer := make([]volume, len(m.Volumes))
	on := fsmap.DiskOf(f, m.Volumes)
	for i, v := range m.Volumes {
		vol := volume{Volume: v}
		for _, p := range t.Partitions {
			if p.Number == v.Partition && p.Off == v.Off {
				vol.Len, vol.partUUID, vol.partName = p.Len, p.UUID, p.Name
			}
		}
		if vol.Off < 0 || vol.Len <= 0 || vol.Len > f.Size()-vol.Off {
			return nil, fmt.Errorf("volume of partition %d (%d bytes at %d) does not lie on disk %s", v.Partition, vol.Len, vol.Off, d.Name)
		}
		outer[i], on.Volumes[i].Len = vol, vol.Len
	}
	var out []volume
	for i, vol := range outer {
		out = append(out, vol)
		if !fsmap.Holds(vol.Type) {
			continue
		}
		inner, err := on.Inside(i, vol.Type)
		if err != nil {
			return nil, fmt.Errorf("read what lies in partition %d: %w", vol.Partition, err)
		}
		var array *raid
		for k, in := range inner {
			if in.Part.Whole != "" || in.Part.Leg || len(in.Spans) == 0 {
				continue
			}
			logical := in.Name
			if vol.Type == "linux_raid_member" && k == 0 { // the array comes first, then what is in it
				array = &raid{member: vol, array: in.Part, version: md.Version(on.Volume(i), vol.Len)}
				logical = ""
			}
			out = append(out, innerVolume(vol, manifest.Volume{Type: in.Type, UUID: in.Usage.UUID, Label: in.Label, BlockSize: in.BlockSize, Method: in.Method}, in.Part, array, logical))
		}
	}
	return out, nil
}
