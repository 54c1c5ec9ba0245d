package server

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"mimeo/internal/boot/netboot"
	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

// explainBoot says what a node would be offered now, and changes nothing.
func (s *Server) explainBoot(r *http.Request) (any, error) {
	ctx := r.Context()
	n, err := s.node(ctx, node.Name(r.PathValue("name")))
	if err != nil {
		return nil, err
	}
	out := api.BootExplain{Node: n.Name, Arch: n.Arch, Firmware: n.Firmware}
	from, err := s.db.Sources(ctx, n.Name)
	if err != nil {
		return nil, err
	}
	if said := from.Look(n.Name, "firmware"); len(said) > 0 && n.Firmware != node.FirmwareUnknown {
		out.From = said[0].From
	}
	var mac string
	if len(n.NICs) > 0 {
		mac = n.NICs[0].MAC
	}
	at, err := s.explainAddress(ctx, n, &out)
	if err != nil {
		return nil, err
	}
	// What loads the script is an iPXE, but where the firmware reads it by itself.
	first := netboot.Ask{Firmware: n.Firmware, Arch: n.Arch, MAC: mac, Base: s.bootBase(at)}
	ask := first
	ask.IPXE = n.Firmware != node.OpenFirmware && n.Firmware != node.OPAL
	loader, o := netboot.Decide(n, first), netboot.Decide(n, ask)
	if n.Firmware == node.FirmwareUnknown {
		// The boot state decides alike for every firmware; only loader and script wait for the first netboot.
		o = netboot.Decide(n, netboot.Ask{Firmware: node.BIOS, Arch: node.AMD64, IPXE: true, MAC: mac})
	}
	out.Decision, out.Why, out.Loader = string(o.Decision), o.Why, cmp.Or(loader.File(), loader.Config)
	if o.Decision == netboot.Stateless {
		out.Decision += " " + o.Profile
	}
	switch {
	case n.Firmware == node.FirmwareUnknown:
		out.Loader = ""
		out.Why += "; it has not netbooted yet, so its firmware, and with it loader and script, is not known"
		return out, nil
	case o.Decision == netboot.Ignore:
		return out, nil
	}
	text, _, err := s.script(ctx, n, cmp.Or(o.Script, loader.Script), ask, at, false)
	if err != nil {
		out.Script = "(no script just now: " + err.Error() + ")"
		return out, nil
	}
	for _, w := range strings.Fields(text) {
		if v, ok := strings.CutPrefix(w, api.ParamToken+"="); ok {
			text = strings.ReplaceAll(text, v, "***")
		}
	}
	out.Script = text
	return out, nil
}

// explainAddress says which address the node's first network card would get, and who answers it. It gives our own
// address there.
func (s *Server) explainAddress(ctx context.Context, n node.Node, out *api.BootExplain) (netip.Addr, error) {
	if len(s.ifaces) == 0 {
		out.DHCP = "nobody: mimeod serves no interface (--interface NAME)"
		return netip.MustParseAddr("127.0.0.1"), nil
	}
	if len(n.NICs) == 0 || n.NICs[0].MAC == "" {
		out.DHCP = "nobody: no network card of it is known (mimeo node set " + string(n.Name) + " mac=ADDRESS)"
		return s.ifaces[0].prefix.Addr(), nil
	}
	nic := n.NICs[0]
	f, known := s.ifaces[0], len(s.ifaces) == 1
	where := f.prefix.Addr()
	if nic.IP != "" {
		a, err := netip.ParseAddr(nic.IP)
		if err != nil {
			return netip.Addr{}, fmt.Errorf("read fixed address of %s: %w", n.Name, err)
		}
		if on, ok := s.ifaceOf(a); ok {
			f, known, where = on, true, a
			out.Address = nic.IP + ", its fixed address"
		} else {
			out.Address = nic.IP + ", its fixed address, which is in no network that mimeod serves: it gets none"
		}
	} else {
		leases, err := s.db.DHCPLeases(ctx)
		if err != nil {
			return netip.Addr{}, err
		}
		var until time.Time
		for _, l := range leases {
			on, ok := s.ifaceOf(l.Addr)
			if l.MAC != nic.MAC || l.Declined || !ok || l.Expires.Before(until) {
				continue
			}
			f, known, where, until = on, true, l.Addr, l.Expires
			out.Address = l.Addr.String() + ", as the last time, if nobody else has it"
			if time.Now().Before(l.Expires) {
				out.Address = l.Addr.String() + ", leased until " + l.Expires.Local().Format("2006-01-02 15:04:05")
			}
		}
		if out.Address == "" && known && f.DHCP == "full" {
			out.Address = "one of the pool"
		}
	}
	switch {
	case !known:
		out.DHCP = "the interface through which it asks: it has no fixed address and no lease yet"
	case f.DHCP == "full":
		out.DHCP = "Mimeo, on " + f.Name
	case f.DHCP == "proxy":
		out.DHCP = "another server gives the address, Mimeo the boot file (proxy), on " + f.Name
	default:
		out.DHCP = "another server alone (off), on " + f.Name + ": what it says of booting is not known here"
	}
	if f.DHCP != "full" && out.Address == "" {
		out.Address = "whatever the other server gives"
	}
	return s.addrFor(where, f.prefix.Addr()), nil
}
