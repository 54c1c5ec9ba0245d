// Package redfish switches a node's power through its BMC's Redfish service (DMTF DSP0266, DSP0268).
package redfish

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/manage/power"
)

const (
	maxBody  = 4 << 20 // of an answer; a large system's is some 50 KiB
	callTime = 30 * time.Second
	stateFor = 90 * time.Second // for a new power state to show
	tries    = 3                // of a call that failed on the way
)

// Client is a power.Controller. Make one with Open.
type Client struct {
	base     string
	host     string
	user     string
	password string
	http     *http.Client
	token    string // of the session; empty means basic authentication
	session  string // its URL
	path     string // of the system
}

// Options say how to reach a BMC.
type Options struct {
	URL      string // http or https, with the system's path where there are several: https://HOST/redfish/v1/Systems/2
	User     string
	Password string
	Insecure bool // accept any certificate
}

// Open makes a client; it does not speak to the BMC yet.
func Open(o Options) (*Client, error) {
	u, err := url.Parse(o.URL)
	if err != nil {
		return nil, fmt.Errorf("BMC address: %w", err)
	}
	tr := http.DefaultTransport.(*http.Transport).Clone()
	tr.Proxy = nil
	tr.DisableKeepAlives = true // BMCs have few connections, and drop idle ones without a word
	tr.TLSClientConfig = &tls.Config{InsecureSkipVerify: o.Insecure, MinVersion: tls.VersionTLS12}
	return &Client{base: u.Scheme + "://" + u.Host, host: u.Hostname(), user: o.User, password: o.Password, path: strings.TrimRight(u.Path, "/"),
		http: &http.Client{Transport: tr, Timeout: callTime}}, nil
}

// system is what is read of a ComputerSystem.
type system struct {
	PowerState string
	Boot       struct {
		Enabled string   `json:"BootSourceOverrideEnabled"`
		Target  string   `json:"BootSourceOverrideTarget"`
		Targets []string `json:"BootSourceOverrideTarget@Redfish.AllowableValues"`
		Mode    string   `json:"BootSourceOverrideMode"`
	}
	Actions struct {
		Reset struct {
			Target string   `json:"target"`
			Types  []string `json:"ResetType@Redfish.AllowableValues"`
			Info   string   `json:"@Redfish.ActionInfo"`
		} `json:"#ComputerSystem.Reset"`
	}
	etag string
}

// Status asks for the power state.
func (c *Client) Status(ctx context.Context) (power.State, error) {
	s, err := c.system(ctx)
	if err != nil {
		return power.StateUnknown, err
	}
	switch s.PowerState {
	case "On", "PoweringOff":
		return power.StateOn, nil
	case "Off", "PoweringOn":
		return power.StateOff, nil
	}
	return power.StateUnknown, nil
}

// On switches on and waits until the BMC says so.
func (c *Client) On(ctx context.Context) error {
	return c.switchTo(ctx, power.StateOn, "On", "ForceOn")
}

// Off cuts the power and waits until the BMC says so.
func (c *Client) Off(ctx context.Context) error {
	return c.switchTo(ctx, power.StateOff, "ForceOff")
}

func (c *Client) switchTo(ctx context.Context, want power.State, types ...string) error {
	if st, err := c.Status(ctx); err != nil || st == want {
		return err
	}
	if err := c.reset(ctx, types...); err != nil {
		return err
	}
	return c.wait(ctx, want)
}

// SoftOff asks the operating system to shut down.
func (c *Client) SoftOff(ctx context.Context) error {
	return c.reset(ctx, "GracefulShutdown", "PushPowerButton")
}

// Cycle switches off and on; on where it was off. Off and on, each seen, rather than the BMC's own PowerCycle: several
// vendors' answer before the machine was off.
func (c *Client) Cycle(ctx context.Context) error {
	if err := c.Off(ctx); err != nil {
		return err
	}
	return c.On(ctx)
}

// Reset restarts the machine.
func (c *Client) Reset(ctx context.Context) error {
	if err := c.reset(ctx, "ForceRestart", "PowerCycle"); err != nil {
		return err
	}
	return c.wait(ctx, power.StateOn)
}

