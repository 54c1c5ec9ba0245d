package deploy

import (
	"context"
	"fmt"

	"mimeo/internal/imaging/disk"
	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/view"
)

// trust finds out what of the disk need not be read, as the image of the last deploy still lies there by the word of the
// filesystems' own metadata. What cannot be told is read, and r.untrusted says why; an error means that ctx is done.
//
// The table says that it is the disk that was written, and which volumes lie where they did; the filesystem, which files
// nobody has written to since: fsmap.Unchanged.
func (r *run) trust(ctx context.Context) error {
	last := r.opts.Last
	if last == nil {
		return nil
	}
	table, err := disk.ReadTable(r.t, r.t.Size(), r.t.SectorSize())
	switch {
	case err != nil:
		r.distrust("", fmt.Sprintf("its partition table cannot be read: %v", err))
		return nil
	case table.Kind != last.Table.Kind || table.ID != last.Table.ID:
		r.distrust("", fmt.Sprintf("its partition table is %s, that of the last deploy was %s", named(table.Table), named(last.Table)))
		return nil
	case !r.opts.Compare:
		r.distrust("", "all of it is written anyway")
		return nil
	}
	captured, err := view.Open(ctx, r.from, last)
	if err != nil {
		r.distrust("", fmt.Sprintf("the image of the last deploy cannot be read: %v", err))
		return ctx.Err()
	}
	before := &before{Disk: captured, now: r.t}
	var same []extent.Extent
	was := fsmap.DiskOf(before, last.Volumes)
	now := fsmap.DiskOf(r.t, last.Volumes)
	for i, v := range last.Volumes {
		now.Volumes[i].Len = place(table.Table, v, r.t.Size())
	}
	for i, v := range last.Volumes {
		what := fmt.Sprintf("%s at offset %d", v.Type, v.Off)
		if v.Partition > 0 {
			what = fmt.Sprintf("partition %d (%s)", v.Partition, v.Type)
		}
		switch {
		case v.Method == manifest.MethodHead:
			continue // there is little to read
		case v.Method != manifest.MethodUsed:
			r.distrust(what, "it was captured whole: "+v.Reason)
			continue
		case now.Volumes[i].Len < v.Len:
			r.distrust(what, "it does not lie where the last deploy wrote it")
			continue
		}
		list, whys, err := fsmap.Unchanged(now, was, i, v.Type, v.UUID)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			whys = append(whys, err.Error())
		}
		for _, why := range whys {
			r.distrust(what, why)
		}
		same = append(same, list...)
	}
	r.same = extent.FromUnsorted(same)
	return nil
}

// distrust notes why something is read, all of the disk where what is "".
func (r *run) distrust(what, why string) {
	if what == "" {
		why = "reads everything, because " + why
	} else {
		why = "reads " + what + ", because " + why
	}
	r.untrusted = append(r.untrusted, why)
}

func named(t manifest.Table) string {
	if t.ID == "" {
		return t.Kind
	}
	return t.Kind + " " + t.ID
}

// place returns how many bytes a volume may take where it lay, 0 where nothing of it lies there.
func place(t manifest.Table, v manifest.Volume, size int64) int64 {
	if v.Partition == 0 {
		return max(size-v.Off, 0)
	}
	for _, p := range t.Partitions {
		if p.Number == v.Partition && p.Off == v.Off && p.Off+p.Len <= size {
			return p.Len
		}
	}
	return 0
}

// trusted tells of one entry after the other whether the disk is believed to hold it.
type trusted struct {
	r    *run
	last *manifest.EntryReader // of the last deploy
	have manifest.Entry
	end  bool
}

// trusted begins at the start of the disk.
func (r *run) trusted() *trusted {
	t := &trusted{r: r, end: len(r.same) == 0}
	if !t.end {
		t.last = manifest.NewEntryReader(r.from, r.opts.Last)
	}
	return t
}

// has tells whether e is believed to be on the disk: the last deploy wrote the same chunk there, and all of it is known
// to be unchanged. Entries are asked for in ascending order. Once the image of the last deploy cannot be read, nothing is.
func (t *trusted) has(ctx context.Context, e manifest.Entry) bool {
	if t.end || e.Zero || t.r.keeps(e) || !t.r.same.ContainsAll(extent.Extent{Off: e.Off, Len: e.Len}) {
		return false
	}
	for t.have.Len == 0 || t.have.Off < e.Off {
		var err error
		if t.have, err = t.last.Next(ctx); err != nil {
			t.end = true
			return false
		}
	}
	return t.have == e
}
