package vbmc

import (
	"regexp"
	"testing"
	"time"
)

// TestHealth judges sensors, event log and identify LED with ipmitool.
func TestHealth(t *testing.T) {
	for _, short := range []bool{false, true} {
		b := New(&switchBoard{}, "admin", "secret")
		b.Faults.ShortRecords = short
		b.AddEvent(Event{Time: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC), Kind: 1, Number: 1, Event: 1, Offset: 9})
		b.AddEvent(Event{Kind: 8, Number: 5, Event: 0x6f, Offset: 1})
		port := serveIPMI(t, b)
		tool := func(want string, args ...string) {
			t.Helper()
			out, err := ipmitool(t, port, append([]string{"-C", "17"}, args...)...)
			if err != nil || !regexp.MustCompile(want).MatchString(out) {
				t.Errorf("short records %v: ipmitool %v: %v, want %q:\n%s", short, args, err, want, out)
			}
		}
		tool(`CPU1 Temp +\| 42 degrees C +\| ok\nInlet Temp +\| 23 degrees C +\| ok\n12V +\| 12\.10 Volts +\| ok\nFan 1 +\| 1800 RPM +\| ok\nPower Meter +\| 180 Watts +\| ok\nFan 2 +\| no reading`, "sdr", "list")
		tool(`Upper Critical +: 95`, "sensor", "get", "CPU1 Temp")
		tool(`Entries +: 2`, "sel", "info")
		tool(`03/04/(20)?26 \| 05:06:07.*Temperature #0x01 \| Upper Critical going high \| Asserted\n.*Power Supply #0x05 \| Failure detected (\(\) )?\| Asserted`, "sel", "list")
		tool(`Temperature CPU1 Temp \| Upper Critical`, "sel", "elist")
		tool(`Clearing SEL`, "sel", "clear")
		tool(`Entries +: 0`, "sel", "info")
		if n := len(b.Events()); n != 0 {
			t.Errorf("%d events are left", n)
		}
		tool("indefinite", "chassis", "identify", "force")
		if b.LED() != 255 {
			t.Errorf("the LED burns for %d s", b.LED())
		}
		tool("off", "chassis", "identify", "0")
		if b.LED() != 0 {
			t.Errorf("the LED burns for %d s", b.LED())
		}
	}
}

// TestFlagsExpire takes the boot flags back where no power command follows, unless they are told to stay.
func TestFlagsExpire(t *testing.T) {
	m := &switchBoard{}
	b := New(m, "admin", "secret")
	b.Faults.ClearAfter = 100 * time.Millisecond
	port := serveIPMI(t, b)
	if out, err := ipmitool(t, port, "-C", "17", "chassis", "bootdev", "pxe"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	time.Sleep(400 * time.Millisecond)
	if got := m.nextBoot(); got != " once=false uefi=false" {
		t.Errorf("next boot is %q", got)
	}
	if out, err := ipmitool(t, port, "-C", "17", "chassis", "bootdev", "bios", "clear-cmos=no"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got := m.nextBoot(); got != "setup once=true uefi=false" {
		t.Errorf("next boot is %q", got)
	}
}
