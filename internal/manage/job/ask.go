package job

import (
	"context"
	"errors"
	"fmt"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/manage/inventory"
)

// New makes a job for each node, all or none, and sets their boot states in the same transaction. The same key twice
// gives the same jobs. For a deploy, rev and id name the revision.
func (e *Engine) New(ctx context.Context, req api.JobNew, nodes []node.Name, rev int, id manifest.ID) ([]api.Job, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.now()
	var made []*Record
	var ids []string
	var events []*api.Event
	known := false
	err := e.db.Update(ctx, func(t *inventory.Tx) (err error) {
		if req.Key != "" {
			if ids, err = t.JobsOfKey(req.Key); err != nil || len(ids) > 0 {
				known = true
				return err
			}
		}
		for _, n := range nodes {
			if other, err := t.ActiveJob(n); err != nil {
				return err
			} else if other != "" {
				return &api.Error{Code: "conflict", Message: fmt.Sprintf("%s has an active job, %s", n, other),
					Hint: fmt.Sprintf("wait for it (mimeo job watch %s), or cancel it (mimeo job cancel %s)", other, other)}
			}
			jid, err := t.NextJobID()
			if err != nil {
				return err
			}
			r := &Record{Request: req, PhaseSince: now, Heard: now, Job: api.Job{ID: jid, Kind: req.Kind, Node: n, Image: req.Image, Phase: api.PhaseQueued, Active: true, Tries: req.Tries, Created: now}}
			if r.Tries <= 0 {
				r.Tries = defaultTries
			}
			if req.Kind == api.TaskDeploy {
				r.Rev, r.Manifest = rev, id
			}
			if err := t.PutJob(jid, n, true, r); err != nil {
				return err
			}
			if err := t.SetBoot(n, bootState(req.Kind), "", false); err != nil {
				return err
			}
			ev := &api.Event{Time: now, Node: n, Job: jid, Kind: "phase", Text: fmt.Sprintf("queued: %s %s", req.Kind, req.Image)}
			if err := t.AddEvent(ev); err != nil {
				return err
			}
			made, ids, events = append(made, r), append(ids, jid), append(events, ev)
		}
		if req.Key != "" {
			return t.PutKey(req.Key, ids)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var out []api.Job
	if known {
		for _, jid := range ids {
			j, err := e.get(ctx, jid)
			if err != nil {
				return nil, err
			}
			out = append(out, j.Job)
		}
		return out, nil
	}
	for i, r := range made {
		e.live[r.ID] = r
		e.tell(r, events[i])
		out = append(out, clone(r).Job)
	}
	return out, nil
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
	if serverPhases[r.Phase] || r.Phase == api.PhaseRebooting {
		return api.Job{}, &api.Error{Code: "conflict", Message: fmt.Sprintf("job %s is %s: its work is done, and cannot be undone by a cancel", id, r.Phase)}
	}
	if r.Phase == api.PhaseCancelling {
		return clone(r).Job, nil
	}
	err := e.change(ctx, r, func(r *Record) (string, error) {
		if r.Kind == api.TaskDeploy && r.Tasked && !agentPhases[r.Phase] {
			return e.endUnknown(r), nil // its agent is not heard, and was not seen to be stopped by a power cycle
		}
		if agentPhases[r.Phase] {
			r.setPhase(api.PhaseCancelling, e.now())
			r.Heard = e.now()
			return "the agent is told to stop", nil
		}
		return e.endCancelled(r), nil
	})
	return clone(r).Job, err
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
	if r.Kind == api.TaskDeploy && r.Tasked && !r.Touched {
		text = "its agent had not said that it writes to the disk"
	}
	if r.Touched {
		text = "the deploy had begun to write: the disk does not boot until it is deployed again"
		r.Error = &api.Error{Code: "cancelled", Message: text, Hint: fmt.Sprintf(`deploy it again: mimeo job retry %s`, r.ID)}
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

// tell hands a job's news to who watches it. A slow watcher misses numbers, never the last word: it reads the job
// again when its channel is closed.
func (e *Engine) tell(r *Record, ev *api.Event) {
	if len(e.watchers[r.ID]) == 0 {
		return
	}
	w := api.Watch{Job: clone(r).Job, Event: ev}
	for ch := range e.watchers[r.ID] {
		select {
		case ch <- w:
		default:
		}
	}
	if !r.Active {
		for ch := range e.watchers[r.ID] {
			close(ch)
		}
		delete(e.watchers, r.ID)
	}
}

// Watch returns a channel of a job's news, which is closed when the job has ended (at once where it has), and a
// function that ends the watching.
func (e *Engine) Watch(id string) (<-chan api.Watch, func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	ch := make(chan api.Watch, 64)
	if e.live[id] == nil {
		close(ch)
		return ch, func() {}
	}
	if e.watchers[id] == nil {
		e.watchers[id] = map[chan api.Watch]bool{}
	}
	e.watchers[id][ch] = true
	return ch, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.watchers[id], ch)
	}
}
