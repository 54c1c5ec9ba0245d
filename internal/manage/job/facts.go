package job

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/manifest"
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
			r.Scripted, r.Tasked = true, false
			r.newTry(now)
			return "it asks for its boot script", nil
		case agentPhases[r.Phase]:
			if r.Try >= r.Tries {
				return e.fail(r, &api.Error{Code: "node_lost", Message: fmt.Sprintf("%s has rebooted in the middle of its work, and has used up its %d netboots", r.Node, r.Tries),
					Hint: fmt.Sprintf(`its console may say why; start the job again with "mimeo job retry %s"`, r.ID)}), nil
			}
			r.setPhase(api.PhaseNetbooting, now)
			r.Scripted, r.Tasked = true, false
			r.newTry(now)
			return "it has rebooted in the middle of its work and netboots again", nil
		case r.Phase == api.PhaseCancelling:
			// The agent that was told to stop is gone with its kernel.
			return e.endCancelled(r), nil
		case r.Phase == api.PhaseNetbooting && r.Scripted && now.Sub(r.TrySince) < sameAsk:
			return "", nil
		case r.Phase == api.PhaseNetbooting && r.Scripted:
			// It fetched its script before and no agent came of it: a kernel that panics would do this for ever.
			if r.Try >= r.Tries {
				return e.fail(r, &api.Error{Code: "node_lost", Message: fmt.Sprintf("%s has netbooted %d times, and no agent came up", r.Node, r.Try),
					Hint: "its console says why; it needs 512 MiB of memory, and drivers for its network card in the stateless image"}), nil
			}
			r.newTry(now)
			return "it netboots once more: no agent came up", nil
		}
		if r.Phase == api.PhaseNetbooting {
			r.Scripted, r.Tasked, r.Waiting, r.TrySince = true, false, "", now
		}
		return "", nil
	})
	// In the server's own phases the boot state is not disk yet: the node waits a moment and asks again.
	return err == nil && r.Active && !serverPhases[r.Phase], err
}

// Heard takes note of a step of a node's boot: the limit of the next counts from it. It is no sign of life of an agent,
// as whatever else runs on the node may ask for an address.
func (e *Engine) Heard(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if r := e.live[id]; r != nil && r.Phase == api.PhaseNetbooting {
		r.Heard, r.Strayed = e.now(), time.Time{}
	}
}

// HeardSystem takes note that an operating system on the node was given an address. Where that is no step of a netboot,
// the node has passed the network by.
func (e *Engine) HeardSystem(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.live[id]
	if r == nil || r.Phase != api.PhaseNetbooting {
		return
	}
	r.Heard = e.now()
	if !r.Scripted && r.Waiting == "" && r.Strayed.IsZero() {
		r.Strayed = r.Heard
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
		return *clone(l), false, nil
	}
	err = e.change(ctx, l, func(r *Record) (string, error) {
		r.Heard = now
		if r.Phase == api.PhaseCancelling {
			return e.endCancelled(r), nil
		}
		text := fmt.Sprintf("agent %s is up, %.1f s after its kernel", h.Agent, float64(h.BootMS)/1000)
		if r.Tasked && r.BootID == h.BootID {
			text = "its agent has started anew"
			if r.Restarts++; r.Restarts > maxRestarts {
				return e.fail(r, &api.Error{Code: "agent_crashes", Message: fmt.Sprintf("the agent on %s has started anew %d times in one boot", r.Node, maxRestarts),
					Hint: "its console says why; the stateless image may lack memory: 512 MiB are needed"}), nil
			}
		} else {
			r.Restarts = 0
		}
		if r.Phase == api.PhaseQueued || r.Phase == api.PhasePowering {
			r.newTry(now)
		}
		r.BootID, r.Tasked, r.Moved = h.BootID, true, now
		r.setPhase(api.PhaseAgent, now)
		return text, nil
	})
	return *clone(l), err == nil && l.Active, err
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
	// An agent that was taken for lost speaks again, while its node waits for a person: it just goes on.
	back := r.Phase == api.PhaseNetbooting && r.Waiting != "" && r.Tasked
	if !agentPhases[p.Phase] || !agentPhases[r.Phase] && !back {
		return api.ProgressReply{}, nil
	}
	outputs := merge(slices.Clone(r.Outputs), p.Outputs)
	news := p.Phase != r.Phase || p.Done != r.Done || p.Total != r.Total || len(p.Log) > 0 || len(outputs) > len(r.Outputs) || len(p.Counts) <= maxCounts && len(p.Counts) > 0 && !maps.Equal(p.Counts, r.Counts)
	update := func(r *Record) {
		r.Done, r.Total, r.Heard = max(0, p.Done), max(0, p.Total), now
		if news {
			r.LastProgress, r.Moved = &now, now
		}
		r.Counts = counts(r.Counts, p.Counts)
		e.rate(r, now)
	}
	// What writes to the disk comes after the point of no return.
	touched := writes(r.Kind) && (p.Phase == api.PhaseWriting || p.Phase == api.PhaseFinishing || p.Phase == api.PhaseRootPost)
	if p.Phase != r.Phase {
		delete(e.samples, id)
	}
	// Numbers alone are not worth a write: after a restart the next message brings them again.
	if p.Phase != r.Phase || len(outputs) > len(r.Outputs) || touched && !r.Touched {
		var also func(*inventory.Tx, *Record) error
		if touched && !r.Touched {
			also = forget
		}
		err := e.changeWith(ctx, r, func(r *Record) (string, error) {
			r.setPhase(p.Phase, now)
			r.Outputs = outputs
			r.Touched = r.Touched || touched
			update(r)
			if back {
				return "its agent is heard again, and goes on", nil
			}
			return "", nil
		}, also)
		if err != nil {
			return api.ProgressReply{}, err
		}
	} else {
		update(r)
		e.tell(r, nil)
	}
	return api.ProgressReply{}, e.logLines(ctx, r, p.Log)
}

