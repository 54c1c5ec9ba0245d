package dir

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/store"
)

// TestCheckSaysWhere tells which places of which revision a damage costs, and apart from it what costs nothing.
func TestCheckSaysWhere(t *testing.T) {
	path, revs := filled(t)
	s := open(t, path, Options{})
	_, es := entries(t, s, revs[1])
	l, _ := s.index.get(es[3].ID)
	flip(t, filepath.Join(path, packName(l.pack)), int64(l.off)+recordHead+7)
	if err := os.Remove(filepath.Join(path, indexName(1))); err != nil {
		t.Fatal(err)
	}
	r, err := s.Check(t.Context(), true, nil)
	if err != nil || r.Damaged != 1 || len(r.Notes) != 1 || !strings.Contains(r.Notes[0], indexName(1)) {
		t.Fatalf("%+v, %v", r, err)
	}
	v := r.Revisions[1]
	if len(v.Losses) != 1 || v.Losses[0].Off != es[3].Off || v.Losses[0].ID != es[3].ID || v.Lost != es[3].Len || !strings.Contains(v.Losses[0].Why, packName(l.pack)) {
		t.Errorf("%+v", v)
	}
	if r.Chunks != s.index.count {
		t.Errorf("%d chunks, want %d", r.Chunks, s.index.count)
	}
}

// TestCheckAlone refuses a second, and lets captures go on: each step of the first stores a chunk.
func TestCheckAlone(t *testing.T) {
	path, _ := filled(t)
	s := open(t, path, Options{PackSize: smallPack})
	n := byte(0)
	r, err := s.Check(t.Context(), true, func(int64, int64) {
		if _, err := s.Check(t.Context(), false, nil); !errors.Is(err, ErrBusy) {
			t.Errorf("a second check: %v", err)
		}
		raw := []byte{n, 1, 2, 3}
		n++
		if _, err := s.Put(t.Context(), []chunk.Encoded{{ID: chunk.Sum(raw), RawLen: 4, Data: raw}}); err != nil {
			t.Error(err)
		}
	})
	if err != nil || !r.OK() || n == 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if missing, err := s.Missing(t.Context(), []chunk.ID{chunk.Sum([]byte{0, 1, 2, 3})}); err != nil || len(missing) > 0 {
		t.Errorf("%v, %v", missing, err)
	}
}

// TestCheckBesideWriter looks at a store that another process writes to, whose last pack has no index file yet.
func TestCheckBesideWriter(t *testing.T) {
	path, _ := filled(t)
	w := open(t, path, Options{})
	raw := []byte("new")
	if _, err := w.Put(t.Context(), []chunk.Encoded{{ID: chunk.Sum(raw), RawLen: 3, Data: raw}}); err != nil {
		t.Fatal(err)
	}
	s := open(t, path, Options{ReadOnly: true})
	if r, err := s.Check(t.Context(), true, nil); err != nil || !r.OK() || len(r.Notes) > 0 {
		t.Errorf("%+v, %v", r, err)
	}
	var missing *store.MissingError
	if err := s.Get(t.Context(), []chunk.ID{chunk.Sum(nil)}, nil); !errors.As(err, &missing) {
		t.Error(err)
	}
}
