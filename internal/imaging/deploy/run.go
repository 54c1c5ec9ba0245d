package deploy

import (
	"sync/atomic"
	"time"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
)

// compareTrial is how much is compared before it is asked whether comparing pays: below 2 % it costs more than it saves.
const compareTrial = 256 << 20

// run is a deploy under way.
type run struct {
	from store.Reader
	m    *manifest.Manifest // as it will lie on the disk
	t    Target
	opts Options

	image *manifest.Manifest // as it was captured
	from0 int64              // from there on all of it is moved
	room  int64              // by so many bytes

	table      manifest.Table // as it is on the disk at the end
	head, tail held           // kept back while all else is written

	renewals []renewal
	logs     extent.List // that begin anew: nothing else is written there

	same      extent.List // what by the word of the filesystems is as the last deploy wrote it
	untrusted []string

	free  chan *job
	fetch chan *job // to the workers
	order chan *job // in the same order to the writer, which waits until each one is filled

	touched                           atomic.Bool
	phase                             atomic.Value // string
	done, total                       atomic.Int64 // bytes of the phase
	written, skipped, zeroed, fetched atomic.Int64
	trustedBytes                      atomic.Int64
	discarded                         atomic.Int64
	cannotDiscard                     bool
	repaired                          bool
	compared, equal                   atomic.Int64
}

func newRun(from store.Reader, m *manifest.Manifest, t Target, opts Options) *run {
	opts.fill()
	r := &run{from: from, m: m, image: m, t: t, opts: opts}
	r.hold()
	r.enter(PhaseChecking)
	return r
}

func (r *run) enter(phase string) { r.begin(phase, r.m.Content.Used) }

func (r *run) begin(phase string, total int64) {
	r.done.Store(0)
	r.total.Store(total)
	r.phase.Store(phase)
}

func (r *run) counts() Counts {
	return Counts{Written: r.written.Load(), Skipped: r.skipped.Load(), Trusted: r.trustedBytes.Load(), Zeroed: r.zeroed.Load(), Fetched: r.fetched.Load(), Discarded: r.discarded.Load()}
}

// report starts the calls of Progress; stop makes the last one and ends them.
func (r *run) report() (stop func()) {
	if r.opts.Progress == nil {
		return func() {}
	}
	tell := func() {
		r.opts.Progress(Progress{Phase: r.phase.Load().(string), Done: r.done.Load(), Total: r.total.Load(), Counts: r.counts()})
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(250 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				tell()
			case <-quit:
				tell()
				return
			}
		}
	}()
	return func() { close(quit); <-done }
}

// compare tells whether the disk should be read before it is written.
func (r *run) compare() bool {
	if !r.opts.Compare {
		return false
	}
	n := r.compared.Load()
	return n < compareTrial || r.equal.Load() >= n/50
}
