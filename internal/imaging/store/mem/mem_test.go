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

// TestFaults has a store that fails now and then: the suite that others are held to holds for the one that it trusts.
func TestFaults(t *testing.T) {
	place := func(t *testing.T, p *storetest.Plan) storetest.Place {
		s := &storetest.Flaky{Publisher: New(), Plan: p}
		return storetest.Place{
			Open:  func() (storetest.Pair, error) { return storetest.Pair{Writer: s, Publisher: s}, nil },
			Close: func() error { return nil },
		}
	}
	storetest.Faults(t, place, 1, 1, nil, storetest.Refuse, storetest.Lose, storetest.Shorten, storetest.Twice, storetest.Full)
}
