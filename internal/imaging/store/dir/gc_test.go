package dir

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/storetest"
)

// publish puts a disk of n pieces into a store.
func publish(t *testing.T, s *Store, image string, n int, salt func(int) uint64) store.Revision {
	t.Helper()
	m, err := storetest.Image(t.Context(), s, n, salt)
	if err != nil {
		t.Fatal(err)
	}
	id, err := s.Stage(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Publish(t.Context(), image, id)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// disk returns the bytes that the files of a store take.
func disk(t *testing.T, path string) (n int64) {
	t.Helper()
	if err := filepath.Walk(path, func(_ string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			n += info.Size()
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// whole fails where a revision cannot be read back, or Check finds something.
func whole(t *testing.T, s *Store, revs ...store.Revision) {
	t.Helper()
	for _, r := range revs {
		m, err := s.Manifest(t.Context(), r.ID)
		if err != nil {
			t.Fatalf("%s: %v", r, err)
		}
		if v, err := store.Verify(t.Context(), s, m, nil); err != nil || !v.OK() {
			t.Fatalf("%s is not whole: %+v, %v", r, v, err)
		}
	}
	if r, err := s.Check(t.Context(), true, nil); err != nil || !r.OK() || len(r.Notes) > 0 {
		t.Fatalf("check: %+v, %v", r, err)
	}
}

func gc(t *testing.T, s *Store, o GCOptions) *GCReport {
	t.Helper()
	r, err := s.GC(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestGCFrees removes revisions and measures the disk.
func TestGCFrees(t *testing.T) {
	for _, packSize := range []int64{smallPack, 0} {
		path := t.TempDir() + "/store"
		s := open(t, path, Options{Create: true, PackSize: packSize})
		// a and b share every second piece; c has nothing of theirs.
		a := publish(t, s, "a", 30, func(i int) uint64 { return uint64(3 * i) })
		before := disk(t, path)
		b := publish(t, s, "b", 30, func(i int) uint64 { return uint64(3*i + 1000*(i%2)) })
		publish(t, s, "c", 40, func(i int) uint64 { return uint64(5000 + 3*i) })
		if r := gc(t, s, GCOptions{Grace: -1}); r.Freed != 0 || r.Garbage != 0 || r.Young != 0 || r.Live == 0 || r.Manifests != 0 {
			t.Errorf("nothing to do: %+v", r)
		}
		full := disk(t, path) // the pack that was open has an index file now
		u, err := s.Usage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"b", "c"} {
			if err := s.Remove(t.Context(), name, 1); err != nil {
				t.Fatal(err)
			}
		}
		dry := gc(t, s, GCOptions{Grace: -1, DryRun: true})
		if now := disk(t, path); now != full {
			t.Errorf("a dry run changed %d bytes to %d", full, now)
		}
		var steps int
		r := gc(t, s, GCOptions{Grace: -1, Progress: func(done, total int64) { steps++ }})
		if dry.Garbage != r.Garbage || dry.Copied != r.Copied || dry.Freed != r.Freed || dry.Manifests != 2 || r.Manifests != 2 || steps == 0 {
			t.Errorf("a dry run said %+v, then %+v", dry, r)
		}
		unique := u.Images[1].Unique + u.Images[2].Unique
		if now := disk(t, path); now > before+4000 || full-now < unique*9/10 || full-now < r.Freed {
			t.Errorf("pack size %d: %d bytes before, %d with all, %d now; %d are unique; %+v", packSize, before, full, now, unique, r)
		}
		whole(t, s, a)
		if again := gc(t, s, GCOptions{Grace: -1}); again.Freed != 0 || again.Manifests != 0 {
			t.Errorf("a second time: %+v", again)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, path, Options{})
		whole(t, s, a)
		if got := publish(t, s, "b", 30, func(i int) uint64 { return uint64(3*i + 1000*(i%2)) }); got.Rev != 2 || got.ID != b.ID {
			t.Errorf("%s again: %s", b, got)
		}
	}
}

// TestGCGrace keeps what a capture that was cut off has stored, also over a restart.
func TestGCGrace(t *testing.T) {
	path := t.TempDir() + "/store"
	s, err := openAs(path, Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := storetest.Image(t.Context(), s, 9, func(i int) uint64 { return uint64(i) }); err != nil {
		t.Fatal(err)
	}
	for _, grace := range []time.Duration{-1, time.Hour} {
		if r := gc(t, s, GCOptions{Grace: grace}); r.Freed != 0 || r.Young == 0 {
			t.Errorf("grace %v: %+v", grace, r)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path, Options{})
	if r := gc(t, s, GCOptions{Grace: time.Hour}); r.Freed != 0 || r.Young == 0 {
		t.Errorf("after a restart: %+v", r)
	}
	if r := gc(t, s, GCOptions{Grace: 0}); r.Freed == 0 || r.Young != 0 || s.index.count != 0 {
		t.Errorf("without grace: %+v", r)
	}
	// The same by the age of the pack.
	publish(t, s, "a", 5, func(i int) uint64 { return uint64(i) })
	m, err := storetest.Image(t.Context(), s, 9, func(i int) uint64 { return uint64(50 + i) })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stage(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-2 * time.Hour)
	for _, pattern := range []string{"packs/*", "manifests/*"} {
		files, _ := filepath.Glob(filepath.Join(path, pattern))
		for _, f := range files {
			if err := os.Chtimes(f, old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	s = open(t, path, Options{})
	if r := gc(t, s, GCOptions{Grace: 3 * time.Hour}); r.Freed != 0 || r.Garbage != 0 || r.Manifests != 0 {
		t.Errorf("within the grace time: %+v", r)
	}
	if r := gc(t, s, GCOptions{Grace: time.Hour}); r.Freed == 0 || r.Young != 0 || r.Manifests != 1 {
		t.Errorf("after it: %+v", r)
	}
	whole(t, s)
}

// TestGCPromise asks for chunks of a removed revision at several moments: what was said to be there stays.
func TestGCPromise(t *testing.T) {
	setup := func(t *testing.T) (*Store, []chunk.ID) {
		s := open(t, t.TempDir()+"/store", Options{Create: true, PackSize: smallPack})
		r := publish(t, s, "a", 20, func(i int) uint64 { return uint64(i) })
		_, es := entries(t, s, r)
		var ids []chunk.ID
		for _, e := range es {
			ids = append(ids, e.ID)
		}
		if err := s.Remove(t.Context(), "a", 1); err != nil {
			t.Fatal(err)
		}
		return s, ids
	}
	ask := func(t *testing.T, s *Store, ids []chunk.ID, missing int) {
		t.Helper()
		if m, err := s.Missing(t.Context(), ids); err != nil || len(m) != missing {
			t.Fatalf("%d are missing, want %d; %v", len(m), missing, err)
		}
	}
	readable := func(t *testing.T, s *Store, ids []chunk.ID) {
		t.Helper()
		if err := s.Get(t.Context(), ids, func(chunk.Encoded) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("since the clean-up began", func(t *testing.T) {
		s, ids := setup(t)
		gc(t, s, GCOptions{InUse: func() ([]manifest.ID, time.Time) {
			ask(t, s, ids[3:7], 0)
			return nil, time.Time{}
		}})
		readable(t, s, ids[3:7])
		ask(t, s, ids, len(ids)-4)
	})
	t.Run("since a capture began", func(t *testing.T) {
		s, ids := setup(t)
		began := time.Now()
		ask(t, s, ids[5:], 0)
		s.epochs.begin()
		s.epochs.begin()
		use := func() ([]manifest.ID, time.Time) { return nil, began }
		gc(t, s, GCOptions{InUse: use})
		readable(t, s, ids)
		s.epochs.begin()
		began = time.Now()
		gc(t, s, GCOptions{InUse: use})
		ask(t, s, ids, len(ids))
	})
	t.Run("while packs are removed", func(t *testing.T) {
		s, ids := setup(t)
		asked := false
		var there []chunk.ID
		gc(t, s, GCOptions{Progress: func(int64, int64) {
			if asked {
				return
			}
			asked = true
			missing, err := s.Missing(t.Context(), ids)
			if err != nil || len(missing) == 0 || len(missing) == len(ids) {
				t.Fatalf("%d of %d are missing, %v", len(missing), len(ids), err)
			}
			there = slices.DeleteFunc(slices.Clone(ids), func(id chunk.ID) bool { return slices.Contains(missing, id) })
		}})
		readable(t, s, there)
		ask(t, s, ids, len(ids)-len(there))
	})
	t.Run("before the store was opened", func(t *testing.T) {
		s, ids := setup(t)
		var promised *PromisedError
		if _, err := s.GC(t.Context(), GCOptions{InUse: func() ([]manifest.ID, time.Time) { return nil, time.Now().Add(-time.Hour) }}); !errors.As(err, &promised) {
			t.Fatal(err)
		}
		readable(t, s, ids)
	})
	t.Run("a manifest of a job", func(t *testing.T) {
		s, ids := setup(t)
		r, err := s.record("a", 1, removedExt)
		if err != nil {
			t.Fatal(err)
		}
		if got := gc(t, s, GCOptions{InUse: func() ([]manifest.ID, time.Time) { return []manifest.ID{r.ID}, time.Time{} }}); got.Manifests != 0 {
			t.Errorf("%+v", got)
		}
		readable(t, s, ids)
	})
}

// TestGCRefuses removes nothing where it cannot know what is needed.
func TestGCRefuses(t *testing.T) {
	for what, spoil := range map[string]func(path string, r store.Revision, s *Store) error{
		"manifest": func(path string, r store.Revision, _ *Store) error {
			return os.Remove(filepath.Join(path, manifestName(r.ID)))
		},
		"record": func(path string, r store.Revision, _ *Store) error {
			return os.WriteFile(filepath.Join(path, revName(r.Image, r.Rev, revExt)), []byte("{"), 0o600)
		},
		"segment": func(path string, r store.Revision, s *Store) error {
			m, err := s.Manifest(context.Background(), r.ID)
			if err != nil {
				return err
			}
			l, _ := s.index.get(m.Content.Segments[0].ID)
			return os.Truncate(filepath.Join(path, packName(l.pack)), int64(l.off))
		},
	} {
		path, revs := filled(t)
		s := open(t, path, Options{})
		if err := s.Remove(t.Context(), revs[1].Image, 1); err != nil {
			t.Fatal(err)
		}
		if err := spoil(path, revs[0], s); err != nil {
			t.Fatal(err)
		}
		before := disk(t, path)
		var u *UnreadableError
		if _, err := s.GC(t.Context(), GCOptions{}); !errors.As(err, &u) || !strings.Contains(err.Error(), "cannot be read") {
			t.Errorf("%s: %v", what, err)
		}
		if now := disk(t, path); now != before {
			t.Errorf("%s: %d bytes, %d before", what, now, before)
		}
	}
	path, _ := filled(t)
	s := open(t, path, Options{ReadOnly: true})
	if _, err := s.GC(t.Context(), GCOptions{}); err == nil {
		t.Error("a reader may clean up")
	}
	if _, err := s.GC(t.Context(), GCOptions{DryRun: true}); err != nil {
		t.Error(err)
	}
}

// TestGCDamaged leaves a pack alone that holds a chunk which is needed and damaged; the next capture heals it, and the
// next clean-up removes the pack.
func TestGCDamaged(t *testing.T) {
	path := t.TempDir() + "/store"
	s := open(t, path, Options{Create: true})
	a := publish(t, s, "a", 9, func(i int) uint64 { return uint64(3 * i) })
	publish(t, s, "b", 60, func(i int) uint64 { return uint64(900 + 3*i) })
	if err := s.Remove(t.Context(), "b", 1); err != nil {
		t.Fatal(err)
	}
	_, es := entries(t, s, a)
	l, _ := s.index.get(es[2].ID)
	flip(t, filepath.Join(path, packName(l.pack)), int64(l.off)+recordHead+3)
	r := gc(t, s, GCOptions{})
	if len(r.Problems) != 1 || r.Freed != 0 {
		t.Errorf("%+v", r)
	}
	if err := s.Get(t.Context(), []chunk.ID{es[1].ID, es[3].ID}, func(chunk.Encoded) error { return nil }); err != nil {
		t.Error(err)
	}
	if got := publish(t, s, "a", 9, func(i int) uint64 { return uint64(3 * i) }); got.Rev != 1 {
		t.Errorf("%s", got)
	}
	if r := gc(t, s, GCOptions{}); len(r.Problems) != 0 || r.Freed == 0 {
		t.Errorf("%+v", r)
	}
	whole(t, s, a)
}

// TestGCBesideWork captures, deploys, removes and cleans up all at once. Every capture must end well, and every revision
// that was not removed be whole. One reader has no lock, as another process has.
func TestGCBesideWork(t *testing.T) {
	path := t.TempDir() + "/store"
	s := open(t, path, Options{Create: true, PackSize: smallPack})
	reader := open(t, path, Options{ReadOnly: true})
	var mu sync.Mutex
	running := make(map[int]time.Time)
	using := make(map[manifest.ID]int)
	kept := make(map[string]store.Revision)
	stop := make(chan struct{})
	var captures, cleaners sync.WaitGroup
	for w := range 3 {
		captures.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 7))
			for round := range 25 {
				mu.Lock()
				running[w] = time.Now()
				mu.Unlock()
				base := rng.Uint64N(40) * 3
				r := publish(t, s, fmt.Sprint("im", w), 12, func(i int) uint64 {
					if i == 0 {
						return uint64(100_000 + 1000*w + round) // the same disk twice would be one revision
					}
					return base + uint64(3*i)
				})
				mu.Lock()
				delete(running, w)
				kept[r.String()] = r
				var victim store.Revision
				for _, r := range kept {
					if len(kept) > 6 && using[r.ID] == 0 {
						victim = r
					}
				}
				delete(kept, victim.String())
				if victim.Rev > 0 {
					if err := s.Remove(t.Context(), victim.Image, victim.Rev); err != nil {
						t.Error(err)
					}
				}
				mu.Unlock()
			}
		})
	}
	for _, from := range []*Store{s, reader} {
		cleaners.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				mu.Lock()
				var r store.Revision
				for _, r = range kept {
					break
				}
				using[r.ID]++
				mu.Unlock()
				if r.Rev > 0 {
					m, err := from.Manifest(t.Context(), r.ID)
					if err == nil {
						var v store.Verified
						if v, err = store.Verify(t.Context(), from, m, nil); err == nil {
							err = v.First
						}
					}
					if err != nil {
						t.Errorf("%s, read only %v: %v", r, from.readOnly, err)
					}
				}
				mu.Lock()
				using[r.ID]--
				mu.Unlock()
			}
		})
	}
	var freed int64
	cleaners.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			r, err := s.GC(t.Context(), GCOptions{InUse: func() (ids []manifest.ID, since time.Time) {
				mu.Lock()
				defer mu.Unlock()
				for _, at := range running {
					if since.IsZero() || at.Before(since) {
						since = at
					}
				}
				for id := range using {
					if using[id] > 0 {
						ids = append(ids, id)
					}
				}
				return ids, since
			}})
			if err != nil || len(r.Problems) > 0 {
				t.Errorf("%+v, %v", r, err)
				return
			}
			freed += r.Freed
		}
	})
	captures.Wait()
	close(stop)
	cleaners.Wait()
	if freed == 0 {
		t.Error("nothing was freed")
	}
	gc(t, s, GCOptions{})
	var revs []store.Revision
	for _, r := range kept {
		revs = append(revs, r)
	}
	whole(t, s, revs...)
	s = open(t, path, Options{ReadOnly: true})
	whole(t, s, revs...)
	t.Logf("%d bytes were freed, %d are left", freed, disk(t, path))
}
