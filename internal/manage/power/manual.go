package power

import (
	"context"

	"mimeo/internal/cluster/api"
)

// ByHand is the controller of a node without a BMC: its errors (ErrByHand) tell a person what to do.
type ByHand struct{}

func byHand(what string) error {
	return &Error{Kind: ErrByHand, Text: "this node has no BMC: " + what, Hint: `give it one with "mimeo node set NODE bmc=ipmi://ADDRESS bmc.user=USER", if it has one`}
}

// Status is unknown: nobody asks the machine.
func (ByHand) Status(context.Context) (State, error) { return StateUnknown, nil }

// On asks for a person.
func (ByHand) On(context.Context) error { return byHand("switch it on by hand") }

// Off asks for a person.
func (ByHand) Off(context.Context) error { return byHand("switch it off by hand") }

// SoftOff asks for a person.
func (ByHand) SoftOff(context.Context) error { return byHand("shut it down by hand") }

// Cycle asks for a person.
func (ByHand) Cycle(context.Context) error { return byHand("switch it off and on by hand") }

// Reset asks for a person.
func (ByHand) Reset(context.Context) error { return byHand("reset it by hand") }

// SetNextBoot asks for a person.
func (ByHand) SetNextBoot(_ context.Context, b NextBoot) error {
	switch b.Device {
	case DevicePXE:
		return byHand("choose the network in its boot menu, or put it first in its boot order")
	case DeviceDisk:
		return byHand("choose the disk in its boot menu")
	case DeviceSetup:
		return byHand("press the key for its setup when it starts")
	}
	return byHand("set its boot order by hand")
}

// NextBoot is not known.
func (ByHand) NextBoot(context.Context) (NextBoot, error) {
	return NextBoot{}, byHand("look at its boot order by hand")
}

// Identify asks for a person.
func (ByHand) Identify(context.Context, bool) error { return byHand("find it by its label") }

// Sensors asks for a person.
func (ByHand) Sensors(context.Context) ([]api.Sensor, error) {
	return nil, byHand("nobody reads its sensors")
}

// Log asks for a person.
func (ByHand) Log(context.Context) ([]api.LogEntry, error) {
	return nil, byHand("nobody keeps an event log")
}

// ClearLog asks for a person.
func (ByHand) ClearLog(context.Context) error { return byHand("nobody keeps an event log") }

// Close does nothing.
func (ByHand) Close() error { return nil }
