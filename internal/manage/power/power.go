// Package power turns nodes on and off and picks their next boot device.
package power

import "context"

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
	DeviceNone Device = ""    // leave it to the firmware's own order
	DevicePXE  Device = "pxe" // network
	DeviceDisk Device = "disk"
)

// NextBoot is a wish for the next boot.
type NextBoot struct {
	Device     Device
	Persistent bool // stays; otherwise for one boot
	UEFI       bool // ask for a UEFI boot where the BMC tells the two apart
}

// Controller switches one node's power. Each method returns when the BMC says that the new state is reached, or with
// an error that names the BMC (see Error). Its methods may be called from several goroutines; calls to one BMC happen
// one by one. Where the context has no deadline, each method has one of its own.
type Controller interface {
	Status(ctx context.Context) (State, error)
	On(ctx context.Context) error
	Off(ctx context.Context) error     // at once
	SoftOff(ctx context.Context) error // asks the operating system; returns when asked
	Cycle(ctx context.Context) error   // off and on; on where it was off
	Reset(ctx context.Context) error   // an error where it is off
	SetNextBoot(ctx context.Context, b NextBoot) error
	Close() error
}
