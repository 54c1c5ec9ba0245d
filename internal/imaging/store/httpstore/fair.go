package httpstore

import (
	"context"
	"maps"
	"sync"
)

// fair shares something of which there is so much among clients: of those that wait, the one is given to first whose
// requests have cost least so far. It is start-time fair queueing (Goyal, Vin, Cheng: Start-time Fair Queuing, SIGCOMM
// 1996, section 2), with a bound of what one client holds. Where clients take their own time with what they have, as with
// memory that the network fills, byHeld gives to the one first that holds least, so that slow ones do not keep the rest.
type fair struct {
	size   int64 // what there is
	each   int64 // what one client may hold, unless it holds nothing else; 0 means all
	byHeld bool

	mu      sync.Mutex
	used    int64
	clock   int64 // cost of the client that was given to last, before that
	clients map[string]*share
}

// share is what a client has, and waits for.
type share struct {
	held    int64
	cost    int64 // of all that it was given
	waiting []*ticket
}

// ticket is one request that waits.
type ticket struct {
	n, cost int64
	given   chan struct{} // closed when it was
}

// maxWaiting is how many requests of a client may wait: many times what an agent makes at once.
const maxWaiting = 64

func newFair(size, each int64, byHeld bool) *fair {
	return &fair{size: size, each: each, byHeld: byHeld, clients: map[string]*share{}}
}

// before tells whether a is given to before b.
func (f *fair) before(a, b *share) bool {
	if f.byHeld && a.held != b.held {
		return a.held < b.held
	}
	return a.cost < b.cost
}

// acquire waits for n, at most size, which is called as much as cost. It returns what gives it back, or an error where
// ctx is done or too many of the client's requests wait already.
func (f *fair) acquire(ctx context.Context, client string, n, cost int64) (release func(), err error) {
	f.mu.Lock()
	c := f.clients[client]
	if c == nil {
		c = &share{}
		f.clients[client] = c
	}
	if c.idle() {
		c.cost = max(c.cost, f.clock) // a pause saves nothing up
	}
	if len(c.waiting) >= maxWaiting {
		f.mu.Unlock()
		return nil, refuse("busy", "too many requests at once: %d of this node wait already", maxWaiting)
	}
	t := &ticket{n: n, cost: cost, given: make(chan struct{})}
	c.waiting = append(c.waiting, t)
	f.give()
	f.mu.Unlock()
	release = func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.used -= n
		c.held -= n
		f.give()
		f.forget(c)
	}
	select {
	case <-t.given:
		return release, nil
	case <-ctx.Done():
	}
	f.mu.Lock()
	for i, w := range c.waiting {
		if w == t {
			c.waiting = append(c.waiting[:i], c.waiting[i+1:]...)
			f.give() // what waits behind it may fit
			f.forget(c)
			f.mu.Unlock()
			return nil, ctx.Err()
		}
	}
	f.mu.Unlock()
	release() // it was given meanwhile
	return nil, ctx.Err()
}

func (c *share) idle() bool { return c.held == 0 && len(c.waiting) == 0 }

// give gives to those who wait, as far as there is. What is next and does not fit is waited for, so that what is large
// has its turn. The caller holds the lock.
func (f *fair) give() {
	for {
		var next *share
		for _, c := range f.clients {
			if len(c.waiting) > 0 && (f.each == 0 || c.held == 0 || c.held+c.waiting[0].n <= f.each) && (next == nil || f.before(c, next)) {
				next = c
			}
		}
		if next == nil || f.used+next.waiting[0].n > f.size {
			return
		}
		t := next.waiting[0]
		next.waiting = next.waiting[1:]
		f.used += t.n
		next.held += t.n
		f.clock = next.cost
		next.cost += t.cost
		close(t.given)
	}
}

// forget removes clients that have nothing and have had no more than others, when c has nothing. The caller holds the
// lock.
func (f *fair) forget(c *share) {
	if c.idle() {
		maps.DeleteFunc(f.clients, func(_ string, c *share) bool { return c.idle() && (c.cost <= f.clock || f.used == 0) })
	}
}
