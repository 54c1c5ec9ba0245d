package maptest

import (
	"io"
	"testing"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
)

// Files fails a test where what is said of the files of a volume, however damaged, does not lie on it or is in no order.
func Files(t testing.TB, files func(io.ReaderAt, int64, func(fact.File) error, func(extent.Extent)) (string, error), r io.ReaderAt, size int64) {
	t.Helper()
	last := uint64(0)
	check := func(e extent.Extent) {
		if e.Off < 0 || e.Len <= 0 || e.Len > size-e.Off {
			t.Fatalf("%v of %d bytes", e, size)
		}
	}
	_, err := files(r, size, func(f fact.File) error {
		if f.Nr <= last || len(f.Mark) == 0 || len(f.Extents) == 0 {
			t.Fatalf("file %d after %d: %d bytes of a mark, %d extents", f.Nr, last, len(f.Mark), len(f.Extents))
		}
		last = f.Nr
		for _, e := range f.Extents {
			check(e)
		}
		return nil
	}, check)
	if err != nil {
		t.Fatal(err)
	}
}
