package capture

import (
	"bytes"
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/mem"
)

// slowLine is a store behind a line that takes its time for each Put, and counts the codecs that come.
type slowLine struct {
	store.Writer
	wait time.Duration
	mu   sync.Mutex
	seen map[chunk.Codec]int
}

func (s *slowLine) Put(ctx context.Context, chunks []chunk.Encoded) (store.PutResult, error) {
	time.Sleep(s.wait)
	s.mu.Lock()
	for _, c := range chunks {
		s.seen[c.Codec]++
	}
	s.mu.Unlock()
	return s.Writer.Put(ctx, chunks)
}

// TestAuto captures over a slow line, where chunks must be small, and into a store that takes all at once, where
// compressing is what takes time.
func TestAuto(t *testing.T) {
	words := []byte("the agent reads the disk once, in ascending order, and sends what the store lacks; ")
	rng := rand.New(rand.NewPCG(1, 1))
	data := make([]byte, 64<<20)
	for i := range data {
		data[i] = words[(i+rng.IntN(3))%len(words)]
	}
	plan := Plan{Table: manifest.Table{Kind: "none"}, Used: extent.List{{Len: int64(len(data))}}}
	// The decoder is shared by all of the program: it must not be made in a bubble.
	if _, err := chunk.Decode(chunk.NewEncoder().Encode(chunk.Sum(data[:4096]), data[:4096], nil, chunk.Zstd), nil); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		wait time.Duration
		want chunk.Codec
	}{{"slow line", time.Second, chunk.Zstd}, {"fast line", 0, chunk.S2}} {
		synctest.Test(t, func(t *testing.T) {
			st := &slowLine{Writer: mem.New(), wait: c.wait, seen: map[chunk.Codec]int{}}
			if _, err := Run(t.Context(), source(bytes.NewReader(data), len(data)), plan, st, Options{Workers: 2, Memory: 16 << 20}); err != nil {
				t.Fatal(err)
			}
			all := 0
			for _, n := range st.seen {
				all += n
			}
			if st.seen[c.want] < all*2/3 {
				t.Errorf("%s: codecs %v, want most to be %d", c.name, st.seen, c.want)
			}
		})
	}
}
