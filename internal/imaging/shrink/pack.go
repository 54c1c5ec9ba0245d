package shrink

import (
	"cmp"
	"fmt"
	"slices"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap"
	"mimeo/internal/imaging/layout"
	"mimeo/internal/imaging/manifest"
)

// movable are volumes that work wherever they lie: what belongs to them is found by name, and not by place. On a GPT also
// those are that firmware or Windows starts, which go by the partition's GUID there, and by its place with an MBR.
var (
	movable    = []string{"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "jfs", "reiserfs", "swap", "LVM2_member", "crypto_LUKS"}
	movableGPT = []string{"ntfs", "vfat", "exfat"}
)

// biosBoot is the type of a partition whose place a boot sector knows (GRUB's on BIOS machines with a GPT).
const biosBoot = "21686148-6449-6e6f-744e-656564454649"

// unit is a partition, or an extended one with those in it: what moves as one.
type unit struct {
	number   int
	off, end int64
	inside   []int // numbers of logical partitions
}

// units are what lies on the disk, in the order in which it does, and as long as it is now.
func (s *shrinker) units() []unit {
	var out []unit
	for _, p := range s.table.Partitions {
		if p.Logical || p.Len == 0 {
			continue
		}
		u := unit{number: p.Number, off: p.Off, end: p.Off + p.Len}
		if slices.Contains(s.l.Table.Extended, p.Number) {
			u.end = p.Off + int64(s.l.Disk.SectorSize)
			for _, q := range s.table.Partitions {
				if q.Logical && q.Off >= p.Off && q.Off+q.Len <= p.Off+p.Len {
					u.inside, u.end = append(u.inside, q.Number), max(u.end, q.Off+q.Len)
				}
			}
			u.end = min((u.end+mib-1)/mib*mib, p.Off+p.Len)
		}
		out = append(out, u)
	}
	slices.SortFunc(out, func(a, b unit) int { return cmp.Compare(a.off, b.off) })
	return out
}

// stays says why a unit cannot be moved; "" where it can.
func (s *shrinker) stays(u unit) string {
	for _, n := range append([]int{u.number}, u.inside...) {
		p := s.partition(n)
		if p.Type == biosBoot || p.Type == "41" {
			return fmt.Sprintf("partition %d is what firmware starts from a place that it knows", n)
		}
		if n == u.number && len(u.inside) > 0 {
			continue
		}
		i := slices.IndexFunc(s.l.Volumes, func(v layout.Volume) bool { return v.Partition == n })
		if i < 0 {
			continue
		}
		if kind := s.l.Volumes[i].Type; !slices.Contains(movable, kind) && (s.table.Kind != "gpt" || !slices.Contains(movableGPT, kind) && kind != "unknown") {
			return fmt.Sprintf("partition %d (%s) may not work in another place", n, kind)
		}
	}
	return ""
}

// pack moves up what lies behind partitions that became shorter, by whole MiB.
func (s *shrinker) pack() error {
	cursor := int64(0) // what is in front ends there; 0 as long as nothing has become shorter
	for _, u := range s.units() {
		shorter := s.shrunk(u)
		delta := int64(0)
		if cursor > 0 && u.off > cursor {
			delta = (u.off - cursor) / mib * mib
		}
		if delta > 0 {
			if why := s.stays(u); why != "" {
				s.notes = append(s.notes, fmt.Sprintf("%s: it stays where it is, and so does what lies behind it", why))
				return nil
			}
			if err := s.move(u, delta); err != nil {
				return err
			}
		}
		p := s.partition(u.number)
		p.Len = min(p.Len, u.end-u.off)
		if cursor > 0 || shorter {
			cursor = (u.end - delta + mib - 1) / mib * mib
		}
	}
	return nil
}

// shrunk tells whether a unit is shorter than it was.
func (s *shrinker) shrunk(u unit) bool {
	for _, p := range s.l.Table.Partitions {
		if p.Number == u.number {
			return u.end < p.Off+p.Len
		}
	}
	return false
}

// move moves a unit up, with all that is used of it.
func (s *shrinker) move(u unit, delta int64) error {
	list := s.l.Table.Regions.Clip(extent.Extent{Off: u.off, Len: u.end - u.off})
	d := s.disk()
	for _, n := range append([]int{u.number}, u.inside...) {
		p := s.partition(n)
		if n != u.number || len(u.inside) == 0 {
			is, err := d.Map(slices.Index(d.Volumes, extent.Extent{Off: p.Off, Len: p.Len}))
			if err != nil {
				return fmt.Errorf("partition %d: %w", n, err)
			}
			list = extent.Union(list, is.Used.Shift(p.Off))
		}
	}
	if err := s.moveList(list, delta); err != nil {
		return err
	}
	for _, n := range append([]int{u.number}, u.inside...) {
		p := s.partition(n)
		p.Off -= delta
		s.notes = append(s.notes, fmt.Sprintf("partition %d lies %d MiB nearer to the start than on the captured disk", n, delta/mib))
	}
	return nil
}

// disk returns the disk with its volumes, where they lie by now.
func (s *shrinker) disk() fsmap.Disk {
	d := fsmap.Disk{ReaderAt: s.o}
	for _, p := range s.table.Partitions {
		if p.Len > 0 && !slices.Contains(s.l.Table.Extended, p.Number) {
			d.Volumes = append(d.Volumes, extent.Extent{Off: p.Off, Len: p.Len})
		}
	}
	return d
}

// moveList moves extents, of which several may lie in one block.
func (s *shrinker) moveList(list extent.List, delta int64) error {
	next := int64(0)
	for _, e := range list {
		from := max(e.Off/blockLen*blockLen, next)
		next = (e.End() + blockLen - 1) / blockLen * blockLen
		if from >= next {
			continue
		}
		if err := s.o.move(from, next-from, from-delta); err != nil {
			return err
		}
	}
	return nil
}

// needs is how large a disk with that table must be, in bytes: to a whole MiB.
func (s *shrinker) needs(t manifest.Table) int64 {
	m := manifest.Manifest{Disk: s.l.Disk, Table: t}
	return min((m.Needed()+mib-1)/mib*mib, s.l.Disk.Size)
}
