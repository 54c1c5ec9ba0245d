// Package vbmc is a virtual BMC: it speaks IPMI 2.0 and Redfish for a machine of the lab.
package vbmc

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// Machine is what a BMC switches.
type Machine interface {
	Power() bool
	PowerOn() error
	PowerOff() error // at once
	Reset() error
	SoftOff() error // asks the operating system
	SetNextBoot(device string, once, uefi bool) error
}

// BMC is the controller of one machine. Its knobs must be set before it serves.
type BMC struct {
	Latency time.Duration // before each answer
	Suites  []int         // IPMI cipher suites; nil means 3 and 17
	Faults  Faults
	Redfish RedfishWays
	Sensors []Sensor // nil means some usual ones
	// Serial opens the machine's serial port, for Serial over LAN; nil means that there is none. It is opened again where
	// it ends, as with a machine that is off.
	Serial func(context.Context) (io.ReadWriteCloser, error)

	machine  Machine
	user     string
	password string

	mu       sync.Mutex
	events   []Event
	device   string // "", "pxe", "disk", "setup"
	path     string // UEFI device path; for "uefi"
	once     bool
	uefi     bool
	led      byte            // seconds for which the identify LED was asked for; 255 means until told otherwise
	sessions map[string]bool // Redfish tokens
	tasks    []*error        // Redfish tasks; nil while they run, then what came of them

	shown      bool // power state that is told until shownUntil
	shownUntil time.Time

	switching sync.Mutex // held by one power command at a time
	gone      atomic.Bool
	epoch     atomic.Int64 // counts what LoseSessions did
	commands  atomic.Int64 // power commands so far
	breaks    atomic.Int64
}

// New makes the BMC of a machine with one account.
func New(m Machine, user, password string) *BMC {
	return &BMC{machine: m, user: user, password: password, sessions: map[string]bool{}}
}

// setBoot picks the next boot device and remembers it for who asks.
func (b *BMC) setBoot(device string, once, uefi bool) error {
	if b.Faults.NotSetBoot {
		return nil
	}
	b.mu.Lock()
	b.device, b.once, b.uefi = device, once, uefi && !b.Faults.NotKeepUEFI
	b.mu.Unlock()
	return b.machine.SetNextBoot(device, once, uefi)
}

// used forgets a choice that was for one boot.
func (b *BMC) used() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.once {
		b.device, b.once = "", false
	}
}

// LED tells for how many seconds the identify LED was last asked for; 255 means until told otherwise.
func (b *BMC) LED() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return int(b.led)
}

var (
	errBusy = errors.New("the BMC is busy")
	errOff  = errors.New("the machine is off")
)

// do carries a power command out. Cycle and reset want a machine that is on, as with most BMCs.
func (b *BMC) do(action string) error {
	if b.busy() {
		return errBusy
	}
	b.switching.Lock()
	defer b.switching.Unlock()
	on := b.machine.Power()
	if action != "soft" {
		b.lagging(b.power())
	}
	switch action {
	case "on":
		if on {
			return nil
		}
		defer b.used()
		return b.machine.PowerOn()
	case "off":
		return b.machine.PowerOff()
	}
	if !on {
		return errOff
	}
	switch action {
	case "cycle":
		if err := b.machine.PowerOff(); err != nil {
			return err
		}
		defer b.used()
		return b.machine.PowerOn()
	case "reset":
		defer b.used()
		return b.machine.Reset()
	}
	return b.machine.SoftOff()
}
