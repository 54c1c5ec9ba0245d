package redfish

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"mimeo/internal/manage/power"
)

// maxMembers bounds what is read of a collection.
const maxMembers = 2000

// collection is a Redfish collection (DSP0266 section 9.5); its members may come in pages, and with or without content.
type collection[T any] struct {
	Members []T
	Next    string `json:"Members@odata.nextLink"`
}

// members reads a collection, page by page.
func members[T any](ctx context.Context, c *Client, path string) (out []T, err error) {
	for seen := map[string]bool{}; path != "" && !seen[path] && len(out) < maxMembers; {
		seen[path] = true
		var page collection[T]
		if err := c.do(ctx, call{method: http.MethodGet, path: path}, &page); err != nil {
			return nil, err
		}
		out = append(out, page.Members...)
		path = page.Next
	}
	return out[:min(len(out), maxMembers)], nil
}

// lit is the identify light of a system or chassis: the new property, or the old one.
type lit struct {
	Active *bool   `json:"LocationIndicatorActive"`
	LED    *string `json:"IndicatorLED"`
	ETag   string  `json:"@odata.etag"`
}

func (l *lit) tag(etag string) { l.ETag = etag }

// Identify switches the light by which the machine is found, on the system or, where that has none, on its chassis,
// and reads it back.
func (c *Client) Identify(ctx context.Context, on bool) error {
	return c.alone(ctx, methodTime, func(ctx context.Context) error {
		s, err := c.system(ctx)
		if err != nil {
			return err
		}
		paths := []string{c.path}
		for _, l := range s.Links.Chassis {
			paths = append(paths, l.ID)
		}
		var last error
		for _, path := range paths {
			var now lit
			if err := c.do(ctx, call{method: http.MethodGet, path: path}, &now); err != nil {
				return err
			}
			if now.Active == nil && now.LED == nil {
				continue
			}
			if last = c.light(ctx, path, now, on); !errors.Is(last, power.ErrRefused) {
				return last
			}
		}
		if last != nil {
			return last
		}
		return c.errorf(power.ErrCannot, "has no identify light", "", nil)
	})
}

func (c *Client) light(ctx context.Context, path string, now lit, on bool) error {
	var wish map[string]any
	switch {
	case now.Active != nil:
		wish = map[string]any{"LocationIndicatorActive": on}
	case on:
		wish = map[string]any{"IndicatorLED": "Blinking"}
	default:
		wish = map[string]any{"IndicatorLED": "Off"}
	}
	patch := func() error {
		return c.do(ctx, call{method: http.MethodPatch, path: path, in: wish, etag: now.ETag}, nil)
	}
	err := patch()
	if changed(err) && c.do(ctx, call{method: http.MethodGet, path: path}, &now) == nil {
		err = patch()
	}
	if on && now.Active == nil && errors.Is(err, power.ErrRefused) {
		wish["IndicatorLED"] = "Lit" // some lights only burn
		err = patch()
	}
	if err != nil {
		return err
	}
	var after lit
	if err := c.do(ctx, call{method: http.MethodGet, path: path}, &after); err != nil {
		return err
	}
	burns := after.Active != nil && *after.Active || after.Active == nil && after.LED != nil && slices.Contains([]string{"Lit", "Blinking"}, *after.LED)
	if burns != on {
		return c.errorf(power.ErrState, "took the command for the identify light, and says that nothing changed", "try again: some BMCs take a while", nil)
	}
	return nil
}

// changed tells whether a PATCH was refused because of its ETag.
func changed(err error) bool {
	var status statusError
	return errors.As(err, &status) && (status == http.StatusPreconditionFailed || status == http.StatusPreconditionRequired)
}

// missing tells whether a resource is not there.
func missing(err error) bool {
	var status statusError
	return errors.As(err, &status) && (status == http.StatusNotFound || status == http.StatusGone || status == http.StatusMethodNotAllowed || status == http.StatusNotImplemented)
}

// NextBoot reads the boot source override.
func (c *Client) NextBoot(ctx context.Context) (b power.NextBoot, err error) {
	err = c.alone(ctx, methodTime, func(ctx context.Context) error {
		s, err := c.system(ctx)
		if err != nil || s.Boot.Enabled == "Disabled" || s.Boot.Enabled == "" {
			return err
		}
		for d, names := range targets {
			if slices.Contains(names, s.Boot.Target) {
				b = power.NextBoot{Device: d, Persistent: s.Boot.Enabled == "Continuous", UEFI: s.Boot.Mode == "UEFI", Legacy: s.Boot.Mode == "Legacy", HTTP: s.Boot.Target == "UefiHttp"}
				if d == power.DeviceUEFI {
					b.Path = s.Boot.Path
				}
			}
		}
		return nil
	})
	return b, err
}

// sane makes a BMC's word one that a program can compare.
func sane(s string) string { return strings.ToLower(clip(s)) }
