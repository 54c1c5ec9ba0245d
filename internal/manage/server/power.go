package server

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sync/semaphore"

	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/power"
	"mimeo/internal/manage/power/open"
)

// powerPool lets one command at a time reach a BMC, and a bounded number reach any: BMCs are slow and easily confused,
// and a hundred machines that start at once trip a fuse.
type powerPool struct {
	all *semaphore.Weighted
	mu  sync.Mutex
	one map[string]*bmcLock
}

type bmcLock struct {
	ch    chan struct{}
	users int
}

func newPowerPool(n int) *powerPool {
	return &powerPool{all: semaphore.NewWeighted(int64(n)), one: map[string]*bmcLock{}}
}

func (p *powerPool) do(ctx context.Context, bmc string, f func() error) error {
	p.mu.Lock()
	l := p.one[bmc]
	if l == nil {
		l = &bmcLock{ch: make(chan struct{}, 1)}
		p.one[bmc] = l
	}
	l.users++
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		if l.users--; l.users == 0 {
			delete(p.one, bmc)
		}
		p.mu.Unlock()
	}()
	select {
	case l.ch <- struct{}{}:
		defer func() { <-l.ch }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := p.all.Acquire(ctx, 1); err != nil {
		return err
	}
	defer p.all.Release(1)
	return f()
}

// withPower opens the way to a node's power for the length of f.
func (s *Server) withPower(ctx context.Context, n node.Node, f func(power.Controller) error) error {
	password, err := s.db.BMCPassword(ctx, n.Name)
	if err != nil {
		return err
	}
	key := n.BMC.URL
	if key == "" {
		key = "manual:" + string(n.Name)
	}
	return s.power.do(ctx, key, func() (err error) {
		c, err := open.Controller(n.BMC, password)
		if err != nil {
			return fmt.Errorf("%s: %w", n.Name, err)
		}
		defer c.Close()
		if err := f(c); err != nil {
			return fmt.Errorf("%s: %w", n.Name, err)
		}
		return nil
	})
}