// SetNextBoot sets the boot source override. Modes that the BMC does not want to hear of are left out.
func (c *Client) SetNextBoot(ctx context.Context, b power.NextBoot) error {
	s, err := c.system(ctx)
	if err != nil {
		return err
	}
	want := map[string]string{"BootSourceOverrideEnabled": "Disabled", "BootSourceOverrideTarget": "None"}
	if b.Device != power.DeviceNone {
		target := map[power.Device]string{power.DevicePXE: "Pxe", power.DeviceDisk: "Hdd"}[b.Device]
		if len(s.Boot.Targets) > 0 && !slices.Contains(s.Boot.Targets, target) {
			return c.errorf("refused", fmt.Sprintf("cannot boot from %s: it knows %s", target, strings.Join(s.Boot.Targets, ", ")), "let the node's own boot order name the network first")
		}
		want["BootSourceOverrideTarget"], want["BootSourceOverrideEnabled"] = target, "Once"
		if b.Persistent {
			want["BootSourceOverrideEnabled"] = "Continuous"
		}
		if s.Boot.Mode != "" {
			want["BootSourceOverrideMode"] = "Legacy"
			if b.UEFI {
				want["BootSourceOverrideMode"] = "UEFI"
			}
		}
	}
	patch := func() error {
		return c.call(ctx, http.MethodPatch, c.path, map[string]any{"Boot": want}, s.etag, nil)
	}
	err = patch()
	if _, hasMode := want["BootSourceOverrideMode"]; err != nil && hasMode {
		delete(want, "BootSourceOverrideMode") // read-only on many
		err = patch()
	}
	if err != nil {
		return err
	}
	after, err := c.system(ctx)
	if err != nil {
		return err
	}
	if after.Boot.Target != "" && b.Device != power.DeviceNone && after.Boot.Target != want["BootSourceOverrideTarget"] {
		return c.errorf("refused", fmt.Sprintf("took the next boot device and still says %q", after.Boot.Target), "let the node's own boot order name the network first")
	}
	return nil
}

// Close ends the session: BMCs have few.
func (c *Client) Close() error {
	defer c.http.CloseIdleConnections()
	if c.session == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := c.call(ctx, http.MethodDelete, c.session, nil, "", nil)
	c.session, c.token = "", ""
	return err
}

// wait polls until the BMC says the wanted state.
func (c *Client) wait(ctx context.Context, want power.State) error {
	ctx, cancel := context.WithTimeout(ctx, stateFor)
	defer cancel()
	for pause := 200 * time.Millisecond; ; pause = min(2*pause, 3*time.Second) {
		st, err := c.Status(ctx)
		if err == nil && st == want {
			return nil
		}
		select {
		case <-ctx.Done():
			if err == nil {
				err = fmt.Errorf("it says %s", st)
			}
			return c.errorf("power", fmt.Sprintf("did not come to power state %s: %v", want, err), "look at the BMC's own page")
		case <-time.After(pause):
		}
	}
}

// reset sends the first of the reset types that the BMC allows.
func (c *Client) reset(ctx context.Context, types ...string) error {
	s, err := c.system(ctx)
	if err != nil {
		return err
	}
	a := s.Actions.Reset
	if a.Target == "" {
		return c.errorf("refused", "has no reset action for its system", "")
	}
	allowed := a.Types
	if len(allowed) == 0 && a.Info != "" {
		var info struct {
			Parameters []struct {
				Name   string
				Values []string `json:"AllowableValues"`
			}
		}
		if err := c.call(ctx, http.MethodGet, a.Info, nil, "", &info); err != nil {
			return err
		}
		for _, p := range info.Parameters {
			if p.Name == "ResetType" {
				allowed = p.Values
			}
		}
	}
	for _, t := range types {
		if len(allowed) == 0 || slices.Contains(allowed, t) {
			return c.call(ctx, http.MethodPost, a.Target, map[string]string{"ResetType": t}, "", nil)
		}
	}
	return c.errorf("refused", fmt.Sprintf("knows none of %s; it allows %s", strings.Join(types, ", "), strings.Join(allowed, ", ")), "")
}

// system reads the system; the first time it looks which one there is.
func (c *Client) system(ctx context.Context) (system, error) {
	var s system
	if err := c.signIn(ctx); err != nil {
		return s, err
	}
	if c.path == "" || c.path == "/redfish/v1" {
		var list struct {
			Members []struct {
				ID string `json:"@odata.id"`
			}
		}
		if err := c.call(ctx, http.MethodGet, "/redfish/v1/Systems", nil, "", &list); err != nil {
			return s, err
		}
		if len(list.Members) != 1 {
			var ids []string
			for _, m := range list.Members {
				ids = append(ids, m.ID)
			}
			return s, c.errorf("refused", fmt.Sprintf("has %d systems: %s", len(ids), strings.Join(ids, ", ")), "name one in the BMC's address: redfish://"+c.host+"/redfish/v1/Systems/ID")
		}
		c.path = list.Members[0].ID
	}
	err := c.call(ctx, http.MethodGet, c.path, nil, "", &s)
	return s, err
}

