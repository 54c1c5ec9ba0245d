package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/store"
	"mimeo/internal/manage/inventory"
)

// Netbooted takes note that a node fetched the script of its stateless image, and tells whether it may have it: a node
// that has used up its tries boots its disk.
func (e *Engine) Netbooted(ctx context.Context, id string) (ok bool, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.live[id]
	if r == nil {
		return false, nil
	}
	now := e.now()
	err = e.change(ctx, r, func(r *Record) (string, error) {
		r.Heard = now
		switch {
		case r.Phase == api.PhaseQueued || r.Phase == api.PhasePowering:
			// Faster than the BMC's answer, or it was switched on by hand.
			r.setPhase(api.PhaseNetbooting, now)
			r.Scripted = true
			r.Try++
			return "it asks for its boot script", nil
		case agentPhases[r.Phase]:
			if r.Try >= r.Tries {
				return e.fail(r, &api.Error{Code: "node_lost", Message: fmt.Sprintf("%s has rebooted in the middle of its work, and has used up its %d netboots", r.Node, r.Tries),
					Hint: fmt.Sprintf(`its console may say why; start the job again with "mimeo job retry %s"`, r.ID)}), nil
			}
			r.setPhase(api.PhaseNetbooting, now)
			r.Scripted, r.Tasked = true, false
			r.Try++
			return "it has rebooted in the middle of its work and netboots again", nil
		case r.Phase == api.PhaseNetbooting && r.Scripted:
			// It fetched its script before and no agent came of it: a kernel that panics would do this for ever.
			if r.Try >= r.Tries {
				return e.fail(r, &api.Error{Code: "node_lost", Message: fmt.Sprintf("%s has netbooted %d times, and no agent came up", r.Node, r.Try),
					Hint: "its console says why; it needs 512 MiB of memory, and drivers for its network card in the stateless image"}), nil
			}
			r.Try++
			return "it netboots once more: no agent came up", nil
		}
		r.Scripted, r.Waiting = true, ""
		return "", nil
	})
	// In the server's own phases the boot state is not disk yet: the node waits a moment and asks again.
	return err == nil && r.Active && !serverPhases[r.Phase] && r.Phase != api.PhaseCancelling, err
}

// Heard takes note of a step of a node's boot: time limits count from it.
func (e *Engine) Heard(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if r := e.live[id]; r != nil {
		r.Heard = e.now()
	}
}

// ToldDisk takes note that a node asked how to boot and was told: from your disk. It ends a job that waits for that.
func (e *Engine) ToldDisk(ctx context.Context, n node.Name) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, r := range e.live {
		if r.Node == n && r.Phase == api.PhaseRebooting {
			return e.change(ctx, r, func(r *Record) (string, error) {
				r.end(api.PhaseDone, e.now())
				return "it has asked how to boot, and boots its disk", nil
			})
		}
	}
	return nil
}

// Hello is an agent's first message after a boot. It tells whether the agent shall have the job's task; one whose job
// has ended, or needs it no more, shall reboot.
func (e *Engine) Hello(ctx context.Context, id string, h api.Hello) (r Record, task bool, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	l := e.live[id]
	if l == nil {
		return r, false, nil
	}
	now := e.now()
	if l.DoneMsg != nil || serverPhases[l.Phase] || l.Phase == api.PhaseRebooting {
		return *l, false, nil
	}
	err = e.change(ctx, l, func(r *Record) (string, error) {
		r.Heard = now
		if r.Phase == api.PhaseCancelling {
			return e.endCancelled(r), nil
		}
		text := fmt.Sprintf("agent %s is up, %.1f s after its kernel", h.Agent, float64(h.BootMS)/1000)
		if r.Tasked && r.BootID == h.BootID {
			text = "its agent has started anew"
		}
		if r.Phase == api.PhaseQueued || r.Phase == api.PhasePowering {
			r.Try++
		}
		r.BootID, r.Tasked = h.BootID, true
		r.setPhase(api.PhaseAgent, now)
		return text, nil
	})
	return *l, err == nil && l.Active, err
}

