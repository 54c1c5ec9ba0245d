package manifest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"mimeo/internal/imaging/chunk"
)

// MaxSegment is the greatest length of a segment in raw bytes.
const MaxSegment = 1 << 20 / EntrySize * EntrySize

// segmentSpan is the stretch of the disk, in bytes, after which SegmentWriter starts a new segment. Where little
// changed on the disk, most segments of the next revision are those of the last. At DefaultSize, it is 96 KiB a segment.
const segmentSpan = 256 << 20

// A SegmentWriter gathers entries into segments and counts them.
type SegmentWriter struct {
	emit    func(id chunk.ID, raw []byte) error
	buf     []byte
	end     int64 // of the last entry
	content Content
}

// NewSegmentWriter returns a SegmentWriter that calls emit with each segment, to be stored as a chunk. raw is good
// until emit returns.
func NewSegmentWriter(emit func(id chunk.ID, raw []byte) error) *SegmentWriter {
	return &SegmentWriter{emit: emit}
}

// Add takes the next entry. Entries come in ascending order and do not overlap.
func (w *SegmentWriter) Add(e Entry) error {
	if err := e.check(); err != nil {
		return err
	}
	if e.Off < w.end {
		return fmt.Errorf("entry at offset %d: the one before it ends at %d", e.Off, w.end)
	}
	if len(w.buf) > 0 && (len(w.buf)+EntrySize > MaxSegment || w.first()/segmentSpan != e.Off/segmentSpan) {
		if err := w.cut(); err != nil {
			return err
		}
	}
	w.buf = AppendEntry(w.buf, e)
	w.end = e.Off + e.Len
	w.content.Entries++
	w.content.Used += e.Len
	if e.Zero {
		w.content.Zero += e.Len
	} else {
		w.content.Chunks++
	}
	return nil
}

// first returns the offset of the first entry in buf.
func (w *SegmentWriter) first() int64 {
	e, _ := DecodeEntry(w.buf)
	return e.Off
}

func (w *SegmentWriter) cut() error {
	id := chunk.Sum(w.buf)
	if err := w.emit(id, w.buf); err != nil {
		return err
	}
	w.content.Segments = append(w.content.Segments, Segment{ID: id, Len: len(w.buf)})
	w.buf = w.buf[:0]
	return nil
}

// Close emits the last segment and returns the Content of all.
func (w *SegmentWriter) Close() (Content, error) {
	if len(w.buf) > 0 {
		if err := w.cut(); err != nil {
			return Content{}, err
		}
	}
	return w.content, nil
}

// Getter is the part of a store that an EntryReader needs; store.Reader has it.
type Getter interface {
	Get(ctx context.Context, ids []chunk.ID, fn func(chunk.Encoded) error) error
}

// ErrContent says that a manifest's segments are damaged, or are not what the manifest says. Reading them again does
// not help.
var ErrContent = errors.New("the manifest's chunk list is wrong")

// An EntryReader streams the entries of a manifest, one segment in memory at a time. It checks that they are in order,
// do not overlap, lie on the disk, and add up to what Content says.
type EntryReader struct {
	from Getter
	m    *Manifest
	next int // segment
	raw  []byte
	buf  []byte // what is left of raw
	end  int64  // of the last entry
	seen Content
}

// NewEntryReader returns a reader of m's entries, which takes the segments from a store.
func NewEntryReader(from Getter, m *Manifest) *EntryReader { return &EntryReader{from: from, m: m} }

// Next returns the next entry, or io.EOF after the last when everything added up.
func (r *EntryReader) Next(ctx context.Context) (Entry, error) {
	if len(r.buf) == 0 {
		if r.next == len(r.m.Content.Segments) {
			return Entry{}, r.totals()
		}
		if err := r.load(ctx); err != nil {
			return Entry{}, err
		}
	}
	e, err := DecodeEntry(r.buf)
	if err != nil {
		return e, fmt.Errorf("%w: segment %d: %w", ErrContent, r.next-1, err)
	}
	r.buf = r.buf[EntrySize:]
	if e.Off < r.end {
		return e, fmt.Errorf("%w: segment %d: entry at offset %d: the one before it ends at %d", ErrContent, r.next-1, e.Off, r.end)
	}
	if !r.m.within(e.Off, e.Len, 1) {
		return e, fmt.Errorf("%w: segment %d: entry: %d bytes at offset %d are not on the disk of %d", ErrContent, r.next-1, e.Len, e.Off, r.m.Disk.Size)
	}
	r.end = e.Off + e.Len
	r.seen.Entries++
	r.seen.Used += e.Len
	if e.Zero {
		r.seen.Zero += e.Len
	} else {
		r.seen.Chunks++
	}
	return e, nil
}

// Segment returns the segment of the entry that Next returned last.
func (r *EntryReader) Segment() Segment { return r.m.Content.Segments[r.next-1] }

func (r *EntryReader) load(ctx context.Context) error {
	raw, err := ReadSegment(ctx, r.from, r.m.Content.Segments[r.next], r.raw)
	if err != nil {
		return fmt.Errorf("segment %d of the manifest: %w", r.next, err)
	}
	r.raw, r.buf = raw, raw
	r.next++
	return nil
}

// ReadSegment returns the records of a segment, one after the other, for DecodeEntry. It uses buf where that is large
// enough.
func ReadSegment(ctx context.Context, from Getter, s Segment, buf []byte) ([]byte, error) {
	if s.Len <= 0 || s.Len > MaxSegment || s.Len%EntrySize != 0 {
		return nil, fmt.Errorf("%w: length %d", ErrContent, s.Len)
	}
	got := false
	err := from.Get(ctx, []chunk.ID{s.ID}, func(c chunk.Encoded) error {
		if c.ID != s.ID {
			return fmt.Errorf("asked for chunk %s, got %s", s.ID, c.ID)
		}
		got = true
		raw, err := chunk.Decode(c, buf)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrContent, err)
		}
		buf = raw
		return nil
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("read it: %w", err)
	case !got:
		return nil, fmt.Errorf("the store gave no chunk %s", s.ID)
	case len(buf) != s.Len:
		return nil, fmt.Errorf("%w: %d bytes, the manifest says %d", ErrContent, len(buf), s.Len)
	}
	return buf, nil
}

func (r *EntryReader) totals() error {
	want, got := r.m.Content, r.seen
	if got.Entries != want.Entries || got.Used != want.Used || got.Zero != want.Zero || got.Chunks != want.Chunks {
		return fmt.Errorf("%w: it says %d entries, %d chunks, %d bytes, %d of them zero; its segments hold %d, %d, %d, %d", ErrContent,
			want.Entries, want.Chunks, want.Used, want.Zero, got.Entries, got.Chunks, got.Used, got.Zero)
	}
	return io.EOF
}

// Entries returns all entries of m in order. The last pair carries the error, if there was one.
func Entries(ctx context.Context, from Getter, m *Manifest) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		r := NewEntryReader(from, m)
		for {
			e, err := r.Next(ctx)
			if err == io.EOF {
				return
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}
