package redfish

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mimeo/internal/cluster/api"
	"mimeo/internal/manage/power"
	"mimeo/internal/manage/power/powertest"
	"mimeo/lab/vbmc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func options(url string) Options {
	return Options{URL: url, User: "ops", Password: "secret", Pause: 20 * time.Millisecond,
		Reach: power.Reach{Within: 5 * time.Second, Again: time.Second, Poll: 20 * time.Millisecond}}
}

// serve starts a BMC and returns how to reach it.
func serve(t *testing.T, m vbmc.Machine, prepare func(*vbmc.BMC)) (*vbmc.BMC, Options) {
	t.Helper()
	b := vbmc.New(m, "ops", "secret")
	if prepare != nil {
		prepare(b)
	}
	srv := httptest.NewServer(b.Handler())
	t.Cleanup(srv.Close)
	return b, options(srv.URL)
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

// TestWays runs the suite against BMCs that do things differently.
func TestWays(t *testing.T) {
	for name, prepare := range map[string]func(*vbmc.BMC){
		"plain":             func(*vbmc.BMC) {},
		"action info":       func(b *vbmc.BMC) { b.Redfish.ActionInfo = true },
		"ETags wanted":      func(b *vbmc.BMC) { b.Redfish.NeedETag = true },
		"tasks":             func(b *vbmc.BMC) { b.Redfish.Tasks = true },
		"no sessions":       func(b *vbmc.BMC) { b.Redfish.NoSessions = true },
		"mode is read-only": func(b *vbmc.BMC) { b.Redfish.NoMode = true },
		"few reset types": func(b *vbmc.BMC) {
			b.Redfish.ResetTypes = []string{"ForceOn", "ForceOff", "PushPowerButton", "PowerCycle"}
		},
		"states show late": func(b *vbmc.BMC) { b.Faults.Lag = 300 * time.Millisecond },
		"busy at first":    func(b *vbmc.BMC) { b.Faults.BusyFirst = 1 },
		"slow":             func(b *vbmc.BMC) { b.Latency = 30 * time.Millisecond },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := powertest.NewMachine()
			b, o := serve(t, m, prepare)
			suite := m
			if b.Redfish.NoMode || b.Redfish.ResetTypes != nil {
				suite = nil // it cannot be told "uefi", or is power cycled for a reset
			}
			powertest.Run(t, suite, func(t *testing.T) power.Controller {
				c, err := Open(o) // the suite closes it
				if err != nil {
					t.Fatal(err)
				}
				return c
			})
			if n := b.Sessions(); n != 0 {
				t.Errorf("%d sessions are left behind", n)
			}
			c := dial(t, o)
			if err := c.SetNextBoot(t.Context(), power.NextBoot{Device: power.DevicePXE, UEFI: true}); err != nil {
				t.Fatal(err)
			}
			if got := m.NextBoot(); got != "pxe once uefi" && (got != "pxe once" || !b.Redfish.NoMode) {
				t.Errorf("next boot is %q", got)
			}
		})
	}
}

func TestSeveralSystems(t *testing.T) {
	_, o := serve(t, powertest.NewMachine(), func(b *vbmc.BMC) { b.Redfish.Systems = 3 })
	_, err := dial(t, o).Status(t.Context())
	var shown *api.Error
	if !errors.Is(err, power.ErrRefused) || !errors.As(err, &shown) || !strings.Contains(shown.Hint, "/redfish/v1/Systems/ID") {
		t.Errorf("a BMC with three systems: %v", err)
	}
	o.URL += "/redfish/v1/Systems/2"
	if st, err := dial(t, o).Status(t.Context()); err != nil || st != power.StateOff {
		t.Errorf("the second of three: %q, %v", st, err)
	}
}

func TestTrouble(t *testing.T) {
	tlsOnly := httptest.NewTLSServer(vbmc.New(powertest.NewMachine(), "ops", "secret").Handler())
	defer tlsOnly.Close()
	_, plain := serve(t, powertest.NewMachine(), nil)
	wrongPassword, wrongUser := plain, plain
	wrongPassword.Password, wrongUser.User = "wrong one", "nobody"
	_, basic := serve(t, powertest.NewMachine(), func(b *vbmc.BMC) { b.Redfish.NoSessions = true })
	basic.Password = "wrong one"
	trusting := options(tlsOnly.URL)
	trusting.Insecure = true
	for _, c := range []struct {
		name string
		o    Options
		kind error // nil: it works
		says string
	}{
		{"wrong password", wrongPassword, power.ErrDenied, `BMC 127.0.0.1 refused user "ops"`},
		{"wrong user", wrongUser, power.ErrDenied, `BMC 127.0.0.1 refused user "nobody"`},
		{"wrong password, no sessions", basic, power.ErrDenied, `refused user "ops"`},
		{"nobody there", options("http://127.0.0.1:1"), power.ErrUnreachable, "BMC 127.0.0.1 cannot be reached"},
		{"certificate of its own", options(tlsOnly.URL), power.ErrDenied, "certificate that is not trusted"},
		{"the same, accepted", trusting, nil, ""},
		{"TLS with one who speaks none", options(strings.Replace(plain.URL, "http", "https", 1)), power.ErrUnreachable, "does not speak TLS"},
	} {
		t.Run(c.name, func(t *testing.T) {
			start := time.Now()
			_, err := dial(t, c.o).Status(t.Context())
			if c.kind == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var shown *api.Error
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) || !errors.As(err, &shown) || shown.Hint == "" {
				t.Errorf("%v; want kind %q, saying %q, with a hint", err, c.kind, c.says)
			}
			if err != nil && strings.Contains(err.Error(), "wrong one") {
				t.Errorf("the password is shown: %v", err)
			}
			if time.Since(start) > 2*time.Second {
				t.Errorf("it took %v", time.Since(start))
			}
		})
	}
}