// signIn opens a session once. A BMC without a session service gets basic authentication.
func (c *Client) signIn(ctx context.Context) error {
	if c.token != "" || c.session != "" || c.user == "" {
		return nil
	}
	resp, err := c.send(ctx, http.MethodPost, "/redfish/v1/SessionService/Sessions", map[string]string{"UserName": c.user, "Password": c.password}, "")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusUnauthorized, resp.StatusCode == http.StatusForbidden:
		return c.refused()
	case resp.StatusCode/100 != 2 || resp.Header.Get("X-Auth-Token") == "":
		return nil
	}
	c.token = resp.Header.Get("X-Auth-Token")
	if u, err := url.Parse(resp.Header.Get("Location")); err == nil {
		c.session = u.Path
	}
	return nil
}

// call sends a request and reads its answer. What failed on the way is tried again; every request here may be sent
// twice.
func (c *Client) call(ctx context.Context, method, path string, in any, etag string, out any) (err error) {
	for try := range tries {
		if try > 0 {
			select {
			case <-ctx.Done():
				return err
			case <-time.After(time.Duration(try) * time.Second):
			}
		}
		var again bool
		if again, err = c.once(ctx, method, path, in, etag, out); !again {
			return err
		}
	}
	return err
}

func (c *Client) once(ctx context.Context, method, path string, in any, etag string, out any) (again bool, err error) {
	resp, err := c.send(ctx, method, path, in, etag)
	if err != nil {
		return ctx.Err() == nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	switch {
	case resp.StatusCode == http.StatusUnauthorized && c.token != "":
		c.token, c.session = "", "" // the session has expired
		if err := c.signIn(ctx); err != nil {
			return false, err
		}
		return true, c.refused()
	case resp.StatusCode == http.StatusUnauthorized, resp.StatusCode == http.StatusForbidden:
		return false, c.refused()
	case resp.StatusCode >= 500:
		return true, c.errorf("power", fmt.Sprintf("answers %s to %s %s: %s", resp.Status, method, path, message(body)), "")
	case resp.StatusCode/100 != 2:
		return false, c.errorf("refused", fmt.Sprintf("answers %s to %s %s: %s", resp.Status, method, path, message(body)), "")
	case err != nil:
		return true, c.errorf("power", fmt.Sprintf("answer to %s %s broke off: %v", method, path, err), "")
	case out == nil:
		return false, nil // 202 with a task as well: the caller looks at the state itself
	}
	if err := json.Unmarshal(body, out); err != nil {
		return false, c.errorf("power", fmt.Sprintf("answer to %s %s is no JSON: %v", method, path, err), "")
	}
	if s, ok := out.(*system); ok {
		s.etag = resp.Header.Get("ETag")
	}
	return false, nil
}

func (c *Client) send(ctx context.Context, method, path string, in any, etag string) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	if !strings.HasPrefix(path, "/") {
		return nil, c.errorf("power", fmt.Sprintf("names the path %q, which is none", path), "")
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("OData-Version", "4.0")
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if etag != "" {
		req.Header.Set("If-Match", etag)
	}
	if c.token != "" {
		req.Header.Set("X-Auth-Token", c.token)
	} else if c.user != "" {
		req.SetBasicAuth(c.user, c.password)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		cause := err
		for errors.Unwrap(cause) != nil {
			cause = errors.Unwrap(cause)
		}
		hint := "see whether its address is right and can be reached from here"
		if strings.Contains(err.Error(), "x509") || strings.Contains(err.Error(), "certificate") {
			hint = "nobody signed its certificate; set bmc.insecure=true to accept it all the same"
		}
		return nil, c.errorf("unreachable", fmt.Sprintf("cannot be reached: %v", cause), hint)
	}
	return resp, nil
}

func (c *Client) refused() error {
	return c.errorf("denied", fmt.Sprintf("refused user %q", c.user), `set the account with "mimeo node set NODE bmc.user=USER" and "--password-stdin", then try again`)
}

func (c *Client) errorf(code, text, hint string) error {
	return &api.Error{Code: code, Message: "BMC " + c.host + " " + text, Hint: hint}
}

// message takes the words out of a Redfish error (DSP0266 section 8.6).
func message(body []byte) string {
	var e struct {
		Error struct {
			Message string
			Info    []struct{ Message string } `json:"@Message.ExtendedInfo"`
		}
	}
	if json.Unmarshal(body, &e) == nil {
		for _, i := range e.Error.Info {
			if i.Message != "" {
				return i.Message
			}
		}
		if e.Error.Message != "" {
			return e.Error.Message
		}
	}
	return strings.TrimSpace(string(body[:min(len(body), 200)]))
}
