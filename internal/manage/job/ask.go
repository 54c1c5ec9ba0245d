package job

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/manage/inventory"
)

// Work is what New makes jobs of.
type Work struct {
	Request  api.JobNew
	Nodes    []node.Name
	Unfit    map[node.Name]*api.Error // nodes that cannot take it, and why; for Request.Skip alone
	Rev      int                      // deploy: the revision
	Manifest manifest.ID              // deploy
	Schedule string                   // that asks for it, or ""
	From     time.Time                // Request.WithinMS counts from then; zero means now
}

// New makes a job for each node, all or none. Those that may begin at once get their nodes' boot states in the same
// transaction; the others are held until it is their turn. With Request.Skip, a node that cannot take it gets a job that
// has failed already. The same key twice gives the same jobs.
func (e *Engine) New(ctx context.Context, w Work) ([]api.Job, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	req := w.Request
	var edits []edit
	var ids []string
	known := false
	err := e.db.Update(ctx, func(t *inventory.Tx) (err error) {
		if req.Key != "" {
			if ids, err = t.JobsOfKey(req.Key); err != nil || len(ids) > 0 {
				known = true
				return err
			}
		}
		batch, err := e.newBatch(t, w)
		if err != nil {
			return err
		}
		made, err := e.records(t, w, batch)
		if err != nil {
			return err
		}
		for _, r := range made {
			if err := t.AddJob(r.ID, batch, r.Node, r.Active, r); err != nil {
				return err
			}
			if r.Active && !r.Held {
				if err := t.SetBoot(r.Node, bootState(req.Kind), "", false); err != nil {
					return err
				}
			}
			text := fmt.Sprintf("%s: %s %s", r.Phase, req.Kind, req.Image)
			if r.Error != nil {
				text += ": " + r.Error.Message
			}
			ev := &api.Event{Time: e.now(), Node: r.Node, Job: r.ID, Kind: "phase", Text: text}
			if err := t.AddEvent(ev); err != nil {
				return err
			}
			edits, ids = append(edits, edit{r: r, event: ev}), append(ids, r.ID)
		}
		if req.Key != "" {
			return t.PutKey(req.Key, ids)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if known {
		return e.some(ctx, ids)
	}
	out := []api.Job{}
	for _, ed := range edits {
		if ed.r.Active {
			e.live[ed.r.ID] = ed.r
		}
		e.tell(ed.r, ed.event)
		out = append(out, clone(ed.r).Job)
	}
	return out, nil
}

// OfKey are the jobs that a client's key made; none where the key is new.
func (e *Engine) OfKey(ctx context.Context, key string) ([]api.Job, error) {
	var ids []string
	err := e.db.Update(ctx, func(t *inventory.Tx) (err error) {
		ids, err = t.JobsOfKey(key)
		return err
	})
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	return e.Some(ctx, ids)
}

// newBatch keeps what was asked for together, and gives it an ID; "" for a job by itself.
func (e *Engine) newBatch(t *inventory.Tx, w Work) (id string, err error) {
	req := w.Request
	if len(w.Nodes) < 2 && req.Max == 0 && req.WithinMS == 0 && !req.FailFast && w.Schedule == "" {
		return "", nil
	}
	if id, err = t.NextBatchID(); err != nil {
		return "", err
	}
	return id, t.AddBatch(id, w.Schedule, api.Batch{ID: id, Request: req, Schedule: w.Schedule, Created: e.now(), Jobs: len(w.Nodes)})
}

// records are the jobs that follow from w, in order. The caller holds the lock.
func (e *Engine) records(t *inventory.Tx, w Work, batch string) (out []*Record, err error) {
	req, now := w.Request, e.now()
	var by *time.Time
	if req.WithinMS > 0 {
		from := now
		if !w.From.IsZero() {
			from = w.From
		}
		end := from.Add(time.Duration(req.WithinMS) * time.Millisecond)
		by = &end
	}
	held, busy := e.queue()
	first, err := t.NextJobID()
	if err != nil {
		return nil, err
	}
	for i, n := range w.Nodes {
		r := &Record{Request: req, PhaseSince: now, Heard: now, Job: api.Job{ID: fmt.Sprintf("j%d", number(first)+i), Batch: batch, Kind: req.Kind, Node: n, Image: req.Image,
			Phase: api.PhaseQueued, Active: true, Tries: req.Tries, Created: now, StartBy: by}}
		if r.Tries <= 0 {
			r.Tries = defaultTries
		}
		if req.Kind == api.TaskDeploy {
			r.Rev, r.Manifest = w.Rev, w.Manifest
		}
		unfit := w.Unfit[n]
		if unfit == nil {
			if unfit, err = busyWith(t, n); err != nil {
				return nil, err
			}
		}
		switch {
		case unfit != nil && !req.Skip:
			return nil, unfit
		case unfit != nil:
			r.Error = unfit
			r.end(api.PhaseFailed, now)
		default:
			held = append(held, r.waiter())
		}
		out = append(out, r)
	}
	begin, _ := admit(held, busy, e.quota, now)
	for _, r := range out {
		r.Held = r.Active && !slices.Contains(begin, r.ID)
	}
	return out, nil
}

// busyWith says why a node that has a job cannot have another.
func busyWith(t *inventory.Tx, n node.Name) (*api.Error, error) {
	other, err := t.ActiveJob(n)
	if err != nil || other == "" {
		return nil, err
	}
	return Busy(n, other), nil
}

// Busy is the error of a node that has a job already.
func Busy(n node.Name, other string) *api.Error {
	return &api.Error{Code: "conflict", Message: fmt.Sprintf("%s has an active job, %s", n, other),
		Hint: fmt.Sprintf("wait for it (mimeo job watch %s), or cancel it (mimeo job cancel %s)", other, other)}
}

// Get reads a job.
func (e *Engine) Get(ctx context.Context, id string) (Record, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.get(ctx, id)
}

func (e *Engine) get(ctx context.Context, id string) (Record, error) {
	if l := e.live[id]; l != nil {
		return *clone(l), nil
	}
	var r Record
	err := e.db.Job(ctx, id, &r)
	if errors.Is(err, inventory.ErrNotFound) {
		return r, &api.Error{Code: "not_found", Message: fmt.Sprintf("no job %q", id), Hint: `"mimeo job list" shows all`}
	}
	return r, err
}

// OfNode is the active job of a node, if it has one.
func (e *Engine) OfNode(n node.Name) (Record, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, r := range e.live {
		if r.Node == n {
			return *clone(r), true
		}
	}
	return Record{}, false
}

// Cancel ends a job: at once where no agent has it, else as soon as the agent has stopped.
func (e *Engine) Cancel(ctx context.Context, id string) (api.Job, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.live[id]
	if r == nil {
		old, err := e.get(ctx, id)
		if err != nil {
			return api.Job{}, err
		}
		return api.Job{}, &api.Error{Code: "conflict", Message: fmt.Sprintf("job %s has ended already: %s", id, old.Phase)}
	}
	if err := r.cancellable(); err != nil {
		return api.Job{}, err
	}
	err := e.cancel(ctx, r)
	return clone(r).Job, err
}

// cancellable says why a job that is on cannot be cancelled.
func (r *Record) cancellable() error {
	if serverPhases[r.Phase] || r.Phase == api.PhaseRebooting {
		return &api.Error{Code: "conflict", Message: fmt.Sprintf("job %s is %s: its work is done, and cannot be undone by a cancel", r.ID, r.Phase)}
	}
	return nil
}

// cancel ends a job that can be cancelled, or tells its agent to stop. The caller holds the lock.
func (e *Engine) cancel(ctx context.Context, r *Record) error {
	if r.Phase == api.PhaseCancelling {
		return nil
	}
	return e.change(ctx, r, func(r *Record) (string, error) {
		if writes(r.Kind) && r.Tasked && !agentPhases[r.Phase] {
			return e.endUnknown(r), nil // its agent is not heard, and was not seen to be stopped by a power cycle
		}
		if agentPhases[r.Phase] {
			r.setPhase(api.PhaseCancelling, e.now())
			r.Heard = e.now()
			return "the agent is told to stop", nil
		}
		return e.endCancelled(r), nil
	})
}

// Fail ends a job that cannot go on for a reason that the engine does not see: its task cannot be put together.
func (e *Engine) Fail(ctx context.Context, id string, why *api.Error) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.live[id]
	if r == nil {
		return nil
	}
	return e.change(ctx, r, func(r *Record) (string, error) { return e.fail(r, why), nil })
}

// endCancelled ends a record, inside a change.
func (e *Engine) endCancelled(r *Record) string {
	text := "the node's disk was not written to"
	if writes(r.Kind) && r.Tasked && !r.Touched {
		text = "its agent had not said that it writes to the disk"
	}
	if r.Touched {
		text = "the deploy had begun to write: the disk does not boot until it is deployed again"
		r.Error = &api.Error{Code: "cancelled", Message: text, Hint: fmt.Sprintf(`deploy it again: mimeo job retry %s`, r.ID)}
		if r.Kind == api.TaskWipe {
			text = "the wipe had begun: the disk does not boot, and may hold most of its data still"
			r.Error = &api.Error{Code: "cancelled", Message: text, Hint: fmt.Sprintf(`wipe it again, "mimeo job retry %s", or deploy an image onto it`, r.ID)}
		}
	}
	r.end(api.PhaseCancelled, e.now())
	return text
}

// cancelUnheard ends a job whose agent was told to stop and is not heard of. For a capture nothing depends on it; after
// a deploy began to write, what is on the disk is not known.
func (e *Engine) cancelUnheard(ctx context.Context, r *Record) error {
	return e.change(ctx, r, func(r *Record) (string, error) {
		if r.Kind == api.TaskCapture {
			return e.endCancelled(r), nil
		}
		return e.endUnknown(r), nil
	})
}

// endUnknown ends the record of a deploy that cannot be said to have stopped, inside a change.
func (e *Engine) endUnknown(r *Record) string {
	r.Error = &api.Error{Code: "lost", Message: fmt.Sprintf("%s was to stop writing and has not been heard since: what its disk holds is not known", r.Node),
		Hint: "look at its console; deploy it again when it is back"}
	r.end(api.PhaseLost, e.now())
	return r.Error.Message
}
