// Package command switches nodes by a program of the site: for a power strip, a hypervisor, or whatever knows no IPMI.
package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/power"
)

// Options say what to run, for whom.
type Options struct {
	Name    string   // of the command in the configuration
	Program []string // with its arguments
	Timeout time.Duration
	Node    node.Node
	Secret  string // the node's BMC password
	Reach   power.Reach
}

// Client is a power.Controller that asks a program. Make one with Open.
type Client struct{ o Options }

// Open makes a client; it runs nothing yet.
func Open(o Options) *Client {
	if o.Timeout <= 0 {
		o.Timeout = 30 * time.Second
	}
	return &Client{o: o}
}

// exitCannot is the exit status of a program that does not know an action.
const exitCannot = 3

// maxOutput bounds what is kept of a program's output, in bytes.
const maxOutput = 16 << 10

// settle is how long a node stays off in a power cycle where nobody can tell that it is.
const settle = 5 * time.Second

// Status runs the action status. Its last word on stdout is the state; any but on and off is unknown.
func (c *Client) Status(ctx context.Context) (power.State, error) {
	out, err := c.run(ctx, "status", nil)
	if err != nil {
		if errors.Is(err, power.ErrCannot) {
			return power.StateUnknown, nil
		}
		return power.StateUnknown, err
	}
	words := strings.Fields(strings.ToLower(out))
	if len(words) > 0 {
		switch st := power.State(words[len(words)-1]); st {
		case power.StateOn, power.StateOff:
			return st, nil
		}
	}
	return power.StateUnknown, nil
}

// On runs the action on, until the program says that the node is on. Where the program cannot tell, the error is of the
// kind power.ErrSent.
func (c *Client) On(ctx context.Context) error { return c.to(ctx, power.StateOn) }

// Off is On's opposite.
func (c *Client) Off(ctx context.Context) error { return c.to(ctx, power.StateOff) }

// Cycle runs off, then on.
func (c *Client) Cycle(ctx context.Context) error {
	if err := c.Off(ctx); errors.Is(err, power.ErrSent) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(settle):
		}
	} else if err != nil {
		return err
	}
	return c.On(ctx)
}

// SoftOff runs the action soft.
func (c *Client) SoftOff(ctx context.Context) error {
	_, err := c.run(ctx, "soft", nil)
	return err
}

// Reset runs the action reset.
func (c *Client) Reset(ctx context.Context) error {
	st, err := c.Status(ctx)
	if err != nil {
		return err
	}
	if st == power.StateOff {
		return c.errorf(power.ErrState, "cannot reset a node that is off", "switch it on instead", nil)
	}
	if _, err := c.run(ctx, "reset", nil); err != nil {
		return err
	}
	if st == power.StateUnknown {
		return c.sent("reset")
	}
	return nil
}

// SetNextBoot runs the action next-boot, with the device, whether it stays, and the kind of boot in the environment.
func (c *Client) SetNextBoot(ctx context.Context, b power.NextBoot) error {
	device := map[power.Device]string{power.DeviceNone: "none", power.DevicePXE: "network", power.DeviceDisk: "disk", power.DeviceSetup: "setup", power.DeviceUEFI: "uefi:" + b.Path}[b.Device]
	mode := ""
	switch {
	case b.UEFI:
		mode = "uefi"
	case b.Legacy:
		mode = "legacy"
	}
	_, err := c.run(ctx, "next-boot", []string{"MIMEO_DEVICE=" + device, fmt.Sprintf("MIMEO_PERSISTENT=%t", b.Persistent), "MIMEO_MODE=" + mode})
	return err
}

// NextBoot is not known.
func (c *Client) NextBoot(context.Context) (power.NextBoot, error) {
	return power.NextBoot{}, c.cannot("tell what the node boots next")
}

// Identify runs the action identify-on or identify-off.
func (c *Client) Identify(ctx context.Context, on bool) error {
	action := "identify-off"
	if on {
		action = "identify-on"
	}
	_, err := c.run(ctx, action, nil)
	return err
}

// Sensors cannot be had.
func (c *Client) Sensors(context.Context) ([]api.Sensor, error) { return nil, c.cannot("read sensors") }

// Log cannot be had.
func (c *Client) Log(context.Context) ([]api.LogEntry, error) {
	return nil, c.cannot("read an event log")
}

// ClearLog cannot be done.
func (c *Client) ClearLog(context.Context) error { return c.cannot("empty an event log") }

// Close does nothing.
func (c *Client) Close() error { return nil }

