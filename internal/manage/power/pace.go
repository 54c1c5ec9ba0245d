package power

import (
	"context"
	"time"
)

// Pace lets so many power-ons a second through: a hundred machines that start at once trip a fuse. They go evenly,
// not in bursts.
type Pace struct {
	every time.Duration
	turn  chan struct{} // held by who waits for the moment
	next  time.Time     // the earliest moment for the next one
}

// NewPace makes a pace of n a second.
func NewPace(n int) *Pace {
	return &Pace{every: time.Second / time.Duration(n), turn: make(chan struct{}, 1)}
}

// Wait returns when it is the caller's turn, or with ctx's error when that ends. A nil pace does not wait.
func (p *Pace) Wait(ctx context.Context) error {
	if p == nil {
		return ctx.Err()
	}
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-p.turn }()
	if pause := time.Until(p.next); pause > 0 {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	p.next = time.Now().Add(p.every)
	return nil
}

type startingKey struct{}

// Starting says that what Pool.Do is called for with this context will switch a machine on. It then waits before its
// time limits begin to count.
func Starting(ctx context.Context) context.Context {
	return context.WithValue(ctx, startingKey{}, true)
}

func starting(ctx context.Context) bool { return ctx.Value(startingKey{}) != nil }
