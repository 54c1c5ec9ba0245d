package power

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mimeo/internal/cluster/node"
)

// opened are sessions, which a test counts.
type opened struct {
	mu          sync.Mutex
	total, open int
}

func (o *opened) opener(node.Node, string) (Controller, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.total++
	o.open++
	return &session{o: o}, nil
}

type session struct {
	ByHand
	o      *opened
	closed bool
}

func (s *session) Close() error {
	time.Sleep(time.Second) // a BMC takes its time
	s.o.mu.Lock()
	defer s.o.mu.Unlock()
	if s.closed {
		panic("closed twice")
	}
	s.closed = true
	s.o.open--
	return nil
}

func (o *opened) are(t *testing.T, what string, total, open int) {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.total != total || o.open != open {
		t.Errorf("%s: %d sessions were opened and %d are open; want %d and %d", what, o.total, o.open, total, open)
	}
}

func TestSessionsAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o opened
		p := NewPool(Options{Parallel: 4, Keep: 20 * time.Second}, o.opener)
		use := func(n node.Node, password string, err error) {
			t.Helper()
			if got := p.Do(t.Context(), n, password, func(c Controller) error {
				if s, ok := c.(*session); ok && s.closed {
					t.Error("a closed session is used")
				}
				return err
			}); got != err {
				t.Errorf("%v, want %v", got, err)
			}
		}
		a := node.Node{Name: "a", BMC: node.BMC{URL: "ipmi://10.0.0.1"}}
		use(a, "x", nil)
		time.Sleep(19 * time.Second)
		use(a, "x", nil)
		o.are(t, "used twice", 1, 1)
		use(a, "y", nil)
		o.are(t, "another password", 2, 1)
		bad := errors.New("bad")
		use(a, "y", bad)
		o.are(t, "after an error", 2, 0)
		use(a, "y", nil)
		time.Sleep(22 * time.Second)
		o.are(t, "nobody came back", 3, 0)
		p.mu.Lock()
		if len(p.one) != 0 {
			t.Errorf("%d queues are left", len(p.one))
		}
		p.mu.Unlock()
		// Two systems behind one BMC: one session at a time.
		b, c := a, a
		b.BMC.URL, c.BMC.URL = "redfish://10.0.0.2/redfish/v1/Systems/1", "redfish://10.0.0.2/redfish/v1/Systems/2"
		use(b, "x", nil)
		use(c, "x", nil)
		o.are(t, "two systems", 5, 1)
		// Commands have no sessions.
		d := a
		d.BMC.URL = "exec:pdu"
		use(d, "x", nil)
		o.are(t, "a command", 6, 1)
		p.Close()
		o.are(t, "the pool is closed", 6, 0)
		use(a, "x", nil)
		o.are(t, "used after that", 7, 0)
	})
}

// TestPoolUnderLoad has many come and go, some of them impatient, while sessions end.
func TestPoolUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o opened
		p := NewPool(Options{Parallel: 3, Keep: 300 * time.Millisecond}, o.opener)
		var wg sync.WaitGroup
		for i := range 300 {
			wg.Go(func() {
				time.Sleep(time.Duration(i*37%5000) * time.Millisecond)
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+i%7*200)*time.Millisecond)
				defer cancel()
				p.Do(ctx, node.Node{BMC: node.BMC{URL: fmt.Sprintf("ipmi://10.0.0.%d", i%5)}}, "", func(c Controller) error {
					if c.(*session).closed {
						t.Error("a closed session is used")
					}
					time.Sleep(50 * time.Millisecond)
					return nil
				})
			})
		}
		wg.Wait()
		time.Sleep(5 * time.Second)
		o.mu.Lock()
		p.mu.Lock()
		if o.open != 0 || len(p.one) != 0 {
			t.Errorf("%d sessions are open, %d queues are left", o.open, len(p.one))
		}
		p.mu.Unlock()
		o.mu.Unlock()
		p.Close()
	})
}

// TestPace lets so many through a second, whoever else gives up.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPace(10)
		var mu sync.Mutex
		var at []time.Time
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if i%2 == 1 {
					time.AfterFunc(10*time.Millisecond, cancel)
				}
				if p.Wait(ctx) == nil {
					mu.Lock()
					at = append(at, time.Now())
					mu.Unlock()
				}
			})
		}
		start := time.Now()
		wg.Wait()
		slices.SortFunc(at, time.Time.Compare)
		for i := 10; i < len(at); i++ {
			if at[i].Sub(at[i-10]) < time.Second {
				t.Errorf("%v and %v: eleven within a second", at[i-10], at[i])
			}
		}
		if took := time.Since(start); len(at) < 50 || took > 5100*time.Millisecond {
			t.Errorf("%d came through in %v", len(at), took)
		}
	})
}

// TestStorm has many machines switched on at once: not faster than the pace, and no time limit counts meanwhile.
func TestStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pace := NewPace(4)
		var mu sync.Mutex
		var at []time.Time
		p := NewPool(Options{Parallel: 100, Pace: NewPace(4)}, func(node.Node, string) (Controller, error) {
			return &machine{reach: Reach{Pace: pace}, on: func() {
				mu.Lock()
				defer mu.Unlock()
				at = append(at, time.Now())
			}}, nil
		})
		var wg sync.WaitGroup
		for i := range 400 {
			wg.Go(func() {
				err := p.Do(Starting(t.Context()), node.Node{BMC: node.BMC{URL: fmt.Sprintf("ipmi://10.0.%d.%d", i/200, i%200)}}, "", func(c Controller) error {
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
					defer cancel()
					return c.On(ctx)
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for i := 4; i < len(at); i++ {
			if at[i].Sub(at[i-4]) < time.Second {
				t.Fatalf("five power-ons within %v", at[i].Sub(at[i-4]))
			}
		}
		if len(at) != 400 {
			t.Errorf("%d power-ons", len(at))
		}
	})
}

type machine struct {
	ByHand
	reach Reach
	state State
	on    func()
}

func (m *machine) On(ctx context.Context) error {
	return m.reach.To(ctx, "", StateOn, func(context.Context) (State, error) {
		time.Sleep(700 * time.Millisecond)
		return m.state, nil
	}, func(context.Context) error {
		m.state = StateOn
		m.on()
		return nil
	})
}
