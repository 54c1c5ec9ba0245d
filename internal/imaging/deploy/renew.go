package deploy

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/disk"
	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/view"
)

// planRenewals finds out, from the image, what must be done because of what the disk may hold in free space.
func (r *run) planRenewals(ctx context.Context) error {
	if !slices.ContainsFunc(r.m.Volumes, func(v manifest.Volume) bool {
		return v.Method == manifest.MethodUsed && (v.Type == "xfs" || fsmap.Holds(v.Type))
	}) {
		return nil
	}
	image, err := view.Open(ctx, r.from, r.image)
	if err != nil {
		return fmt.Errorf("read the image: %w", err)
	}
	d := fsmap.DiskOf(shifted{image, r.from0, r.room}, r.m.Volumes)
	lies, err := r.lies()
	if err != nil {
		return err
	}
	var logs extent.List
	for i, v := range r.m.Volumes {
		if v.Method != manifest.MethodUsed {
			continue
		}
		list, err := d.Renewals(i, v.Type)
		if err != nil {
			return fmt.Errorf("read the %s filesystem at offset %d of the image: %w", v.Type, v.Off, err)
		}
		for _, n := range list {
			logs = extent.Union(logs, n.Log)
			r.renewals = append(r.renewals, renewal{n, lies(v)})
		}
	}
	r.logs = logs
	return nil
}

// renewal is what must be done for a filesystem.
type renewal struct {
	fsmap.Renewal
	look bool // its volume lies on the disk already
}

// lies returns what tells whether a volume lies on the disk where it is to lie, by the table that the disk has before the first
// write. Only then may a log on it go on. After a deploy that was broken off there is no table: blocks of the image that was
// to come may lie in free space, newer than the log that was there. And a log may be left from an older deploy, when
// the volume lay there before it lay elsewhere.
func (r *run) lies() (func(manifest.Volume) bool, error) {
	no := func(manifest.Volume) bool { return false }
	if !r.opts.Compare {
		return no, nil
	}
	table, err := disk.ReadTable(r.t, r.t.Size(), r.t.SectorSize())
	if err != nil || table.Kind != r.m.Table.Kind {
		return no, nil // an error may be gone by the time that it matters
	}
	if table.Kind == "none" {
		b := make([]byte, r.head.Len) // which is written last
		if err := readFull(r.t, b, 0); err != nil {
			return nil, fmt.Errorf("read the first %d bytes of the disk: %w", len(b), err)
		}
		if chunk.IsZero(b) {
			return no, nil
		}
	}
	return func(v manifest.Volume) bool { return place(table.Table, v, r.t.Size()) >= v.Len }, nil
}

// anew tells whether all of e lies in a log that begins anew, and so need not be written.
func (r *run) anew(e manifest.Entry) bool {
	return !r.keeps(e) && r.logs.ContainsAll(extent.Extent{Off: e.Off, Len: e.Len})
}

// renew prepares the volumes that were written for what the disk held before and still holds in their free space.
func (r *run) renew(ctx context.Context) error {
	if len(r.renewals) == 0 {
		return nil
	}
	total := int64(0)
	for _, n := range r.renewals {
		total += n.Clears()
	}
	if total > 0 {
		r.begin(PhaseClearing, total)
		defer r.enter(PhaseFinishing)
	}
	w := &window{ctx: ctx, r: r}
	for _, n := range r.renewals {
		if err := n.Do(w, time.Now(), n.look); err != nil {
			return fmt.Errorf("make a filesystem fit for a disk that was in use: %w", err)
		}
	}
	if !r.opts.Verify {
		return nil
	}
	if err := r.t.Sync(); err != nil {
		return fmt.Errorf("make the written data durable: %w", err)
	}
	return w.verify()
}

// shifted is a captured disk as it lies on a larger one: from an offset on, all of it lies further behind by some room.
type shifted struct {
	io.ReaderAt
	from, room int64
}

// ReadAt implements io.ReaderAt. No volume lies on both sides of what was put in between.
func (s shifted) ReadAt(b []byte, off int64) (int, error) {
	if s.room > 0 && off >= s.from {
		off = max(off-s.room, s.from)
	}
	return s.ReaderAt.ReadAt(b, off)
}

// window is the disk, with what is kept back as if it were written.
type window struct {
	ctx   context.Context // once it is done, nothing more is read or written
	r     *run
	wrote []manifest.Entry // what is to be verified; no two overlap, and zeros side by side are one
}

// verify reads back what was written.
func (w *window) verify() error {
	b := []byte(nil)
	for _, e := range w.wrote {
		for off, n := e.Off, int64(0); off < e.Off+e.Len; off += n {
			if n = e.Off + e.Len - off; e.Zero {
				n = min(n, 1<<20)
			}
			b = slices.Grow(b[:0], int(n))[:n]
			if _, err := w.ReadAt(b, off); err != nil {
				return fmt.Errorf("read back %d bytes at offset %d of the disk: %w", n, off, err)
			}
			if e.Zero && !chunk.IsZero(b) || !e.Zero && chunk.Sum(b) != e.ID {
				return &VerifyError{Off: off, Len: n}
			}
		}
	}
	return nil
}

func (w *window) ReadAt(b []byte, off int64) (int, error) {
	size := w.r.t.Size()
	if off < 0 || off >= size {
		return 0, io.EOF
	}
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	var end error
	if rest := size - off; int64(len(b)) > rest {
		b, end = b[:rest], io.EOF
	}
	if err := readFull(w.r.t, b, off); err != nil {
		return 0, err
	}
	w.r.head.give(b, off)
	w.r.tail.give(b, off)
	w.r.done.Add(int64(len(b)))
	return len(b), end
}

func (w *window) WriteAt(b []byte, off int64) (int, error) {
	if size := w.r.t.Size(); off < 0 || off > size || int64(len(b)) > size-off {
		return 0, fmt.Errorf("write %d bytes at offset %d of a disk of %d", len(b), off, size)
	}
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	if err := w.r.put(b, off); err != nil {
		return 0, err
	}
	if !w.r.opts.Verify {
		return len(b), nil
	}
	e := manifest.Entry{Off: off, Len: int64(len(b)), Zero: chunk.IsZero(b)}
	if last := len(w.wrote) - 1; e.Zero && last >= 0 && w.wrote[last].Zero && w.wrote[last].Off+w.wrote[last].Len == off {
		w.wrote[last].Len += e.Len
		return len(b), nil
	}
	if !e.Zero {
		e.ID = chunk.Sum(b)
	}
	w.wrote = append(w.wrote, e)
	return len(b), nil
}
