package agent

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"mimeo/internal/agent/upstream"
	"mimeo/internal/cluster/api"
)

// Why a task is stopped.
var (
	errCancelled = errors.New("the job was cancelled")
	errGone      = errors.New("the server does not know the job any more")
)

// How often progress is sent: while numbers move, and while they do not. The server takes a node that says nothing for
// some time as lost.
var (
	reportMoving = time.Second
	reportStill  = 2 * time.Second
)

// goneAfter is how many refusals in a row mean that the job is gone; one may be a server that is just starting.
const goneAfter = 3

// reporter sends the progress of a task. Nothing waits for it. Its methods may be called from several goroutines.
type reporter struct {
	srv   *upstream.Server
	log   func(format string, args ...any)
	stop  context.CancelCauseFunc // of the task
	quit  chan struct{}
	done  chan struct{}
	nudge chan struct{}

	mu      sync.Mutex
	p       api.Progress // as it is now; Outputs and Log are those that were not sent yet
	changed bool
	since   time.Time
	took    map[api.Phase]int64
	heard   api.Phase     // that the server has answered last, and not with a cancel
	news    chan struct{} // closed and made anew when heard changes
}

func newReporter(srv *upstream.Server, job, bootID string, log func(string, ...any), stop context.CancelCauseFunc) *reporter {
	r := &reporter{srv: srv, log: log, stop: stop, quit: make(chan struct{}), done: make(chan struct{}), nudge: make(chan struct{}, 1),
		p: api.Progress{Job: job, BootID: bootID, Phase: api.PhaseAgent}, since: time.Now(), took: map[api.Phase]int64{}, news: make(chan struct{})}
	go r.loop()
	return r
}

// close sends no more, and returns when nothing is under way.
func (r *reporter) close() {
	close(r.quit)
	<-r.done
}

// flush sends what is left to be said, after close, for as long as limit.
func (r *reporter) flush(ctx context.Context, limit time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for wait := firstWait; ctx.Err() == nil; wait = min(wait*2, longWait) {
		p, _ := r.take()
		if len(p.Outputs)+len(p.Log) == 0 {
			return
		}
		_, err := r.srv.Progress(ctx, p)
		if err == nil || upstream.Final(err) {
			return
		}
		r.putBack(p)
		sleep(ctx, jitter(wait))
	}
}

// enter begins a phase.
func (r *reporter) enter(p api.Phase) {
	r.mu.Lock()
	if p != r.p.Phase {
		now := time.Now()
		r.took[r.p.Phase] += now.Sub(r.since).Milliseconds()
		r.since = now
		r.p.Phase, r.p.Done, r.p.Total = p, 0, 0
		r.changed = true
	}
	r.mu.Unlock()
	r.soon()
}

// told begins a phase and returns when the server has answered that it knows. An error means that it is not to begin.
func (r *reporter) told(ctx context.Context, p api.Phase) error {
	r.enter(p)
	for {
		r.mu.Lock()
		heard, news := r.heard, r.news
		r.mu.Unlock()
		if heard == p {
			return context.Cause(ctx)
		}
		select {
		case <-news:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// numbers takes how far the phase is. counts is kept.
func (r *reporter) numbers(done, total int64, counts map[string]int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.p.Done != done || r.p.Total != total || !maps.Equal(r.p.Counts, counts) {
		r.p.Done, r.p.Total, r.p.Counts, r.changed = done, total, counts, true
	}
}

// output takes a postscript that ended.
func (r *reporter) output(o api.Output) {
	r.mu.Lock()
	r.p.Outputs, r.changed = append(r.p.Outputs, o), true
	r.mu.Unlock()
	r.soon()
}

// say puts a line into the job's event log and onto the console.
func (r *reporter) say(line string) {
	r.log("%s", line)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.p.Log) < 1000 { // while the server is down
		r.p.Log, r.changed = append(r.p.Log, line), true
	}
}

// times returns how long each phase took, in milliseconds.
func (r *reporter) times() map[api.Phase]int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := maps.Clone(r.took)
	out[r.p.Phase] += time.Since(r.since).Milliseconds()
	return out
}

func (r *reporter) soon() {
	select {
	case r.nudge <- struct{}{}:
	default:
	}
}

func (r *reporter) loop() {
	defer close(r.done)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-r.quit:
			cancel()
		case <-ctx.Done():
		}
	}()
	tick := time.NewTicker(reportMoving)
	defer tick.Stop()
	refused, failing := 0, false
	var last time.Time
	for {
		select {
		case <-r.quit:
			return
		case <-r.nudge:
		case <-tick.C:
		}
		p, moved := r.take()
		if !moved && time.Since(last) < reportStill {
			continue
		}
		last = time.Now()
		reply, err := r.srv.Progress(ctx, p)
		if err != nil {
			r.putBack(p)
			if ctx.Err() != nil {
				return
			}
			if !failing {
				failing = true
				r.log("report progress: %v; going on", err)
			}
			if !upstream.Final(err) {
				refused = 0
			} else if refused++; refused >= goneAfter {
				r.stop(errGone)
			}
			continue
		}
		if failing {
			failing = false
			r.log("the server answers again")
		}
		refused = 0
		if reply.Cancel {
			r.stop(errCancelled)
			continue
		}
		r.mu.Lock()
		if r.heard != p.Phase {
			r.heard = p.Phase
			close(r.news)
			r.news = make(chan struct{})
		}
		r.mu.Unlock()
	}
}

// take returns what is to be sent, and whether it is news.
func (r *reporter) take() (api.Progress, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, moved := r.p, r.changed
	r.p.Outputs, r.p.Log, r.changed = nil, nil, false
	return p, moved
}

// putBack keeps what could not be sent for the next time.
func (r *reporter) putBack(p api.Progress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.p.Outputs = slices.Concat(p.Outputs, r.p.Outputs)
	r.p.Log = slices.Concat(p.Log, r.p.Log)
	r.changed = true
}
