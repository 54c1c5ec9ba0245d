package fact

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"mimeo/internal/imaging/extent"
)

// Part is a volume that lies inside another, as a logical volume does.
type Part struct {
	Name  string // as people call it: "vg0/root"
	UUID  string
	Size  int64       // bytes
	Spans []Span      // where it lies, by At, without a gap from 0 to Size; of one that cannot be looked into only what is known
	Whole string      // why it cannot be looked into; "" where it can
	Only  extent.List // with Whole: what of it is known to be in use; nil means all of it
	Leg   bool        // it is one of several copies that must stay the same: to be read, and not written to alone
}

// Span is a stretch of a Part.
type Span struct {
	At  int64 // bytes from the start of the part
	Off int64 // bytes from the start of the volume around it
	Len int64 // bytes
}

// Container is a volume that holds others.
type Container struct {
	UUID  string
	Label string
	Meta  extent.List // what belongs to no part and must be captured
	Parts []Part
	Notes []string
}

// Reader reads the part out of the volume around it.
func (p Part) Reader(r io.ReaderAt) io.ReaderAt { return partReader{p, r} }

type partReader struct {
	p Part
	r io.ReaderAt
}

func (r partReader) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 || off >= r.p.Size {
		return 0, io.EOF
	}
	var end error
	if rest := r.p.Size - off; int64(len(b)) > rest {
		b, end = b[:rest], io.EOF
	}
	done := 0
	for i := r.p.span(off); done < len(b); i++ {
		if i == len(r.p.Spans) {
			return done, io.ErrUnexpectedEOF
		}
		s := r.p.Spans[i]
		within := off + int64(done) - s.At
		part := b[done:min(int64(len(b)), int64(done)+s.Len-within)]
		n, err := r.r.ReadAt(part, s.Off+within)
		done += n
		if n < len(part) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return done, err
		}
	}
	return done, end
}

// Writer writes the part within the volume around it.
func (p Part) Writer(w io.WriterAt) io.WriterAt { return partWriter{p, w} }

type partWriter struct {
	p Part
	w io.WriterAt
}

func (w partWriter) WriteAt(b []byte, off int64) (done int, err error) {
	if off < 0 || off > w.p.Size || int64(len(b)) > w.p.Size-off {
		return 0, fmt.Errorf("write %d bytes at offset %d of a part of %d", len(b), off, w.p.Size)
	}
	w.p.Outer(off, int64(len(b)), func(at, outer, n int64) {
		if err == nil {
			var k int
			k, err = w.w.WriteAt(b[at-off:][:n], outer)
			done += k
		}
	})
	return done, err
}

// Bytes reads and writes a part of a volume that begins somewhere on a disk.
type Bytes struct {
	Part Part
	Disk interface {
		io.ReaderAt
		io.WriterAt
	}
	Off int64 // of the volume, in bytes of the disk
}

// ReadAt implements io.ReaderAt.
func (b Bytes) ReadAt(p []byte, off int64) (int, error) {
	return b.Part.Reader(io.NewSectionReader(b.Disk, b.Off, math.MaxInt64-b.Off)).ReadAt(p, off)
}

// WriteAt implements io.WriterAt.
func (b Bytes) WriteAt(p []byte, off int64) (int, error) {
	return b.Part.Writer(io.NewOffsetWriter(b.Disk, b.Off)).WriteAt(p, off)
}

// span returns the first span that ends behind off.
func (p Part) span(off int64) int {
	i, _ := slices.BinarySearchFunc(p.Spans, off, func(s Span, off int64) int {
		if s.At+s.Len <= off {
			return -1
		}
		return 1
	})
	return i
}

// Outer calls fn with where a stretch of the part lies in the volume around it, in the order of the part.
func (p Part) Outer(off, n int64, fn func(at, off, n int64)) {
	for i := p.span(off); i < len(p.Spans) && p.Spans[i].At < off+n; i++ {
		s := p.Spans[i]
		from, to := max(s.At, off), min(s.At+s.Len, off+n)
		fn(from, s.Off+from-s.At, to-from)
	}
}

// OuterList returns where extents of the part lie in the volume around it.
func (p Part) OuterList(list extent.List) extent.List {
	var out []extent.Extent
	for _, e := range list {
		p.Outer(e.Off, e.Len, func(_, off, n int64) { out = append(out, extent.Extent{Off: off, Len: n}) })
	}
	return extent.FromUnsorted(out)
}

// All returns all of the volume around it that belongs to the part.
func (p Part) All() extent.List {
	var out []extent.Extent
	for _, s := range p.Spans {
		out = append(out, extent.Extent{Off: s.Off, Len: s.Len})
	}
	return extent.FromUnsorted(out)
}

// Within returns the part of a part as a part of what is around both.
func (p Part) Within(outer Part) Part {
	var spans []Span
	for _, s := range p.Spans {
		outer.Outer(s.Off, s.Len, func(at, off, n int64) { spans = append(spans, Span{At: s.At + at - s.Off, Off: off, Len: n}) })
	}
	p.Spans, p.Leg = spans, p.Leg || outer.Leg
	return p
}
