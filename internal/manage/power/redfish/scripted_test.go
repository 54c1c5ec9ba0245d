package redfish

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"mimeo/internal/manage/power"
	"mimeo/internal/manage/power/powertest"
)

// TestModeIsLeftAlone: a node whose firmware is not known is not pushed into a legacy boot.
func TestModeIsLeftAlone(t *testing.T) {
	m := powertest.NewMachine()
	_, o := serve(t, m, nil)
	c := dial(t, o)
	for _, boot := range []power.NextBoot{{Device: power.DeviceDisk, UEFI: true}, {Device: power.DevicePXE}} {
		if err := c.SetNextBoot(context.Background(), boot); err != nil {
			t.Fatal(err)
		}
	}
	if m.NextBoot() != "pxe once uefi" {
		t.Errorf("the machine was told %q", m.NextBoot())
	}
}

// scripted is a BMC that answers by the method and path that it is asked for.
type scripted map[string]func(w http.ResponseWriter, r *http.Request)

func (s scripted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if f, ok := s[r.Method+" "+r.URL.Path]; ok {
		f(w, r)
		return
	}
	w.WriteHeader(http.StatusNotFound)
}

func says(body string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, body) }
}

func script(t *testing.T, s scripted) (url string) {
	t.Helper()
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	return srv.URL
}

const rootText = `{"Systems": {"@odata.id": "/redfish/v1/Systems"}, "Links": {"Sessions": {"@odata.id": "/redfish/v1/Sessions"}}}`

func TestTaskFails(t *testing.T) {
	for _, tc := range []struct {
		name, state, want string
		kind              error
	}{
		{"exception", `{"TaskState": "Exception", "Messages": [{"Message": "the supply\nis \u001b[31mbroken"}]}`, "gave the task up (Exception): the supply is [31mbroken", power.ErrRefused},
		{"endless", `{"TaskState": "Running"}`, "does not end its task", power.ErrState},
	} {
		t.Run(tc.name, func(t *testing.T) {
			url := script(t, scripted{
				"GET /redfish/v1/":        says(rootText),
				"GET /redfish/v1/Systems": says(`{"Members": [{"@odata.id": "/s"}]}`),
				"GET /s":                  says(`{"PowerState": "Off", "Actions": {"#ComputerSystem.Reset": {"target": "/s/reset"}}}`),
				"POST /s/reset":           func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Location", "/t"); w.WriteHeader(202) },
				"GET /t":                  says(tc.state),
			})
			ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
			defer cancel()
			if err := dial(t, options(url)).On(ctx); !errors.Is(err, tc.kind) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %v with %q", err, tc.kind, tc.want)
			}
		})
	}
}

// TestSettingsObject: some BMCs take changes at another place, for the next boot.
func TestSettingsObject(t *testing.T) {
	var got, match string
	url := script(t, scripted{
		"GET /redfish/v1/": says(rootText),
		"GET /s":           says(`{"PowerState": "On", "Boot": {"BootSourceOverrideTarget": "None"}, "@Redfish.Settings": {"SettingsObject": {"@odata.id": "/s/settings"}}}`),
		"PATCH /s":         func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(405) },
		"GET /s/settings":  says(`{"@odata.etag": "\"7\"", "Boot": {}}`),
		"PATCH /s/settings": func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			got, match = string(b), r.Header.Get("If-Match")
			w.WriteHeader(204)
		},
	})
	c := dial(t, options(url+"/s"))
	if err := c.SetNextBoot(context.Background(), power.NextBoot{Device: power.DevicePXE}); err != nil {
		t.Fatal(err)
	}
	if got != `{"Boot":{"BootSourceOverrideEnabled":"Once","BootSourceOverrideTarget":"Pxe"}}` || match != `"7"` {
		t.Errorf("the settings were told %s, If-Match %s", got, match)
	}
}

func TestMessage(t *testing.T) {
	for _, tc := range []struct{ body, text, resolution string }{
		{`{"error": {"message": "general", "@Message.ExtendedInfo": [{"Message": "fan missing", "Resolution": "insert a fan"}]}}`, "fan missing", "insert a fan"},
		{`{"error": {"message": "general", "@Message.ExtendedInfo": [{"Message": "x", "Resolution": "None."}]}}`, "x", ""},
		{`{"error": {"message": "general"}}`, "general", ""},
		{"<b>no</b>\x1b]0;title\x07", "<b>no</b> ]0;title", ""},
		{"", "nothing said", ""},
	} {
		if text, res := message([]byte(tc.body)); text != tc.text || res != tc.resolution {
			t.Errorf("%s: %q, %q", tc.body, text, res)
		}
	}
}

func FuzzAnswers(f *testing.F) {
	f.Add([]byte(rootText), []byte(`{"Members": [{"@odata.id": "/s"}]}`), uint16(200))
	f.Add([]byte(`{"PowerState": "Off", "Actions": {"#ComputerSystem.Reset": {"target": "/s/reset", "@Redfish.ActionInfo": "/i"}}}`), []byte(`{"TaskState": "Running"}`), uint16(202))
	f.Add([]byte(`{"error": {"@Message.ExtendedInfo": [{"Message": "x"}]}}`), []byte{}, uint16(503))
	f.Fuzz(func(t *testing.T, first, later []byte, status uint16) {
		n := 0
		c, err := Open(options("http://bmc/"))
		if err != nil {
			t.Fatal(err)
		}
		c.o.Pause = time.Microsecond
		c.o.Reach = power.Reach{Within: 2 * time.Millisecond, Again: time.Millisecond, Poll: time.Microsecond}
		c.http.Transport = trip(func(r *http.Request) (*http.Response, error) {
			if r.URL.Host != "bmc" {
				t.Fatalf("asked %s", r.URL)
			}
			rec := httptest.NewRecorder()
			n++
			if n%2 == 0 {
				rec.WriteHeader(200 + int(status)%400)
				rec.Write(later)
			} else {
				rec.Write(first)
			}
			return rec.Result(), nil
		})
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
		defer cancel()
		c.Status(ctx)
		c.On(ctx)
		c.SetNextBoot(ctx, power.NextBoot{Device: power.DevicePXE, UEFI: true})
		c.Sensors(ctx)
		c.Log(ctx)
		c.Identify(ctx, true)
		c.Close()
		message(later)
	})
}

type trip func(*http.Request) (*http.Response, error)

func (f trip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
