// Package powertest is the suite that every power.Controller must pass.
package powertest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mimeo/internal/manage/power"
)

// Machine is a machine that is only a state. It is a vbmc.Machine.
type Machine struct {
	mu   sync.Mutex
	on   bool
	log  []string
	next string
}

// NewMachine makes a machine that is off.
func NewMachine() *Machine { return &Machine{} }

func (m *Machine) note(what string, on bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.log = append(m.log, what)
	m.on = on
	return nil
}

// Power tells whether it is on.
func (m *Machine) Power() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.on
}

// PowerOn switches it on.
func (m *Machine) PowerOn() error { return m.note("on", true) }

// PowerOff switches it off.
func (m *Machine) PowerOff() error { return m.note("off", false) }

// Reset resets it.
func (m *Machine) Reset() error { return m.note("reset", true) }

// SoftOff makes its operating system shut down, which takes a while.
func (m *Machine) SoftOff() error {
	time.AfterFunc(100*time.Millisecond, func() { m.note("down", false) })
	return m.note("soft", true)
}

// SetNextBoot notes what is booted next.
func (m *Machine) SetNextBoot(device string, once, uefi bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.next = device
	if device != "" && once {
		m.next += " once"
	}
	if device != "" && uefi {
		m.next += " uefi"
	}
	return nil
}

// NextBoot tells what is booted next: the device, "once" and "uefi" where they hold.
func (m *Machine) NextBoot() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.next
}

// Log tells what was done to it since the last call.
func (m *Machine) Log() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := strings.Join(m.log, " ")
	m.log = nil
	return l
}

// Run goes through all that a controller does, on a machine that is off. m is the machine where the test can look at
// it, and nil where the BMC is a program of its own.
func Run(t *testing.T, m *Machine, open func(t *testing.T) power.Controller) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := open(t)
	is := func(want power.State) {
		t.Helper()
		got, err := c.Status(ctx)
		if err != nil || got != want {
			t.Fatalf("status is %q, %v; want %q", got, err, want)
		}
	}
	// did are the ways in which a machine may be told: a command whose answer is lost may come twice.
	step := func(name string, f func(context.Context) error, want power.State, did ...string) {
		t.Helper()
		if m != nil {
			m.Log()
		}
		if err := f(ctx); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		is(want)
		if m == nil {
			return
		}
		if got := m.Log(); !slices.Contains(did, got) {
			t.Errorf("%s: the machine was told %q, want one of %q", name, got, did)
		}
	}
	is(power.StateOff)
	if err := c.Reset(ctx); !errors.Is(err, power.ErrState) {
		t.Errorf("reset of what is off: %v, want %v", err, power.ErrState)
	}
	step("cycle what is off", c.Cycle, power.StateOn, "on", "on on")
	step("on again", c.On, power.StateOn, "")
	step("reset", c.Reset, power.StateOn, "reset", "reset reset")
	step("cycle", c.Cycle, power.StateOn, "off on", "off off on", "off on on", "off off on on")
	step("off", c.Off, power.StateOff, "off", "off off")
	step("off again", c.Off, power.StateOff, "")
	if err := c.SoftOff(ctx); err != nil {
		t.Errorf("soft off of what is off: %v", err)
	}
	step("on", c.On, power.StateOn, "on", "on on")
	for _, b := range []struct {
		ask  power.NextBoot
		want string
	}{
		{power.NextBoot{Device: power.DevicePXE}, "pxe once"},
		{power.NextBoot{Device: power.DevicePXE, UEFI: true}, "pxe once uefi"},
		{power.NextBoot{Device: power.DeviceDisk, UEFI: true, Persistent: true}, "disk uefi"},
		{power.NextBoot{}, ""},
	} {
		if err := c.SetNextBoot(ctx, b.ask); err != nil {
			t.Fatalf("next boot %+v: %v", b.ask, err)
		}
		if m != nil && m.NextBoot() != b.want {
			t.Errorf("next boot %+v: the machine was told %q, want %q", b.ask, m.NextBoot(), b.want)
		}
	}
	if err := c.SoftOff(ctx); err != nil {
		t.Fatalf("soft off: %v", err)
	}
	for {
		st, err := c.Status(ctx)
		if err != nil {
			t.Fatalf("after soft off: %v", err)
		}
		if st == power.StateOff {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err := c.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	// A closed controller may be used again.
	is(power.StateOff)
	if err := c.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}
