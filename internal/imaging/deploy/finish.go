package deploy

import (
	"fmt"

	"mimeo/internal/imaging/disk"
	"mimeo/internal/imaging/extent"
)

// finish writes what was kept back: the backup of the table, the rest of the disk's start, and the first sector last.
// Before that the disk has no table; after it, the captured one. Then it is fitted to a disk of another size.
func (r *run) finish() error {
	if !r.moved() {
		for _, e := range r.tail.have {
			if err := r.putHeld(&r.tail, e); err != nil {
				return err
			}
		}
	}
	first := extent.Extent{Len: int64(r.m.Disk.SectorSize)}
	for _, part := range []extent.List{extent.Subtract(r.head.have, set(first)), r.head.have.Clip(first)} {
		if err := r.t.Sync(); err != nil {
			return fmt.Errorf("make the written data durable: %w", err)
		}
		for _, e := range part {
			if err := r.putHeld(&r.head, e); err != nil {
				return err
			}
		}
	}
	r.table = r.m.Table
	fit := r.m.Table.Kind != "none" && r.moved()
	if r.m.Table.Kind == "gpt" && !fit {
		sound, err := disk.SoundGPT(r.t, r.t.Size(), r.t.SectorSize())
		if err != nil {
			return err
		}
		fit, r.repaired = !sound, !sound
	}
	if fit && r.resectored() {
		if err := r.clearGPT(); err != nil {
			return err
		}
	}
	if fit {
		how := disk.Fit{}
		if v, _, ok, err := r.m.Grows(r.opts.Grow); err != nil {
			return err
		} else if ok && v.Type != raidMember && r.t.Size() > r.image.Disk.Size {
			how.Grow = v.Partition
		}
		table, err := disk.FitTable(r.t, r.m.Table, r.t.Size(), r.t.SectorSize(), how)
		if err != nil {
			return err
		}
		r.table = table
	}
	if err := r.t.Sync(); err != nil {
		return fmt.Errorf("make the partition table durable: %w", err)
	}
	if err := r.t.Reread(); err != nil {
		return fmt.Errorf("make the kernel read the new partition table: %w", err)
	}
	return nil
}

func (r *run) putHeld(h *held, e extent.Extent) error {
	b := h.buf[e.Off-h.Off : e.End()-h.Off]
	if _, err := r.t.WriteAt(b, e.Off); err != nil {
		return fmt.Errorf("write %d bytes at offset %d of the disk: %w", len(b), e.Off, err)
	}
	r.written.Add(e.Len)
	if r.opts.Verify {
		return sameBytes(r.t, b, e.Off)
	}
	return nil
}
