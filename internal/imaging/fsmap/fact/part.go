package fact

import (
	"errors"
	"fmt"
	"io"
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
	Views []View      // with Only: volumes that lie in what is in use, all that have some of it
	Leg   bool        // it is one of several copies that must stay the same, or has parity: to be read, and not written to alone
	Twins [][]Span    // where copies of it lie in the same volume, each as Spans
	Rows  *Rows       // how parity goes with its bytes; nil where there is none
}

// Rows say which bytes of a RAID with parity belong together: those at the same offset of its images, of which some are parity. A
// column is such an offset.
type Rows struct {
	Columns []Span // where the part lies among the columns; several of its bytes share one
	Images  []Part // what a RAID's disks hold, data and parity
}

// Span is a stretch of a Part.
type Span struct {
	At      int64    // bytes from the start of the part
	Off     int64    // bytes from the start of the volume around it; 0 with Stripes
	Len     int64    // bytes
	Stripes *Stripes // how it lies over several places; nil where it lies in one
}

// Stripes lay a Span out over several places in turns: Size bytes in the first, as many in the next, and so on.
type Stripes struct {
	Offs []int64 // bytes from the start of the volume around it
	Size int64   // bytes; Len is a multiple of Size times the number of places
	Step int64   // bytes from the start of one turn of a place to that of its next; 0 means Size
}

// step returns Step.
func (s *Stripes) step() int64 {
	if s.Step == 0 {
		return s.Size
	}
	return s.Step
}

// View is a volume that lies in a Part piece by piece, and may share pieces with others, as thin volumes do.
type View struct {
	Name  string
	Size  int64  // bytes
	Spans []Span // where it lies in the part, by At; what lies in between reads as zeros. Some may lie behind Size
	Whole string // why it cannot be looked into; "" where it can
}

// Reader reads the view out of the part.
func (v View) Reader(part io.ReaderAt) io.ReaderAt {
	return viewReader{Part{Size: v.Size, Spans: v.Spans}, part}
}

type viewReader struct {
	p Part
	r io.ReaderAt
}

func (r viewReader) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 || off >= r.p.Size {
		return 0, io.EOF
	}
	var end error
	if rest := r.p.Size - off; int64(len(b)) > rest {
		b, end = b[:rest], io.EOF
	}
	clear(b)
	for i := r.p.span(off); i < len(r.p.Spans) && r.p.Spans[i].At < off+int64(len(b)); i++ {
		s := r.p.Spans[i]
		from, to := max(s.At, off), min(s.At+s.Len, off+int64(len(b)))
		if n, err := r.r.ReadAt(b[from-off:to-off], s.Off+from-s.At); int64(n) < to-from {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return int(from - off), err
		}
	}
	return len(b), end
}

// Covers returns where extents of the view lie in the part.
func (v View) Covers(list extent.List) extent.List { return Part{Spans: v.Spans}.OuterList(list) }

// All returns all of the part that the view has some of.
func (v View) All() extent.List { return Part{Spans: v.Spans}.All() }

// Behind returns what of the part the view has behind its end.
func (v View) Behind() extent.List {
	return v.Covers(extent.List{{Off: v.Size, Len: 1<<62 - v.Size}})
}

// Same tells whether two Spans that may differ in length lie in the same place.
func (s Span) Same(t Span) bool {
	if s.At != t.At || s.Off != t.Off || (s.Stripes == nil) != (t.Stripes == nil) {
		return false
	}
	return s.Stripes == nil || s.Stripes.Size == t.Stripes.Size && s.Stripes.step() == t.Stripes.step() && slices.Equal(s.Stripes.Offs, t.Stripes.Offs)
}

