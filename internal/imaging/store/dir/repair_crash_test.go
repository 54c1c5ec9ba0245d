package dir

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/storetest"
)

// TestPowerCutRepair cuts the power, or kills the program, at every single change that a repair makes: what was whole
// stays whole, a second repair does the rest, and the next capture heals what was lost.
func TestPowerCutRepair(t *testing.T) {
	base := newCrashFS()
	s := openFS(t, base)
	p := nothing()
	salt := func(image int) func(int) uint64 {
		return func(piece int) uint64 { return uint64(1000*image + 3*piece) }
	}
	for i := range 3 {
		r := publish(t, s, "one", 7, salt(i))
		p.revs[r.Rev], p.given[r.Rev] = r.ID, r.ID
	}
	hurt, _ := s.index.get(chunk.Sum(storetest.Bytes(salt(1)(2), 4096)))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	base = base.cut(nil)
	pack := base.names[packName(hurt.pack)]
	pack.data[hurt.off+recordHead+20] ^= 1
	pack.synced[hurt.off+recordHead+20] ^= 1
	delete(base.names, indexName(1))
	delete(base.durable, indexName(1))

	work := func(f *crashFS) error {
		s, err := openAs("store", Options{PackSize: smallPack, FS: f})
		if err != nil {
			return err
		}
		r, err := s.Repair(t.Context(), false, nil)
		if err != nil {
			return err
		}
		if r.Lost > 1 || len(r.Revisions) > 1 {
			return fmt.Errorf("%+v", r)
		}
		return s.Close()
	}
	clean := base.cut(nil)
	if err := work(clean); err != nil {
		t.Fatal(err)
	}
	aside := 0
	for name := range clean.names {
		if strings.HasSuffix(name, damagedExt) {
			aside++
		}
	}
	if aside != 1 {
		t.Fatalf("%d packs were set aside", aside)
	}
	for crashAt := 1; crashAt <= clean.ops; crashAt++ {
		for _, mode := range []string{"killed", "lost", "torn 1", "torn 2"} {
			f := base.cut(nil)
			f.crashAt = crashAt
			if err := work(f); err != nil && !errors.Is(err, errCrashed) {
				t.Fatalf("%s at %d: %v", mode, crashAt, err)
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
			s := openFS(t, after)
			for _, rev := range []int{1, 3} {
				m, err := s.Manifest(t.Context(), p.revs[rev])
				if err != nil {
					t.Fatalf("%s at %d: %v", mode, crashAt, err)
				}
				if v, err := store.Verify(t.Context(), s, m, nil); err != nil || !v.OK() {
					t.Fatalf("%s at %d: one@%d is not whole: %+v, %v", mode, crashAt, rev, v, err)
				}
			}
			if _, err := s.Repair(t.Context(), false, nil); err != nil {
				t.Fatalf("%s at %d: %v", mode, crashAt, err)
			}
			if r := publish(t, s, "one", 7, salt(1)); r.Rev != 2 {
				t.Fatalf("%s at %d: %s", mode, crashAt, r)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = openFS(t, after.cut(nil))
			kept(t, s, p)
			if r, err := s.Check(t.Context(), true, nil); err != nil || !r.OK() {
				t.Fatalf("%s at %d: check: %+v, %v", mode, crashAt, r, err)
			}
		}
	}
}
