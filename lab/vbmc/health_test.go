package vbmc

import (
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strings"
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

// TestRedfishHealth judges sensors, event log, identify light and boot devices with OpenStack's client and the DMTF's.
func TestRedfishHealth(t *testing.T) {
	b := New(&switchBoard{}, "admin", "secret")
	b.AddEvent(Event{Time: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC), Severity: "Critical", Text: "the first fan stands still"})
	srv := httptest.NewServer(b.Handler())
	defer srv.Close()
	tool := func(want string, args ...string) {
		t.Helper()
		cmd := exec.Command("redfishtool", append([]string{"-r", strings.TrimPrefix(srv.URL, "http://"), "-u", "admin", "-p", "secret", "-S", "Never", "-A", "Basic"}, args...)...)
		cmd.Env = append(os.Environ(), "PATH=/usr/bin:/bin")
		if out, err := cmd.CombinedOutput(); err != nil || !regexp.MustCompile(want).Match(out) {
			t.Errorf("redfishtool %v: %v, want %q:\n%s", args, err, want, out)
		}
	}
	tool(`"ReadingCelsius": 42`, "Chassis", "-F", "Thermal")
	tool(`"PowerConsumedWatts": 180`, "Chassis", "-F", "Power")
	tool(`"LocationIndicatorActive": false`, "Systems", "-F")
	tool(`(?s)SEL.*the first fan stands still|the first fan stands still`, "raw", "GET", "/redfish/v1/Systems/1/LogServices/SEL/Entries")
	tool(``, "Systems", "setBootOverride", "Once", "BiosSetup")
	if got := b.machine.(*switchBoard).nextBoot(); !strings.HasPrefix(got, "setup once=true") {
		t.Errorf("next boot is %q", got)
	}
	script := fmt.Sprintf(`
import sushy
c = sushy.Sushy(%q, username='admin', password='secret')
s = c.get_system_collection().get_members()[0]
ch = s.chassis[0]
print('thermal', [(x.name, x.reading_celsius) for x in ch.thermal.temperatures], [(x.name, x.reading) for x in ch.thermal.fans])
assert sushy.BOOT_SOURCE_TARGET_UEFI_HTTP in s.get_allowed_system_boot_source_values()
s.set_system_boot_options(target=sushy.BOOT_SOURCE_TARGET_UEFI_HTTP, enabled=sushy.BOOT_SOURCE_ENABLED_CONTINUOUS, mode=sushy.BOOT_SOURCE_MODE_UEFI)
`, srv.URL)
	out, err := exec.Command("/usr/bin/python3", "-W", "ignore", "-c", script).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "('CPU1 Temp', 42") {
		t.Fatalf("sushy: %v\n%s", err, out)
	}
	if got := b.machine.(*switchBoard).nextBoot(); got != "http once=false uefi=true" {
		t.Errorf("next boot is %q", got)
	}
	old := New(&switchBoard{}, "admin", "secret")
	old.Redfish.OldLED = true
	oldSrv := httptest.NewServer(old.Handler())
	defer oldSrv.Close()
	script = fmt.Sprintf(`
import sushy
c = sushy.Sushy(%q, username='admin', password='secret')
ch = c.get_system_collection().get_members()[0].chassis[0]
ch.set_indicator_led(sushy.INDICATOR_LED_BLINKING)
ch.refresh(force=True)
print(ch.indicator_led)
`, oldSrv.URL)
	if out, err := exec.Command("/usr/bin/python3", "-W", "ignore", "-c", script).CombinedOutput(); err != nil || old.LED() != 255 {
		t.Fatalf("sushy: %v, LED %d\n%s", err, old.LED(), out)
	}
}