// outer calls fn with where the bytes of the part from from to to, which lie in the span, are in the volume around it.
func (s Span) outer(from, to int64, fn func(at, off, n int64)) {
	if s.Stripes == nil {
		fn(from, s.Off+from-s.At, to-from)
		return
	}
	size, places := s.Stripes.Size, int64(len(s.Stripes.Offs))
	for from < to {
		turn, within := (from-s.At)/size, (from-s.At)%size
		n := min(size-within, to-from)
		fn(from, s.Stripes.Offs[turn%places]+turn/places*s.Stripes.step()+within, n)
		from += n
	}
}

// cover appends the same bytes to list, in one extent for each place where turns follow each other there.
func (s Span) cover(from, to int64, list []extent.Extent) []extent.Extent {
	if s.Stripes == nil {
		return append(list, extent.Extent{Off: s.Off + from - s.At, Len: to - from})
	}
	if s.Stripes.step() != s.Stripes.Size {
		s.outer(from, to, func(_, off, n int64) { list = append(list, extent.Extent{Off: off, Len: n}) })
		return list
	}
	size, places := s.Stripes.Size, int64(len(s.Stripes.Offs))
	from, to = from-s.At, to-s.At
	first, last := from/size, (to-1)/size
	for i, off := range s.Stripes.Offs {
		a := first + (int64(i)-first%places+places)%places // the first turn of this place, and the last
		b := last - (last%places-int64(i)+places)%places
		if a > b {
			continue
		}
		start, end := off+a/places*size, off+(b/places+1)*size
		if a == first {
			start += from % size
		}
		if b == last {
			end -= size - 1 - (to-1)%size
		}
		list = append(list, extent.Extent{Off: start, Len: end - start})
	}
	return list
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
	var failed error
	r.p.Outer(off, int64(len(b)), func(at, outer, n int64) {
		if failed != nil || at != off+int64(done) {
			return
		}
		var k int
		k, failed = r.r.ReadAt(b[done:][:n], outer)
		done += k
		if int64(k) == n {
			failed = nil
		} else if failed == nil || errors.Is(failed, io.EOF) {
			failed = io.ErrUnexpectedEOF
		}
	})
	if failed == nil && done < len(b) {
		failed = io.ErrUnexpectedEOF
	}
	if failed != nil {
		return done, failed
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

// Bytes reads and writes a part of a disk.
type Bytes struct {
	Part Part
	Disk interface {
		io.ReaderAt
		io.WriterAt
	}
}

// ReadAt implements io.ReaderAt.
func (b Bytes) ReadAt(p []byte, off int64) (int, error) { return b.Part.Reader(b.Disk).ReadAt(p, off) }

// WriteAt implements io.WriterAt.
func (b Bytes) WriteAt(p []byte, off int64) (int, error) {
	return b.Part.Writer(b.Disk).WriteAt(p, off)
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
	p.each(off, n, func(s Span, from, to int64) { s.outer(from, to, fn) })
}

// each calls fn with the spans that have some of a stretch of the part, and where in the part that begins and ends.
func (p Part) each(off, n int64, fn func(s Span, from, to int64)) {
	for i := p.span(off); i < len(p.Spans) && p.Spans[i].At < off+n; i++ {
		s := p.Spans[i]
		fn(s, max(s.At, off), min(s.At+s.Len, off+n))
	}
}

// OuterList returns where extents of the part lie in the volume around it.
func (p Part) OuterList(list extent.List) extent.List {
	var out []extent.Extent
	for _, e := range list {
		p.each(e.Off, e.Len, func(s Span, from, to int64) { out = s.cover(from, to, out) })
	}
	return extent.FromUnsorted(out)
}

// All returns all of the volume around it that belongs to the part.
func (p Part) All() extent.List {
	if p.Rows != nil {
		var all extent.List
		for _, image := range p.Rows.Images {
			all = extent.Union(all, image.All())
		}
		return all
	}
	var out []extent.Extent
	for _, spans := range append([][]Span{p.Spans}, p.Twins...) {
		for _, s := range spans {
			out = s.cover(s.At, s.At+s.Len, out)
		}
	}
	return extent.FromUnsorted(out)
}

// columnLen is what of a column's neighbours is captured with it: Linux reads and writes RAIDs with parity in pages.
const columnLen = 4 << 10

// Captured returns what of the volume around it must be captured so that extents of the part are. Where the part has parity all of
// a row goes with any of it; and what is in no row that is captured must be zeros, whose parity is right: a later write makes its
// parity anew out of the old, and would keep it wrong.
func (p Part) Captured(list extent.List) (out, zeros extent.List) {
	if p.Rows == nil {
		out = p.OuterList(list)
		for _, twin := range p.Twins {
			out = extent.Union(out, Part{Spans: twin}.OuterList(list))
		}
		return out, nil
	}
	wide := Gather{most: max(MaxExtents/2/len(p.Rows.Images), 1)}
	for _, e := range (Part{Spans: p.Rows.Columns}).OuterList(list) {
		from, to := e.Off/columnLen*columnLen, (e.End()+columnLen-1)/columnLen*columnLen
		if k := len(wide.list); k > 0 {
			from = max(from, wide.list[k-1].End())
		}
		if from < to {
			wide.Add(extent.Extent{Off: from, Len: to - from})
		}
	}
	var used, free []extent.Extent
	for _, image := range p.Rows.Images {
		mine := wide.List().Clip(extent.Extent{Len: image.Size})
		used = append(used, image.OuterList(mine)...)
		free = append(free, image.OuterList(extent.Subtract(extent.List{{Len: image.Size}}, mine))...)
	}
	return extent.FromUnsorted(used), extent.FromUnsorted(free)
}

// Piece returns where the part lies in the volume around it; ok is false where it lies in several pieces.
func (p Part) Piece() (off int64, ok bool) {
	if len(p.Spans) != 1 || p.Spans[0].Stripes != nil {
		return 0, false
	}
	return p.Spans[0].Off, true
}

// Striped tells whether some of the part is laid out in turns.
func (p Part) Striped() bool {
	return slices.ContainsFunc(p.Spans, func(s Span) bool { return s.Stripes != nil })
}

// Moved returns the part where all of it lies delta bytes further on.
func (p Part) Moved(delta int64) Part {
	return p.laid(func(spans []Span) []Span { return moved(spans, delta) })
}

// laid returns the part with all that says where it lies as to says.
func (p Part) laid(to func([]Span) []Span) Part {
	p.Spans = to(p.Spans)
	p.Twins = slices.Clone(p.Twins)
	for i := range p.Twins {
		p.Twins[i] = to(p.Twins[i])
	}
	if p.Rows != nil {
		rows := &Rows{Columns: p.Rows.Columns}
		for _, image := range p.Rows.Images {
			rows.Images = append(rows.Images, image.laid(to))
		}
		p.Rows = rows
	}
	return p
}

func moved(spans []Span, delta int64) []Span {
	spans = slices.Clone(spans)
	for i := range spans {
		s := &spans[i]
		if s.Stripes == nil {
			s.Off += delta
			continue
		}
		offs := slices.Clone(s.Stripes.Offs)
		for k := range offs {
			offs[k] += delta
		}
		s.Stripes = &Stripes{Offs: offs, Size: s.Stripes.Size, Step: s.Stripes.Step}
	}
	return spans
}

// Within returns the part of a part as a part of what is around both. Of two that are laid out in turns, and where the outer one is and
// the inner one is long, that takes much memory.
func (p Part) Within(outer Part) Part {
	p.Leg = p.Leg || outer.Leg
	if off, ok := outer.Piece(); ok {
		return p.Moved(off)
	}
	return p.laid(func(spans []Span) []Span { return within(spans, outer) })
}

func within(spans []Span, outer Part) (out []Span) {
	for _, s := range spans {
		s.outer(s.At, s.At+s.Len, func(in, mid, n int64) {
			outer.Outer(mid, n, func(at, off, n int64) { out = append(out, Span{At: in + at - mid, Off: off, Len: n}) })
		})
	}
	return out
}
