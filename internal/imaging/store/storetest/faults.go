package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
)

// Fault is what happens to something that a store asks of what lies below it: a filesystem, a service, another store.
type Fault int

// The faults.
const (
	None    Fault = iota
	Refuse        // it is refused, and nothing is done
	Cut           // the connection ends, and nothing is done
	Lose          // it is done, and its success is not told
	Shorten       // a part of it is done, or of the answer comes
	Twice         // it is done twice, as by a network that repeats it
	Full          // there is no room left
	Lag           // a list shows what was there some changes ago
)

// String names the fault.
func (f Fault) String() string {
	return [...]string{"None", "Refuse", "Cut", "Lose", "Shorten", "Twice", "Full", "Lag"}[f]
}

// ErrFault is what a store below says of a fault.
var ErrFault = errors.New("fault of a test")

// Plan says to which of what is asked a fault happens: to a number of them in a row. The zero value has none.
type Plan struct {
	mu    sync.Mutex
	fault Fault
	first int // from 1
	count int
	n     int
}

// Next returns the fault that happens to what is asked now. able tells which faults can happen to it, where not all can.
func (p *Plan) Next(able ...Fault) Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fault == None || len(able) > 0 && !slices.Contains(able, p.fault) {
		return None
	}
	p.n++
	if p.n < p.first || p.n >= p.first+p.count {
		return None
	}
	return p.fault
}

// Lag returns how many changes ago what lists show was so.
func (p *Plan) Lag() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fault != Lag {
		return 0
	}
	p.n = p.first
	return p.count
}

// begun tells whether a fault has happened.
func (p *Plan) begun() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.n >= p.first
}

// end lets no more happen.
func (p *Plan) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = None
}

// Place is where one store is kept, which is opened several times.
type Place struct {
	// Open opens the store, and makes it where there is none yet. Close closes it.
	Open  func() (Pair, error)
	Close func() error
	// Work are steps after each capture, such as a clean-up, by their names. Each may fail while there are faults, and not
	// after.
	Work func(ctx context.Context, name string) error
	// Check looks at the whole store. It may be nil.
	Check func(ctx context.Context) error
}

// Faults captures, publishes, reads, removes and works in a store while each single thing that it asks of what lies below
// fails in turn, count of them in a row, in each of the ways that faults names. Whatever a store said to be done must be there, whole, in the same process and in the next one; what failed must
// succeed when it is tried again after the faults. every leaves out faults where there are too many: 1 tries all.
func Faults(t *testing.T, newPlace NewPlace, count, every int, work []string, faults ...Fault) {
	for _, fault := range faults {
		t.Run(fmt.Sprintf("%v%d", fault, count), func(t *testing.T) { InTurn(t, newPlace, fault, count, every, work) })
	}
}

// NewPlace makes an empty place for a store that asks the plan what happens.
type NewPlace func(t *testing.T, p *Plan) Place

// InTurn is Faults with one of the faults.
func InTurn(t *testing.T, newPlace NewPlace, fault Fault, count, every int, work []string) {
	happened := 0
	for first := 1; ; first += every {
		p := &Plan{fault: fault, first: first, count: count}
		l := life{t: t, plan: p, place: newPlace(t, p), work: work, given: make(map[manifest.ID]int)}
		l.run()
		if t.Failed() {
			t.Fatalf("with %v at %d", fault, first)
		}
		if !p.begun() {
			break
		}
		happened++
	}
	if happened < 5 {
		t.Errorf("only %d faults", happened)
	}
}

// Lagging is Faults with lists that lag behind by 1 to most changes, in the process that makes these. The next one sees
// all.
func Lagging(t *testing.T, newPlace NewPlace, most int, work []string) {
	for n := 1; n <= most; n++ {
		t.Run(fmt.Sprint(Lag, n), func(t *testing.T) {
			p := &Plan{fault: Lag, first: 1, count: n}
			l := life{t: t, plan: p, place: newPlace(t, p), work: work, given: make(map[manifest.ID]int)}
			l.run()
			if !p.begun() {
				t.Error("nothing was listed")
			}
		})
	}
}

// life is the life of one store in two processes.
type life struct {
	t     *testing.T
	plan  *Plan
	place Place
	work  []string
	s     Pair

	given   map[manifest.ID]int // published, by manifest
	removed []int
}