func (c *Client) to(ctx context.Context, want power.State) error {
	st, err := c.Status(ctx)
	if err != nil {
		return err
	}
	send := func(ctx context.Context) error {
		_, err := c.run(ctx, string(want), nil)
		return err
	}
	if st != power.StateUnknown {
		return c.o.Reach.To(ctx, c.name(), want, c.Status, send)
	}
	if want == power.StateOn {
		if err := c.o.Reach.Pace.Wait(ctx); err != nil {
			return err
		}
	}
	if err := send(ctx); err != nil {
		return err
	}
	return c.sent(string(want))
}

func (c *Client) sent(what string) error {
	return &power.Error{Kind: power.ErrSent, Text: fmt.Sprintf("%s ran for %s %s; it cannot tell the node's state", c.name(), what, c.o.Node.Name), Hint: `its action "status" may print on or off`}
}

// run runs the program for an action and returns its stdout. It is killed, with all that it started, when its time is
// over.
func (c *Client) run(ctx context.Context, action string, more []string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	cmd := exec.Command(c.o.Program[0], c.o.Program[1:]...)
	cmd.Dir = "/"
	cmd.Env = append(c.environ(action), more...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var out, all capped
	cmd.Stdout, cmd.Stderr = &both{&out, &all}, &all
	cmd.WaitDelay = time.Second // for pipes that a process which left the group still holds
	if err := cmd.Start(); err != nil {
		return "", c.errorf(power.ErrRefused, "cannot be started", "see power.exec in the configuration of mimeod", err)
	}
	stop := context.AfterFunc(ctx, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	err := cmd.Wait()
	over := !stop()
	var exit *exec.ExitError
	switch {
	case over && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return "", c.errorf(power.ErrUnreachable, fmt.Sprintf("did not end within %s for action %s%s", c.o.Timeout, action, all.said()), "see power.exec in the configuration of mimeod for its time limit", nil)
	case over:
		return "", ctx.Err()
	case errors.As(err, &exit) && exit.ExitCode() == exitCannot:
		return "", c.errorf(power.ErrCannot, fmt.Sprintf("does not know the action %s%s", action, all.said()), "", nil)
	case err != nil && !errors.Is(err, exec.ErrWaitDelay): // that is one which left something running, and ended well
		return "", c.errorf(power.ErrRefused, fmt.Sprintf("failed for action %s%s", action, all.said()), "run it by hand with the same environment", err)
	}
	return out.String(), nil
}

// environ is all of the program's environment; mimeod's own is not handed on.
func (c *Client) environ(action string) []string {
	n := c.o.Node
	var macs, ips []string
	for _, f := range n.NICs {
		macs = append(macs, f.MAC)
		if f.IP != "" {
			ips = append(ips, f.IP)
		}
	}
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/",
		"MIMEO_NODE=" + string(n.Name), "MIMEO_ACTION=" + action, "MIMEO_MACS=" + strings.Join(macs, ","), "MIMEO_IPS=" + strings.Join(ips, ","),
		"MIMEO_GROUPS=" + strings.Join(n.Groups, ","), "MIMEO_BMC_USER=" + n.BMC.User, "MIMEO_BMC_PASSWORD=" + c.o.Secret}
	var labels []string
	for k, v := range n.Labels {
		labels = append(labels, "MIMEO_LABEL_"+variable(k)+"="+v)
	}
	slices.Sort(labels)
	env = append(env, labels...)
	// An environment cannot hold a zero byte.
	return slices.DeleteFunc(env, func(s string) bool { return strings.ContainsRune(s, 0) })
}

// variable makes a label's key a name of the environment: capitals, and _ for what is neither letter nor digit.
func variable(key string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x80 && (unicode.IsLetter(r) || unicode.IsDigit(r)) {
			return unicode.ToUpper(r)
		}
		return '_'
	}, key)
}

func (c *Client) name() string { return "exec:" + c.o.Name }

func (c *Client) cannot(what string) error {
	return c.errorf(power.ErrCannot, "cannot "+what, "", nil)
}

func (c *Client) errorf(kind error, text, hint string, cause error) error {
	return &power.Error{Kind: kind, Text: c.name() + " " + text, Hint: hint, Cause: cause}
}

// capped keeps the first bytes of what is written to it, from both of a program's outputs.
type capped struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (c *capped) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.buf.Write(p[:min(len(p), maxOutput-c.buf.Len())])
	return len(p), nil
}

func (c *capped) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buf.String()
}

// said is the output for an error: clean of what a terminal would act on.
func (c *capped) said() string {
	s := strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, strings.TrimSpace(c.String()))
	if s == "" {
		return ""
	}
	return ":\n" + s + "\n"
}

// both writes to two.
type both [2]*capped

func (b *both) Write(p []byte) (int, error) {
	b[0].Write(p)
	return b[1].Write(p)
}
