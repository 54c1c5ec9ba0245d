package dir

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"mimeo/internal/imaging/store"
)

// TestPowerCutWhileSigning cuts the power at every change that signing the revisions of a store makes: each has its
// record, with the signature or without, and what was said to be signed is.
func TestPowerCutWhileSigning(t *testing.T) {
	mark := store.Signature{Key: "ours", Sig: "good"}
	signing := func(f *crashFS) (*Store, error) {
		return openAs("store", Options{PackSize: smallPack, FS: f, Sign: func(store.Revision) store.Signature { return mark }})
	}
	// all signs everything, until something fails, and returns what was signed.
	all := func(t *testing.T, f *crashFS, p *promised) (done []int, err error) {
		s, err := signing(f)
		if err != nil {
			return nil, err
		}
		for rev := range p.revs {
			r, err := s.Sign(t.Context(), "one", rev)
			if err != nil {
				return done, err
			}
			if !slices.Contains(r.Signatures, mark) {
				t.Errorf("%s is signed by %v", r, r.Signatures)
			}
			done = append(done, rev)
		}
		return done, s.Close()
	}
	p := nothing()
	old := newCrashFS()
	s := openFS(t, old)
	if err := work(t.Context(), s, p, 1); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	clean := old.killed()
	begin := clean.ops
	if done, err := all(t, clean, p); err != nil || len(done) != 2 {
		t.Fatalf("%v, %v", done, err)
	}
	for crashAt := begin + 1; crashAt <= clean.ops; crashAt++ {
		for mode := range uint64(4) {
			t.Run(fmt.Sprintf("%d at %d", mode, crashAt), func(t *testing.T) {
				f := old.killed()
				f.crashAt = crashAt
				done, err := all(t, f, p)
				if err != nil && !errors.Is(err, errCrashed) {
					t.Fatal(err)
				}
				after := f.killed()
				if mode == 1 {
					after = f.cut(nil)
				} else if mode > 1 {
					after = f.cut(rand.New(rand.NewPCG(uint64(crashAt), mode)))
				}
				s := openFS(t, after)
				kept(t, s, p)
				for _, rev := range done {
					if r, err := s.revision("one", rev); err != nil || !slices.Contains(r.Signatures, mark) {
						t.Errorf("one@%d was signed: %+v, %v", rev, r, err)
					}
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				if done, err := all(t, after, p); err != nil || len(done) != 2 {
					t.Errorf("signed again: %v, %v", done, err)
				}
			})
		}
	}
}
