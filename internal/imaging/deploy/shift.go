package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"mimeo/internal/imaging/manifest"
)

// fixed are the types of partitions whose place is known to what starts them: GRUB's on BIOS machines, and POWER's PReP.
var fixed = []string{"21686148-6449-6e6f-744e-656564454649", "9e1a2d38-c612-4316-aa26-8b49521e5a7c"}

// shift puts what lies behind a volume that is to grow nearer to the end of a larger disk, as all of it is written anyway.
// It changes r.m to what it will be: that of a larger disk, with room behind the volume. With a GPT alone: there, what
// starts from a partition goes by its GUID, and not by its place.
func (r *run) shift() error {
	v, _, ok, err := r.m.Grows(r.opts.Grow)
	room := (r.t.Size() - r.m.Disk.Size) / growAlign * growAlign
	if err != nil || !ok || r.opts.Grow == GrowLast || room <= 0 || v.Partition == 0 {
		return err
	}
	from := v.Off + v.Len
	if !slices.ContainsFunc(r.m.Table.Partitions, func(p manifest.Partition) bool {
		return p.Len > 0 && p.Off >= from && p.Off < from+growAlign
	}) {
		return nil // there is room behind it already, or none is behind it
	}
	fail := func(format string, args ...any) error {
		return &manifest.GrowError{Name: r.opts.Grow, Why: fmt.Sprintf(format, args...)}
	}
	if r.m.Table.Kind != "gpt" {
		return fail("a partition lies right behind partition %d, and those of an MBR are not moved", v.Partition)
	}
	m := *r.m
	m.Table.Partitions, m.Volumes = slices.Clone(m.Table.Partitions), slices.Clone(m.Volumes)
	for i := range m.Table.Partitions {
		if p := &m.Table.Partitions[i]; p.Off >= from {
			if slices.Contains(fixed, p.Type) {
				return fail("partition %d lies behind partition %d, and firmware starts it from a place that it knows", p.Number, v.Partition)
			}
			p.Off += room
		}
	}
	for i := range m.Volumes {
		if w := &m.Volumes[i]; w.Off >= from {
			w.Off += room
		}
	}
	m.Disk.Size += room
	r.m, r.from0, r.room = &m, from, room
	r.hold()
	return nil
}

// growAlign is what partitions are moved by.
const growAlign = 1 << 20

// entries reads the image's entries, as they lie on the target.
type entries struct {
	*manifest.EntryReader
	r    *run
	rest manifest.Entry // of one of zeros on both sides of where the shift begins
}

func (r *run) entries() *entries {
	return &entries{EntryReader: manifest.NewEntryReader(r.from, r.image), r: r}
}

// Next returns the next entry, and io.EOF behind the last.
func (e *entries) Next(ctx context.Context) (manifest.Entry, error) {
	if e.rest.Len > 0 {
		next := e.rest
		e.rest = manifest.Entry{}
		return next, nil
	}
	next, err := e.EntryReader.Next(ctx)
	if err != nil || e.r.room == 0 || next.Off+next.Len <= e.r.from0 {
		return next, err
	}
	if next.Off < e.r.from0 {
		if !next.Zero {
			return next, fmt.Errorf("the image's entry at offset %d lies in two partitions: deploy with another --grow", next.Off)
		}
		e.rest = next
		next.Len = e.r.from0 - next.Off
		e.rest.Off, e.rest.Len = e.r.from0+e.r.room, e.rest.Len-next.Len
		return next, nil
	}
	next.Off += e.r.room
	return next, nil
}

// each calls fn for all entries.
func (r *run) each(ctx context.Context, fn func(manifest.Entry) error) error {
	for list := r.entries(); ; {
		e, err := list.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the image's contents: %w", err)
		}
		if err := fn(e); err != nil {
			return err
		}
	}
}