// Progress takes an agent's numbers, and answers whether to go on.
func (e *Engine) Progress(ctx context.Context, id string, p api.Progress) (api.ProgressReply, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.live[id]
	if r == nil || p.BootID != r.BootID {
		return api.ProgressReply{Cancel: true}, nil // its job has ended, or another boot of the node has it
	}
	now := e.now()
	r.Heard = now
	if r.Phase == api.PhaseCancelling {
		return api.ProgressReply{Cancel: true}, nil
	}
	if !agentPhases[r.Phase] || !agentPhases[p.Phase] {
		return api.ProgressReply{}, nil
	}
	update := func(r *Record) {
		r.Done, r.Total, r.Heard = p.Done, p.Total, now
		r.LastProgress = &now
		if len(p.Counts) > 0 {
			r.Counts = maps.Clone(p.Counts)
		}
		e.rate(r, now)
	}
	// Numbers alone are not worth a write: after a restart the next message brings them again.
	if p.Phase != r.Phase || len(p.Outputs) > 0 || p.Phase == api.PhaseWriting && !r.Touched {
		err := e.change(ctx, r, func(r *Record) (string, error) {
			r.setPhase(p.Phase, now)
			r.Outputs = append(r.Outputs, p.Outputs...)
			if p.Phase == api.PhaseWriting {
				r.Touched = true
			}
			update(r)
			return "", nil
		})
		if err != nil {
			return api.ProgressReply{}, err
		}
	} else {
		update(r)
		e.tell(r, nil)
	}
	for _, line := range p.Log {
		ev := &api.Event{Time: now, Node: r.Node, Job: id, Kind: "log", Text: line}
		if err := e.db.AddEvent(ctx, ev); err != nil {
			return api.ProgressReply{}, err
		}
		e.tell(r, ev)
	}
	return api.ProgressReply{}, nil
}

// rate computes bytes a second over the last seconds, and what is left.
func (e *Engine) rate(r *Record, now time.Time) {
	s := e.samples[r.ID]
	if len(s) > 0 && s[len(s)-1].done > r.Done {
		s = nil // another phase
	}
	s = append(s, sample{now, r.Done})
	for len(s) > 2 && now.Sub(s[0].at) > 10*time.Second {
		s = s[1:]
	}
	e.samples[r.ID] = s
	r.Rate, r.ETAMS = 0, 0
	if d := now.Sub(s[0].at); d > 300*time.Millisecond {
		r.Rate = int64(float64(r.Done-s[0].done) / d.Seconds())
	}
	if r.Rate > 0 && r.Total > r.Done {
		r.ETAMS = (r.Total - r.Done) * 1000 / r.Rate
	}
}

// retryDone is how soon an agent asks again while the server does its part.
const retryDone = 500 * time.Millisecond

// Done is an agent's last word. It is answered with "wait" until the server has done all that follows from it, so that
// the node never reboots before the revision is published and its boot state is disk.
func (e *Engine) Done(ctx context.Context, id string, d api.Done) (api.DoneReply, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.live[id]
	if r == nil || r.Phase == api.PhaseRebooting {
		return api.DoneReply{Action: "reboot"}, nil // said before; the answer was lost
	}
	if d.BootID != r.BootID {
		return api.DoneReply{Action: "reboot"}, nil // another boot of the node has the job
	}
	r.Heard = e.now()
	if serverPhases[r.Phase] {
		return api.DoneReply{Action: "wait", RetryMS: retryDone.Milliseconds()}, nil
	}
	now := e.now()
	err := e.change(ctx, r, func(r *Record) (string, error) {
		r.Touched = r.Touched || d.Touched
		if len(d.Counts) > 0 {
			r.Counts = maps.Clone(d.Counts)
		}
		r.Outputs = merge(r.Outputs, d.Outputs)
		switch {
		case d.OK:
			r.DoneMsg = &d
			r.setPhase(api.PhaseVerifying, now)
			return "the agent has done its part", nil
		case d.Cancelled || r.Phase == api.PhaseCancelling:
			return e.endCancelled(r), nil
		}
		why := d.Error
		if why == nil {
			why = &api.Error{Code: "internal", Message: "the agent failed and did not say why"}
		}
		return e.fail(r, why), nil
	})
	if err != nil {
		return api.DoneReply{}, err
	}
	if r.Active {
		return api.DoneReply{Action: "wait", RetryMS: retryDone.Milliseconds()}, nil
	}
	return api.DoneReply{Action: "reboot"}, nil
}

// merge adds postscripts' outputs that are not there yet.
func merge(have, more []api.Output) []api.Output {
	for _, o := range more {
		known := false
		for _, h := range have {
			known = known || h.Name == o.Name && h.Stage == o.Stage && h.MS == o.MS && h.Exit == o.Exit
		}
		if !known {
			have = append(have, o)
		}
	}
	return have
}

