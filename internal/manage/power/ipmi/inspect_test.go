package ipmi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/manage/power"
	"mimeo/internal/manage/power/powertest"
	"mimeo/lab/vbmc"
)

// brief writes sensors down.
func brief(list []api.Sensor) string {
	var out []string
	for _, s := range list {
		value := "-"
		if s.Value != nil {
			value = fmt.Sprint(*s.Value, s.Unit)
		}
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s %s %s", s.Name, s.Kind, value, s.Health)))
	}
	return strings.Join(out, "; ")
}

func TestSensors(t *testing.T) {
	for _, short := range []bool{false, true} {
		b := vbmc.New(powertest.NewMachine(), "ops", "secret")
		b.Faults.ShortRecords = short
		c := open(t, quick(serve(t, b)))
		list, err := c.Sensors(t.Context())
		want := "CPU1 Temp temperature 42°C ok; Inlet Temp temperature 23°C ok; 12V voltage 12.1V ok; Fan 1 fan 1800rpm ok; Power Meter power 180W ok; Fan 2 fan -"
		if got := brief(list); err != nil || got != want {
			t.Errorf("short records %v: %v, %s", short, err, got)
		}
	}
	b := vbmc.New(powertest.NewMachine(), "ops", "secret")
	b.Sensors = []vbmc.Sensor{{Name: "Hot", Kind: 1, Unit: 1, Value: 99, Step: 1, High: 95}}
	if list, err := open(t, quick(serve(t, b))).Sensors(t.Context()); err != nil || brief(list) != "Hot temperature 99°C critical" {
		t.Errorf("%v, %s", err, brief(list))
	}
	b = vbmc.New(powertest.NewMachine(), "ops", "secret")
	b.Sensors = []vbmc.Sensor{}
	if list, err := open(t, quick(serve(t, b))).Sensors(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("%v, %s", err, brief(list))
	}
}

func TestLog(t *testing.T) {
	b := vbmc.New(powertest.NewMachine(), "ops", "secret")
	c := open(t, quick(serve(t, b)))
	if list, err := c.Log(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("an empty log: %v, %v", list, err)
	}
	when := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	b.AddEvent(vbmc.Event{Time: when, Kind: 1, Number: 1, Event: 1, Offset: 9})
	b.AddEvent(vbmc.Event{Time: when, Kind: 1, Number: 1, Event: 0x81, Offset: 9})
	b.AddEvent(vbmc.Event{Kind: 8, Number: 5, Event: 0x6f, Offset: 1})
	b.AddEvent(vbmc.Event{Time: when, Kind: 0xd0, Number: 9, Event: 0x70, Offset: 3})
	look := func(want string) {
		t.Helper()
		list, err := c.Log(t.Context())
		var out []string
		for _, e := range list {
			at := "-"
			if e.Time != nil {
				at = e.Time.Format(time.TimeOnly)
			}
			out = append(out, strings.Join([]string{e.ID, at, e.Severity, e.Text}, " "))
		}
		if got := strings.Join(out, "\n"); err != nil || got != want {
			t.Errorf("%v\n%s\nwant\n%s", err, got, want)
		}
	}
	look("1 05:06:07 critical temperature #0x01: critically high\n2 05:06:07 ok temperature #0x01: critically high (over)\n3 - critical power supply #0x05: failed\n4 05:06:07  sensor type 0xd0 #0x09: event 0x70, 3")
	if _, err := c.Sensors(t.Context()); err != nil { // from now on it knows their names
		t.Fatal(err)
	}
	look("1 05:06:07 critical temperature CPU1 Temp: critically high\n2 05:06:07 ok temperature CPU1 Temp: critically high (over)\n3 - critical power supply Power Meter: failed\n4 05:06:07  sensor type 0xd0 #0x09: event 0x70, 3")
	if err := c.ClearLog(t.Context()); err != nil || len(b.Events()) != 0 {
		t.Errorf("clear: %v, %d are left", err, len(b.Events()))
	}
	look("")
}

func TestIdentify(t *testing.T) {
	b := vbmc.New(powertest.NewMachine(), "ops", "secret")
	c := open(t, quick(serve(t, b)))
	for on, want := range map[bool]int{true: 255, false: 0} {
		if err := c.Identify(t.Context(), on); err != nil || b.LED() != want {
			t.Errorf("identify %v: %v, the LED burns for %d s", on, err, b.LED())
		}
	}
}

// TestFlagsStay tells the BMC not to take the boot flags back after a while.
func TestFlagsStay(t *testing.T) {
	m := powertest.NewMachine()
	b := vbmc.New(m, "ops", "secret")
	b.Faults.ClearAfter = 50 * time.Millisecond
	c := open(t, quick(serve(t, b)))
	if err := c.SetNextBoot(t.Context(), power.NextBoot{Device: power.DevicePXE, UEFI: true}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
	got, err := c.NextBoot(t.Context())
	if want := (power.NextBoot{Device: power.DevicePXE, UEFI: true}); err != nil || got != want || m.NextBoot() != "pxe once uefi" {
		t.Errorf("next boot is %+v, %q, %v", got, m.NextBoot(), err)
	}
	if err := c.SetNextBoot(t.Context(), power.NextBoot{Device: power.DeviceSetup}); err != nil || m.NextBoot() != "setup once" {
		t.Errorf("setup: %v, %q", err, m.NextBoot())
	}
	if err := c.SetNextBoot(t.Context(), power.NextBoot{Device: power.DeviceUEFI, Path: "HD(1)"}); !errors.Is(err, power.ErrRefused) {
		t.Errorf("a UEFI device path: %v", err)
	}
}

// TestForgotten: a session that lay idle and that the BMC has forgotten costs no long wait.
func TestForgotten(t *testing.T) {
	b := vbmc.New(powertest.NewMachine(), "ops", "secret")
	c := open(t, quick(serve(t, b)))
	if _, err := c.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.LoseSessions()
	c.s.used = time.Now().Add(-2 * idleTime)
	start := time.Now()
	if _, err := c.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 4*c.o.Wait {
		t.Errorf("that took %v", took)
	}
}

func FuzzRecords(f *testing.F) {
	b := make([]byte, 60)
	copy(b[3:], []byte{1, 55, 0x20, 0, 1})
	f.Add(b, byte(3))
	f.Fuzz(func(t *testing.T, b []byte, raw byte) {
		if s, ok := parseSensor(b); ok {
			s.value(raw)
			kindOf(s.kind, s.unit)
		}
		if len(b) >= selLen {
			(&Client{}).entry(b)
		}
		// A BMC that gives records without end is left.
		c, err := Open(Options{Host: "127.0.0.1", Wait: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		defer cancel()
		k, _ := newKeys(suite17, []byte("k"))
		c.s = &session{keys: k, conn: &script{kind: 0xc0, payload: bytes.Clone(b), keys: k, seal: true}, wait: time.Millisecond, privilege: privilegeAdmin, sends: 1}
		c.Sensors(ctx)
		c.Log(ctx)
		c.conn = nil
	})
}
