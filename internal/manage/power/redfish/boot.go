package redfish

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"mimeo/internal/manage/power"
)

// bootOverride is the Boot property of a ComputerSystem (DSP0268).
type bootOverride struct {
	Enabled  string   `json:"BootSourceOverrideEnabled"`
	Enableds []string `json:"BootSourceOverrideEnabled@Redfish.AllowableValues"`
	Target   string   `json:"BootSourceOverrideTarget"`
	Targets  []string `json:"BootSourceOverrideTarget@Redfish.AllowableValues"`
	Mode     string   `json:"BootSourceOverrideMode"`
	Path     string   `json:"UefiTargetBootSourceOverride"`
}

// targets are Redfish's words for the devices, the usual one first.
var targets = map[power.Device][]string{power.DevicePXE: {"Pxe", "UefiHttp"}, power.DeviceDisk: {"Hdd"}, power.DeviceSetup: {"BiosSetup"}, power.DeviceUEFI: {"UefiTarget"}}

const orderHint = "let the node's own boot order name the network first"

// SetNextBoot sets the boot source override, and reads it back.
func (c *Client) SetNextBoot(ctx context.Context, b power.NextBoot) error {
	return c.alone(ctx, methodTime, func(ctx context.Context) error { return c.setNextBoot(ctx, b) })
}

func (c *Client) setNextBoot(ctx context.Context, b power.NextBoot) error {
	s, err := c.system(ctx)
	if err != nil {
		return err
	}
	want, err := c.override(s.Boot, b)
	if err != nil {
		return err
	}
	at, err := c.patchBoot(ctx, s, want)
	if err != nil {
		return err
	}
	var after system
	if at == c.path {
		after, err = c.system(ctx)
	} else { // what is to become of it at the next start
		err = c.do(ctx, call{method: http.MethodGet, path: at}, &after)
	}
	if err != nil {
		return err
	}
	t, disabled := after.Boot.Target, after.Boot.Enabled == "Disabled"
	if b.Device == power.DeviceNone && !disabled && t != "" && t != "None" || b.Device != power.DeviceNone && (t != "" && t != want["BootSourceOverrideTarget"] || disabled) {
		return c.errorf(power.ErrRefused, fmt.Sprintf("took the next boot device and still says %q, %s", t, after.Boot.Enabled), orderHint, nil)
	}
	return nil
}

// override is what to ask for. The kind of boot is left alone unless one is wanted: a node whose firmware is not known
// yet must not be pushed into a legacy boot that it may not have.
func (c *Client) override(now bootOverride, b power.NextBoot) (map[string]string, error) {
	if b.Device == power.DeviceNone {
		return map[string]string{"BootSourceOverrideEnabled": "Disabled", "BootSourceOverrideTarget": "None"}, nil
	}
	names, ok := targets[b.Device]
	if !ok {
		return nil, c.errorf(power.ErrRefused, fmt.Sprintf("cannot boot from %q", b.Device), "want network, disk, setup or uefi:PATH", nil)
	}
	target := names[0]
	if b.Device == power.DevicePXE && b.HTTP && slices.Contains(now.Targets, "UefiHttp") {
		target = "UefiHttp"
	}
	if len(now.Targets) > 0 && !slices.Contains(now.Targets, target) {
		return nil, c.errorf(power.ErrRefused, fmt.Sprintf("cannot boot from %s: it knows %s", target, strings.Join(now.Targets, ", ")), orderHint, nil)
	}
	enabled := "Once"
	if b.Persistent {
		enabled = "Continuous"
	}
	if len(now.Enableds) > 0 && !slices.Contains(now.Enableds, enabled) {
		return nil, c.errorf(power.ErrRefused, fmt.Sprintf("knows no boot override %s, only %s", enabled, strings.Join(now.Enableds, ", ")), orderHint, nil)
	}
	want := map[string]string{"BootSourceOverrideEnabled": enabled, "BootSourceOverrideTarget": target}
	switch {
	case b.UEFI && now.Mode != "":
		want["BootSourceOverrideMode"] = "UEFI"
	case b.Legacy && now.Mode != "":
		want["BootSourceOverrideMode"] = "Legacy"
	}
	if b.Device == power.DeviceUEFI {
		want["UefiTargetBootSourceOverride"] = b.Path
	}
	return want, nil
}

// patchBoot writes the override and tells where: to the system, or to its settings object (DSP0266 section 9.10) where
// the system itself takes no changes. Where both refuse, it goes without the mode, which is read-only on some.
func (c *Client) patchBoot(ctx context.Context, s system, want map[string]string) (at string, err error) {
	patch := func(path, etag string) error {
		return c.do(ctx, call{method: http.MethodPatch, path: path, in: map[string]any{"Boot": want}, etag: etag}, nil)
	}
	for {
		first := c.patchFresh(ctx, s, patch)
		if !errors.Is(first, power.ErrRefused) {
			return c.path, first
		}
		if p := s.Settings.Object.ID; p != "" && p != c.path {
			var pending system
			if e := c.do(ctx, call{method: http.MethodGet, path: p}, &pending); e == nil && patch(p, pending.ETag) == nil {
				return p, nil
			}
		}
		if err == nil {
			err = first
		}
		if _, has := want["BootSourceOverrideMode"]; !has {
			return c.path, err
		}
		delete(want, "BootSourceOverrideMode")
	}
}

// patchFresh patches the system with the ETag that it was read with. Where the system has changed meanwhile, it reads
// it anew.
func (c *Client) patchFresh(ctx context.Context, s system, patch func(path, etag string) error) error {
	err := patch(c.path, s.ETag)
	if changed(err) {
		if s, e := c.system(ctx); e == nil {
			return patch(c.path, s.ETag)
		}
	}
	return err
}
