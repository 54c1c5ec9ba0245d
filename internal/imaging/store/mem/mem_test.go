package mem

import (
	"errors"
	"testing"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Pair {
		s := New()
		return storetest.Pair{Writer: s, Publisher: s}
	})
}

func TestFull(t *testing.T) {
	s := &Store{Room: 6000}
	a, _ := storetest.Chunk(0, 5000)
	b, _ := storetest.Chunk(3, 5000)
	res, err := s.Put(t.Context(), []chunk.Encoded{a, b})
	if !errors.Is(err, store.ErrFull) || res.New != 1 {
		t.Errorf("got %+v, %v", res, err)
	}
	if _, err := s.Put(t.Context(), []chunk.Encoded{a}); err != nil {
		t.Errorf("what is there already: %v", err)
	}
}
