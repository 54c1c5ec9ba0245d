package ipmi

import (
	"context"
	"errors"
	"fmt"
	"time"

	"mimeo/internal/manage/power"
)

// Boot option parameters (table 28-14).
const (
	paramSetInProgress = 0
	paramValidClear    = 3
	paramAcknowledge   = 4
	paramBootFlags     = 5
)

// Bits of the boot flags' first byte, and device selectors of its second (bits 5:2).
const (
	flagValid      = 0x80
	flagPersistent = 0x40
	flagUEFI       = 0x20

	deviceMask  = 0x3c
	devicePXE   = 0x1 << 2
	deviceDisk  = 0x2 << 2
	deviceSetup = 0x6 << 2
)

var devices = map[power.Device]byte{power.DevicePXE: devicePXE, power.DeviceDisk: deviceDisk, power.DeviceSetup: deviceSetup}

// SetNextBoot writes the boot flags as 28.12 has it: lock, say that nobody has seen to them yet, write, unlock; then it
// reads them back. Steps that only some BMCs know may fail.
func (c *Client) SetNextBoot(ctx context.Context, b power.NextBoot) error {
	return c.alone(ctx, methodTime, func(ctx context.Context) error { return c.setNextBoot(ctx, b) })
}

func (c *Client) setNextBoot(ctx context.Context, b power.NextBoot) (err error) {
	var flags, device byte
	if b.Device != power.DeviceNone {
		var ok bool
		if device, ok = devices[b.Device]; !ok {
			return c.errorf(power.ErrRefused, fmt.Sprintf("cannot boot from %q", b.Device), "by IPMI a node boots network, disk or setup", nil)
		}
		flags = flagValid
		if b.Persistent {
			flags |= flagPersistent
		}
		if b.UEFI {
			flags |= flagUEFI
		}
	}
	if err := c.lockBoot(ctx); err != nil {
		return err
	}
	defer func() {
		if e := c.setBoot(ctx, paramSetInProgress, 0); err == nil && !optional(e) {
			err = e
		}
	}()
	// Keep the flags when no chassis control follows within 60 s: an operating system may take longer to shut down.
	if err := c.setBoot(ctx, paramValidClear, 0x08); err != nil && !optional(err) {
		return err
	}
	// Nobody has seen to the boot info yet.
	if err := c.setBoot(ctx, paramAcknowledge, 0x1f, 0xff); err != nil && !optional(err) {
		return err
	}
	if err := c.setBoot(ctx, paramBootFlags, flags, device, 0, 0, 0); err != nil {
		return err
	}
	got, err := c.bootFlags(ctx)
	if err != nil {
		if optional(err) {
			return nil // it cannot be asked
		}
		return err
	}
	// The device counts: some BMCs do not give the other flags back, OpenIPMI's among them.
	kept := got[1]&deviceMask == device
	if b.Device == power.DeviceNone {
		kept = kept || got[0]&flagValid == 0
	}
	if !kept {
		return c.errorf(power.ErrRefused, fmt.Sprintf("took the next boot device and does not keep it (flags %#02x %#02x)", got[0], got[1]), "let the node's own boot order name the network first", nil)
	}
	return nil
}

// bootFlags reads the boot flags' five bytes (28.13: version, parameter, flags).
func (c *Client) bootFlags(ctx context.Context) ([]byte, error) {
	got, err := c.command(ctx, "get boot options", fnChassis, cmdGetBootOption, []byte{paramBootFlags, 0, 0})
	if err == nil && (len(got) < 4 || got[1]&0x7f != paramBootFlags) {
		err = c.errorf(power.ErrRefused, "answers nonsense to get boot options", "", nil)
	}
	if err != nil {
		return nil, err
	}
	return got[2:], nil
}

// NextBoot reads the boot flags.
func (c *Client) NextBoot(ctx context.Context) (b power.NextBoot, err error) {
	err = c.alone(ctx, methodTime, func(ctx context.Context) error {
		got, err := c.bootFlags(ctx)
		if err != nil {
			return err
		}
		for d, bits := range devices {
			if got[0]&flagValid != 0 && got[1]&deviceMask == bits {
				b = power.NextBoot{Device: d, Persistent: got[0]&flagPersistent != 0, UEFI: got[0]&flagUEFI != 0, Legacy: got[0]&flagUEFI == 0}
			}
		}
		return nil
	})
	return b, err
}

// lockBoot sets "set in progress". Who left it set will hardly be back: after some tries it is taken over.
func (c *Client) lockBoot(ctx context.Context) error {
	for range 3 {
		err := c.setBoot(ctx, paramSetInProgress, 1)
		if err == nil || !errors.Is(err, codeError(0x81)) {
			if optional(err) {
				return nil
			}
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(c.o.Wait / 2):
		}
	}
	if err := c.setBoot(ctx, paramSetInProgress, 0); err != nil && !optional(err) {
		return err
	}
	if err := c.setBoot(ctx, paramSetInProgress, 1); err != nil && !optional(err) {
		return err
	}
	return nil
}

func (c *Client) setBoot(ctx context.Context, param byte, data ...byte) error {
	_, err := c.command(ctx, "set boot options", fnChassis, cmdSetBootOption, append([]byte{param}, data...))
	return err
}

// optional tells whether a step was only refused, and can be done without.
func optional(err error) bool {
	return err == nil || errors.Is(err, power.ErrRefused) || errors.Is(err, power.ErrBusy)
}
