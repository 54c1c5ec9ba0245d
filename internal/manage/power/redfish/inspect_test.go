package redfish

import (
	"errors"
	"fmt"
	"io"
	"net/http"
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

// TestSensors reads them in each of the ways in which BMCs give them.
func TestSensors(t *testing.T) {
	const inOrder = "CPU1 Temp temperature 42°C ok; Inlet Temp temperature 23°C ok; 12V voltage 12.1V ok; Fan 1 fan 1800rpm ok; Power Meter power 180W ok; Fan 2 fan -"
	for ways, want := range map[string]string{
		"":          "CPU1 Temp temperature 42°C ok; Inlet Temp temperature 23°C ok; Fan 1 fan 1800rpm ok; Fan 2 fan -; 12V voltage 12.1V ok; Power Meter power 180W ok",
		"sensors":   inOrder,
		"expand":    inOrder,
		"subsystem": "CPU1 Temp temperature 42°C; Inlet Temp temperature 23°C; Fan 1 fan 1800rpm ok; Fan 2 fan -",
	} {
		_, o := serve(t, powertest.NewMachine(), func(b *vbmc.BMC) { b.Redfish.Sensors = ways })
		list, err := dial(t, o).Sensors(t.Context())
		if got := brief(list); err != nil || got != want {
			t.Errorf("%q: %v\n%s, want\n%s", ways, err, got, want)
		}
	}
	_, o := serve(t, powertest.NewMachine(), func(b *vbmc.BMC) {
		b.Sensors = []vbmc.Sensor{{Name: "Hot", Kind: 1, Unit: 1, Value: 99, Step: 1, High: 95}}
	})
	if list, err := dial(t, o).Sensors(t.Context()); err != nil || brief(list) != "Hot temperature 99°C critical" {
		t.Errorf("%v, %s", err, brief(list))
	}
}

func TestLog(t *testing.T) {
	when := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	for _, ofManager := range []bool{false, true} {
		b, o := serve(t, powertest.NewMachine(), func(b *vbmc.BMC) { b.Redfish.LogOfManager, b.Redfish.SystemID = ofManager, "437XR" })
		c := dial(t, o)
		if list, err := c.Log(t.Context()); err != nil || len(list) != 0 {
			t.Errorf("an empty log: %v, %v", list, err)
		}
		for n := range 5 {
			b.AddEvent(vbmc.Event{Time: when.Add(time.Duration(n) * time.Second), Severity: "Warning", Text: fmt.Sprintf("fan\x1b %d", n)})
		}
		list, err := c.Log(t.Context())
		var out []string
		for _, e := range list {
			out = append(out, strings.Join([]string{e.ID, e.Time.Format(time.TimeOnly), e.Severity, e.Text}, " "))
		}
		want := "1 05:06:07 warning fan 0, 2 05:06:08 warning fan 1, 3 05:06:09 warning fan 2, 4 05:06:10 warning fan 3, 5 05:06:11 warning fan 4"
		if got := strings.Join(out, ", "); err != nil || got != want {
			t.Errorf("of the manager %v: %v, %s, want %s", ofManager, err, got, want)
		}
		if err := c.ClearLog(t.Context()); err != nil || len(b.Events()) != 0 {
			t.Errorf("clear: %v, %d are left", err, len(b.Events()))
		}
	}
}

func TestIdentify(t *testing.T) {
	for _, old := range []bool{false, true} {
		b, o := serve(t, powertest.NewMachine(), func(b *vbmc.BMC) { b.Redfish.OldLED, b.Redfish.NeedETag = old, !old })
		c := dial(t, o)
		for _, on := range []bool{true, false} {
			if err := c.Identify(t.Context(), on); err != nil || (b.LED() != 0) != on {
				t.Errorf("old %v: identify %v: %v, the LED burns for %d s", old, on, err, b.LED())
			}
		}
	}
	// One that takes the command and does nothing, and one without.
	dead := script(t, scripted{"GET /redfish/v1/": says(rootText), "GET /s": says(`{"LocationIndicatorActive": false}`), "PATCH /s": says(`{}`)})
	if err := dial(t, options(dead+"/s")).Identify(t.Context(), true); !errors.Is(err, power.ErrState) {
		t.Errorf("a dead light: %v", err)
	}
	none := script(t, scripted{"GET /redfish/v1/": says(rootText), "GET /s": says(`{}`)})
	if err := dial(t, options(none+"/s")).Identify(t.Context(), true); !errors.Is(err, power.ErrCannot) {
		t.Errorf("no light: %v", err)
	}
	// A light that cannot blink burns.
	var told []string
	led := "Off"
	lit := script(t, scripted{"GET /redfish/v1/": says(rootText),
		"GET /s": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, `{"IndicatorLED": %q}`, led) },
		"PATCH /s": func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			told = append(told, string(b))
			if strings.Contains(string(b), "Blinking") {
				w.WriteHeader(400)
				return
			}
			led = "Lit"
			w.WriteHeader(204)
		}})
	if err := dial(t, options(lit+"/s")).Identify(t.Context(), true); err != nil || len(told) != 2 {
		t.Errorf("a light that cannot blink: %v, %q", err, told)
	}
}

func TestNextBoot(t *testing.T) {
	for _, settings := range []bool{false, true} {
		m := powertest.NewMachine()
		_, o := serve(t, m, func(b *vbmc.BMC) { b.Redfish.SettingsObject = settings })
		c := dial(t, o)
		for _, tc := range []struct {
			ask  power.NextBoot
			want string
		}{
			{power.NextBoot{Device: power.DevicePXE, UEFI: true}, "pxe once uefi"},
			{power.NextBoot{Device: power.DevicePXE, Legacy: true, Persistent: true}, "pxe"},
			{power.NextBoot{Device: power.DevicePXE, UEFI: true, HTTP: true}, "http once uefi"},
			{power.NextBoot{Device: power.DeviceSetup, UEFI: true}, "setup once uefi"},
			{power.NextBoot{Device: power.DeviceUEFI, UEFI: true, Path: "PciRoot(0)/HD(1)"}, "uefi once uefi"},
			{power.NextBoot{}, ""},
		} {
			if err := c.SetNextBoot(t.Context(), tc.ask); err != nil || m.NextBoot() != tc.want {
				t.Errorf("settings %v: %+v: %v, the machine was told %q, want %q", settings, tc.ask, err, m.NextBoot(), tc.want)
			}
			got, err := c.NextBoot(t.Context())
			if tc.ask.Device == power.DeviceNone {
				got.UEFI, got.Legacy = false, false
			}
			if err != nil || got != tc.ask {
				t.Errorf("settings %v: it says %+v, %v; want %+v", settings, got, err, tc.ask)
			}
		}
	}
}

// TestNotKept: a BMC that takes the next boot and does not keep it.
func TestNotKept(t *testing.T) {
	_, o := serve(t, powertest.NewMachine(), func(b *vbmc.BMC) { b.Faults.NotSetBoot = true })
	err := dial(t, o).SetNextBoot(t.Context(), power.NextBoot{Device: power.DevicePXE})
	if !errors.Is(err, power.ErrRefused) || !strings.Contains(err.Error(), "still says") {
		t.Errorf("%v", err)
	}
}
