package power

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// slow is a BMC whose machine needs a while, and some commands are lost on.
type slow struct {
	state   State
	needs   time.Duration // until a command shows
	deaf    int           // this many commands are taken and nothing happens
	sendErr []error       // of the first commands
	lookErr []error       // of the first looks
	sent    int
	due     time.Time // when the state changes
	next    State
}

func (s *slow) look(context.Context) (State, error) {
	if len(s.lookErr) > 0 {
		err := s.lookErr[0]
		s.lookErr = s.lookErr[1:]
		if err != nil {
			return StateUnknown, err
		}
	}
	if !s.due.IsZero() && !time.Now().Before(s.due) {
		s.state = s.next
	}
	return s.state, nil
}

func (s *slow) send(want State) func(context.Context) error {
	return func(context.Context) error {
		s.sent++
		if len(s.sendErr) > 0 {
			err := s.sendErr[0]
			s.sendErr = s.sendErr[1:]
			return err
		}
		if s.deaf--; s.deaf < 0 {
			if s.due.IsZero() {
				s.due, s.next = time.Now().Add(s.needs), want
			}
		}
		return nil
	}
}

func TestReach(t *testing.T) {
	away := &Error{Kind: ErrUnreachable, BMC: "10.9.0.7", Text: "does not answer"}
	busy := &Error{Kind: ErrBusy, BMC: "10.9.0.7", Text: "cannot do it just now"}
	for _, c := range []struct {
		name string
		bmc  slow
		kind error // nil: the state is reached
		sent int
		min  time.Duration
		max  time.Duration
	}{
		{name: "already there", bmc: slow{state: StateOn}, sent: 0},
		{name: "at once", bmc: slow{state: StateOff}, sent: 1, max: time.Second},
		{name: "after a minute", bmc: slow{state: StateOff, needs: time.Minute}, sent: 4, min: time.Minute, max: 64 * time.Second},
		{name: "command lost", bmc: slow{state: StateOff, deaf: 1}, sent: 2, min: 15 * time.Second, max: 22 * time.Second},
		{name: "busy at first", bmc: slow{state: StateOff, sendErr: []error{busy, busy}}, sent: 3, max: 3 * time.Second},
		{name: "lost on the way", bmc: slow{state: StateOff, needs: time.Second, lookErr: []error{nil, away, away}}, sent: 1, max: 5 * time.Second},
		{name: "never", bmc: slow{state: StateOff, deaf: 1000}, kind: ErrState, sent: -1, min: 90 * time.Second, max: 91 * time.Second},
		{name: "not there", bmc: slow{state: StateOff, lookErr: []error{away}}, kind: ErrUnreachable, sent: 0, max: time.Millisecond},
		{name: "account refused", bmc: slow{state: StateOff, sendErr: []error{&Error{Kind: ErrDenied}}}, kind: ErrDenied, sent: 1, max: time.Millisecond},
		{name: "command refused", bmc: slow{state: StateOff, sendErr: []error{&Error{Kind: ErrRefused}}}, kind: ErrRefused, sent: 1, max: time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				err := Reach{}.To(t.Context(), "10.9.0.7", StateOn, c.bmc.look, c.bmc.send(StateOn))
				took := time.Since(start)
				if c.kind == nil && err != nil || !errors.Is(err, c.kind) {
					t.Errorf("error is %v, want kind %v", err, c.kind)
				}
				if c.sent >= 0 && c.bmc.sent != c.sent {
					t.Errorf("the command was sent %d times, want %d", c.bmc.sent, c.sent)
				}
				if took < c.min || c.max > 0 && took > c.max {
					t.Errorf("it took %v, want %v to %v", took, c.min, c.max)
				}
				if c.kind == ErrState && !strings.Contains(err.Error(), "BMC 10.9.0.7") {
					t.Errorf("the error does not name the BMC: %v", err)
				}
			})
		})
	}
}

func TestReachEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(2*time.Second, cancel)
		bmc := slow{state: StateOff, deaf: 1000}
		start := time.Now()
		err := Reach{}.To(ctx, "10.9.0.7", StateOn, bmc.look, bmc.send(StateOn))
		if !errors.Is(err, context.Canceled) || time.Since(start) != 2*time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}