// must tries a step until the faults are over, then once more: then it must succeed.
func (l *life) must(what string, step func() error) {
	l.t.Helper()
	var err error
	for range 3 {
		if err = step(); err == nil || l.t.Failed() {
			return
		}
		if !l.plan.begun() {
			l.t.Fatalf("%s, before any fault: %v", what, err)
		}
	}
	l.plan.end()
	if again := step(); again != nil {
		l.t.Fatalf("%s, after the faults: %v; with them: %v", what, again, err)
	}
}

func (l *life) run() {
	ctx := l.t.Context()
	open := func() (err error) { l.s, err = l.place.Open(); return err }
	l.must("open", open)
	for round := range 3 {
		l.must("capture", func() error { return l.capture(ctx, round) })
		l.must("read", func() error { return l.whole(ctx) })
		if round == 1 {
			l.must("remove", func() error { return l.remove(ctx) })
		}
		for _, name := range l.work {
			l.must(name, func() error { return l.place.Work(ctx, name) })
		}
	}
	if err := l.place.Close(); err != nil && !l.plan.begun() {
		l.t.Fatalf("close: %v", err)
	}
	if l.plan.Lag() > 0 {
		l.plan.end()
	}
	l.must("open again", open)
	l.must("read by another process", func() error { return l.whole(ctx) })
	l.plan.end()
	if err := l.whole(ctx); err != nil {
		l.t.Fatalf("in the end: %v", err)
	}
	if l.place.Check != nil {
		if err := l.place.Check(ctx); err != nil {
			l.t.Fatalf("check: %v", err)
		}
	}
	if err := l.place.Close(); err != nil {
		l.t.Fatalf("close: %v", err)
	}
}

// capture stores an image, most of which the last one had, too, and publishes it.
func (l *life) capture(ctx context.Context, round int) error {
	m, err := Image(ctx, l.s, 6, func(piece int) uint64 {
		if piece < 4 {
			return uint64(3 * piece)
		}
		return uint64(100*round + piece)
	})
	if err != nil {
		return err
	}
	id, err := l.s.Stage(ctx, m)
	if err != nil {
		return err
	}
	r, err := l.s.Publisher.Publish(ctx, "one", id)
	if err != nil {
		return err
	}
	for other, rev := range l.given {
		if (rev == r.Rev) != (other == id) {
			l.t.Errorf("one@%d is %s, and one@%d was %s", r.Rev, id, rev, other)
		}
	}
	l.given[id] = r.Rev
	return nil
}

// remove removes the first revision.
func (l *life) remove(ctx context.Context) error {
	for id, rev := range l.given {
		if rev != slices.Min(slices.Collect(values(l.given))) {
			continue
		}
		err := l.s.Publisher.Remove(ctx, "one", rev)
		if errors.Is(err, store.ErrNotFound) && l.plan.begun() {
			err = nil // the answer to the first try was lost
		}
		if err == nil {
			delete(l.given, id)
			l.removed = append(l.removed, rev)
		}
		return err
	}
	return errors.New("nothing to remove")
}

func values(m map[manifest.ID]int) func(func(int) bool) {
	return func(yield func(int) bool) {
		for _, v := range m {
			if !yield(v) {
				return
			}
		}
	}
}

// whole reads all revisions back.
func (l *life) whole(ctx context.Context) error {
	revs, err := l.s.Revisions(ctx, "one")
	if err != nil {
		return err
	}
	seen := 0
	for _, r := range revs {
		if slices.Contains(l.removed, r.Rev) {
			l.t.Errorf("one@%d was removed, and is there", r.Rev)
		}
		if rev, ok := l.given[r.ID]; !ok || rev != r.Rev {
			l.t.Errorf("one@%d of %s was never published, or as one@%d", r.Rev, r.ID, rev)
			continue
		}
		seen++
		m, err := l.s.Manifest(ctx, r.ID)
		if err != nil {
			return err
		}
		v, err := store.Verify(ctx, l.s, m, nil)
		if err != nil {
			return err
		}
		if !v.OK() {
			return fmt.Errorf("%s is not whole: %+v", r, v)
		}
	}
	if seen < len(l.given) {
		return fmt.Errorf("%d of %d revisions are there", seen, len(l.given))
	}
	return nil
}

