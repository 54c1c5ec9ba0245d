package fact

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"mimeo/internal/imaging/extent"
)

// TestBitmap holds a bitmap against a slice of bools.
func TestBitmap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOfN(rapid.Bool(), 1, 300).Draw(t, "bits")
		n := int64(len(want))
		m := NewBitmap(n)
		count := int64(0)
		for i, b := range want {
			if b {
				count++
				if m.Set(int64(i)) || !m.Set(int64(i)) {
					t.Fatalf("bit %d was not clear, or is not set", i)
				}
			}
		}
		if m.Count() != count {
			t.Fatalf("%d bits, want %d", m.Count(), count)
		}
		from := rapid.Int64Range(0, n).Draw(t, "from")
		end := rapid.Int64Range(from, n).Draw(t, "end")
		for _, set := range []bool{true, false} {
			at := slices.Index(want[from:end], set)
			if at < 0 {
				at = int(end - from)
			}
			if got := m.Next(from, end, set); got != from+int64(at) {
				t.Fatalf("next of %v from %d to %d is %d, want %d", set, from, end, got, from+int64(at))
			}
		}
		i := rapid.Int64Range(0, n-1).Draw(t, "i")
		if m.Has(i) != want[i] || m.Clear(i) != want[i] || m.Has(i) {
			t.Fatalf("bit %d cannot be cleared", i)
		}
	})
}

// TestGather makes sure that nothing is lost when there is no room for all extents.
func TestGather(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := Gather{most: 8}
		var want extent.List
		end := int64(0)
		for _, d := range rapid.SliceOfN(rapid.Int64Range(0, 20000), 0, 60).Draw(t, "gaps") {
			e := extent.Extent{Off: end + d, Len: 512}
			g.Add(e)
			want.Add(e)
			end = e.End()
		}
		got := g.List()
		if got.Valid() != nil || len(got) > 8 || len(extent.Subtract(want, got)) > 0 {
			t.Fatalf("got %v of %v", got, want)
		}
		if len(want) <= 8 && !slices.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	})
}