// TestLostSession goes on when the BMC has forgotten its sessions.
func TestLostSession(t *testing.T) {
	m := powertest.NewMachine()
	b, o := serve(t, m, nil)
	c := dial(t, o)
	if err := c.On(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.LoseSessions()
	if st, err := c.Status(t.Context()); err != nil || st != power.StateOn {
		t.Errorf("%q, %v", st, err)
	}
	b.LoseSessions()
	if err := c.Off(t.Context()); err != nil || m.Power() {
		t.Errorf("off: %v", err)
	}
	if n := b.Sessions(); n != 1 {
		t.Errorf("%d sessions", n)
	}
}

// TestAway goes on when the BMC is away for a moment, and ends with its context when it stays away.
func TestAway(t *testing.T) {
	b, o := serve(t, powertest.NewMachine(), nil)
	o.Pause = 100 * time.Millisecond
	c := dial(t, o)
	if err := c.On(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.SetGone(true)
	time.AfterFunc(150*time.Millisecond, func() { b.SetGone(false) })
	if st, err := c.Status(t.Context()); err != nil || st != power.StateOn {
		t.Errorf("away for a moment: %q, %v", st, err)
	}
	b.SetGone(true)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	if err := c.Off(ctx); err == nil || time.Since(start) > time.Second {
		t.Errorf("away for good: %v after %v", err, time.Since(start))
	}
	b.SetGone(false)
}

func TestStates(t *testing.T) {
	m := powertest.NewMachine()
	_, o := serve(t, m, nil)
	c := dial(t, o)
	if err := c.Reset(t.Context()); !errors.Is(err, power.ErrState) {
		t.Errorf("reset of a node that is off: %v", err)
	}
	if err := c.SoftOff(t.Context()); err != nil || m.Log() != "" {
		t.Errorf("soft off of a node that is off: %v", err)
	}
	_, o = serve(t, m, func(b *vbmc.BMC) { b.Redfish.ResetTypes = []string{"Nmi"} })
	if err := dial(t, o).On(t.Context()); !errors.Is(err, power.ErrRefused) || !strings.Contains(err.Error(), "Nmi") {
		t.Errorf("no reset type that fits: %v", err)
	}
	_, o = serve(t, m, func(b *vbmc.BMC) { b.Faults.NotSetBoot = true })
	if err := dial(t, o).SetNextBoot(t.Context(), power.NextBoot{Device: power.DevicePXE}); !errors.Is(err, power.ErrRefused) {
		t.Errorf("a next boot device that is not kept: %v", err)
	}
}

// TestHostile meets services that are no BMC, or an evil one.
func TestHostile(t *testing.T) {
	var strangers atomic.Int64
	stranger := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Auth-Token") != "" || r.Header.Get("Authorization") != "" {
			strangers.Add(1)
		}
	}))
	defer stranger.Close()
	root := func(systems string) string {
		return `{"Systems":{"@odata.id":"` + systems + `"},"Links":{"Sessions":{"@odata.id":"/s"}}}`
	}
	for _, c := range []struct {
		name string
		f    http.HandlerFunc
		says string
	}{
		{"a web page", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>Welcome</html>") }, "no JSON"},
		{"no end", func(w http.ResponseWriter, _ *http.Request) {
			for range 5 << 10 {
				if _, err := w.Write(make([]byte, 1<<10)); err != nil {
					return
				}
			}
		}, "more than"},
		{"a redirect elsewhere", func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/redfish/v1/":
				fmt.Fprint(w, root("/systems"))
			case "/s":
				w.Header().Set("X-Auth-Token", "t")
				w.WriteHeader(http.StatusCreated)
			default:
				http.Redirect(w, r, stranger.URL, http.StatusFound)
			}
		}, "answers to GET /systems"},
		{"a path to elsewhere", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, root(strings.TrimPrefix(stranger.URL, "http:")))
		}, "names the path"},
		{"words of its own", func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/redfish/v1/":
				fmt.Fprint(w, root("/systems"))
			case "/systems":
				w.WriteHeader(http.StatusBadRequest)
				fmt.Fprint(w, `{"error":{"message":"general","@Message.ExtendedInfo":[{"Message":"The \u001b[31mchassis\nis open","Resolution":"Close it."}]}}`)
			default:
				w.WriteHeader(http.StatusNotFound)
			}
		}, "The [31mchassis is open"},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv := httptest.NewServer(c.f)
			defer srv.Close()
			cl := dial(t, options(srv.URL))
			_, err := cl.Status(t.Context())
			if !errors.Is(err, power.ErrRefused) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v; want %q", err, c.says)
			}
			cl.http.CloseIdleConnections()
		})
	}
	if strangers.Load() != 0 {
		t.Error("another host was shown the token or the account")
	}
}
