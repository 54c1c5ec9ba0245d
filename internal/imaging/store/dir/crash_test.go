package dir

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/storetest"
)

// promised is what a store has said to be done.
type promised struct {
	revs    map[int]manifest.ID
	removed []int
	given   map[int]manifest.ID // every number that was ever given, and to what
}

func nothing() *promised {
	return &promised{revs: make(map[int]manifest.ID), given: make(map[int]manifest.ID)}
}

// smallPack makes the work below go through several packs.
const smallPack = 12_000

// work captures three revisions of an image and removes one, until something fails. round makes the data of one call
// differ from the other's in part.
func work(ctx context.Context, s *Store, p *promised, round int) error {
	for i := range 3 {
		m, err := storetest.Image(ctx, s, 7, func(piece int) uint64 {
			if piece < 2 {
				return uint64(3 * piece) // in all revisions
			}
			return uint64(1000*round + 100*i + piece)
		})
		if err != nil {
			return err
		}
		if i == 1 {
			if err := s.Flush(ctx); err != nil {
				return err
			}
		}
		id, err := s.Stage(ctx, m)
		if err != nil {
			return err
		}
		r, err := s.Publish(ctx, "one", id)
		if err != nil {
			return err
		}
		if old, ok := p.given[r.Rev]; ok && old != id || slices.Contains(p.removed, r.Rev) {
			return fmt.Errorf("revision number %d was given again", r.Rev)
		}
		p.revs[r.Rev], p.given[r.Rev] = id, id
		if i == 1 {
			if err := s.Remove(ctx, "one", r.Rev); err != nil {
				delete(p.revs, r.Rev) // it may be there or not
				return err
			}
			delete(p.revs, r.Rev)
			p.removed = append(p.removed, r.Rev)
		}
	}
	return nil
}

// kept fails where the store does not hold what it promised, or shows a revision that is not whole.
func kept(t *testing.T, s *Store, p *promised) {
	t.Helper()
	revs, err := s.Revisions(t.Context(), "one")
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[int]manifest.ID)
	for _, r := range revs {
		seen[r.Rev] = r.ID
		m, err := s.Manifest(t.Context(), r.ID)
		if err != nil {
			t.Fatalf("%s: %v", r, err)
		}
		if v, err := store.Verify(t.Context(), s, m, nil); err != nil || !v.OK() {
			t.Fatalf("%s is not whole: %+v, %v, %v", r, v, v.First, err)
		}
	}
	for rev, id := range p.revs {
		if seen[rev] != id {
			t.Fatalf("one@%d was published and is gone: %v", rev, revs)
		}
	}
	for _, rev := range p.removed {
		if _, ok := seen[rev]; ok {
			t.Fatalf("one@%d was removed and is there again", rev)
		}
	}
}

func openFS(t *testing.T, f *crashFS) *Store {
	t.Helper()
	s, err := openAs("store", Options{Create: true, PackSize: smallPack, FS: f})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return s
}

