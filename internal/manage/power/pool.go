package power

import (
	"context"
	"net/url"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"mimeo/internal/cluster/node"
)

// Opener makes the controller of a node; open.With makes the real one.
type Opener func(n node.Node, password string) (Controller, error)

// Options of a pool.
type Options struct {
	Parallel int           // BMCs that are spoken to at once
	Pace     *Pace         // at which who is Starting comes in; nil means none. The controllers hold one of their own
	Keep     time.Duration // how long a session stays open for who comes next; 0 closes each
}

// Pool lets one user at a time reach a BMC, and a bounded number reach any: BMCs are slow and easily confused. A
// session stays open for a while after its use, as making one takes most BMCs longer than what it is made for.
type Pool struct {
	open Opener
	o    Options
	all  *semaphore.Weighted

	mu     sync.Mutex
	one    map[string]*turn // by BMC
	closed bool
	ends   sync.WaitGroup // of sessions that are being closed
}

// turn is the queue in front of one BMC, and the session with it.
type turn struct {
	taken chan struct{}
	users int

	// What follows belongs to who has taken the turn.
	kept  Controller
	who   identity
	timer *time.Timer
}

// identity is what a session was opened with: with anything else it must be opened anew.
type identity struct {
	node     node.Name
	bmc      node.BMC
	password string
}

// NewPool makes a pool. Close it at the end.
func NewPool(o Options, open Opener) *Pool {
	return &Pool{open: open, o: o, all: semaphore.NewWeighted(int64(max(1, o.Parallel))), one: map[string]*turn{}}
}

// keyOf names the BMC that a node's URL leads to, which several nodes may share, and tells whether there are sessions
// with it. Commands and magic packets go by node.
func keyOf(n node.Node) (key string, sessions bool) {
	u, err := url.Parse(n.BMC.URL)
	if err != nil || u.Host == "" || u.Scheme == "wol" {
		return n.BMC.URL + " " + string(n.Name), false
	}
	return u.Scheme + "://" + u.Host, true
}

// Do waits for its turn, opens the BMC, or takes the session that is open, and calls f. The wait ends with ctx.
func (p *Pool) Do(ctx context.Context, n node.Node, password string, f func(Controller) error) (err error) {
	if n.BMC.URL == "" || n.BMC.URL == "manual:" { // people need no queue
		return f(ByHand{})
	}
	if starting(ctx) && p.o.Pace != nil {
		if err := p.o.Pace.Wait(ctx); err != nil {
			return err
		}
	}
	key, sessions := keyOf(n)
	t, leave, err := p.enter(ctx, key)
	if err != nil {
		return err
	}
	defer leave()
	if t.timer != nil {
		t.timer.Stop()
		t.timer = nil
	}
	who := identity{n.Name, n.BMC, password}
	if t.kept != nil && t.who != who {
		t.kept.Close()
		t.kept = nil
	}
	c := t.kept
	t.kept = nil
	if c == nil {
		if c, err = p.open(n, password); err != nil {
			return err
		}
	}
	err = f(c)
	if err != nil || !sessions || !p.keep(key, t, who, c) {
		c.Close() // a session that cannot be closed ends by itself
	}
	return err
}

// keep leaves a session open for who comes next, and tells whether it does. The caller has the turn.
func (p *Pool) keep(key string, t *turn, who identity, c Controller) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.o.Keep <= 0 {
		return false
	}
	t.kept, t.who = c, who
	t.timer = time.AfterFunc(p.o.Keep, func() { p.expire(key, t) })
	return true
}

// expire closes a session that nobody came back for.
func (p *Pool) expire(key string, t *turn) {
	p.mu.Lock()
	if p.closed || p.one[key] != t || t.users > 0 {
		p.mu.Unlock()
		return // who uses it sets a new time
	}
	// Who comes from now on waits until it is closed: a BMC may have room for one session only.
	t.users++
	p.ends.Add(1)
	t.taken <- struct{}{} // nobody has it: there were no users
	p.mu.Unlock()
	defer p.ends.Done()
	c := t.kept
	t.kept, t.timer = nil, nil
	if c != nil {
		c.Close()
	}
	<-t.taken
	p.forget(key, t)
}

// Close closes all sessions. Who is inside stays until it leaves.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	for key, t := range p.one {
		if t.users > 0 {
			continue // it closes its session itself
		}
		if t.timer != nil {
			t.timer.Stop()
		}
		delete(p.one, key)
		if c := t.kept; c != nil {
			p.ends.Go(func() { c.Close() })
		}
	}
	p.mu.Unlock()
	p.ends.Wait()
}

// forget leaves the queue of a BMC, and drops it where nobody waits and no session is open.
func (p *Pool) forget(key string, t *turn) {
	p.mu.Lock()
	var late Controller
	if t.users--; t.users == 0 {
		switch {
		case t.kept != nil && !p.closed:
			t.timer.Reset(p.o.Keep) // it may have gone off while somebody waited
		case p.one[key] == t:
			delete(p.one, key)
			late, t.kept = t.kept, nil
		}
	}
	p.mu.Unlock()
	if late != nil {
		late.Close()
	}
}

func (p *Pool) enter(ctx context.Context, key string) (t *turn, leave func(), err error) {
	p.mu.Lock()
	t = p.one[key]
	if t == nil {
		t = &turn{taken: make(chan struct{}, 1)}
		p.one[key] = t
	}
	t.users++
	p.mu.Unlock()
	select {
	case t.taken <- struct{}{}:
	case <-ctx.Done():
		p.forget(key, t)
		return nil, nil, ctx.Err()
	}
	// The common places come after the BMC's own, so that users of one slow BMC do not hold all of them.
	if err := p.all.Acquire(ctx, 1); err != nil {
		<-t.taken
		p.forget(key, t)
		return nil, nil, err
	}
	return t, func() {
		p.all.Release(1)
		<-t.taken
		p.forget(key, t)
	}, nil
}
