// Package extent does arithmetic on byte ranges of a disk or volume.
package extent

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sort"
)

// Extent is the byte range [Off, Off+Len) of a disk or volume.
type Extent struct {
	Off int64 // bytes from the start of the disk or volume
	Len int64 // bytes; more than zero in a List
}

// End returns the first byte after e.
func (e Extent) End() int64 { return e.Off + e.Len }

// String returns e as [off, end).
func (e Extent) String() string { return fmt.Sprintf("[%d, %d)", e.Off, e.End()) }

// List is a set of bytes: its extents are sorted by Off, do not overlap and do not touch.
// Functions that return a List never change those they were given, and may return one of them.
type List []Extent

// FromUnsorted makes a List of extents in any order, which may overlap. It sorts es in place and reuses its memory.
// Empty extents are dropped; what lies before byte 0 or after the greatest int64 is cut off.
func FromUnsorted(es []Extent) List {
	w := 0
	for _, e := range es {
		if e, ok := sane(e); ok {
			es[w] = e
			w++
		}
	}
	es = es[:w]
	byOff := func(a, b Extent) int { return cmp.Compare(a.Off, b.Off) }
	if !slices.IsSortedFunc(es, byOff) {
		slices.SortFunc(es, byOff)
	}
	l := List(es[:0])
	for _, e := range es {
		l = l.push(e)
	}
	return l
}

// sane cuts e to [0, MaxInt64); false says that nothing is left.
func sane(e Extent) (Extent, bool) {
	if e.Len <= 0 {
		return e, false
	}
	if e.Off < 0 {
		e.Len += e.Off // cannot overflow: the signs differ
		e.Off = 0
	}
	if e.Len > math.MaxInt64-e.Off {
		e.Len = math.MaxInt64 - e.Off
	}
	return e, e.Len > 0
}

// push appends e, whose Off is not less than that of any extent in l.
func (l List) push(e Extent) List {
	if n := len(l); n > 0 && e.Off <= l[n-1].End() {
		if end := e.End(); end > l[n-1].End() {
			l[n-1].Len = end - l[n-1].Off
		}
		return l
	}
	return append(l, e)
}

// Add puts e's bytes into l. It is quick where extents come in ascending order; for many in no order, use FromUnsorted.
func (l *List) Add(e Extent) {
	e, ok := sane(e)
	if !ok {
		return
	}
	s := *l
	if n := len(s); n == 0 || e.Off >= s[n-1].Off {
		*l = s.push(e)
		return
	}
	// i is the first extent that e touches or precedes, j the first that lies wholly after e.
	i := sort.Search(len(s), func(k int) bool { return s[k].End() >= e.Off })
	j := i + sort.Search(len(s)-i, func(k int) bool { return s[i+k].Off > e.End() })
	if i < j {
		off, end := min(e.Off, s[i].Off), max(e.End(), s[j-1].End())
		e = Extent{off, end - off}
	}
	*l = slices.Replace(s, i, j, e)
}

// Valid says what is wrong with l where it is not a set: sorted, not empty, not touching, within int64.
func (l List) Valid() error {
	last := int64(-1)
	for i, e := range l {
		switch {
		case e.Off < 0 || e.Len <= 0 || e.Len > math.MaxInt64-e.Off:
			return fmt.Errorf("extent %d: offset %d, length %d: not a byte range", i, e.Off, e.Len)
		case e.Off <= last:
			return fmt.Errorf("extent %d: starts at %d, before or at the end %d of the one before", i, e.Off, last)
		}
		last = e.End()
	}
	return nil
}

// Bytes returns the number of bytes in l.
func (l List) Bytes() int64 {
	var n int64
	for _, e := range l {
		n += e.Len
	}
	return n
}

// find returns the index of the first extent that ends after off.
func (l List) find(off int64) int {
	return sort.Search(len(l), func(i int) bool { return l[i].End() > off })
}

// Contains tells whether the byte at off is in l.
func (l List) Contains(off int64) bool {
	i := l.find(off)
	return i < len(l) && l[i].Off <= off
}

// ContainsAll tells whether every byte of e is in l.
func (l List) ContainsAll(e Extent) bool {
	if e.Len <= 0 {
		return true
	}
	i := l.find(e.Off)
	return i < len(l) && l[i].Off <= e.Off && l[i].End() >= e.End()
}

// Clip returns the bytes of l that lie in e.
func (l List) Clip(e Extent) List {
	e, ok := sane(e)
	if !ok {
		return nil
	}
	i := l.find(e.Off)
	j := i + sort.Search(len(l)-i, func(k int) bool { return l[i+k].Off >= e.End() })
	if i == j {
		return nil
	}
	out := slices.Clone(l[i:j])
	if first := &out[0]; first.Off < e.Off {
		first.Len, first.Off = first.End()-e.Off, e.Off
	}
	if last := &out[len(out)-1]; last.End() > e.End() {
		last.Len = e.End() - last.Off
	}
	return out
}

// Shift returns l moved by delta bytes; what would lie before byte 0 or after the greatest int64 is cut off.
func (l List) Shift(delta int64) List {
	out := make(List, 0, len(l))
	for _, e := range l {
		if delta > 0 && e.Off > math.MaxInt64-delta {
			break
		}
		if e, ok := sane(Extent{e.Off + delta, e.Len}); ok {
			out = append(out, e)
		}
	}
	return out
}

// AlignOut returns l with every extent widened to whole blocks of align bytes, counted from byte 0.
// The last may reach past the end of the disk: Clip it. An align of 1 or less changes nothing.
func (l List) AlignOut(align int64) List {
	if align <= 1 {
		return l
	}
	out := make(List, 0, len(l))
	for _, e := range l {
		off, end := e.Off-e.Off%align, e.End()
		if r := end % align; r != 0 {
			if end > math.MaxInt64-(align-r) {
				end = math.MaxInt64
			} else {
				end += align - r
			}
		}
		out = out.push(Extent{off, end - off})
	}
	return out
}
