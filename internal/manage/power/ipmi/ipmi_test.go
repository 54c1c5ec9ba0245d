package ipmi

import (
	"context"
	"errors"
	"fmt"
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

// quick are options for BMCs that answer within milliseconds.
func quick(host string) Options {
	return Options{Host: host, User: "ops", Password: "secret", Wait: 60 * time.Millisecond,
		Reach: power.Reach{Within: 3 * time.Second, Again: 300 * time.Millisecond, Poll: 10 * time.Millisecond}}
}

func open(t *testing.T, o Options) *Client {
	t.Helper()
	c, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// serve starts a virtual BMC, whose account is ops, secret.
func serve(t *testing.T, b *vbmc.BMC) (addr string) {
	t.Helper()
	return serveAt(t, b, "127.0.0.1:0")
}

func serveAt(t *testing.T, b *vbmc.BMC, at string) (addr string) {
	t.Helper()
	pc, err := net.ListenPacket("udp4", at)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.ServeIPMI(ctx, pc) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("ServeIPMI: %v", err)
		}
	})
	return pc.LocalAddr().String()
}

func TestVirtualBMC(t *testing.T) {
	for _, tc := range []struct {
		name   string
		suite  int
		knows  []int
		faults vbmc.Faults
		late   time.Duration
	}{
		{name: "any suite"},
		{name: "suite 3", suite: 3},
		{name: "suite 17", suite: 17},
		{name: "only 3 is known", knows: []int{3}},
		{name: "every fifth packet is lost", faults: vbmc.Faults{DropEvery: 5}},
		{name: "every third packet is lost", faults: vbmc.Faults{DropEvery: 3}},
		{name: "slow", late: 100 * time.Millisecond},
		{name: "the state lags", faults: vbmc.Faults{Lag: 150 * time.Millisecond}},
		{name: "busy at first", faults: vbmc.Faults{BusyFirst: 2}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			m := powertest.NewMachine()
			b := vbmc.New(m, "ops", "secret")
			b.Latency, b.Suites, b.Faults = tc.late, tc.knows, tc.faults
			o := quick(serve(t, b))
			o.CipherSuite = tc.suite
			powertest.Run(t, m, func(t *testing.T) power.Controller { return open(t, o) })
		})
	}
}

// wantError checks an error's kind, text, and that an admin gets a hint and never sees the password.
func wantError(t *testing.T, err, kind error, text string) {
	t.Helper()
	var e *api.Error
	switch {
	case !errors.Is(err, kind) || !strings.Contains(fmt.Sprint(err), text):
		t.Errorf("got %v, want %v with %q", err, kind, text)
	case !errors.As(err, &e) || e.Message != err.Error() || e.Hint == "":
		t.Errorf("%v: no message or hint for an admin", err)
	case strings.Contains(err.Error()+e.Hint, "pssst"):
		t.Errorf("the password is shown: %v", err)
	}
}

func TestTroublesAreToldApart(t *testing.T) {
	only3 := vbmc.New(powertest.NewMachine(), "ops", "secret")
	only3.Suites = []int{3}
	addr := serve(t, only3)
	deaf, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	for _, tc := range []struct {
		name string
		set  func(*Options)
		kind error
		text string
	}{
		{"wrong password", func(o *Options) { o.Password = "pssst" }, power.ErrDenied, `BMC 127.0.0.1 refused user "ops"`},
		{"unknown user", func(o *Options) { o.User = "nobody" }, power.ErrDenied, `refused user "nobody"`},
		{"suite that it does not know", func(o *Options) { o.CipherSuite = 17 }, power.ErrSuite, "does not know cipher suite 17"},
		{"nobody listens", func(o *Options) { o.Host = "127.0.0.1:1" }, power.ErrUnreachable, "does not answer"},
		{"nobody answers", func(o *Options) { o.Host = deaf.LocalAddr().String() }, power.ErrUnreachable, "does not answer"},
		{"no such name", func(o *Options) { o.Host = "nosuch.invalid" }, power.ErrUnreachable, "does not answer"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := quick(addr)
			o.Wait = 20 * time.Millisecond
			tc.set(&o)
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			_, err := open(t, o).Status(ctx)
			wantError(t, err, tc.kind, tc.text)
		})
	}
	for _, tc := range []struct {
		set  func(*Options)
		text string
	}{
		{func(o *Options) { o.Password = strings.Repeat("pssst", 5) }, "password of 25 bytes"},
		{func(o *Options) { o.User = strings.Repeat("u", 17) }, "at most 16"},
		{func(o *Options) { o.CipherSuite = 1 }, "cipher suite 1"},
		{func(o *Options) { o.Host = "" }, "no address"},
		{func(o *Options) { o.Host = "10.0.0.1:99999" }, "99999"},
	} {
		o := quick(addr)
		tc.set(&o)
		if _, err := Open(o); err == nil || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%+v: %v, want %q", o, err, tc.text)
		}
	}
}

