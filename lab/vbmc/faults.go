package vbmc

import (
	"context"
	"net"
	"sync/atomic"
	"time"
)

// Faults are what a BMC does wrong. They must be set before it serves.
type Faults struct {
	DropEvery  int           // of the IPMI packets, both ways together, each n-th is lost; 0 loses none
	Lag        time.Duration // after a power command, until the new state shows
	NotSetBoot bool          // the next boot device is taken, and not kept
	BusyFirst  int           // this many power commands are answered with "busy" first

	NotKeepUEFI  bool          // the next boot is kept, and that it shall be by UEFI is not
	ShortRecords bool          // sensor records are given in pieces only
	ClearAfter   time.Duration // the boot flags are cleared where no power command follows within it, unless told otherwise; 0 means never
}

// SetGone makes the BMC deaf and mute, or ends that: one without power or network.
func (b *BMC) SetGone(gone bool) { b.gone.Store(gone) }

// LoseSessions forgets all IPMI and Redfish sessions, as a BMC that restarts does.
func (b *BMC) LoseSessions() {
	b.mu.Lock()
	clear(b.sessions)
	b.mu.Unlock()
	b.epoch.Add(1)
}

// lossyConn loses packets.
type lossyConn struct {
	net.PacketConn
	b *BMC
	n atomic.Int64
}

func (c *lossyConn) lost() bool {
	every := int64(c.b.Faults.DropEvery)
	return c.b.gone.Load() || every > 0 && c.n.Add(1)%every == 0
}

func (c *lossyConn) ReadFrom(buf []byte) (int, net.Addr, error) {
	for {
		n, addr, err := c.PacketConn.ReadFrom(buf)
		if err != nil || !c.lost() {
			return n, addr, err
		}
	}
}

func (c *lossyConn) WriteTo(p []byte, addr net.Addr) (int, error) {
	if c.lost() {
		return len(p), nil
	}
	return c.PacketConn.WriteTo(p, addr)
}

// pause is the BMC's latency.
func (b *BMC) pause(ctx context.Context) {
	if b.Latency <= 0 {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(b.Latency):
	}
}

// busy tells whether a power command meets a busy BMC.
func (b *BMC) busy() bool { return b.commands.Add(1) <= int64(b.Faults.BusyFirst) }

// lagging shows the old power state for a while.
func (b *BMC) lagging(on bool) {
	if b.Faults.Lag <= 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.shown, b.shownUntil = on, time.Now().Add(b.Faults.Lag)
}

// power is the state that the BMC tells.
func (b *BMC) power() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if time.Now().Before(b.shownUntil) {
		return b.shown
	}
	return b.machine.Power()
}

// RedfishWays are what BMCs do differently, all of it allowed. They must be set before it serves.
type RedfishWays struct {
	ResetTypes []string // that it knows; empty means all
	ActionInfo bool     // the reset types are listed in an ActionInfo, not beside the action
	NeedETag   bool     // a PATCH without If-Match is refused
	Tasks      bool     // a reset answers 202, and a task monitor tells the end
	NoSessions bool     // no session service: basic authentication only
	NoMode     bool     // BootSourceOverrideMode cannot be written
	Systems    int      // how many there are, all the same machine; 0 means one
	SystemID   string   // of the first; empty means 1

	Console          map[string]any // SerialConsole of the system
	ConsoleOfManager map[string]any // of the manager
	SettingsObject   bool           // the next boot is written to @Redfish.Settings, and the system itself takes no PATCH
	OldLED           bool           // the identify light is the chassis' IndicatorLED, not the system's LocationIndicatorActive
	Sensors          string         // how they are given: "" as Thermal and Power, "sensors" one by one, "expand" at one go, "subsystem" as ThermalSubsystem
	LogOfManager     bool           // the event log is the manager's, beside another one; its entries come as links, in pages, the newest first
}
