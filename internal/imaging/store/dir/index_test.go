package dir

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"testing"

	"pgregory.net/rapid"

	"mimeo/internal/imaging/chunk"
)

func number(n uint64) chunk.ID {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], n)
	return chunk.Sum(b[:])
}

func TestIndexAgainstMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x, m := newIndex(), make(map[chunk.ID]loc)
		x.table = make([]uint32, 16) // so that it grows
		for range rapid.IntRange(0, 300).Draw(t, "operations") {
			id := number(rapid.Uint64Range(0, 60).Draw(t, "chunk"))
			if rapid.IntRange(0, 2).Draw(t, "operation") == 0 {
				x.remove(id)
				delete(m, id)
				continue
			}
			l := loc{pack: rapid.Uint32().Draw(t, "pack"), off: rapid.Uint32().Draw(t, "off"), stored: 7,
				raw: rapid.Uint32Range(1, chunk.MaxLen).Draw(t, "raw"), codec: chunk.S2}
			x.put(id, l, 0)
			m[id] = l
		}
		var raw int64
		for n := range uint64(61) {
			got, ok := x.get(number(n))
			if want, there := m[number(n)]; ok != there || got != want {
				t.Fatalf("chunk %d: %+v, %v, want %+v, %v", n, got, ok, want, there)
			}
			raw += int64(m[number(n)].raw)
		}
		seen := 0
		if err := (&Store{index: x}).eachItem(context.Background(), func(n uint32, it indexed) {
			if seen++; m[it.id] != it.loc || x.item(n).id != it.id {
				t.Fatalf("item %d is %s at %+v", n, it.id, it.loc)
			}
		}); err != nil {
			t.Fatal(err)
		}
		if x.count != int64(len(m)) || seen != len(m) || x.raw != raw {
			t.Fatalf("count %d, %d by each, want %d; raw %d, want %d", x.count, seen, len(m), x.raw, raw)
		}
	})
}

// TestIndexMemory holds the promise of 64 bytes a chunk at the worst size, just after the table has grown.
func TestIndexMemory(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	x := fillIndex(1 << 20) // more than 7/8 of 2^20 slots: the table has just become 2^21
	runtime.GC()
	runtime.ReadMemStats(&after)
	if each := float64(after.HeapAlloc-before.HeapAlloc) / float64(x.count); each > 64 {
		t.Errorf("%.1f bytes a chunk, at most 64", each)
	}
	runtime.KeepAlive(x)
}

func fillIndex(n int) *index {
	x := newIndex()
	r := rand.New(rand.NewPCG(1, 2))
	for i := range n {
		x.put(randomID(r), loc{pack: uint32(i), off: 64, stored: 100, raw: chunk.DefaultSize, codec: chunk.Zstd}, 0)
	}
	return x
}

func randomID(r *rand.Rand) (id chunk.ID) {
	for i := 0; i < len(id); i += 8 {
		binary.LittleEndian.PutUint64(id[i:], r.Uint64())
	}
	return id
}

// BenchmarkMissing1000 asks a store of ten million chunks for a thousand, half of which it has, and tells besides what
// it takes of a processor, which does not depend on who else uses it.
func BenchmarkMissing1000(b *testing.B) {
	const chunks = 10_000_000
	s := &Store{index: newIndex()}
	for n := range uint64(chunks) {
		s.index.put(largeID(n), loc{pack: uint32(n), off: 64, stored: 100, raw: chunk.DefaultSize, codec: chunk.Zstd}, 0)
	}
	r := rand.New(rand.NewPCG(1, 2))
	ids := make([]chunk.ID, 1000)
	start := processor(b)
	defer func() { b.ReportMetric(float64(processor(b)-start)/float64(b.N)/1e6, "processor-ms/op") }()
	for b.Loop() {
		for i := range ids {
			if ids[i] = largeID(r.Uint64N(chunks)); i%2 == 0 {
				ids[i][31]++
			}
		}
		missing, err := s.Missing(b.Context(), ids)
		if err != nil || len(missing) != 500 {
			b.Fatal(len(missing), err)
		}
	}
}
