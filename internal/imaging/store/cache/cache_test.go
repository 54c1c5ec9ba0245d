package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/keys"
	"mimeo/internal/imaging/store/mem"
	"mimeo/internal/imaging/store/storetest"
)

// counting is a store that counts what is read, and may be away.
type counting struct {
	store.Writer
	got  int
	away bool
	bad  bool // it hands out wrong bytes
}

var errAway = errors.New("nobody answers")

func (c *counting) Get(ctx context.Context, ids []chunk.ID, fn func(chunk.Encoded) error) error {
	if c.away {
		return errAway
	}
	return c.Writer.Get(ctx, ids, func(e chunk.Encoded) error {
		c.got++
		if c.bad {
			e.Data = bytes.Repeat([]byte{7}, len(e.Data))
		}
		return fn(e)
	})
}

// seal is nil in the first run of all tests, and seals in the second.
var seal *keys.Cache

func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		k, err := keys.New()
		if err == nil {
			var c keys.Cache
			c, err = k.Cache()
			seal = &c
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println("once more, with sealed files")
		code = m.Run()
	}
	os.Exit(code)
}

func open(t *testing.T, w store.Writer, folder string, size int64) *Store {
	t.Helper()
	s, err := Open(w, folder, size, seal)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Pair {
		m := mem.New()
		return storetest.Pair{Writer: open(t, m, t.TempDir(), MinSize), Publisher: m}
	})
}

// fill puts n chunks of a length into a store.
func fill(t *testing.T, w store.Writer, n, length int) (ids []chunk.ID, raws map[chunk.ID][]byte) {
	t.Helper()
	raws = make(map[chunk.ID][]byte)
	for i := range n {
		e, raw := storetest.Chunk(uint64(i), length)
		if _, err := w.Put(t.Context(), []chunk.Encoded{e}); err != nil {
			t.Fatal(err)
		}
		ids, raws[e.ID] = append(ids, e.ID), raw
	}
	return ids, raws
}

func get(t *testing.T, s store.Reader, ids []chunk.ID, raws map[chunk.ID][]byte) {
	t.Helper()
	n := 0
	if err := s.Get(t.Context(), ids, func(e chunk.Encoded) error {
		n++
		raw, err := chunk.Decode(e, nil)
		if err == nil && !bytes.Equal(raw, raws[e.ID]) {
			t.Errorf("chunk %s has other bytes", e.ID)
		}
		return err
	}); err != nil || n != len(ids) {
		t.Fatalf("%d of %d chunks, %v", n, len(ids), err)
	}
}

// TestKept reads twice, after a restart with the store away, and with files that are damaged, cut off or gone.
func TestKept(t *testing.T) {
	far := &counting{Writer: mem.New()}
	ids, raws := fill(t, far, 30, 5000)
	folder := t.TempDir()
	s := open(t, far, folder, MinSize)
	get(t, s, ids, raws)
	get(t, s, ids, raws)
	if st := s.Stats(); far.got != 30 || st.Hits != 30 || st.Misses != 30 || st.Chunks != 30 || st.Bytes < 30*4096 {
		t.Errorf("%d were fetched, %+v", far.got, st)
	}
	if _, err := Open(far, folder, MinSize, seal); !errors.Is(err, store.ErrLocked) {
		t.Errorf("two processes in one folder: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, far, folder, MinSize)
	far.away = true
	get(t, s, ids, raws)
	far.away = false

	path := func(i int) string { return s.path(s.name(ids[i])) }
	b, err := os.ReadFile(path(0))
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := errors.Join(os.WriteFile(path(0), b, 0o600), os.Truncate(path(1), 100), os.Remove(path(2)), os.Truncate(path(3), 0)); err != nil {
		t.Fatal(err)
	}
	get(t, s, ids, raws)
	if st := s.Stats(); far.got != 34 || st.Bad != 3 || st.Chunks != 30 {
		t.Errorf("%d were fetched, %+v", far.got, st)
	}
}

// TestBadIsNotKept has a store that hands out wrong bytes for a while.
func TestBadIsNotKept(t *testing.T) {
	far := &counting{Writer: mem.New()}
	ids, raws := fill(t, far, 6, 5000)
	s := open(t, far, t.TempDir(), MinSize)
	far.bad = true
	if err := s.Get(t.Context(), ids, func(chunk.Encoded) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.Chunks != 0 {
		t.Errorf("kept: %+v", st)
	}
	far.bad = false
	get(t, s, ids, raws)
}

// TestRoom fills more than the cache holds: what was asked for last stays, also over a restart with less room.
func TestRoom(t *testing.T) {
	far := &counting{Writer: mem.New()}
	ids, raws := fill(t, far, 18, 4<<20-100)
	folder := t.TempDir()
	s := open(t, far, folder, MinSize)
	get(t, s, ids[:10], raws)
	get(t, s, ids[:2], raws)
	get(t, s, ids[10:], raws)
	st := s.Stats()
	if st.Bytes > MinSize || st.Bytes < MinSize/2 {
		t.Errorf("after 18 chunks of 4 MiB: %+v", st)
	}
	far.got = 0
	get(t, s, append(ids[:2:2], ids[15:]...), raws)
	if far.got != 0 {
		t.Errorf("%d of those asked for last were fetched again", far.got)
	}
	if _, err := Open(far, t.TempDir(), MinSize-1, nil); err == nil {
		t.Error("too small a cache was opened")
	}
}

func FuzzParse(f *testing.F) {
	e, _ := storetest.Chunk(1, 100)
	f.Add([]byte("MCC1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := parse(e.ID, b); err == nil && c.Check() != nil {
			t.Error("a chunk that is none")
		}
	})
}

// TestFaults has a store behind the cache that fails now and then.
func TestFaults(t *testing.T) {
	place := func(t *testing.T, p *storetest.Plan) storetest.Place {
		far, folder := &storetest.Flaky{Publisher: mem.New(), Plan: p}, t.TempDir()
		var s *Store
		return storetest.Place{
			Open: func() (_ storetest.Pair, err error) {
				s, err = Open(far, folder, MinSize, seal)
				return storetest.Pair{Writer: s, Publisher: far}, err
			},
			Close: func() error { return s.Close() },
		}
	}
	storetest.Faults(t, place, 1, 1, nil, storetest.Shorten)
	storetest.Faults(t, place, 1, 4, nil, storetest.Refuse, storetest.Lose, storetest.Twice, storetest.Full)
}
