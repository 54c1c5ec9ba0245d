package power

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

func TestPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var closed atomic.Int64
		p := NewPool(Options{Parallel: 3}, func(node.Node, string) (Controller, error) { return counted{closed: &closed}, nil })
		var all, most atomic.Int64
		var one [5]atomic.Int64
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				n := i % 5
				err := p.Do(t.Context(), node.Node{BMC: node.BMC{URL: fmt.Sprintf("ipmi://10.9.0.%d", n)}}, "", func(Controller) error {
					if one[n].Add(1) > 1 {
						t.Errorf("two are at BMC %d", n)
					}
					if now := all.Add(1); now > most.Load() {
						most.Store(now)
					}
					time.Sleep(time.Second)
					all.Add(-1)
					one[n].Add(-1)
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		start := time.Now()
		wg.Wait()
		if most.Load() != 3 {
			t.Errorf("at most %d were at any BMC, want 3", most.Load())
		}
		if took := time.Since(start); took > 9*time.Second {
			t.Errorf("20 commands of 1 s, 3 at once, took %v", took)
		}
		if closed.Load() != 20 || len(p.one) != 0 {
			t.Errorf("%d of 20 were closed; %d queues are left", closed.Load(), len(p.one))
		}
	})
}

func TestPoolWaitEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPool(Options{Parallel: 1}, func(node.Node, string) (Controller, error) { return ByHand{}, nil })
		block := make(chan struct{})
		go p.Do(t.Context(), node.Node{BMC: node.BMC{URL: "ipmi://a"}}, "", func(Controller) error { <-block; return nil })
		synctest.Wait()
		for _, url := range []string{"ipmi://a", "ipmi://b"} { // its own queue; the common one
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			err := p.Do(ctx, node.Node{BMC: node.BMC{URL: url}}, "", func(Controller) error { t.Error("it came in"); return nil })
			cancel()
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", url, err)
			}
		}
		// People wait for nobody.
		if err := p.Do(t.Context(), node.Node{}, "", func(c Controller) error { return nil }); err != nil {
			t.Error(err)
		}
		close(block)
		synctest.Wait()
		if len(p.one) != 0 {
			t.Errorf("%d queues are left", len(p.one))
		}
	})
}

type counted struct {
	ByHand
	closed *atomic.Int64
}

func (c counted) Close() error { c.closed.Add(1); return nil }

func TestByHand(t *testing.T) {
	var c Controller = ByHand{}
	ctx := t.Context()
	if st, err := c.Status(ctx); st != StateUnknown || err != nil {
		t.Errorf("status is %q, %v", st, err)
	}
	for name, f := range map[string]func() error{
		"on": func() error { return c.On(ctx) }, "off": func() error { return c.Off(ctx) }, "soft off": func() error { return c.SoftOff(ctx) },
		"cycle": func() error { return c.Cycle(ctx) }, "reset": func() error { return c.Reset(ctx) },
		"pxe":  func() error { return c.SetNextBoot(ctx, NextBoot{Device: DevicePXE}) },
		"disk": func() error { return c.SetNextBoot(ctx, NextBoot{Device: DeviceDisk}) },
		"none": func() error { return c.SetNextBoot(ctx, NextBoot{}) },
	} {
		err := f()
		var shown *api.Error
		if !errors.Is(err, ErrByHand) || !errors.As(err, &shown) || shown.Code != "by_hand" || shown.Hint == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}