// TestLostSession restarts the BMC between two commands, and within one.
func TestLostSession(t *testing.T) {
	m := powertest.NewMachine()
	b := vbmc.New(m, "ops", "secret")
	c := open(t, quick(serve(t, b)))
	for range 3 {
		if err := c.Cycle(context.Background()); err != nil {
			t.Fatal(err)
		}
		b.LoseSessions()
	}
	var lose sync.WaitGroup
	lose.Go(func() {
		for range 5 {
			time.Sleep(30 * time.Millisecond)
			b.LoseSessions()
		}
	})
	defer lose.Wait()
	if err := c.Off(context.Background()); err != nil || m.Power() {
		t.Errorf("off: %v, on is %v", err, m.Power())
	}
}

// TestGoneForAWhile takes the BMC away while it is waited for, as one that restarts when its host is switched off.
func TestGoneForAWhile(t *testing.T) {
	m := powertest.NewMachine()
	b := vbmc.New(m, "ops", "secret")
	b.Faults.Lag = 300 * time.Millisecond
	o := quick(serve(t, b))
	o.Wait = 20 * time.Millisecond
	c := open(t, o)
	if err := c.On(context.Background()); err != nil {
		t.Fatal(err)
	}
	var away sync.WaitGroup
	away.Go(func() {
		time.Sleep(100 * time.Millisecond)
		b.SetGone(true)
		time.Sleep(600 * time.Millisecond)
		b.SetGone(false)
	})
	if err := c.Off(context.Background()); err != nil {
		t.Errorf("off, with the BMC away for a while: %v", err)
	}
	away.Wait()

	b.SetGone(true)
	start := time.Now()
	_, err := c.Status(context.Background())
	wantError(t, err, power.ErrUnreachable, "does not answer")
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("that took %v", d)
	}
}

func TestNextBoot(t *testing.T) {
	m := powertest.NewMachine()
	b := vbmc.New(m, "ops", "secret")
	c := open(t, quick(serve(t, b)))
	ctx := context.Background()
	for _, tc := range []struct {
		ask  power.NextBoot
		want string
	}{
		{power.NextBoot{Device: power.DevicePXE}, "pxe once"},
		{power.NextBoot{Device: power.DevicePXE, UEFI: true}, "pxe once uefi"},
		{power.NextBoot{Device: power.DeviceDisk, Persistent: true}, "disk"},
		{power.NextBoot{}, ""},
	} {
		if err := c.SetNextBoot(ctx, tc.ask); err != nil {
			t.Fatalf("%+v: %v", tc.ask, err)
		}
		if got := m.NextBoot(); got != tc.want {
			t.Errorf("%+v: the machine was told %q, want %q", tc.ask, got, tc.want)
		}
	}
	// Another administrator's tool died in the middle of setting boot options.
	if err := c.setBoot(ctx, paramSetInProgress, 1); err != nil {
		t.Fatal(err)
	}
	if err := c.SetNextBoot(ctx, power.NextBoot{Device: power.DevicePXE}); err != nil {
		t.Errorf("with set in progress left on: %v", err)
	}
	if err := c.SetNextBoot(ctx, power.NextBoot{Device: "floppy"}); !errors.Is(err, power.ErrRefused) {
		t.Errorf("floppy: %v", err)
	}
}

func TestNextBootNotKept(t *testing.T) {
	b := vbmc.New(powertest.NewMachine(), "ops", "secret")
	b.Faults.NotSetBoot = true
	err := open(t, quick(serve(t, b))).SetNextBoot(context.Background(), power.NextBoot{Device: power.DevicePXE})
	wantError(t, err, power.ErrRefused, "does not keep it")
}

func TestStateNotReached(t *testing.T) {
	m := powertest.NewMachine()
	b := vbmc.New(m, "ops", "secret")
	b.Faults.Lag = time.Minute
	o := quick(serve(t, b))
	o.Reach.Within = 300 * time.Millisecond
	wantError(t, open(t, o).On(context.Background()), power.ErrState, "did not come to power state on: it says off")
}

func TestContextEnds(t *testing.T) {
	b := vbmc.New(powertest.NewMachine(), "ops", "secret")
	c := open(t, quick(serve(t, b)))
	b.SetGone(true)
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(50*time.Millisecond, cancel)
	start := time.Now()
	if _, err := c.Status(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if d := time.Since(start); d > time.Second {
		t.Errorf("that took %v", d)
	}
}

// TestManyUsers calls one client from several goroutines.
func TestManyUsers(t *testing.T) {
	c := open(t, quick(serve(t, vbmc.New(powertest.NewMachine(), "ops", "secret"))))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 10 {
				if _, err := c.Status(context.Background()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}
