package s3

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/dir"
	"mimeo/internal/imaging/store/storetest"
)

// until waits for what another goroutine does.
func until(t *testing.T, what string, fn func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !fn(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}

// add stores a chunk that no other seed has.
func add(t *testing.T, s *dir.Store, seed uint64) error {
	t.Helper()
	e, _ := storetest.Chunk(seed, 1000)
	if _, err := s.Put(t.Context(), []chunk.Encoded{e}); err != nil {
		return err
	}
	return s.Flush(t.Context())
}

// TestLock opens a store twice, cuts the first off from its lock, and lets it come back when the second has the lock.
func TestLock(t *testing.T) {
	s := newService(t)
	c := s.config(t)
	c.term = time.Second
	first, err := Open(t.Context(), c, dir.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	other := c
	other.State, other.Endpoint = t.TempDir(), s.direct(t)
	for range 2 { // it is renewed
		if _, err := Open(t.Context(), other, dir.Options{}); !errors.Is(err, store.ErrLocked) || !strings.Contains(Hint(err), "two minutes") {
			t.Fatalf("open a store that another writes to: %v", err)
		}
		time.Sleep(2500 * time.Millisecond)
	}
	if err := add(t, first, 1); err != nil {
		t.Fatal(err)
	}
	s.set(func(r *http.Request) storetest.Fault {
		if strings.HasSuffix(r.URL.Path, "/lock") {
			return storetest.Cut
		}
		return storetest.None
	})
	seed := uint64(100)
	until(t, "writing ends where the lock cannot be renewed", func() bool {
		seed++
		err := add(t, first, seed)
		return err != nil && strings.Contains(err.Error(), "could not be renewed")
	})
	var second *dir.Store
	until(t, "an old lock is taken over", func() bool {
		if second, err = Open(t.Context(), other, dir.Options{}); err != nil && !errors.Is(err, store.ErrLocked) {
			t.Fatal(err)
		}
		return err == nil
	})
	s.set(nil)
	until(t, "the first knows that it lost the lock", func() bool {
		seed++
		return errors.Is(add(t, first, seed), ErrLeaseLost)
	})
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if err := add(t, second, 2); err != nil {
		t.Errorf("the second cannot write: %v", err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	third := open(t, c, dir.Options{})
	a, _ := storetest.Chunk(1, 1000)
	b, _ := storetest.Chunk(2, 1000)
	if missing, err := third.Missing(t.Context(), []chunk.ID{a.ID, b.ID}); err != nil || len(missing) > 0 {
		t.Errorf("%v are missing, %v", missing, err)
	}
}

// TestKilled opens a store again whose process was killed: at once from the same folder, not from another.
func TestKilled(t *testing.T) {
	s := newService(t)
	c := s.config(t)
	first, err := Open(t.Context(), c, dir.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), c, dir.Options{}); !errors.Is(err, store.ErrLocked) {
		t.Errorf("two processes in one folder: %v", err)
	}
	s.set(func(r *http.Request) storetest.Fault {
		if r.Method == http.MethodDelete {
			return storetest.Cut
		}
		return storetest.None
	})
	if err := first.Close(); err == nil {
		t.Fatal("the lock was given back")
	}
	s.set(nil)
	other := c
	other.State = t.TempDir()
	if _, err := Open(t.Context(), other, dir.Options{}); !errors.Is(err, store.ErrLocked) {
		t.Errorf("from another folder: %v", err)
	}
	again := open(t, c, dir.Options{})
	if err := add(t, again, 1); err != nil {
		t.Error(err)
	}
}

// TestConditions refuses a service that ignores one of the conditions.
func TestConditions(t *testing.T) {
	for _, header := range []string{"If-None-Match", "If-Match"} {
		s := newService(t)
		s.set(func(r *http.Request) storetest.Fault { r.Header.Del(header); return storetest.None })
		_, err := Open(t.Context(), s.config(t), dir.Options{Create: true})
		if !errors.Is(err, ErrNoConditions) || !strings.Contains(Hint(err), "at once") {
			t.Errorf("without %s: %v", header, err)
		}
	}
}

// TestIndexKept opens a store twice: the second time no index file is fetched, unless another writer changed it.
func TestIndexKept(t *testing.T) {
	s := newService(t)
	c := s.config(t)
	st := open(t, c, dir.Options{Create: true})
	for seed := range uint64(5) {
		if err := add(t, st, seed); err != nil {
			t.Fatal(err)
		}
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	fetched := func() (n int) {
		for _, r := range s.requests() {
			if strings.HasPrefix(r, "GET site/a/index/0") || strings.HasPrefix(r, "GET site/a/packs/0") {
				n++
			}
		}
		return n
	}
	s.requests()
	reader := open(t, c, dir.Options{ReadOnly: true})
	if st, err := reader.Stats(t.Context()); err != nil || st.Chunks != 5 {
		t.Errorf("%+v, %v", st, err)
	}
	if n := fetched(); n != 0 {
		t.Errorf("%d index files or packs were fetched that lie here", n)
	}
	elsewhere := c
	elsewhere.State = t.TempDir()
	open(t, elsewhere, dir.Options{ReadOnly: true})
	if n := fetched(); n != 5 {
		t.Errorf("%d index files or packs were fetched, want 5", n)
	}
}

// TestLateList opens a store in a service whose lists never show what was written last.
func TestLateList(t *testing.T) {
	s := newService(t)
	st := open(t, s.config(t), dir.Options{Create: true})
	s.freeze()
	m, err := storetest.Image(t.Context(), st, 10, func(i int) uint64 { return uint64(i) })
	if err != nil {
		t.Fatal(err)
	}
	id, err := st.Stage(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	for want := 1; want <= 3; want++ {
		r, err := st.Publish(t.Context(), "a", id)
		if err != nil || r.Rev != want {
			t.Fatalf("revision %d: %v, %v", want, r, err)
		}
		if err := st.Remove(t.Context(), "a", r.Rev); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := st.Publish(t.Context(), "a", id); err != nil {
		t.Fatal(err)
	}
	if _, err := st.GC(t.Context(), dir.GCOptions{}); err != nil {
		t.Fatal(err)
	}
	if r, err := st.Check(t.Context(), true, nil); err != nil || !r.OK() || len(r.Revisions) != 1 || r.Revisions[0].Rev != 4 {
		t.Errorf("%+v, %v", r, err)
	}
	// A second process of which nothing is listed finds out which numbers are taken.
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	m.Source.Node = "n02"
	again := open(t, s.config(t), dir.Options{})
	if err := func() error {
		if _, err := storetest.Image(t.Context(), again, 10, func(i int) uint64 { return uint64(i) }); err != nil {
			return err
		}
		id, err := again.Stage(t.Context(), m)
		if err != nil {
			return err
		}
		r, err := again.Publish(t.Context(), "a", id)
		if err == nil && r.Rev != 5 {
			t.Errorf("published as %v", r)
		}
		return err
	}(); err != nil {
		t.Fatal(err)
	}
}

// TestSecretsHidden looks for the secret in what is shown of a Config.
func TestSecretsHidden(t *testing.T) {
	c := newService(t).config(t)
	for _, text := range printed(c) {
		if strings.Contains(text, string(c.SecretKey)) {
			t.Errorf("the secret is shown: %s", text)
		}
	}
}
