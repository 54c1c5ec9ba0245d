package deploy

import (
	"fmt"

	"mimeo/internal/imaging/disk"
	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/manifest"
)

// headLen is the start of the disk that is written last. It holds the partition table of any kind, or the superblock
// of a filesystem without one.
const headLen = manifest.HeadLen

// held is a range of the captured disk that is kept in memory until all else is written.
type held struct {
	extent.Extent
	buf  []byte
	have extent.List // what of it the image holds
}

// take keeps the part of b, which belongs at off, that lies in h.
func (h *held) take(b []byte, off int64) {
	lo, hi := max(off, h.Off), min(off+int64(len(b)), h.End())
	if lo < hi {
		copy(h.buf[lo-h.Off:], b[lo-off:hi-off])
		h.have.Add(extent.Extent{Off: lo, Len: hi - lo})
	}
}

// give is the other way round: it puts what is kept back into b.
func (h *held) give(b []byte, off int64) {
	lo, hi := max(off, h.Off), min(off+int64(len(b)), h.End())
	if lo < hi {
		copy(b[lo-off:hi-off], h.buf[lo-h.Off:])
	}
}

// hold lays out what is kept back: the start of the disk and, with a GPT, the backup at its end.
func (r *run) hold() {
	size := r.m.Disk.Size
	r.head.Extent = extent.Extent{Len: min(headLen, size)}
	r.head.buf = make([]byte, r.head.Len)
	if r.m.Table.Kind != "gpt" {
		return
	}
	// The captured backup may have more entries than the table needs.
	start := max(size-manifest.EntriesMax-int64(r.m.Disk.SectorSize), r.head.Len)
	for _, p := range r.m.Table.Partitions {
		start = max(start, min(p.Off+p.Len, size))
	}
	r.tail.Extent = extent.Extent{Off: start, Len: size - start}
	r.tail.buf = make([]byte, r.tail.Len)
}

// moved tells whether the table must be made new because the disk has another size or other sectors than the captured one.
func (r *run) moved() bool { return r.t.Size() != r.image.Disk.Size || r.resectored() }

func (r *run) resectored() bool { return r.t.SectorSize() != r.m.Disk.SectorSize }

// clearGPT makes the copied GPT for other sectors unreadable: its header, and as much behind as its entries take.
func (r *run) clearGPT() error {
	old := int64(r.m.Disk.SectorSize)
	if _, err := r.t.WriteAt(make([]byte, 128*128+old), old); err != nil {
		return fmt.Errorf("clear the GPT for sectors of %d bytes: %w", old, err)
	}
	return nil
}

// placed tells whether e lies on the target: all of it, or, of a disk that became smaller, its backup table.
func (r *run) placed(e manifest.Entry) bool {
	return e.Off+e.Len <= r.t.Size() || r.moved() && e.Off >= r.tail.Off && r.tail.Len > 0
}

// wipe makes the old partition tables unreadable, and whatever else the start of the disk holds.
func (r *run) wipe() error {
	r.touched.Store(true)
	if err := disk.WipeTable(r.t, r.t.Size(), r.t.SectorSize()); err != nil {
		return err
	}
	if err := r.t.Zero(0, r.head.Len); err != nil {
		return fmt.Errorf("zero the first %d bytes: %w", r.head.Len, err)
	}
	return r.t.Sync()
}
