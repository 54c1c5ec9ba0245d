package extent

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// space is the number of bytes of the model's disk: small, so that extents often meet.
const space = 96

type model [2 * space]bool

func (m *model) list() List {
	var l List
	for off, in := range m {
		if in {
			l = l.push(Extent{int64(off), 1})
		}
	}
	return l
}

func drawExtents(t *rapid.T, label string) []Extent {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Extent {
		off := rapid.Int64Range(0, space-1).Draw(t, "off")
		return Extent{off, rapid.Int64Range(0, min(20, space-off)).Draw(t, "len")}
	}), 0, 20).Draw(t, label)
}

func bitmap(es []Extent) *model {
	m := new(model)
	for _, e := range es {
		for off := e.Off; off < e.End(); off++ {
			m[off] = true
		}
	}
	return m
}

func want(t *rapid.T, what string, got List, m *model) {
	t.Helper()
	if err := got.Valid(); err != nil {
		t.Fatalf("%s: %v: %v", what, err, got)
	}
	if w := m.list(); !slices.Equal(got, w) {
		t.Fatalf("%s: got %v, want %v", what, got, w)
	}
}

func TestAgainstBitmap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ea, eb := drawExtents(t, "a"), drawExtents(t, "b")
		ma, mb := bitmap(ea), bitmap(eb)
		var added List
		for _, e := range ea {
			added.Add(e)
		}
		a, b := FromUnsorted(slices.Clone(ea)), FromUnsorted(slices.Clone(eb))
		keepA, keepB := slices.Clone(a), slices.Clone(b)
		want(t, "Add", added, ma)
		want(t, "FromUnsorted", a, ma)

		var or, and, sub, not model
		for i := range or {
			or[i], and[i], sub[i] = ma[i] || mb[i], ma[i] && mb[i], ma[i] && !mb[i]
			not[i] = i < space && !ma[i]
		}
		want(t, "Union", Union(a, b), &or)
		want(t, "Intersect", Intersect(a, b), &and)
		want(t, "Subtract", Subtract(a, b), &sub)
		want(t, "Complement", a.Complement(space), &not)

		var n int64
		for off, in := range ma {
			if in {
				n++
			}
			if a.Contains(int64(off)) != in {
				t.Fatalf("Contains(%d) is %v in %v", off, !in, a)
			}
		}
		if a.Bytes() != n {
			t.Fatalf("Bytes: got %d, want %d", a.Bytes(), n)
		}

		win := Extent{rapid.Int64Range(0, space).Draw(t, "off"), rapid.Int64Range(0, space).Draw(t, "len")}
		var clip model
		all := true
		for off := win.Off; off < win.End(); off++ {
			clip[off] = ma[off]
			all = all && ma[off]
		}
		want(t, "Clip", a.Clip(win), &clip)
		if a.ContainsAll(win) != all {
			t.Fatalf("ContainsAll(%v): got %v in %v", win, !all, a)
		}

		delta := rapid.Int64Range(-space, space).Draw(t, "delta")
		var shift model
		for off, in := range ma {
			if to := int64(off) + delta; in && to >= 0 {
				shift[to] = true
			}
		}
		want(t, "Shift", a.Shift(delta), &shift)

		align := rapid.Int64Range(0, 16).Draw(t, "align")
		var out model
		for off, in := range ma {
			if !in {
				continue
			}
			first := off
			if align > 1 {
				first = off - off%int(align)
			}
			for k := first; k < first+int(max(align, 1)); k++ {
				out[k] = true
			}
		}
		want(t, "AlignOut", a.AlignOut(align), &out)
		if !slices.Equal(a, keepA) || !slices.Equal(b, keepB) {
			t.Fatal("an operation changed what it was given")
		}
	})
}

func TestEdgesOfInt64(t *testing.T) {
	l := FromUnsorted([]Extent{{-10, 5}, {-10, 12}, {math.MaxInt64 - 5, 100}, {math.MinInt64, math.MaxInt64}, {7, -3}})
	if got, w := l, (List{{0, 2}, {math.MaxInt64 - 5, 5}}); !slices.Equal(got, w) {
		t.Fatalf("got %v, want %v", got, w)
	}
	for _, got := range []List{l.AlignOut(4096), l.Shift(100), l.Shift(-1), l.Shift(math.MaxInt64), l.Complement(math.MaxInt64)} {
		if err := got.Valid(); err != nil {
			t.Errorf("%v: %v", got, err)
		}
	}
	for _, bad := range []List{{{0, 0}}, {{-1, 2}}, {{0, 2}, {2, 1}}, {{5, 1}, {0, 1}}, {{1, math.MaxInt64}}} {
		if bad.Valid() == nil {
			t.Errorf("%v is said to be a set", bad)
		}
	}
}

func BenchmarkUnionMillion(b *testing.B) {
	var x, y List
	for i := int64(0); i < 1_000_000; i++ {
		x = append(x, Extent{i * 8192, 4096})
		y = append(y, Extent{i*8192 + 2048, 4096})
	}
	for b.Loop() {
		Union(x, y)
	}
}
