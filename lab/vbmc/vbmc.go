// Package vbmc is a virtual BMC: it speaks IPMI 2.0 and Redfish for a machine of the lab.
package vbmc

import (
	"sync"
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

	machine  Machine
	user     string
	password string

	mu       sync.Mutex
	device   string // "", "pxe", "disk"
	once     bool
	uefi     bool
	sessions map[string]bool // Redfish tokens
}

// New makes the BMC of a machine with one account.
func New(m Machine, user, password string) *BMC {
	return &BMC{machine: m, user: user, password: password, sessions: map[string]bool{}}
}

// setBoot picks the next boot device and remembers it for who asks.
func (b *BMC) setBoot(device string, once, uefi bool) error {
	b.mu.Lock()
	b.device, b.once, b.uefi = device, once, uefi
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

// do carries a power command out.
func (b *BMC) do(action string) error {
	switch action {
	case "on":
		defer b.used()
		return b.machine.PowerOn()
	case "off":
		return b.machine.PowerOff()
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
