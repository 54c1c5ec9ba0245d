package mirror_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/dir"
	"mimeo/internal/imaging/store/mirror"
	"mimeo/internal/imaging/store/storetest"
)

func open(t *testing.T, path string) *dir.Store {
	t.Helper()
	s, err := dir.Open(path, dir.Options{Create: true, PackSize: 20_000, Sign: func(r store.Revision) store.Signature { return store.Signature{Key: "k", Sig: r.String()} }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// publish makes a revision of 40 pieces, of which those from the first on that differs are its own.
func publish(t *testing.T, s *dir.Store, image string, differs int) store.Revision {
	t.Helper()
	ctx := t.Context()
	m, err := storetest.Image(ctx, s, 40, func(i int) uint64 {
		if i >= differs {
			return uint64(i + 1000*differs)
		}
		return uint64(i)
	})
	if err != nil {
		t.Fatal(err)
	}
	id, err := s.Stage(ctx, m)
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Publish(ctx, image, id)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func run(t *testing.T, from store.Reader, to mirror.Target, o mirror.Options) *mirror.Report {
	t.Helper()
	r, err := mirror.Run(t.Context(), from, to, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func whole(t *testing.T, s *dir.Store, revisions int) {
	t.Helper()
	r, err := s.Check(t.Context(), true, nil)
	if err != nil || !r.OK() || len(r.Revisions) != revisions {
		t.Errorf("the copy: %+v, %v", r, err)
	}
}

// TestCopy copies two images, then what came later, and finds nothing to do in the end.
func TestCopy(t *testing.T) {
	from, to := open(t, t.TempDir()+"/a"), open(t, t.TempDir()+"/b")
	publish(t, from, "a", 40)
	if err := from.Remove(t.Context(), "a", 1); err != nil {
		t.Fatal(err)
	}
	want := publish(t, from, "a", 30)
	publish(t, from, "b", 20)
	dry := run(t, from, to, mirror.Options{DryRun: true})
	first := run(t, from, to, mirror.Options{})
	if diff := cmp.Diff([]string{"a@2", "b@1"}, first.Copied); diff != "" || first.There != 0 || len(first.Problems) > 0 {
		t.Error(diff, first)
	}
	if dry.Chunks != first.Chunks || len(dry.Copied) != 2 {
		t.Errorf("the dry run said %+v, then it was %+v", dry, first)
	}
	got, err := store.Find(t.Context(), to, "a", 2)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Error(diff, err)
	}
	publish(t, from, "b", 10)
	next := run(t, from, to, mirror.Options{})
	if next.There != 2 || len(next.Copied) != 1 || next.Chunks == 0 || next.Chunks > 30 {
		t.Errorf("one more revision: %+v", next)
	}
	if last := run(t, from, to, mirror.Options{}); last.There != 3 || last.Chunks+len(last.Copied) > 0 {
		t.Errorf("nothing more: %+v", last)
	}
	whole(t, to, 3)
}

// failing is a target that takes so many chunks.
type failing struct {
	*dir.Store
	left int
}

var errGone = errors.New("the line is cut")

func (f *failing) Put(ctx context.Context, chunks []chunk.Encoded) (res store.PutResult, err error) {
	for _, c := range chunks {
		if f.left--; f.left < 0 {
			return res, errGone
		}
		one, err := f.Store.Put(ctx, []chunk.Encoded{c})
		if res.Add(one); err != nil {
			return res, err
		}
	}
	return res, nil
}

// TestCutOff cuts the copy off and begins it again: what was sent is not sent twice.
func TestCutOff(t *testing.T) {
	from, to := open(t, t.TempDir()+"/a"), open(t, t.TempDir()+"/b")
	publish(t, from, "a", 30)
	all := run(t, from, open(t, t.TempDir()+"/c"), mirror.Options{}).Chunks
	first, err := mirror.Run(t.Context(), from, &failing{to, all / 2}, mirror.Options{})
	if !errors.Is(err, errGone) || !strings.Contains(err.Error(), "copy a@1") || len(first.Copied) > 0 {
		t.Fatalf("%+v, %v", first, err)
	}
	if second := run(t, from, to, mirror.Options{}); first.Chunks != all/2 || second.Chunks != all-all/2 || len(second.Copied) != 1 {
		t.Errorf("of %d chunks first %+v, then %+v", all, first, second)
	}
	whole(t, to, 1)
}

// TestProblems has a damaged revision beside a whole one, a number that is taken, and one that was removed there.
func TestProblems(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	from, to := open(t, path), open(t, t.TempDir()+"/b")
	publish(t, from, "a", 1)
	publish(t, from, "taken", 1)
	publish(t, to, "taken", 2)
	publish(t, from, "removed", 1)
	publish(t, to, "removed", 1)
	if err := to.Remove(t.Context(), "removed", 1); err != nil {
		t.Fatal(err)
	}
	if err := from.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	other := publish(t, from, "bad", 3)
	if err := os.Remove(filepath.Join(path, "manifests", other.ID.String()+".json")); err != nil {
		t.Fatal(err)
	}
	r := run(t, from, to, mirror.Options{})
	if diff := cmp.Diff([]string{"a@1"}, r.Copied); diff != "" || len(r.Problems) != 3 {
		t.Error(diff, r.Problems)
	}
	for i, want := range []string{"bad@1: manifest ", "removed@1: removed@1 was removed here", "taken@1 is another capture there"} {
		if i >= len(r.Problems) || !strings.HasPrefix(r.Problems[i], want) {
			t.Errorf("no %q in %q", want, r.Problems)
		}
	}
}

// target is a second store to which faults happen.
type target struct {
	storetest.Flaky
	to *dir.Store
}

func (t *target) Adopt(ctx context.Context, r store.Revision) error {
	return t.Do([]storetest.Fault{storetest.Refuse, storetest.Lose, storetest.Twice, storetest.Full}, func() error { return t.to.Adopt(ctx, r) })
}

// TestFaults lets all that is asked of either store fail in turn.
func TestFaults(t *testing.T) {
	place := func(t *testing.T, p *storetest.Plan) storetest.Place {
		from, to := open(t, t.TempDir()+"/a"), open(t, t.TempDir()+"/b")
		near, far := &storetest.Flaky{Publisher: from, Plan: p}, &target{storetest.Flaky{Publisher: to, Plan: p}, to}
		copied := func(ctx context.Context) error {
			r, err := mirror.Run(ctx, near, far, mirror.Options{})
			if err == nil && len(r.Problems) > 0 {
				err = fmt.Errorf("%q", r.Problems)
			}
			return err
		}
		return storetest.Place{
			Open:  func() (storetest.Pair, error) { return storetest.Pair{Writer: near, Publisher: near}, nil },
			Close: func() error { return nil },
			Work:  func(ctx context.Context, _ string) error { return copied(ctx) },
			Check: func(ctx context.Context) error {
				whole(t, to, 3) // what was removed from the first is in the second still
				return copied(ctx)
			},
		}
	}
	storetest.Faults(t, place, 1, 3, []string{"copy"}, storetest.Refuse, storetest.Shorten, storetest.Lose, storetest.Twice, storetest.Full)
}
