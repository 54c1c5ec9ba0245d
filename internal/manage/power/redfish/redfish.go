// Package redfish switches a node's power through its BMC's Redfish service (DMTF DSP0266, DSP0268).
package redfish

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"mimeo/internal/manage/power"
)

// methodTime bounds a method whose context has no deadline and that waits for no power state.
const methodTime = 60 * time.Second

// switchTime bounds one that waits for power states too: a cycle waits for two.
const switchTime = 5 * time.Minute

// Client is a power.Controller. Make one with Open.
type Client struct {
	base  string // scheme and host
	host  string
	o     Options
	http  *http.Client
	turn  chan struct{} // one method at a time
	root  *serviceRoot  // once it was read
	path  string        // of the system; empty until it was looked for
	token string        // of the session; empty means basic authentication
	// session is its URL's path; basic tells that there are no sessions here.
	session string
	basic   bool
}

// Options say how to reach a BMC.
type Options struct {
	URL      string // http or https; with the system's path where there are several: https://HOST/redfish/v1/Systems/2
	User     string
	Password string
	Insecure bool // accept any certificate

	Pause time.Duration // before a request is sent again, at first; 0 means 1 s
	Reach power.Reach   // how long to wait for a power state
}

// Open makes a client; it does not speak to the BMC yet.
func Open(o Options) (*Client, error) {
	c := &Client{o: o, turn: make(chan struct{}, 1)}
	u, err := url.Parse(o.URL)
	if err == nil && (u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
		err = fmt.Errorf("want redfish://ADDRESS")
	}
	if err != nil {
		return nil, &power.Error{Kind: power.ErrRefused, BMC: o.URL, Text: "is no address of a BMC", Hint: "want redfish://ADDRESS or redfish://ADDRESS/redfish/v1/Systems/ID", Cause: err}
	}
	if c.o.Pause == 0 {
		c.o.Pause = time.Second
	}
	c.base, c.host = u.Scheme+"://"+u.Host, u.Hostname()
	if p := strings.TrimRight(u.Path, "/"); p != "" && p != "/redfish" && p != "/redfish/v1" {
		c.path = p
	}
	c.http = &http.Client{
		Timeout: callTime,
		Transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: dialTime}).DialContext,
			TLSClientConfig:     &tls.Config{InsecureSkipVerify: o.Insecure, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout: 2 * dialTime, // slow BMCs take seconds for an RSA key
			MaxConnsPerHost:     2,            // BMCs have few connections
			IdleConnTimeout:     20 * time.Second,
			// HTTP/2 is left out: some BMCs speak it badly, and there is nothing to win.
			TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{},
		},
		// A token must not go to another host.
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > 3 || r.URL.Host != u.Host || r.URL.Scheme != u.Scheme {
				return http.ErrUseLastResponse
			}
			return nil
		},
	}
	return c, nil
}

// system is what is read of a ComputerSystem.
type system struct {
	PowerState string
	Boot       bootOverride
	Actions    struct {
		Reset struct {
			Target string   `json:"target"`
			Types  []string `json:"ResetType@Redfish.AllowableValues"`
			Info   string   `json:"@Redfish.ActionInfo"`
		} `json:"#ComputerSystem.Reset"`
	}
	Settings struct {
		Object link `json:"SettingsObject"`
	} `json:"@Redfish.Settings"`
	LogServices link
	Links       struct{ Chassis, ManagedBy []link }
	ETag        string `json:"@odata.etag"`
}

func (s *system) tag(etag string) { s.ETag = etag }

type link struct {
	ID string `json:"@odata.id"`
}

// serviceRoot is what is read of it.
type serviceRoot struct {
	Systems  link
	Links    struct{ Sessions link }
	Features struct {
		Expand struct{ NoLinks bool } `json:"ExpandQuery"`
	} `json:"ProtocolFeaturesSupported"`
}

// Status asks for the power state.
func (c *Client) Status(ctx context.Context) (st power.State, err error) {
	st = power.StateUnknown
	err = c.alone(ctx, methodTime, func(ctx context.Context) (err error) {
		st, err = c.status(ctx)
		return err
	})
	return st, err
}

// On switches on and waits until the BMC says so.
func (c *Client) On(ctx context.Context) error {
	return c.alone(ctx, switchTime, c.on)
}

// Off cuts the power and waits until the BMC says so.
func (c *Client) Off(ctx context.Context) error {
	return c.alone(ctx, switchTime, c.off)
}

// SoftOff asks the operating system to shut down; it does nothing where the node is off.
func (c *Client) SoftOff(ctx context.Context) error {
	return c.alone(ctx, methodTime, func(ctx context.Context) error {
		if st, err := c.status(ctx); err != nil || st == power.StateOff {
			return err
		}
		return c.reset(ctx, "GracefulShutdown", "PushPowerButton")
	})
}

// Cycle switches off and on, each seen, rather than by the BMC's own PowerCycle: several vendors' answers before the
// machine was off.
func (c *Client) Cycle(ctx context.Context) error {
	return c.alone(ctx, switchTime, func(ctx context.Context) error {
		if err := c.off(ctx); err != nil {
			return err
		}
		return c.on(ctx)
	})
}

