package job

import (
	"context"
	"errors"
	"fmt"
	"time"

	"mimeo/internal/cluster/api"
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
		limit := e.limits.Power
		if gentle {
			limit += e.limits.SoftOff
		}
		pctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		err := e.power(pctx, n, func(c power.Controller) error {
			if gentle {
				e.softOff(pctx, id, c)
			}
			if err := c.SetNextBoot(pctx, power.NextBoot{Device: power.DevicePXE, UEFI: n.Firmware == "uefi" || n.Firmware == "uefi-http"}); err != nil {
				// Many nodes boot the network first anyhow; those that do not will be seen not to netboot.
				e.note(pctx, id, "power", "next boot could not be set: "+err.Error())
			}
			return c.Cycle(pctx)
		})
		if ctx.Err() != nil {
			return // the server stops: the next one does it again
		}
		e.powered(ctx, id, err)
	})
}

// softOff asks the running system to shut down and waits a while. What comes of it does not matter: the power cycle
// that follows ends it in any case.
func (e *Engine) softOff(ctx context.Context, id string, c power.Controller) {
	state, err := c.Status(ctx)
	if err != nil || state != power.StateOn || c.SoftOff(ctx) != nil {
		return
	}
	e.note(ctx, id, "power", "asked its running system to shut down")
	for end := time.Now().Add(e.limits.SoftOff); time.Now().Before(end); {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
		if state, err := c.Status(ctx); err == nil && state == power.StateOff {
			e.note(ctx, id, "power", "it has shut down")
			return
		}
	}
	e.note(ctx, id, "power", fmt.Sprintf("it did not shut down within %s: power is cut, its filesystems may need their journals", e.limits.SoftOff))
}

// powered takes note of what came of powerUp.
func (e *Engine) powered(ctx context.Context, id string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.live[id]
	if r == nil || r.Phase != api.PhasePowering {
		return // cancelled, or the node has netbooted meanwhile
	}
	now := e.now()
	err = e.change(ctx, r, func(r *Record) (string, error) {
		switch {
		case err == nil:
			r.setPhase(api.PhaseNetbooting, now)
			r.Try++
			r.Heard, r.PowerTries = now, 0
			return "power is on", nil
		case errors.Is(err, power.ErrByHand):
			r.setPhase(api.PhaseNetbooting, now)
			r.Try++
			r.Heard = now
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
		case <-time.After(powerPause):
		}
		e.mu.Lock()
	}
}
