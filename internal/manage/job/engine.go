package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/imaging/store"
	"mimeo/internal/manage/inventory"
	"mimeo/internal/manage/power"
)

// Power opens the way to a node's power. The server gives it, with the BMC's password.
type Power func(ctx context.Context, n node.Node, f func(power.Controller) error) error

// Engine carries jobs on. Make one with New, then call Run; all other methods may be called from any goroutine.
type Engine struct {
	db     *inventory.DB
	store  store.Publisher
	power  Power
	limits Limits
	quota  Quota
	prove  Prove
	turns  func(t *inventory.Tx, was, is api.Job) error
	turned func(was, is api.Job)
	log    *slog.Logger
	now    func() time.Time

	mu       sync.Mutex // held while a record is read, changed and written
	live     map[string]*Record
	samples  map[string][]sample // for rates
	watchers map[string]map[chan api.Watch]bool
	follows  map[string]map[*Follower]bool
	busy     map[string]bool      // jobs with a power command or the server's own phases under way
	pause    map[string]time.Time // jobs that could not be written: not before
	work     sync.WaitGroup

	startPause time.Time     // queued jobs that could not be written: not before
	powerPause time.Duration // between a power command that failed and the next
}

// sample is a point of a phase's progress.
type sample struct {
	at   time.Time
	done int64
}

// Options of an Engine.
type Options struct {
	DB     *inventory.DB
	Store  store.Publisher
	Power  Power
	Limits Limits
	Quota  Quota
	Prove  Prove                                        // nil where there are no wipes
	Turns  func(t *inventory.Tx, was, is api.Job) error // called where a job enters a phase or must wait for a person, in the transaction that says so; nil means nobody
	Turned func(was, is api.Job)                        // called after that transaction, and must not wait; nil means nobody
	Log    *slog.Logger                                 // nil means silent
	Now    func() time.Time                             // nil means the real clock
}

// New reads the active jobs. Nothing happens to them before Run.
func New(ctx context.Context, o Options) (*Engine, error) {
	e := &Engine{db: o.DB, store: o.Store, power: o.Power, limits: o.Limits.withDefaults(), quota: o.Quota, prove: o.Prove, turns: o.Turns, turned: o.Turned, log: o.Log, now: o.Now, powerPause: powerPause,
		live: map[string]*Record{}, samples: map[string][]sample{}, watchers: map[string]map[chan api.Watch]bool{}, follows: map[string]map[*Follower]bool{},
		busy: map[string]bool{}, pause: map[string]time.Time{}}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	if e.now == nil {
		e.now = time.Now
	}
	err := o.DB.Jobs(ctx, inventory.JobFilter{Active: true}, func(data []byte) error {
		r := new(Record)
		if err := json.Unmarshal(data, r); err != nil {
			return fmt.Errorf("read a job: %w", err)
		}
		// While this server was down nobody could be heard: silence counts from now.
		r.Heard = e.now()
		r.TrySince, r.Moved = r.Heard, r.Heard
		e.live[r.ID] = r
		return nil
	})
	return e, err
}

// Run drives the jobs until ctx is done, and returns when all that it started has stopped.
func (e *Engine) Run(ctx context.Context) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		e.step(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			e.work.Wait()
			return nil
		}
	}
}

// retryWrite is how long a job waits whose record could not be written.
const retryWrite = 5 * time.Second

// step looks at each active job: does it wait for something that the engine itself must do, or did it wait too long?
// The lock is held for one job at a time, so that a hundred new jobs keep no agent waiting.
func (e *Engine) step(ctx context.Context) {
	if err := e.start(ctx); err != nil && ctx.Err() == nil {
		e.log.Error("queued jobs cannot begin just now", "err", err)
	}
	e.mu.Lock()
	ids := slices.Collect(maps.Keys(e.live))
	e.mu.Unlock()
	for _, id := range ids {
		e.mu.Lock()
		if r := e.live[id]; r != nil && !e.busy[id] && !e.now().Before(e.pause[id]) {
			delete(e.pause, id)
			if err := e.stepOne(ctx, r); err != nil && ctx.Err() == nil {
				e.log.Error("job cannot go on just now", "job", r.ID, "node", r.Node, "err", err)
				e.pause[id] = e.now().Add(retryWrite)
			}
		}
		e.mu.Unlock()
	}
}

