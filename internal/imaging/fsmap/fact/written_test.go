package fact

import (
	"bytes"
	"slices"
	"testing"

	"mimeo/internal/imaging/extent"
)

func TestWritten(t *testing.T) {
	b := make([]byte, 3<<20)
	for _, at := range []int{1023, 1024 + 4096, 2<<20 + 1024 - 1, 3<<20 - 1} {
		b[at] = 1
	}
	got, err := Written(bytes.NewReader(b), extent.Extent{Off: 1024, Len: 3<<20 - 1024})
	want := extent.List{{Off: 1024 + 4096, Len: 4096}, {Off: 2<<20 + 1024 - 4096, Len: 4096}, {Off: 3<<20 - 3072, Len: 3072}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
	if _, err := Written(bytes.NewReader(b), extent.Extent{Off: 1024, Len: 3 << 20}); err == nil {
		t.Error("what cannot be read is no error")
	}
	if got, err := Written(bytes.NewReader(b), extent.Extent{Off: 1024}); err != nil || len(got) != 0 {
		t.Errorf("of nothing: %v, %v", got, err)
	}
}