// TestPowerCut cuts the power, or kills the program, at every single change of the filesystem.
func TestPowerCut(t *testing.T) {
	clean := newCrashFS()
	s := openFS(t, clean)
	if err := work(t.Context(), s, nothing(), 1); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if len(s.packs) < 3 {
		t.Fatalf("only %d packs", len(s.packs))
	}
	t.Logf("%d changes, %d packs", clean.ops, len(s.packs))
	for crashAt := 1; crashAt <= clean.ops; crashAt++ {
		for _, mode := range []string{"killed", "lost", "torn 1", "torn 2"} {
			t.Run(fmt.Sprintf("%s at %d", mode, crashAt), func(t *testing.T) {
				f := newCrashFS()
				f.crashAt = crashAt
				p := nothing()
				s, err := openAs("store", Options{Create: true, PackSize: smallPack, FS: f})
				if err == nil {
					if err = work(t.Context(), s, p, 1); err == nil {
						err = s.Close()
					}
				}
				if err != nil && !errors.Is(err, errCrashed) {
					t.Fatal(err)
				}
				var after *crashFS
				switch mode {
				case "killed":
					after = f.killed()
				case "lost":
					after = f.cut(nil)
				default:
					after = f.cut(rand.New(rand.NewPCG(uint64(crashAt), uint64(mode[len(mode)-1]))))
				}
				readOnly(t, after, p)
				s = openFS(t, after)
				kept(t, s, p)
				for number, pack := range s.packs {
					if b, err := s.readSealed(indexName(number), 1<<20); err != nil {
						t.Error(err)
					} else if _, _, err := s.form.parseIndex(b, number, pack.size); err != nil {
						t.Errorf("index of pack %d: %v", number, err)
					}
				}
				for round := 1; round <= 2; round++ {
					if err := work(t.Context(), s, p, round); err != nil {
						t.Fatal(err)
					}
				}
				kept(t, s, p)
				// Once more, without a Close: what was found after the first crash must have become durable.
				after = after.cut(nil)
				s = openFS(t, after)
				kept(t, s, p)
				report, err := s.Check(t.Context(), true, nil)
				if err != nil {
					t.Fatal(err)
				}
				for _, v := range report.Revisions {
					if !v.OK() {
						t.Errorf("check: %+v", v)
					}
				}
				if report.Damaged > 0 {
					t.Errorf("check: %q", report.Problems)
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}

// readOnly looks at a store after a crash without repairing it.
func readOnly(t *testing.T, f *crashFS, p *promised) {
	t.Helper()
	before := f.ops
	s, err := openAs("store", Options{ReadOnly: true, FS: f})
	if errors.Is(err, store.ErrNotFound) && len(p.revs) == 0 {
		return
	} else if err != nil {
		t.Fatalf("open for reading: %v", err)
	}
	kept(t, s, p)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if f.ops != before {
		t.Fatal("a reader changed the store")
	}
}

// TestFull lets the disk run full at many points; then somebody makes room, and the same process goes on.
func TestFull(t *testing.T) {
	size := func(f *crashFS) (n int64) {
		for _, i := range f.names {
			n += int64(len(i.data))
		}
		return n
	}
	clean := newCrashFS()
	s := openFS(t, clean)
	empty := size(clean)
	if err := work(t.Context(), s, nothing(), 1); err != nil {
		t.Fatal(err)
	}
	fails := 0
	for room := empty; room < size(clean); room += 97 {
		f := newCrashFS()
		s := openFS(t, f)
		f.room = room
		p := nothing()
		err := work(t.Context(), s, p, 1)
		if err != nil {
			fails++
			if !errors.Is(err, store.ErrFull) {
				t.Fatalf("room %d: %v", room, err)
			}
		}
		kept(t, s, p)
		if s.cur != nil && err != nil {
			if got := int64(len(f.names[packName(s.cur.number)].data)); got != s.cur.size {
				t.Fatalf("room %d: the pack keeps %d bytes of a write that failed", room, got-s.cur.size)
			}
		}
		f.room = 0
		if err := work(t.Context(), s, p, 1); err != nil {
			t.Fatalf("room %d: after room was made: %v", room, err)
		}
		kept(t, s, p)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = openFS(t, f.cut(nil))
		kept(t, s, p)
		if r, err := s.Check(t.Context(), true, nil); err != nil || !r.OK() {
			t.Fatalf("room %d: check: %+v, %v", room, r, err)
		}
	}
	if fails < 100 {
		t.Errorf("the disk ran full only %d times", fails)
	}
}

// TestReserve leaves room for others.
func TestReserve(t *testing.T) {
	f := newCrashFS()
	s, err := openAs("store", Options{Create: true, Reserve: 50_000, FS: f})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	f.room = 200_000
	for n := 0; ; n++ {
		raw := make([]byte, 7000)
		raw[0], raw[1] = byte(n), byte(n>>8)
		_, err := s.Put(t.Context(), []chunk.Encoded{{ID: chunk.Sum(raw), RawLen: 7000, Codec: chunk.Raw, Data: raw}})
		free, _ := f.Free()
		if err != nil {
			if !errors.Is(err, store.ErrFull) || n < 15 {
				t.Fatalf("chunk %d: %v", n, err)
			}
			break
		}
		if free < 50_000 {
			t.Fatalf("%d bytes are free", free)
		}
	}
}

// TestBadSync lets each sync of a file fail in turn, with a system that then believes the data to be written.
func TestBadSync(t *testing.T) {
	for bad := 1; ; bad++ {
		f := newCrashFS()
		s := openFS(t, f)
		f.syncs, f.badSync = 0, bad
		p := nothing()
		err := work(t.Context(), s, p, 1)
		if f.syncs < bad {
			if bad < 5 {
				t.Fatalf("only %d syncs", f.syncs)
			}
			break
		}
		kept(t, s, p)
		if err != nil { // otherwise it was the index file of a pack, which may be missing
			if err := work(t.Context(), s, p, 1); err != nil {
				t.Fatalf("after sync %d: %v", bad, err)
			}
		}
		kept(t, s, p)
		// The power goes without a Close.
		s = openFS(t, f.cut(nil))
		kept(t, s, p)
	}
}