// Serve answers a request, or lets a fault happen to it.
func (f Fault) Serve(w http.ResponseWriter, r *http.Request, inner http.Handler) {
	switch f {
	case None:
		inner.ServeHTTP(w, r)
		return
	case Refuse:
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>later</Message></Error>`)
		return
	case Full:
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusInsufficientStorage)
		return
	case Cut:
		panic(http.ErrAbortHandler)
	case Twice:
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		again := r.Clone(r.Context())
		again.Body, r.Body = io.NopCloser(bytes.NewReader(body)), io.NopCloser(bytes.NewReader(body))
		inner.ServeHTTP(httptest.NewRecorder(), again)
		inner.ServeHTTP(w, r)
		return
	}
	rec := httptest.NewRecorder()
	inner.ServeHTTP(rec, r)
	if f == Lose {
		panic(http.ErrAbortHandler)
	}
	for k, v := range rec.Header() {
		w.Header()[k] = v
	}
	w.WriteHeader(rec.Code)
	b := rec.Body.Bytes()
	_, _ = w.Write(b[:len(b)/2])
	if len(b) > 0 {
		panic(http.ErrAbortHandler)
	}
}

// Flaky is a store to which faults happen, for stores that lie before or behind others.
type Flaky struct {
	store.Publisher
	Plan *Plan
}

// Do lets a fault that can happen to it happen to what fn does.
func (f *Flaky) Do(able []Fault, fn func() error) error {
	switch fault := f.Plan.Next(able...); fault {
	case Refuse, Cut:
		return ErrFault
	case Full:
		return fmt.Errorf("%w: %w", store.ErrFull, ErrFault)
	case Lose:
		if err := fn(); err != nil {
			return err
		}
		return ErrFault
	case Twice:
		if err := fn(); err != nil {
			return err
		}
	}
	return fn()
}

var reads, writes = []Fault{Refuse, Cut, Shorten}, []Fault{Refuse, Cut, Lose, Twice, Full}

// Get implements store.Reader.
func (f *Flaky) Get(ctx context.Context, ids []chunk.ID, fn func(chunk.Encoded) error) error {
	switch f.Plan.Next(reads...) {
	case Refuse, Cut:
		return ErrFault
	case Shorten:
		if len(ids) > 1 {
			if err := f.Publisher.Get(ctx, ids[:len(ids)/2], fn); err != nil {
				return err
			}
		}
		return ErrFault
	}
	return f.Publisher.Get(ctx, ids, fn)
}

// Images implements store.Reader.
func (f *Flaky) Images(ctx context.Context) (names []string, err error) {
	err = f.Do(reads[:2], func() (err error) { names, err = f.Publisher.Images(ctx); return err })
	return names, err
}

// Revisions implements store.Reader.
func (f *Flaky) Revisions(ctx context.Context, image string) (revs []store.Revision, err error) {
	err = f.Do(reads[:2], func() (err error) { revs, err = f.Publisher.Revisions(ctx, image); return err })
	return revs, err
}

// Manifest implements store.Reader.
func (f *Flaky) Manifest(ctx context.Context, id manifest.ID) (m *manifest.Manifest, err error) {
	err = f.Do(reads[:2], func() (err error) { m, err = f.Publisher.Manifest(ctx, id); return err })
	return m, err
}

// Missing implements store.Writer.
func (f *Flaky) Missing(ctx context.Context, ids []chunk.ID) (missing []chunk.ID, err error) {
	err = f.Do(reads[:2], func() (err error) { missing, err = f.Publisher.Missing(ctx, ids); return err })
	return missing, err
}

// Put implements store.Writer.
func (f *Flaky) Put(ctx context.Context, chunks []chunk.Encoded) (res store.PutResult, err error) {
	err = f.Do(writes, func() (err error) { res, err = f.Publisher.Put(ctx, chunks); return err })
	return res, err
}

// Flush implements store.Writer.
func (f *Flaky) Flush(ctx context.Context) error {
	return f.Do(writes, func() error { return f.Publisher.Flush(ctx) })
}

// Stage implements store.Writer.
func (f *Flaky) Stage(ctx context.Context, m *manifest.Manifest) (id manifest.ID, err error) {
	err = f.Do(writes, func() (err error) { id, err = f.Publisher.Stage(ctx, m); return err })
	return id, err
}

// Publish implements store.Publisher.
func (f *Flaky) Publish(ctx context.Context, image string, id manifest.ID) (r store.Revision, err error) {
	err = f.Do(writes, func() (err error) { r, err = f.Publisher.Publish(ctx, image, id); return err })
	return r, err
}

// Remove implements store.Publisher. Twice would find nothing the second time.
func (f *Flaky) Remove(ctx context.Context, image string, rev int) error {
	return f.Do(writes[:3], func() error { return f.Publisher.Remove(ctx, image, rev) })
}
