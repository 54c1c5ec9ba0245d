package power

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Reach says how long to wait for a power state. Zero values mean the defaults.
type Reach struct {
	Within time.Duration // for the new state to show; 0 means 90 s: servers with many disks take a minute to go off
	Again  time.Duration // after which the command is sent again; 0 means 15 s
	Poll   time.Duration // between two looks at first, doubled up to 3 s; 0 means 200 ms
	Pace   *Pace         // of the power-ons; nil means none
}

func (r Reach) filled() Reach {
	if r.Within == 0 {
		r.Within = 90 * time.Second
	}
	if r.Again == 0 {
		r.Again = 15 * time.Second
	}
	if r.Poll == 0 {
		r.Poll = 200 * time.Millisecond
	}
	return r
}

// To brings a node to a power state: it looks, sends the command where the state is another, and looks until the BMC
// says the wanted one. BMCs that are busy, or that drop a command because the machine is still going off, get it again.
// bmc is the BMC's address, for the error.
func (r Reach) To(ctx context.Context, bmc string, want State, look func(context.Context) (State, error), send func(context.Context) error) error {
	r = r.filled()
	ctx, cancel := context.WithTimeout(ctx, r.Within)
	defer cancel()
	var sent time.Time
	var trouble error
	state := StateUnknown
	for pause := r.Poll; ; pause = min(2*pause, 3*time.Second) {
		now, err := look(ctx)
		switch {
		case err == nil && now == want:
			return nil
		case err == nil:
			state, trouble = now, nil
			if sent.IsZero() || time.Since(sent) >= r.Again {
				if want == StateOn {
					if trouble = r.Pace.Wait(ctx); trouble != nil {
						break
					}
				}
				if trouble = send(ctx); trouble == nil {
					sent = time.Now()
				}
			}
		default:
			trouble = err
		}
		if trouble != nil && (!passing(trouble) || sent.IsZero() && errors.Is(trouble, ErrUnreachable)) {
			return trouble
		}
		select {
		case <-ctx.Done():
			if trouble != nil && sent.IsZero() && !errors.Is(trouble, context.DeadlineExceeded) && !errors.Is(trouble, context.Canceled) {
				return trouble
			}
			cause := context.Cause(ctx)
			if errors.Is(cause, context.DeadlineExceeded) {
				cause = nil
			}
			text := fmt.Sprintf("did not come to power state %s: it says %s", want, state)
			if trouble != nil {
				text = fmt.Sprintf("did not come to power state %s: %v", want, trouble)
			}
			return &Error{Kind: ErrState, BMC: bmc, Text: text, Hint: "look at the BMC's own page; another try may do", Cause: cause}
		case <-time.After(pause):
		}
	}
}

// passing tells whether trouble may be over at the next look.
func passing(err error) bool {
	for _, kind := range []error{ErrDenied, ErrSuite, ErrRefused, ErrByHand, ErrCannot} {
		if errors.Is(err, kind) {
			return false
		}
	}
	return true
}
