// Package view reads a captured disk out of its store, at any offset, as a deploy would write it.
package view

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
)

// Defaults of what is kept in memory.
const (
	cacheBytes    = 64 << 20 // decoded chunks
	cacheSegments = 32 << 20 // decoded pieces of the chunk list
)

// Disk is a captured disk. What was not captured reads as zeros. Its methods may be called from several goroutines.
type Disk struct {
	ctx    context.Context // of all reads: io.ReaderAt has none of its own
	from   store.Reader
	m      *manifest.Manifest
	starts []int64 // offset of each segment's first entry
	chunks *cache
	lists  *cache
}

// Open reads through the list of chunks once, to check that it is whole and where its segments begin.
func Open(ctx context.Context, from store.Reader, m *manifest.Manifest) (*Disk, error) {
	d := &Disk{ctx: ctx, from: from, m: m, chunks: newCache(cacheBytes), lists: newCache(cacheSegments)}
	entries := manifest.NewEntryReader(from, m)
	left := 0 // entries of the segment
	for {
		e, err := entries.Next(ctx)
		if errors.Is(err, io.EOF) {
			return d, nil
		}
		if err != nil {
			return nil, err
		}
		if left == 0 {
			left = m.Content.Segments[len(d.starts)].Len / manifest.EntrySize
			d.starts = append(d.starts, e.Off)
		}
		left--
	}
}

// Size returns the bytes of the disk.
func (d *Disk) Size() int64 { return d.m.Disk.Size }

// Manifest returns what is known of the disk.
func (d *Disk) Manifest() *manifest.Manifest { return d.m }

// Info returns the disk's geometry and identity.
func (d *Disk) Info() manifest.Disk { return d.m.Disk }

// want is a piece of a chunk that a read needs.
type want struct {
	id   chunk.ID
	len  int64 // of the chunk
	from int64 // within the chunk
	dst  []byte
}

// Metadata is cut in small chunks, and who reads one mostly reads the next: those that lie within the same nearLen bytes of
// the disk, and are not longer than nearChunk, are fetched along.
const (
	nearLen   = 64 << 10
	nearChunk = 8 << 10
)

// maxWants bounds the chunks of one question to the store, and so what lies in memory.
const maxWants = 256

// ReadAt implements io.ReaderAt. Every chunk is checked against its name.
func (d *Disk) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at offset %d", off)
	}
	if off >= d.Size() {
		return 0, io.EOF
	}
	var end error
	if rest := d.Size() - off; int64(len(b)) > rest {
		b, end = b[:rest], io.EOF
	}
	clear(b)
	var wants, near []want
	first, last := off/nearLen*nearLen, (off+int64(len(b))+nearLen-1)/nearLen*nearLen
	err := d.Entries(first, last, func(e manifest.Entry) error {
		from, to := max(e.Off, off), min(e.Off+e.Len, off+int64(len(b)))
		switch {
		case e.Zero:
		case from < to:
			wants = append(wants, want{id: e.ID, len: e.Len, from: from - e.Off, dst: b[from-off : to-off]})
		case e.Len <= nearChunk:
			near = append(near, want{id: e.ID, len: e.Len})
		}
		if len(wants) < maxWants {
			return nil
		}
		err := d.load(wants, near)
		wants, near = wants[:0], near[:0]
		return err
	})
	if err == nil {
		err = d.load(wants, near)
	}
	if err != nil {
		return 0, fmt.Errorf("read %d bytes at offset %d: %w", len(b), off, err)
	}
	return len(b), end
}

// Entries calls fn with the pieces that lie, at least in part, on the bytes from to to of the disk, in ascending order.
func (d *Disk) Entries(from, to int64, fn func(manifest.Entry) error) error {
	i, exact := slices.BinarySearch(d.starts, from)
	if !exact && i > 0 {
		i--
	}
	for ; i < len(d.starts) && d.starts[i] < to; i++ {
		raw, err := d.segment(i)
		if err != nil {
			return err
		}
		n := len(raw) / manifest.EntrySize
		lo, hi := 0, n // the first that ends after from
		for lo < hi {
			mid := (lo + hi) / 2
			e, err := manifest.DecodeEntry(raw[mid*manifest.EntrySize:])
			if err != nil {
				return err
			}
			if e.Off+e.Len > from {
				hi = mid
			} else {
				lo = mid + 1
			}
		}
		for ; lo < n; lo++ {
			e, err := manifest.DecodeEntry(raw[lo*manifest.EntrySize:])
			if err != nil {
				return err
			}
			if e.Off >= to {
				return nil
			}
			if err := fn(e); err != nil {
				return err
			}
		}
	}
	return nil
}

// segment returns the raw bytes of a segment.
func (d *Disk) segment(i int) ([]byte, error) {
	s := d.m.Content.Segments[i]
	if raw, ok := d.lists.get(s.ID); ok {
		return raw, nil
	}
	var raw []byte
	err := d.from.Get(d.ctx, []chunk.ID{s.ID}, func(c chunk.Encoded) (err error) {
		if c.ID != s.ID || int(c.RawLen) != s.Len {
			return fmt.Errorf("the store gave chunk %s of %d bytes", c.ID, c.RawLen)
		}
		raw, err = chunk.Decode(c, nil)
		return err
	})
	if err == nil && len(raw) != s.Len {
		err = fmt.Errorf("the store gave %d bytes of %d", len(raw), s.Len)
	}
	if err != nil {
		return nil, fmt.Errorf("read segment %d of the manifest: %w", i, err)
	}
	d.lists.put(s.ID, raw)
	return raw, nil
}

// load fills what is wanted, from the cache or from the store. What is near is fetched where something must be, and can
// be had: nobody has asked for it.
func (d *Disk) load(wants, near []want) error {
	missing := make([]want, 0, len(wants)+len(near))
	for _, w := range wants {
		if raw, ok := d.chunks.get(w.id); !ok {
			missing = append(missing, w)
		} else if int64(len(raw)) != w.len {
			return fmt.Errorf("chunk %s has %d bytes, the image says %d", w.id, len(raw), w.len)
		} else {
			copy(w.dst, raw[w.from:])
		}
	}
	if len(missing) == 0 {
		return nil
	}
	wanted := len(missing)
	for _, w := range near {
		if _, ok := d.chunks.get(w.id); !ok {
			missing = append(missing, w)
		}
	}
	err := d.fetch(missing)
	if err != nil && len(missing) > wanted && d.ctx.Err() == nil {
		err = d.fetch(missing[:wanted])
	}
	return err
}

// fetch fills what is wanted from the store.
func (d *Disk) fetch(wants []want) error {
	var ids []chunk.ID
	missing := make(map[chunk.ID][]want)
	for _, w := range wants {
		if missing[w.id] == nil {
			ids = append(ids, w.id)
		}
		missing[w.id] = append(missing[w.id], w)
	}
	err := d.from.Get(d.ctx, ids, func(c chunk.Encoded) error {
		list := missing[c.ID]
		if list == nil {
			return fmt.Errorf("the store gave chunk %s, which was not asked for", c.ID)
		}
		delete(missing, c.ID)
		raw, err := chunk.Decode(c, nil)
		if err != nil {
			return err
		}
		for _, w := range list {
			if int64(len(raw)) != w.len {
				return fmt.Errorf("chunk %s has %d bytes, the image says %d", c.ID, len(raw), w.len)
			}
			copy(w.dst, raw[w.from:])
		}
		d.chunks.put(c.ID, raw)
		return nil
	})
	if err == nil && len(missing) > 0 {
		err = fmt.Errorf("the store left out %d of %d chunks", len(missing), len(ids))
	}
	return err
}
