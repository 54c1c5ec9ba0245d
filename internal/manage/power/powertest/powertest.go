// Package powertest is the suite that every power.Controller must pass.
package powertest

import (
	"context"
	"testing"
	"time"

	"mimeo/internal/manage/power"
)

// Run goes through all that a controller does, on a machine that is off.
func Run(t *testing.T, open func(t *testing.T) power.Controller) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := open(t)
	defer func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}()
	is := func(want power.State) {
		t.Helper()
		got, err := c.Status(ctx)
		if err != nil || got != want {
			t.Fatalf("status is %q, %v; want %q", got, err, want)
		}
	}
	step := func(name string, f func(context.Context) error, want power.State) {
		t.Helper()
		if err := f(ctx); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		is(want)
	}
	is(power.StateOff)
	step("cycle what is off", c.Cycle, power.StateOn)
	step("on again", c.On, power.StateOn)
	step("reset", c.Reset, power.StateOn)
	step("cycle", c.Cycle, power.StateOn)
	step("off", c.Off, power.StateOff)
	step("off again", c.Off, power.StateOff)
	step("on", c.On, power.StateOn)
	for _, b := range []power.NextBoot{{Device: power.DevicePXE}, {Device: power.DeviceDisk, Persistent: true}, {Device: power.DeviceNone}} {
		if err := c.SetNextBoot(ctx, b); err != nil {
			t.Fatalf("next boot %+v: %v", b, err)
		}
	}
	if err := c.SoftOff(ctx); err != nil {
		t.Fatalf("soft off: %v", err)
	}
}
