// Package uplink gets this machine onto the network that it booted from.
package uplink

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
)

// Log takes a line for people.
type Log func(format string, args ...any)

// Card is a network card.
type Card struct {
	Name string
	MAC  net.HardwareAddr
}

// ParseBootIF reads the value of the kernel parameter BOOTIF: the hardware type 01 and the MAC, with hyphens or colons.
// A value without the type, as some loaders write it, is accepted too.
func ParseBootIF(s string) (net.HardwareAddr, error) {
	t := strings.ReplaceAll(strings.ToLower(s), "-", ":")
	if strings.Count(t, ":") == 6 {
		var ok bool
		if t, ok = strings.CutPrefix(t, "01:"); !ok {
			return nil, fmt.Errorf("BOOTIF %q: hardware type is not 01 (Ethernet)", s)
		}
	}
	mac, err := net.ParseMAC(t)
	if err != nil || len(mac) != 6 {
		return nil, fmt.Errorf("BOOTIF %q is not a MAC address", s)
	}
	return mac, nil
}

// cards lists the machine's Ethernet cards: those that stand for hardware.
func cards() ([]Card, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list network cards: %w", err)
	}
	var out []Card
	for _, l := range links {
		a := l.Attrs()
		if a.EncapType != "ether" || len(a.HardwareAddr) != 6 {
			continue
		}
		if _, err := os.Stat(filepath.Join("/sys/class/net", a.Name, "device")); err != nil {
			continue // bridges and the like
		}
		out = append(out, Card{a.Name, a.HardwareAddr})
	}
	slices.SortFunc(out, func(a, b Card) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// carrier tells whether a card has link. It must be up for this to be known.
func carrier(name string) bool {
	b, err := os.ReadFile(filepath.Join("/sys/class/net", name, "carrier"))
	return err == nil && strings.TrimSpace(string(b)) == "1"
}

// Up switches an interface on.
func Up(name string) error {
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(l)
	}
	if err != nil {
		return fmt.Errorf("switch on network card %s: %w", name, err)
	}
	return nil
}

// WaitOptions say which card to wait for.
type WaitOptions struct {
	BootIF net.HardwareAddr // nil means any card with link
	// Missing is how long to wait for the card of BootIF before any card with link will do; 0 means 30 s.
	Missing time.Duration
	// Link is how long to wait for its link before going on without; 0 means 60 s.
	Link time.Duration
	// Plug is called while waiting, to load drivers of what has appeared; nil means nothing.
	Plug func(context.Context)
	Log  Log
}

// Wait waits for the card that this machine booted from, switches it on and waits for link.
func Wait(ctx context.Context, o WaitOptions) (Card, error) {
	if o.Missing <= 0 {
		o.Missing = 30 * time.Second
	}
	if o.Link <= 0 {
		o.Link = 60 * time.Second
	}
	start := time.Now()
	said := start
	up := map[string]time.Time{}
	pause := 20 * time.Millisecond
	for {
		if o.Plug != nil {
			o.Plug(ctx)
		}
		list, err := cards()
		if err != nil {
			return Card{}, err
		}
		for _, c := range list {
			if _, ok := up[c.Name]; !ok && (o.BootIF == nil || slices.Equal(c.MAC, o.BootIF) || time.Since(start) > o.Missing) {
				if err := Up(c.Name); err != nil {
					o.Log("%v", err)
					continue
				}
				up[c.Name] = time.Now()
			}
		}
		c, ok := pick(list, up, o, time.Since(start))
		if ok {
			return c, nil
		}
		if time.Since(start) > o.Missing+2*o.Link {
			return Card{}, errors.New(describe(list, o.BootIF))
		}
		if time.Since(said) > 5*time.Second {
			said = time.Now()
			o.Log("%s; waiting", describe(list, o.BootIF))
		}
		select {
		case <-ctx.Done():
			return Card{}, context.Cause(ctx)
		case <-time.After(pause):
		}
		pause = min(pause*3/2, 500*time.Millisecond)
	}
}

// pick chooses among the cards that are up.
func pick(list []Card, up map[string]time.Time, o WaitOptions, waited time.Duration) (Card, bool) {
	for _, c := range list {
		since, on := up[c.Name]
		if on && o.BootIF != nil && slices.Equal(c.MAC, o.BootIF) && (carrier(c.Name) || time.Since(since) > o.Link) {
			return c, true // without link DHCP will fail, and tell so
		}
	}
	if o.BootIF != nil && (waited <= o.Missing || slices.ContainsFunc(list, func(c Card) bool { return slices.Equal(c.MAC, o.BootIF) })) {
		return Card{}, false
	}
	for _, c := range list {
		if _, on := up[c.Name]; on && carrier(c.Name) {
			return c, true
		}
	}
	return Card{}, false
}

// describe says what was found.
func describe(list []Card, boot net.HardwareAddr) string {
	if len(list) == 0 {
		return "no network card found: its driver may be missing in the stateless image"
	}
	var have []string
	found := false
	for _, c := range list {
		have = append(have, fmt.Sprintf("%s (%s)", c.Name, c.MAC))
		found = found || slices.Equal(c.MAC, boot)
	}
	all := strings.Join(have, ", ")
	switch {
	case boot == nil:
		return "no link on " + all
	case found:
		return fmt.Sprintf("no link on network card %s that this machine booted from", boot)
	}
	return fmt.Sprintf("network card %s that this machine booted from is not there, only %s", boot, all)
}
