package job

import (
	"context"
	"errors"
	"fmt"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/store"
	"mimeo/internal/manage/inventory"
	"mimeo/internal/manage/power"
)

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
	also := func(t *inventory.Tx, r *Record) error {
		if err := facts(t, r); err != nil || r.Kind != api.TaskDeploy {
			return err
		}
		return t.PutDeployed(r.Node, api.LastDeploy{Image: r.Image, Rev: r.Rev, Manifest: r.Manifest.String(), Disk: c.DoneMsg.Disk, Job: r.ID, Time: c.DoneMsg.Time})
	}
	if err == nil && c.Kind == api.TaskWipe {
		also, err = e.certify(ctx, c)
	}
	if err == nil {
		e.askNetwork(ctx, c)
	}
	if ctx.Err() != nil {
		return // the server stops: the next one does it again
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if r = e.live[id]; r == nil {
		return
	}
	now := e.now()
	if err != nil {
		err = e.change(ctx, r, func(r *Record) (string, error) { return e.fail(r, explain(err, r)), nil })
	} else {
		err = e.changeWith(ctx, r, func(r *Record) (string, error) {
			r.Rev = rev
			r.setPhase(api.PhaseFlipping, now)
			r.setPhase(api.PhaseRebooting, now)
			r.DoneMsg, r.Heard = nil, now
			if r.Kind == api.TaskWipe {
				return "boot state is disk, which is wiped: there is nothing to boot on it; the node may reboot", nil
			}
			return "boot state is disk; the node may reboot", nil
		}, also)
	}
	if err != nil {
		e.log.Error("job cannot be written; it is tried again", "job", id, "err", err)
		e.pause[id] = now.Add(retryWrite)
	}
}

// facts keeps, together with the boot state, which image a node's disk holds and where a revision came from.
func facts(t *inventory.Tx, r *Record) error {
	n, err := t.Node(r.Node)
	if err != nil {
		return err
	}
	n.LastImage = fmt.Sprintf("%s@%d", r.Image, r.Rev)
	if err := t.PutNode(n); err != nil || r.Kind != api.TaskCapture {
		return err
	}
	return t.PutRevision(r.Image, r.Rev, inventory.RevisionFacts{Node: string(r.Node), Job: r.ID, New: r.Counts["new"], Stored: r.Counts["stored"]})
}

// askLimit is how long a node whose work is done waits for its BMC.
const askLimit = 20 * time.Second

// askNetwork makes the node's next boot one from the network, so that it is seen to ask how to boot also where its
// firmware's own order has the disk first. A BMC that does not answer changes nothing: then the node may be late.
func (e *Engine) askNetwork(ctx context.Context, r *Record) {
	n, err := e.db.Node(ctx, r.Node)
	if err != nil || n.BMC.URL == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, min(askLimit, e.limits.Power))
	defer cancel()
	err = e.power(ctx, n, func(c power.Controller) error {
		e.networkNext(ctx, r.ID, n, c)
		return nil
	})
	if err != nil {
		e.log.Info("next boot is not set", "job", r.ID, "node", r.Node, "err", err)
	}
}

// publish verifies what a capture staged and publishes it. Other jobs have nothing to publish.
func (e *Engine) publish(ctx context.Context, r *Record) (rev int, err error) {
	if r.Kind != api.TaskCapture {
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
	if r.Request.Verify && r.Phase == api.PhaseVerifying {
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
