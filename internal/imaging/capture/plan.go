package capture

import (
	"fmt"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/layout"
	"mimeo/internal/imaging/manifest"
)

// Plan is what is captured; NewPlan makes it.
type Plan struct {
	Table    manifest.Table
	Volumes  []manifest.Volume
	Used     extent.List // in bytes of the disk
	Warnings []string    // for the manifest
}

// NewPlan returns the plan of all that was found on a disk.
func NewPlan(l *layout.Layout) Plan {
	return Plan{Table: l.Table.Table, Volumes: l.Manifest(), Used: l.Used, Warnings: l.Notes}
}

// headLen is how much of the disk and of each volume is looked at before and after. Mounting a filesystem, or changing
// a mounted one, changes its superblock, which lies within it.
const headLen = 68 << 10

// head returns the range of the i-th head: the disk's, then those of the volumes.
func (r *run) head(i int) extent.Extent {
	if i == 0 {
		return extent.Extent{Len: min(headLen, r.src.Disk.Size)}
	}
	v := r.plan.Volumes[i-1]
	return extent.Extent{Off: v.Off, Len: min(headLen, v.Len)}
}

func (r *run) headName(i int) string {
	if i == 0 {
		return "start of the disk"
	}
	v := r.plan.Volumes[i-1]
	return fmt.Sprintf("%s volume at offset %d (partition %d)", v.Type, v.Off, v.Partition)
}

// heads returns the hashes of all heads.
func (r *run) heads() ([]chunk.ID, error) {
	ids := make([]chunk.ID, 1+len(r.plan.Volumes))
	buf := make([]byte, headLen)
	for i := range ids {
		e := r.head(i)
		if err := readFull(r.src, buf[:e.Len], e.Off); err != nil {
			return nil, fmt.Errorf("%s: %w", r.headName(i), err)
		}
		ids[i] = chunk.Sum(buf[:e.Len])
	}
	return ids, nil
}