// Reset restarts the machine.
func (c *Client) Reset(ctx context.Context) error {
	return c.alone(ctx, switchTime, func(ctx context.Context) error {
		st, err := c.status(ctx)
		if err != nil {
			return err
		}
		if st == power.StateOff {
			return c.errorf(power.ErrState, "cannot reset a node that is off", "switch it on instead", nil)
		}
		if err := c.reset(ctx, "ForceRestart", "PowerCycle"); err != nil {
			return err
		}
		return c.on(ctx)
	})
}

// Close ends the session: BMCs have few.
func (c *Client) Close() error {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	defer c.http.CloseIdleConnections()
	if c.session == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), dialTime)
	defer cancel()
	path := c.session
	c.session = ""
	_, err := c.once(ctx, call{method: http.MethodDelete, path: path}, nil)
	c.token = ""
	return err
}

func (c *Client) on(ctx context.Context) error {
	return c.o.Reach.To(ctx, c.host, power.StateOn, c.status, func(ctx context.Context) error { return c.reset(ctx, "On", "ForceOn") })
}

func (c *Client) off(ctx context.Context) error {
	return c.o.Reach.To(ctx, c.host, power.StateOff, c.status, func(ctx context.Context) error { return c.reset(ctx, "ForceOff") })
}

func (c *Client) status(ctx context.Context) (power.State, error) {
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

// reset sends the first of the reset types that the BMC allows.
func (c *Client) reset(ctx context.Context, types ...string) error {
	s, err := c.system(ctx)
	if err != nil {
		return err
	}
	a := s.Actions.Reset
	if a.Target == "" {
		return c.errorf(power.ErrRefused, "has no reset action for its system", "", nil)
	}
	allowed := a.Types
	if len(allowed) == 0 && a.Info != "" {
		if allowed, err = c.resetTypes(ctx, a.Info); err != nil {
			return err
		}
	}
	for _, t := range types {
		if len(allowed) == 0 || slices.Contains(allowed, t) {
			return c.do(ctx, call{method: http.MethodPost, path: a.Target, in: map[string]string{"ResetType": t}}, nil)
		}
	}
	return c.errorf(power.ErrRefused, fmt.Sprintf("knows none of %s; it allows %s", strings.Join(types, ", "), strings.Join(allowed, ", ")), "", nil)
}

// resetTypes reads the allowed reset types of an ActionInfo (DSP0266 section 7.8).
func (c *Client) resetTypes(ctx context.Context, path string) ([]string, error) {
	var info struct {
		Parameters []struct {
			Name   string
			Values []string `json:"AllowableValues"`
		}
	}
	if err := c.do(ctx, call{method: http.MethodGet, path: path}, &info); err != nil {
		return nil, err
	}
	for _, p := range info.Parameters {
		if p.Name == "ResetType" {
			return p.Values, nil
		}
	}
	return nil, nil
}

// system reads the system; the first time it looks which one there is.
func (c *Client) system(ctx context.Context) (system, error) {
	var s system
	root, err := c.readRoot(ctx)
	if err != nil {
		return s, err
	}
	if c.path == "" {
		var list struct{ Members []link }
		if err := c.do(ctx, call{method: http.MethodGet, path: root.Systems.ID}, &list); err != nil {
			return s, err
		}
		if len(list.Members) != 1 {
			var ids []string
			for _, m := range list.Members[:min(len(list.Members), 20)] {
				ids = append(ids, m.ID)
			}
			return s, c.errorf(power.ErrRefused, fmt.Sprintf("has %d systems: %s", len(list.Members), strings.Join(ids, ", ")), "name one in the BMC's address, as redfish://"+c.host+"/redfish/v1/Systems/ID", nil)
		}
		c.path = list.Members[0].ID
	}
	err = c.do(ctx, call{method: http.MethodGet, path: c.path}, &s)
	return s, err
}

// readRoot reads the service root once. It may be read by everyone (DSP0266 section 13.2.2).
func (c *Client) readRoot(ctx context.Context) (*serviceRoot, error) {
	if c.root != nil {
		return c.root, nil
	}
	var r serviceRoot
	if err := c.do(ctx, call{method: http.MethodGet, path: "/redfish/v1/", open: true}, &r); err != nil {
		return nil, err
	}
	if r.Systems.ID == "" {
		r.Systems.ID = "/redfish/v1/Systems"
	}
	if r.Links.Sessions.ID == "" {
		r.Links.Sessions.ID = "/redfish/v1/SessionService/Sessions"
	}
	c.root = &r
	return c.root, nil
}

// alone runs f when no other method runs, with a deadline where the context has none.
func (c *Client) alone(ctx context.Context, limit time.Duration, f func(context.Context) error) error {
	if _, ok := ctx.Deadline(); !ok && limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
		return f(ctx)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *Client) errorf(kind error, text, hint string, cause error) error {
	return &power.Error{Kind: kind, BMC: c.host, Text: text, Hint: hint, Cause: cause}
}