// forget is for when a job begins to write to a disk of its node: what the last deploy left there is not known any more.
func forget(t *inventory.Tx, r *Record) error { return t.ForgetDeployed(r.Node) }

// logLines keeps lines of an agent as events, in one transaction.
func (e *Engine) logLines(ctx context.Context, r *Record, lines []string) error {
	if len(lines) == 0 {
		return nil
	}
	var events []*api.Event
	for i, line := range lines {
		if i == maxLines {
			line = fmt.Sprintf("%d more lines at once are left out", len(lines)-maxLines)
		}
		events = append(events, &api.Event{Time: e.now(), Node: r.Node, Job: r.ID, Kind: "log", Text: strings.ToValidUTF8(line[:min(len(line), maxLine)], "")})
		if i == maxLines {
			break
		}
	}
	err := e.db.Update(ctx, func(t *inventory.Tx) error {
		for _, ev := range events {
			if err := t.AddEvent(ev); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, ev := range events {
		e.tell(r, ev)
	}
	return nil
}

// counts are an agent's newest, where it has sent any that can be kept.
func counts(have, more map[string]int64) map[string]int64 {
	if len(more) == 0 || len(more) > maxCounts {
		return have
	}
	return maps.Clone(more)
}

// rate computes bytes a second over the last seconds, and what is left.
func (e *Engine) rate(r *Record, now time.Time) {
	s := e.samples[r.ID]
	if len(s) > 0 && s[len(s)-1].done > r.Done {
		s = nil // it has begun anew
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
		r.ETAMS = int64(float64(r.Total-r.Done) / float64(r.Rate) * 1000)
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
	if err := e.logLines(ctx, r, d.Log); err != nil {
		return api.DoneReply{}, err
	}
	now := e.now()
	var also func(*inventory.Tx, *Record) error
	if writes(r.Kind) && d.Touched && !r.Touched {
		also = forget
	}
	err := e.changeWith(ctx, r, func(r *Record) (string, error) {
		r.Touched, r.Tasked = r.Touched || d.Touched, false
		r.Counts = counts(r.Counts, d.Counts)
		r.Outputs = merge(r.Outputs, d.Outputs)
		switch {
		case d.OK && r.Phase == api.PhaseCancelling && r.Kind == api.TaskCapture:
			return e.endCancelled(r), nil // it was through before it heard of the cancel: nothing is published
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
	}, also)
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
		if !known && len(have) < maxOutputs {
			o.Name = o.Name[:min(len(o.Name), maxLine)]
			o.Output = o.Output[max(0, len(o.Output)-maxText):]
			have = append(have, o)
		}
	}
	return have
}

// Publics are jobs as everybody may see them, newest first, without the outputs of their postscripts: those come with
// one job.
func (e *Engine) Publics(ctx context.Context, f inventory.JobFilter) ([]api.Job, error) {
	out := []api.Job{}
	err := e.db.Jobs(ctx, f, func(data []byte) error {
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
		out[i].Outputs = nil
	}
	return out, err
}

// Needs says what of the store the active jobs need: manifests that they deploy or are about to publish, and since when
// the oldest capture runs that an agent has begun; zero where there is none.
func (e *Engine) Needs() (ids []manifest.ID, since time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, r := range e.live {
		if r.Manifest != (manifest.ID{}) {
			ids = append(ids, r.Manifest)
		}
		if r.Kind != api.TaskCapture || !r.Tasked && r.DoneMsg == nil {
			continue
		}
		if r.DoneMsg != nil {
			if id, err := chunk.ParseID(r.DoneMsg.Manifest); err == nil {
				ids = append(ids, id)
			}
		}
		began := r.Created
		if r.Started != nil {
			began = *r.Started
		}
		if since.IsZero() || began.Before(since) {
			since = began
		}
	}
	return ids, since
}

// Active are the jobs that have not ended, in no order.
func (e *Engine) Active() []api.Job {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := []api.Job{}
	for _, r := range e.live {
		out = append(out, clone(r).Job)
	}
	return out
}
