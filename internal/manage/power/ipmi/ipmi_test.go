package ipmi

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mimeo/internal/cluster/api"
	"mimeo/internal/manage/power"
	"mimeo/internal/manage/power/powertest"
	"mimeo/lab/vbmc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// machine is only a state.
type machine struct {
	mu       sync.Mutex
	on       bool
	switched int
}

func (m *machine) set(on bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.on = on
	m.switched++
	return nil
}

func (m *machine) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.switched
}

func (m *machine) Power() bool                          { m.mu.Lock(); defer m.mu.Unlock(); return m.on }
func (m *machine) PowerOn() error                       { return m.set(true) }
func (m *machine) PowerOff() error                      { return m.set(false) }
func (m *machine) Reset() error                         { return m.set(true) }
func (m *machine) SoftOff() error                       { return m.set(false) }
func (m *machine) SetNextBoot(string, bool, bool) error { return nil }

// serve starts a BMC and returns how to reach it.
func serve(t *testing.T, m vbmc.Machine, prepare func(*vbmc.BMC)) (*vbmc.BMC, Options) {
	t.Helper()
	b := vbmc.New(m, "ops", "secret")
	if prepare != nil {
		prepare(b)
	}
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.ServeIPMI(ctx, pc) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return b, Options{Host: pc.LocalAddr().String(), User: "ops", Password: "secret",
		Wait: 100 * time.Millisecond, Reach: power.Reach{Within: 5 * time.Second, Again: time.Second, Poll: 20 * time.Millisecond}}
}

func dial(t *testing.T, o Options) *Client {
	t.Helper()
	c, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestAwkward runs the suite against BMCs that are slow, busy, or behind a bad line.
func TestAwkward(t *testing.T) {
	for name, prepare := range map[string]func(*vbmc.BMC){
		"every third packet is lost": func(b *vbmc.BMC) { b.Faults.DropEvery = 3 },
		"states show late":           func(b *vbmc.BMC) { b.Faults.Lag = 300 * time.Millisecond },
		"busy at first":              func(b *vbmc.BMC) { b.Faults.BusyFirst = 2 },
		"answers take 50 ms":         func(b *vbmc.BMC) { b.Latency = 50 * time.Millisecond },
		"only suite 3":               func(b *vbmc.BMC) { b.Suites = []int{3} },
		"only suite 17":              func(b *vbmc.BMC) { b.Suites = []int{17} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, o := serve(t, &machine{}, prepare)
			powertest.Run(t, func(t *testing.T) power.Controller { return dial(t, o) })
		})
	}
}

func TestKinds(t *testing.T) {
	cases := []struct {
		name    string
		prepare func(*vbmc.BMC)
		change  func(*Options)
		kind    error
		says    string
	}{
		{"wrong password", nil, func(o *Options) { o.Password = "wrong" }, power.ErrDenied, `BMC 127.0.0.1 refused user "ops"`},
		{"wrong user", nil, func(o *Options) { o.User = "nobody" }, power.ErrDenied, `BMC 127.0.0.1 refused user "nobody"`},
		{"suite 17 wanted, 3 known", func(b *vbmc.BMC) { b.Suites = []int{3} }, func(o *Options) { o.CipherSuite = 17 }, power.ErrSuite, "does not know cipher suite 17"},
		{"nobody there", func(b *vbmc.BMC) { b.SetGone(true) }, func(o *Options) { o.Wait = 10 * time.Millisecond }, power.ErrUnreachable, "does not answer"},
		{"closed port", nil, func(o *Options) { o.Host, o.Wait = "127.0.0.1:9", 10*time.Millisecond }, power.ErrUnreachable, "does not answer"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, o := serve(t, &machine{}, c.prepare)
			c.change(&o)
			_, err := dial(t, o).Status(t.Context())
			var shown *api.Error
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) || !errors.As(err, &shown) || shown.Hint == "" {
				t.Errorf("%v; want kind %q, saying %q, with a hint", err, c.kind, c.says)
			}
			if err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "wrong ")) {
				t.Errorf("a password is shown: %v", err)
			}
		})
	}
	for _, o := range []Options{{Host: "a", CipherSuite: 1}, {Host: "a", Password: strings.Repeat("x", 21)}, {Host: "a", User: strings.Repeat("x", 17)}, {}} {
		if _, err := Open(o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}

// TestLostSession goes on after the BMC has forgotten its sessions, and after it was away for a while.
func TestLostSession(t *testing.T) {
	m := &machine{}
	b, o := serve(t, m, nil)
	o.Wait = 50 * time.Millisecond
	c := dial(t, o)
	if err := c.On(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.LoseSessions()
	if st, err := c.Status(t.Context()); err != nil || st != power.StateOn {
		t.Errorf("after its sessions were lost: %q, %v", st, err)
	}
	// Away in the middle of a command, for longer than a packet is waited for.
	b.SetGone(true)
	back := time.AfterFunc(600*time.Millisecond, func() { b.SetGone(false) })
	defer back.Stop()
	if err := c.Off(t.Context()); err != nil {
		t.Errorf("off, with the BMC away for a while: %v", err)
	}
	if m.Power() {
		t.Error("the machine is still on")
	}
}

// TestContext ends each method soon after its context, whatever the BMC does.
func TestContext(t *testing.T) {
	b, o := serve(t, &machine{on: true}, nil)
	o.Wait = 30 * time.Second
	c := dial(t, o)
	if _, err := c.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.SetGone(true)
	for name, f := range map[string]func(context.Context) error{
		"off": c.Off, "cycle": c.Cycle, "reset": c.Reset, "soft": c.SoftOff,
		"next boot": func(ctx context.Context) error {
			return c.SetNextBoot(ctx, power.NextBoot{Device: power.DevicePXE})
		},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(50*time.Millisecond, cancel)
		start := time.Now()
		err := f(ctx)
		if took := time.Since(start); !errors.Is(err, context.Canceled) || took > time.Second {
			t.Errorf("%s: after %v: %v", name, took, err)
		}
	}
	c.drop() // nobody is there to say goodbye to
}

// TestOnce switches once, though the answer is lost and the command comes again.
func TestOnce(t *testing.T) {
	m := &machine{}
	_, o := serve(t, m, func(b *vbmc.BMC) { b.Latency = 250 * time.Millisecond })
	o.Wait = 100 * time.Millisecond
	c := dial(t, o)
	if err := c.On(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := m.count(); n != 1 {
		t.Errorf("the machine was switched %d times", n)
	}
	if err := c.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := m.count(); n != 2 {
		t.Errorf("the machine was reset %d times", n-1)
	}
}

func TestStates(t *testing.T) {
	m := &machine{}
	_, o := serve(t, m, nil)
	c := dial(t, o)
	if err := c.Reset(t.Context()); !errors.Is(err, power.ErrState) {
		t.Errorf("reset of a node that is off: %v", err)
	}
	if err := c.SoftOff(t.Context()); err != nil || m.count() != 0 {
		t.Errorf("soft off of a node that is off: %v", err)
	}
	_, o = serve(t, m, func(b *vbmc.BMC) { b.Faults.NotSetBoot = true })
	if err := dial(t, o).SetNextBoot(t.Context(), power.NextBoot{Device: power.DevicePXE}); !errors.Is(err, power.ErrRefused) {
		t.Errorf("a next boot device that is not kept: %v", err)
	}
}

// TestTogether calls one client from several goroutines.
func TestTogether(t *testing.T) {
	_, o := serve(t, &machine{}, nil)
	c := dial(t, o)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := c.Status(t.Context()); err != nil {
				t.Error(err)
			}
			if err := c.On(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
