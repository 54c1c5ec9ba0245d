// Package power turns nodes on and off, picks their next boot device, and reads their sensors and event logs.
package power

import (
	"context"

	"mimeo/internal/cluster/api"
)

// State is what a BMC says of a node's power.
type State string

// The power states.
const (
	StateOn      State = "on"
	StateOff     State = "off"
	StateUnknown State = "unknown"
)

// Device is a boot device.
type Device string

// The boot devices.
const (
	DeviceNone  Device = ""    // leave it to the firmware's own order
	DevicePXE   Device = "pxe" // network
	DeviceDisk  Device = "disk"
	DeviceSetup Device = "setup" // the firmware's own menus
	DeviceUEFI  Device = "uefi"  // the one at NextBoot.Path
)

// NextBoot is a wish for the next boot.
type NextBoot struct {
	Device     Device
	Persistent bool   // stays; otherwise for one boot
	UEFI       bool   // ask for a UEFI boot where the BMC tells the two apart
	Legacy     bool   // ask for a BIOS boot likewise; with neither, the kind of boot is left alone where that can be
	HTTP       bool   // by HTTP rather than TFTP, where the BMC tells the two apart; for DevicePXE with UEFI
	Path       string // UEFI device path; for DeviceUEFI
}

// Controller switches one node's power. Each method returns when the BMC says that the new state is reached, or with
// an error that names the BMC (see Error). Its methods may be called from several goroutines; calls to one BMC happen
// one by one. Where the context has no deadline, each method has one of its own. What a node's controller cannot do at
// all is an error of the kind ErrCannot; what it did without being able to tell what came of it, one of ErrSent.
type Controller interface {
	Status(ctx context.Context) (State, error)
	On(ctx context.Context) error
	Off(ctx context.Context) error     // at once
	SoftOff(ctx context.Context) error // asks the operating system; returns when asked
	Cycle(ctx context.Context) error   // off and on; on where it was off
	Reset(ctx context.Context) error   // an error where it is off
	SetNextBoot(ctx context.Context, b NextBoot) error
	NextBoot(ctx context.Context) (NextBoot, error)    // as the BMC has it
	Identify(ctx context.Context, on bool) error       // the light by which a person finds the machine
	Sensors(ctx context.Context) ([]api.Sensor, error) // in the BMC's order
	Log(ctx context.Context) ([]api.LogEntry, error)   // oldest first
	ClearLog(ctx context.Context) error
	Close() error
}
