package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/power"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// strip is a power strip of one outlet, whose state is a file. It writes down what it is told.
func strip(t *testing.T, body string) (c *Client, dir string) {
	t.Helper()
	dir = t.TempDir()
	program := filepath.Join(dir, "strip")
	if err := os.WriteFile(program, []byte("#!/bin/sh\ncd "+dir+"\necho \"$MIMEO_ACTION$1\" >>log\n"+body), 0o755); err != nil {
		t.Fatal(err)
	}
	return Open(Options{Name: "strip", Program: []string{program, "!"}, Timeout: 10 * time.Second, Secret: "pssst",
		Reach: power.Reach{Within: 5 * time.Second, Poll: 10 * time.Millisecond},
		Node: node.Node{Name: "n07", NICs: []node.NIC{{MAC: "52:54:00:00:00:07", IP: "10.0.0.7"}, {MAC: "52:54:00:00:01:07"}}, Groups: []string{"rack1"},
			Labels: map[string]string{"outlet": "3; reboot", "postscripts.pre": "a b"}, BMC: node.BMC{User: "ops"}}}), dir
}

func text(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(string(b)), " ")
}

func TestStrip(t *testing.T) {
	c, dir := strip(t, `case $MIMEO_ACTION in
on|off) echo $MIMEO_ACTION >state;;
status) echo "outlet 3 is $(cat state)";;
next-boot) echo $MIMEO_DEVICE $MIMEO_PERSISTENT $MIMEO_MODE >boot;;
reset|soft|identify-*) ;;
*) echo "what?" >&2; exit 3;;
esac`)
	os.WriteFile(filepath.Join(dir, "state"), []byte("OFF\n"), 0o644)
	ctx := t.Context()
	for _, step := range []struct {
		do   func(context.Context) error
		want power.State
		log  string
	}{
		{c.On, power.StateOn, "status! status! on! status! status!"},
		{c.On, power.StateOn, "status! status! status!"},
		{c.Cycle, power.StateOn, "status! status! off! status! status! status! on! status! status!"},
		{c.Reset, power.StateOn, "status! reset! status!"},
		{c.SoftOff, power.StateOn, "soft! status!"},
		{c.Off, power.StateOff, "status! status! off! status! status!"},
		{func(ctx context.Context) error { return c.Identify(ctx, true) }, power.StateOff, "identify-on! status!"},
	} {
		os.Remove(filepath.Join(dir, "log"))
		if err := step.do(ctx); err != nil {
			t.Fatal(err)
		}
		if st, err := c.Status(ctx); err != nil || st != step.want || text(t, dir, "log") != step.log {
			t.Errorf("%q, %v, told %q; want %q, %q", st, err, text(t, dir, "log"), step.want, step.log)
		}
	}
	if err := c.Reset(ctx); !errors.Is(err, power.ErrState) {
		t.Errorf("reset of what is off: %v", err)
	}
	if err := c.SetNextBoot(ctx, power.NextBoot{Device: power.DevicePXE, UEFI: true, Persistent: true}); err != nil || text(t, dir, "boot") != "network true uefi" {
		t.Errorf("next boot: %v, %s", err, text(t, dir, "boot"))
	}
	if _, err := c.Sensors(ctx); !errors.Is(err, power.ErrCannot) {
		t.Errorf("sensors: %v", err)
	}
}

// TestCannotTell: a program that knows no status is not taken at its word.
func TestCannotTell(t *testing.T) {
	c, dir := strip(t, `[ "$MIMEO_ACTION" != status ] || exit 3`)
	if st, err := c.Status(t.Context()); st != power.StateUnknown || err != nil {
		t.Errorf("%q, %v", st, err)
	}
	if err := c.On(t.Context()); !errors.Is(err, power.ErrSent) || !strings.Contains(text(t, dir, "log"), "on!") {
		t.Errorf("on: %v", err)
	}
}

// TestEnvironment: the program gets what it needs and nothing of mimeod's, and no shell reads any of it.
func TestEnvironment(t *testing.T) {
	t.Setenv("SECRET_OF_MIMEOD", "x")
	c, dir := strip(t, `env >env`)
	if _, err := c.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := "\n" + string(must(os.ReadFile(filepath.Join(dir, "env"))))
	for _, want := range []string{"MIMEO_NODE=n07", "MIMEO_ACTION=status", "MIMEO_MACS=52:54:00:00:00:07,52:54:00:00:01:07", "MIMEO_IPS=10.0.0.7", "MIMEO_GROUPS=rack1",
		"MIMEO_LABEL_OUTLET=3; reboot", "MIMEO_LABEL_POSTSCRIPTS_PRE=a b", "MIMEO_BMC_USER=ops", "MIMEO_BMC_PASSWORD=pssst"} {
		if !strings.Contains(got, "\n"+want+"\n") {
			t.Errorf("no %s in%s", want, got)
		}
	}
	if strings.Contains(got, "SECRET") {
		t.Errorf("it gets mimeod's own:%s", got)
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func TestTrouble(t *testing.T) {
	for body, want := range map[string]struct {
		kind error
		says string
	}{
		"echo outlet 3 >&2; printf 'is \\033[31mbroken' >&2; exit 7": {power.ErrRefused, "failed for action identify-on:\noutlet 3\nis  [31mbroken\n: exit status 7"},
		"echo no such thing; exit 3":                                 {power.ErrCannot, "does not know the action identify-on:\nno such thing"},
		"echo waiting; sleep 60 & sleep 60":                          {power.ErrUnreachable, "did not end within 300ms for action identify-on:\nwaiting"},
	} {
		c, _ := strip(t, body)
		if want.kind == power.ErrUnreachable {
			c.o.Timeout = 300 * time.Millisecond
		}
		start := time.Now()
		err := c.Identify(t.Context(), true)
		var shown *api.Error
		if !errors.Is(err, want.kind) || !strings.Contains(fmt.Sprint(err), want.says) || !errors.As(err, &shown) {
			t.Errorf("%s: %q, want %q", body, fmt.Sprint(err), want.says)
		}
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("%s: took %v", body, took)
		}
	}
	// Much output is cut, and what a program leaves running does not hold it.
	c, _ := strip(t, "head -c 1000000 /dev/zero | tr '\\0' x; exit 1")
	if err := c.Identify(t.Context(), true); err == nil || len(err.Error()) > maxOutput+500 {
		t.Errorf("an error of %d bytes", len(fmt.Sprint(err)))
	}
	c, _ = strip(t, "sleep 3 & exit 0")
	if err := c.Identify(t.Context(), true); err != nil {
		t.Errorf("with something left running: %v", err)
	}
	c, dir := strip(t, "sleep 60 & echo $! >pid; wait")
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(200*time.Millisecond, cancel)
	if err := c.Identify(ctx, true); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	time.Sleep(50 * time.Millisecond)
	stat, err := os.ReadFile("/proc/" + text(t, dir, "pid") + "/stat")
	if err == nil && !strings.Contains(string(stat), ") Z ") {
		t.Errorf("what it started lives on: %s", stat)
	}
	c.o.Program = []string{"/none"}
	if err := c.Identify(t.Context(), true); err == nil || !strings.Contains(err.Error(), "cannot be started") {
		t.Errorf("%v", err)
	}
}
