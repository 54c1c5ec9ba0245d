package power

import (
	"context"
	"sync"

	"golang.org/x/sync/semaphore"

	"mimeo/internal/cluster/node"
)

// Opener makes the controller of a BMC; open.Controller is the real one.
type Opener func(bmc node.BMC, password string) (Controller, error)

// Pool lets one user at a time reach a BMC, and a bounded number reach any: BMCs are slow and easily confused, and a
// hundred machines that start at once trip a fuse.
type Pool struct {
	open Opener
	all  *semaphore.Weighted

	mu  sync.Mutex
	one map[string]*turn // by the BMC's URL
}

// turn is the queue in front of one BMC.
type turn struct {
	taken chan struct{}
	users int
}

// NewPool makes a pool for n BMCs at once.
func NewPool(n int, open Opener) *Pool {
	return &Pool{open: open, all: semaphore.NewWeighted(int64(n)), one: map[string]*turn{}}
}

// Do waits for its turn, opens the BMC, calls f and closes it again. The wait ends with ctx.
func (p *Pool) Do(ctx context.Context, bmc node.BMC, password string, f func(Controller) error) (err error) {
	if bmc.URL != "" && bmc.URL != "manual:" { // people need no queue
		leave, err := p.enter(ctx, bmc.URL)
		if err != nil {
			return err
		}
		defer leave()
	}
	c, err := p.open(bmc, password)
	if err != nil {
		return err
	}
	defer c.Close() // a session that cannot be closed ends by itself
	return f(c)
}

func (p *Pool) enter(ctx context.Context, key string) (leave func(), err error) {
	p.mu.Lock()
	t := p.one[key]
	if t == nil {
		t = &turn{taken: make(chan struct{}, 1)}
		p.one[key] = t
	}
	t.users++
	p.mu.Unlock()
	forget := func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if t.users--; t.users == 0 {
			delete(p.one, key)
		}
	}
	select {
	case t.taken <- struct{}{}:
	case <-ctx.Done():
		forget()
		return nil, ctx.Err()
	}
	// The common places come after the BMC's own, so that users of one slow BMC do not hold all of them.
	if err := p.all.Acquire(ctx, 1); err != nil {
		<-t.taken
		forget()
		return nil, err
	}
	return func() {
		p.all.Release(1)
		<-t.taken
		forget()
	}, nil
}