// finish is the server's part after the agent's: verify, publish, flip. Each step can be done twice.
func (e *Engine) finish(ctx context.Context, id string) {
	e.mu.Lock()
	r := e.live[id]
	if r == nil || r.DoneMsg == nil {
		e.mu.Unlock()
		return
	}
	c := clone(r)
	e.mu.Unlock()

	rev, err := e.publish(ctx, c)
	if ctx.Err() != nil {
		return // the server stops: the next one does it again
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if r = e.live[id]; r == nil {
		return
	}
	now := e.now()
	err = e.change(ctx, r, func(r *Record) (string, error) {
		if err != nil {
			return e.fail(r, explain(err, r)), nil
		}
		r.Rev = rev
		r.setPhase(api.PhaseFlipping, now)
		r.setPhase(api.PhaseRebooting, now)
		r.DoneMsg, r.Heard = nil, now
		return "boot state is disk; the node may reboot", nil
	})
	if err != nil {
		e.log.Error("job cannot be written; it is tried again", "job", id, "err", err)
		return
	}
	if r.Phase == api.PhaseRebooting {
		image := fmt.Sprintf("%s@%d", r.Image, r.Rev)
		err := e.db.Update(ctx, func(t *inventory.Tx) error {
			n, err := t.Node(r.Node)
			if err != nil {
				return err
			}
			n.LastImage = image
			if r.Kind == api.TaskCapture {
				if err := t.PutRevision(r.Image, r.Rev, inventory.RevisionFacts{Node: string(r.Node), Job: r.ID, New: r.Counts["new"], Stored: r.Counts["stored"]}); err != nil {
					return err
				}
			}
			return t.PutNode(n)
		})
		if err != nil {
			e.log.Error("facts of a revision are lost", "job", id, "image", image, "err", err)
		}
	}
}

// publish verifies what a capture staged and publishes it. A deploy has nothing to publish.
func (e *Engine) publish(ctx context.Context, r *Record) (rev int, err error) {
	if r.Kind == api.TaskDeploy {
		return r.Rev, nil
	}
	mid, err := chunk.ParseID(r.DoneMsg.Manifest)
	if err != nil {
		return 0, fmt.Errorf("the agent's manifest: %w", err)
	}
	m, err := e.store.Manifest(ctx, mid)
	if err != nil {
		return 0, fmt.Errorf("the agent's manifest: %w", err)
	}
	if err := store.Complete(ctx, e.store, m); err != nil {
		return 0, fmt.Errorf("verify: %w", err)
	}
	if r.Request.Verify {
		v, err := store.Verify(ctx, e.store, m, func(done, total int64) { e.serverProgress(r.ID, done, total) })
		if err == nil {
			err = v.First
		}
		if err != nil {
			return 0, fmt.Errorf("read back: %w", err)
		}
	}
	e.mu.Lock()
	if l := e.live[r.ID]; l != nil {
		err = e.change(ctx, l, func(r *Record) (string, error) { r.setPhase(api.PhasePublishing, e.now()); return "", nil })
	}
	e.mu.Unlock()
	if err != nil {
		return 0, err
	}
	p, err := e.store.Publish(ctx, r.Image, mid)
	if err != nil {
		return 0, fmt.Errorf("publish: %w", err)
	}
	return p.Rev, nil
}

func (e *Engine) serverProgress(id string, done, total int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if r := e.live[id]; r != nil {
		r.Done, r.Total, r.Heard = done, total, e.now()
		e.rate(r, r.Heard)
		e.tell(r, nil)
	}
}

// explain makes an error of the store one for an admin.
func explain(err error, r *Record) *api.Error {
	var a *api.Error
	if errors.As(err, &a) {
		return a
	}
	out := &api.Error{Code: "store", Message: err.Error(), Hint: fmt.Sprintf(`no revision was made; start the job again with "mimeo job retry %s"`, r.ID)}
	if errors.Is(err, store.ErrFull) {
		out.Code, out.Hint = "store_full", "make room on the store's disk, then start the job again: what is stored already is not sent again"
	}
	return out
}

// Publics are jobs as everybody may see them, newest first.
func (e *Engine) Publics(ctx context.Context, activeOnly bool, limit int) ([]api.Job, error) {
	out := []api.Job{}
	err := e.db.Jobs(ctx, activeOnly, limit, func(data []byte) error {
		var r Record
		if err := json.Unmarshal(data, &r); err != nil {
			return err
		}
		out = append(out, r.Job)
		return nil
	})
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range out {
		if l := e.live[out[i].ID]; l != nil {
			out[i] = clone(l).Job
		}
	}
	return out, err
}
