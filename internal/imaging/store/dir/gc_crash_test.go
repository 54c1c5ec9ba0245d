package dir

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/storetest"
)

// littered returns a filesystem with a store that has garbage of all kinds in packs of all kinds, and what it promised.
func littered(t *testing.T) (*crashFS, *promised) {
	t.Helper()
	f := newCrashFS()
	s := openFS(t, f)
	p := nothing()
	for i := range 6 {
		r := publish(t, s, "one", 9, func(piece int) uint64 {
			if piece%3 == 0 {
				return uint64(3 * piece) // in all revisions
			}
			return uint64(100*i + 3*piece)
		})
		p.revs[r.Rev], p.given[r.Rev] = r.ID, r.ID
	}
	for _, rev := range []int{1, 2, 4, 5} {
		if err := s.Remove(t.Context(), "one", rev); err != nil {
			t.Fatal(err)
		}
		delete(p.revs, rev)
		p.removed = append(p.removed, rev)
	}
	// A capture that was cut off.
	if _, err := storetest.Image(t.Context(), s, 5, func(piece int) uint64 { return uint64(9000 + 3*piece) }); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return f, p
}

func (p *promised) clone() *promised {
	q := nothing()
	for k, v := range p.revs {
		q.revs[k] = v
	}
	for k, v := range p.given {
		q.given[k] = v
	}
	q.removed = append(q.removed, p.removed...)
	return q
}

// tidy cleans up, captures what partly is garbage, and cleans up again.
func tidy(ctx context.Context, s *Store, p *promised) error {
	if _, err := s.GC(ctx, GCOptions{}); err != nil {
		return err
	}
	m, err := storetest.Image(ctx, s, 9, func(piece int) uint64 { return uint64(100 + 3*piece) })
	if err != nil {
		return err
	}
	id, err := s.Stage(ctx, m)
	if err != nil {
		return err
	}
	r, err := s.Publish(ctx, "one", id)
	if err != nil {
		return err
	}
	p.revs[r.Rev], p.given[r.Rev] = id, id
	delete(p.revs, 3) // from here on it may be there or not
	if err := s.Remove(ctx, "one", 3); err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	_, err = s.GC(ctx, GCOptions{})
	return err
}

// TestPowerCutGC cuts the power, or kills the program, at every single change that a clean-up makes. Whatever is left
// behind, the next clean-up finds: in the end the store takes what one takes that never had an accident.
func TestPowerCutGC(t *testing.T) {
	base, promises := littered(t)
	clean := base.cut(nil)
	s := openFS(t, clean)
	start := clean.ops
	r, err := s.GC(t.Context(), GCOptions{DryRun: true})
	if err != nil || r.Removed < 2 || r.Rewritten < 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	if err := tidy(t.Context(), s, promises.clone()); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	want := usage(t, clean.cut(nil))
	t.Logf("%d changes, %+v", clean.ops-start, r)
	for crashAt := 1; crashAt <= clean.ops; crashAt++ {
		for _, mode := range []string{"killed", "lost", "torn 1", "torn 2"} {
			t.Run(fmt.Sprintf("%s at %d", mode, crashAt), func(t *testing.T) {
				f := base.cut(nil)
				f.crashAt = crashAt
				p := promises.clone()
				s, err := openAs("store", Options{PackSize: smallPack, FS: f})
				if err == nil {
					if err = tidy(t.Context(), s, p); err == nil {
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
				if err := tidy(t.Context(), s, p); err != nil {
					t.Fatal(err)
				}
				kept(t, s, p)
				last, err := s.GC(t.Context(), GCOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if r, err := s.Check(t.Context(), true, nil); err != nil || !r.OK() || r.Damaged > 0 {
					t.Fatalf("check: %+v, %v", r, err)
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				if got := usage(t, after.cut(nil)); got.Named != want.Named || got.Unnamed != last.Left {
					t.Errorf("%d bytes are named and %d not; want %d and %d", got.Named, got.Unnamed, want.Named, last.Left)
				}
			})
		}
	}
}

func usage(t *testing.T, f *crashFS) *Usage {
	t.Helper()
	s := openFS(t, f)
	u, err := s.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// TestGCBadSync lets each sync of a file fail in turn while a store is cleaned up. What was copied and is not durable
// must be read from where it was before.
func TestGCBadSync(t *testing.T) {
	base, promises := littered(t)
	for bad := 1; ; bad++ {
		f := base.cut(nil)
		s := openFS(t, f)
		f.syncs, f.badSync = 0, bad
		_, err := s.GC(t.Context(), GCOptions{})
		if f.syncs < bad {
			if bad < 3 {
				t.Fatalf("only %d syncs", f.syncs)
			}
			break
		}
		kept(t, s, promises)
		if r, cerr := s.Check(t.Context(), true, nil); cerr != nil || !r.OK() {
			t.Fatalf("sync %d (%v): check: %+v, %v", bad, err, r, cerr)
		}
		// The power goes without a Close.
		after := openFS(t, f.cut(nil))
		kept(t, after, promises)
		// The same process goes on.
		if err := tidy(t.Context(), s, promises.clone()); err != nil {
			t.Fatalf("sync %d: %v", bad, err)
		}
	}
}

// TestGCFull cleans up on a disk that has no room for copies: what needs none is still freed.
func TestGCFull(t *testing.T) {
	base, promises := littered(t)
	for room := int64(0); room < 20_000; room += 400 {
		f := base.cut(nil)
		s := openFS(t, f)
		for _, n := range f.names {
			f.room += int64(len(n.data))
		}
		f.room += room
		r, err := s.GC(t.Context(), GCOptions{})
		if err != nil || r.Removed == 0 {
			t.Fatalf("room %d: %+v, %v", room, r, err)
		}
		kept(t, s, promises)
		f.room = 0
		if r, err = s.GC(t.Context(), GCOptions{}); err != nil || len(r.Problems) > 0 {
			t.Fatalf("room %d: %+v, %v", room, r, err)
		}
		kept(t, openFS(t, f.cut(nil)), promises)
	}
}
