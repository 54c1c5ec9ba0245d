package job

import (
	"context"
	"errors"
	"fmt"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/power"
)

// powerUp makes the node netboot, beside the others. The caller holds the lock.
func (e *Engine) powerUp(ctx context.Context, r *Record) {
	id, kind, try := r.ID, r.Kind, r.Try
	e.background(r, func() {
		n, ok := e.nodeOf(ctx, id)
		if !ok {
			return
		}
		// The first netboot of a capture finds a running system: it is asked to shut down, so that its filesystems are
		// clean. Later ones find the stateless image.
		gentle := kind == api.TaskCapture && try == 0 && e.limits.SoftOff > 0
		skipped := false
		err := e.power(power.Starting(ctx), n, func(c power.Controller) error {
			// Limits count from here: with hundreds of nodes, most wait for their turn.
			asked := gentle && e.softOff(ctx, id, c)
			if !e.powering(id) && !asked {
				skipped = true // cancelled, or it netboots already; one that was shut down is switched on in any case
				return nil
			}
			ctx, cancel := context.WithTimeout(ctx, e.limits.Power)
			defer cancel()
			e.networkNext(ctx, id, n, c)
			return c.Cycle(ctx)
		})
		if ctx.Err() != nil || skipped {
			return // the server stops: the next one does it again
		}
		e.powered(ctx, id, err)
	})
}

// powering tells whether a job still waits for its node's power.
func (e *Engine) powering(id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.live[id]
	return r != nil && r.Phase == api.PhasePowering
}

// networkNext makes the node's next boot one from the network. Many nodes boot the network first anyhow; those that do
// not will be seen not to netboot.
func (e *Engine) networkNext(ctx context.Context, id string, n node.Node, c power.Controller) {
	err := c.SetNextBoot(ctx, power.NextBoot{Device: power.DevicePXE, UEFI: n.Firmware == node.UEFI || n.Firmware == node.UEFIHTTP})
	if err != nil && !errors.Is(err, power.ErrByHand) && ctx.Err() == nil {
		e.note(ctx, id, "power", "next boot could not be set: "+err.Error())
	}
}

// softOff asks the running system to shut down, waits a while, and tells whether it was asked. What comes of it does
// not matter: the power cycle that follows ends it in any case.
func (e *Engine) softOff(ctx context.Context, id string, c power.Controller) (asked bool) {
	pctx, cancel := context.WithTimeout(ctx, e.limits.Power)
	defer cancel()
	state, err := c.Status(pctx)
	if err != nil || state != power.StateOn || c.SoftOff(pctx) != nil {
		return false
	}
	e.note(ctx, id, "power", "asked its running system to shut down")
	sctx, stop := context.WithTimeout(ctx, e.limits.SoftOff)
	defer stop()
	for {
		select {
		case <-sctx.Done():
		case <-time.After(min(time.Second, e.limits.SoftOff/10)):
			if state, err := c.Status(sctx); err == nil && state == power.StateOff {
				e.note(ctx, id, "power", "it has shut down")
				return true
			}
			continue
		}
		break
	}
	e.note(ctx, id, "power", fmt.Sprintf("it did not shut down within %s: power is cut, its filesystems may need their journals", e.limits.SoftOff))
	return true
}

// powered takes note of what came of powerUp.
func (e *Engine) powered(ctx context.Context, id string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.live[id]
	now := e.now()
	if r != nil && r.Phase == api.PhaseNetbooting && r.Scripted && err == nil {
		// It asked for its script before the command was through, which then may have cut it off: what follows is no
		// sign of a kernel that panics.
		if err := e.change(ctx, r, func(r *Record) (string, error) { r.Scripted = false; return "", nil }); err != nil {
			e.log.Error("job cannot be written", "job", id, "err", err)
		}
	}
	if r == nil || r.Phase != api.PhasePowering {
		return // cancelled, or the node has netbooted meanwhile
	}
	err = e.change(ctx, r, func(r *Record) (string, error) {
		switch {
		case err == nil, errors.Is(err, power.ErrSent):
			r.setPhase(api.PhaseNetbooting, now)
			r.newTry(now)
			r.PowerTries, r.Tasked = 0, false
			if err != nil {
				return err.Error(), nil
			}
			return "power is on", nil
		case errors.Is(err, power.ErrByHand):
			r.setPhase(api.PhaseNetbooting, now)
			r.newTry(now)
			r.Waiting = fmt.Sprintf("switch %s on, or reboot it, so that it boots from the network", r.Node)
			return r.Waiting, nil
		}
		r.PowerTries++
		if r.PowerTries >= powerTries {
			ae := &api.Error{Code: "power", Message: err.Error(), Hint: fmt.Sprintf(`try "mimeo power %s status"`, r.Node)}
			var typed *api.Error
			if errors.As(err, &typed) {
				ae.Message, ae.Hint = typed.Message, typed.Hint
			}
			return e.fail(r, ae), nil
		}
		return fmt.Sprintf("power: %v; trying again", err), nil
	})
	if err != nil {
		e.log.Error("job cannot be written", "job", id, "err", err)
		return
	}
	if r.Active && r.PowerTries > 0 {
		e.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(e.powerPause):
		}
		e.mu.Lock()
	}
}
