package dir

import (
	"testing"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/store/storetest"
)

// BenchmarkPut stores new chunks of the default size in batches of 4 MiB.
func BenchmarkPut(b *testing.B) {
	s, err := openAs(b.TempDir()+"/store", Options{Create: true})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	data := storetest.Bytes(0, chunk.DefaultSize)
	batch := make([]chunk.Encoded, 32)
	b.SetBytes(int64(len(batch) * len(data)))
	n := uint64(0)
	for b.Loop() {
		for i := range batch {
			n++
			batch[i] = chunk.Encoded{ID: number(n), RawLen: uint32(len(data)), Data: data}
		}
		if _, err := s.Put(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	if err := s.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
}