func (e *Engine) stepOne(ctx context.Context, r *Record) error {
	now := e.now()
	switch {
	case r.Phase == api.PhaseQueued:
		// start lets it begin
	case r.Phase == api.PhasePowering:
		e.powerUp(ctx, r)
	case serverPhases[r.Phase]:
		e.background(r, func() { e.finish(ctx, r.ID) })
	case r.Waiting != "":
		// a person must do something: no limit counts
	case r.Phase == api.PhaseNetbooting && !r.Scripted && !r.Strayed.IsZero() && now.Sub(r.Strayed) > strayLimit:
		return e.again(ctx, r, "has booted an operating system instead of the network")
	case r.Phase == api.PhaseNetbooting && now.Sub(r.Heard) > e.limits.Netboot:
		return e.again(ctx, r, fmt.Sprintf("did not netboot within %s", e.limits.Netboot))
	case r.Phase == api.PhaseNetbooting && now.Sub(r.TrySince) > slowBoots*e.limits.Netboot:
		return e.again(ctx, r, fmt.Sprintf("has been netbooting for %s, and no agent came up", slowBoots*e.limits.Netboot))
	case agentPhases[r.Phase] && now.Sub(r.Heard) > e.limits.AgentSilence:
		return e.again(ctx, r, fmt.Sprintf("its agent has not been heard for %s", e.limits.AgentSilence))
	case agentPhases[r.Phase] && !scriptPhases[r.Phase] && now.Sub(r.Moved) > e.limits.Stall:
		return e.again(ctx, r, fmt.Sprintf("has made no progress for %s (%s)", e.limits.Stall, r.Phase))
	case r.Phase == api.PhaseCancelling && now.Sub(r.Heard) > e.limits.AgentSilence:
		return e.cancelUnheard(ctx, r)
	case r.Phase == api.PhaseRebooting && now.Sub(r.Heard) > e.limits.Reboot:
		return e.notBack(ctx, r)
	}
	return nil
}

// background runs f beside the others, one for each job at a time. The caller holds the lock.
func (e *Engine) background(r *Record, f func()) {
	e.busy[r.ID] = true
	e.work.Go(func() {
		f()
		e.mu.Lock()
		delete(e.busy, r.ID)
		e.mu.Unlock()
	})
}

// change applies f to a copy of the record, writes it together with an event (none where the text is empty) and, only
// then, lets everybody see it. The caller holds the lock. A job that ended sets the node's boot state to disk.
func (e *Engine) change(ctx context.Context, r *Record, f func(*Record) (string, error)) error {
	return e.changeWith(ctx, r, f, nil)
}

// changeWith is change, with more in the same transaction.
func (e *Engine) changeWith(ctx context.Context, r *Record, f func(*Record) (string, error), more func(*inventory.Tx, *Record) error) error {
	ed, err := e.edit(r, f)
	if err != nil {
		return err
	}
	edits := []edit{ed}
	if next := ed.next; next.Request.FailFast && next.Batch != "" && (next.Phase == api.PhaseFailed || next.Phase == api.PhaseLost) {
		edits = append(edits, e.stopBatch(next)...)
	}
	return e.write(ctx, edits, func(t *inventory.Tx) error {
		if more == nil {
			return nil
		}
		return more(t, ed.next)
	})
}

// edit is a change of a record that is not written yet.
type edit struct {
	r, next *Record
	event   *api.Event // nil for none
}

// edit applies f to a copy of a record. The caller holds the lock.
func (e *Engine) edit(r *Record, f func(*Record) (string, error)) (edit, error) {
	next := clone(r)
	text, err := f(next)
	if err != nil {
		return edit{}, err
	}
	ed := edit{r: r, next: next}
	if text != "" || next.Phase != r.Phase {
		ed.event = &api.Event{Time: e.now(), Node: r.Node, Job: r.ID, Kind: "phase", Text: string(next.Phase)}
		if text != "" {
			ed.event.Text += ": " + text
		}
	}
	return ed, nil
}

// boot is the boot state that follows from the change; "" for none. A job that never had its turn changes none.
func (ed edit) boot() node.BootState {
	switch was, is := ed.r, ed.next; {
	case was.Held && is.Active && !is.Held:
		return bootState(is.Kind)
	case was.Active && !is.Active && !was.Held, is.Phase == api.PhaseRebooting && was.Phase != api.PhaseRebooting:
		return node.BootDisk
	}
	return ""
}

// turns tells whether the job enters another phase, or must wait for a person or no longer.
func (ed edit) turns() bool { return ed.r.Phase != ed.next.Phase || ed.r.Waiting != ed.next.Waiting }

