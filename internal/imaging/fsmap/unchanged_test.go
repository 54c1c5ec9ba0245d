package fsmap

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
)

// side is what a walk finds on one of two volumes.
type side struct {
	io.ReaderAt
	files []fact.File
	other extent.List
	why   string
	err   error
}

func told(r io.ReaderAt, _ int64, file func(fact.File) error, other func(extent.Extent)) (string, error) {
	s := r.(state).ReaderAt.(side)
	for _, e := range s.other {
		other(e)
	}
	for _, f := range s.files {
		if err := file(f); err != nil {
			return "", err
		}
	}
	return s.why, s.err
}

// TestUnchangedFiles compares files that are told of.
func TestUnchangedFiles(t *testing.T) {
	file := func(nr uint64, mark string, off, n int64) fact.File {
		return fact.File{Nr: nr, Size: n, Mark: []byte(mark), Extents: []extent.Extent{{Off: off, Len: n}}}
	}
	a, b, c := file(1, "a", 0, 10), file(5, "b", 20, 10), file(7, "c", 40, 10)
	all := side{files: []fact.File{a, b, c}}
	for _, tc := range []struct {
		name        string
		now, before side
		want        extent.List
		why         string
		err         bool
	}{
		{name: "the same", now: all, before: all, want: extent.List{{Off: 0, Len: 10}, {Off: 20, Len: 10}, {Off: 40, Len: 10}}},
		{name: "one changed", now: side{files: []fact.File{a, file(5, "x", 20, 10), c}}, before: all, want: extent.List{{Off: 0, Len: 10}, {Off: 40, Len: 10}}},
		{name: "one new", now: side{files: []fact.File{a, file(2, "x", 60, 10), c}}, before: all, want: extent.List{{Off: 0, Len: 10}, {Off: 40, Len: 10}}},
		{name: "none before", now: all, before: side{}},
		{name: "a new file has a part of it", now: side{files: []fact.File{a, b, file(9, "x", 5, 18)}}, before: all, want: extent.List{{Off: 0, Len: 5}, {Off: 23, Len: 7}}},
		{name: "metadata on it", now: side{files: all.files, other: extent.List{{Off: 44, Len: 1}}}, before: all, want: extent.List{{Off: 0, Len: 10}, {Off: 20, Len: 10}, {Off: 40, Len: 4}, {Off: 45, Len: 5}}},
		{name: "two share it", now: side{files: []fact.File{a, file(5, "b", 0, 10)}}, before: side{files: []fact.File{a, file(5, "b", 0, 10)}}, want: extent.List{{Off: 0, Len: 10}}},
		{name: "not believed", now: side{files: all.files, why: "dirty"}, before: all, why: "dirty"},
		{name: "not believed before", now: all, before: side{files: all.files, why: "dirty"}, why: "as it was captured: dirty"},
		{name: "cannot be read", now: side{files: all.files, err: io.ErrUnexpectedEOF}, before: all, err: true},
		{name: "cannot be read before", now: all, before: side{files: all.files[:1], err: io.ErrUnexpectedEOF}, err: true},
		{name: "in no order", now: side{files: []fact.File{b, a}}, before: all, err: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, why, err := unchangedFiles(state{tc.now, 100}, state{tc.before, 100}, told)
			if !slices.Equal(got, tc.want) || why != tc.why || (err != nil) != tc.err {
				t.Errorf("%v, %q, %v", got, why, err)
			}
			if tc.err && !errors.Is(err, io.ErrUnexpectedEOF) && !strings.Contains(err.Error(), "comes after") {
				t.Error(err)
			}
		})
	}
}