// write keeps changes, all or none, with more in the same transaction, and lets everybody see them. The caller holds
// the lock.
func (e *Engine) write(ctx context.Context, edits []edit, more func(*inventory.Tx) error) error {
	if len(edits) == 0 {
		return nil
	}
	err := e.db.Update(ctx, func(t *inventory.Tx) error {
		for _, ed := range edits {
			next := ed.next
			if err := t.PutJob(next.ID, next.Node, next.Active, next); err != nil {
				return err
			}
			if state := ed.boot(); state != "" {
				if err := t.SetBoot(next.Node, state, "", false); err != nil && !errors.Is(err, inventory.ErrNotFound) {
					return err
				}
			}
			if ed.event != nil {
				if err := t.AddEvent(ed.event); err != nil {
					return err
				}
			}
			if e.turns != nil && ed.turns() {
				if err := e.turns(t, clone(ed.r).Job, clone(next).Job); err != nil {
					return err
				}
			}
		}
		if more != nil {
			return more(t)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, ed := range edits {
		r := ed.r
		was, turned := clone(r).Job, ed.turns()
		*r = *ed.next
		if turned && e.turned != nil {
			e.turned(was, clone(r).Job)
		}
		if !r.Active {
			delete(e.live, r.ID)
			delete(e.samples, r.ID)
			delete(e.pause, r.ID)
		}
		e.tell(r, ed.event)
		if ed.event != nil {
			e.log.Info(ed.event.Text, "job", r.ID, "node", r.Node, "image", r.Image)
		}
	}
	return nil
}

// clone copies a record as deep as it is ever changed: what its other pointers and lists point to is replaced, not
// changed.
func clone(r *Record) *Record {
	c := *r
	c.PhaseMS, c.Counts, c.Outputs = maps.Clone(r.PhaseMS), maps.Clone(r.Counts), slices.Clone(r.Outputs)
	return &c
}

// again is what follows from a node that was lost: it is netbooted anew and goes on from what is stored, until its
// tries are used up.
func (e *Engine) again(ctx context.Context, r *Record, why string) error {
	now := e.now()
	return e.change(ctx, r, func(r *Record) (string, error) {
		if r.Try >= r.Tries {
			hint := fmt.Sprintf(`"mimeo node events %s" shows how far it came; the job can be started again with "mimeo job retry %s"`, r.Node, r.ID)
			if !r.Strayed.IsZero() {
				hint = "put the network before the disk in its boot order; where it is, its switch port may forward nothing for the first half minute (set it to PortFast); " + hint
			}
			return e.fail(r, &api.Error{Code: "node_lost", Message: fmt.Sprintf("%s %s, %d times", r.Node, why, r.Try), Hint: hint}), nil
		}
		r.setPhase(api.PhasePowering, now)
		return fmt.Sprintf("%s %s: once more", r.Node, why), nil
	})
}

// fail ends a record, inside a change.
func (e *Engine) fail(r *Record, why *api.Error) string {
	r.Error = why
	r.end(api.PhaseFailed, e.now())
	return why.Message
}

// notBack is for a node that was told to reboot and did not ask for its disk.
func (e *Engine) notBack(ctx context.Context, r *Record) error {
	now := e.now()
	if !r.Nudged {
		err := e.change(ctx, r, func(r *Record) (string, error) {
			r.Nudged, r.Heard = true, now
			return fmt.Sprintf("%s has not asked for its disk for %s: power-cycling it", r.Node, e.limits.Reboot), nil
		})
		if err == nil {
			e.background(r, func() { e.nudge(ctx, r.ID) })
		}
		return err
	}
	return e.change(ctx, r, func(r *Record) (string, error) {
		what := "the revision is published"
		switch r.Kind {
		case api.TaskDeploy:
			what = "the image is on its disk"
		case api.TaskWipe:
			what = "its disk is wiped, and the certificate is there"
		}
		r.Error = &api.Error{Code: "lost", Message: fmt.Sprintf("%s; but %s has not asked how to boot since, so whether it is back is not known", what, r.Node),
			Hint: "look at its console; its boot state is disk"}
		r.end(api.PhaseLost, now)
		return r.Error.Message, nil
	})
}

// nudge power-cycles a node that did not come back. It may run its system by now, from firmware that did not ask: that
// gets the chance to shut down.
func (e *Engine) nudge(ctx context.Context, id string) {
	n, ok := e.nodeOf(ctx, id)
	if !ok {
		return
	}
	err := e.power(power.Starting(ctx), n, func(c power.Controller) error {
		if e.limits.SoftOff > 0 {
			e.softOff(ctx, id, c)
		}
		ctx, cancel := context.WithTimeout(ctx, e.limits.Power)
		defer cancel()
		e.networkNext(ctx, id, n, c)
		return c.Cycle(ctx)
	})
	if err != nil && ctx.Err() == nil {
		e.note(ctx, id, "power", "power cycle: "+err.Error())
	}
}

// nodeOf reads the node of an active job.
func (e *Engine) nodeOf(ctx context.Context, id string) (node.Node, bool) {
	e.mu.Lock()
	r := e.live[id]
	e.mu.Unlock()
	if r == nil {
		return node.Node{}, false
	}
	n, err := e.db.Node(ctx, r.Node)
	if err != nil {
		e.log.Error("node of a job cannot be read", "job", id, "err", err)
	}
	return n, err == nil
}

// note adds an event to a job without changing it.
func (e *Engine) note(ctx context.Context, id, kind, text string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.live[id]
	if r == nil {
		return
	}
	ev := &api.Event{Time: e.now(), Node: r.Node, Job: id, Kind: kind, Text: text}
	if err := e.db.AddEvent(ctx, ev); err != nil {
		e.log.Error("event is lost", "job", id, "err", err)
		return
	}
	e.tell(r, ev)
}
