package server

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"mimeo/internal/boot/dhcp"
	"mimeo/internal/boot/netboot"
	"mimeo/internal/boot/tftp"
	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/config"
)

// newDHCP makes the DHCP server of an interface.
func (s *Server) newDHCP(f iface) *dhcp.Server {
	d := &dhcp.Server{Interface: f.Name, Mode: dhcp.Mode(f.DHCP), Addr: f.prefix, Subnets: f.subnets, Leases: s.db, Log: s.log, NoProbe: f.Probe == "off",
		Decide: s.dhcpDecide, Events: s.dhcpEvent,
	}
	reserved, owners := map[string]config.Reservation{}, map[netip.Addr]string{}
	for _, r := range f.Reservations {
		reserved[r.MAC], owners[netip.MustParseAddr(r.IP)] = r, r.MAC // the configuration was checked
	}
	d.Lookup = func(ctx context.Context, mac string) (node.Node, bool, error) {
		n, ok, err := s.db.NodeByMAC(ctx, mac)
		if r, fixed := reserved[mac]; fixed && !ok && err == nil {
			return node.Node{Hostname: r.Name, NICs: []node.NIC{{MAC: mac, IP: r.IP}}}, true, nil
		}
		return n, ok, err
	}
	d.FixedOwner = func(ctx context.Context, a netip.Addr) (string, bool, error) {
		if mac, ok := owners[a]; ok {
			return mac, true, nil
		}
		return s.db.OwnerOf(ctx, a.String())
	}
	if f.Discovery == "on" {
		d.Unknown = func(r dhcp.Request) (node.Node, bool) { return s.unknown(f, r) }
	}
	switch f.RA {
	case "on":
		d.RA = dhcp.RAOn
	case "off":
		d.RA = dhcp.RAOff
	}
	return d
}

// newIface finds out where an interface is: its own network and those of its configuration.
func newIface(f config.Interface) (iface, error) {
	addrs, err := addressesOf(f.Name)
	if err != nil {
		return iface{}, err
	}
	out := iface{Interface: f, prefix: addrs[0]}
	own := config.Network{Network: addrs[0].Masked().String(), Pool: f.Pool, Gateway: f.Gateway, DNS: f.DNS, Domain: f.Domain, Lease: f.Lease}
	for i, n := range append([]config.Network{own}, f.Networks...) {
		sub, err := subnet(n)
		if err != nil {
			return out, fmt.Errorf("interface %s: %w", f.Name, err)
		}
		for _, a := range addrs {
			if sub.Prefix.Contains(a.Addr()) && a.Bits() >= sub.Prefix.Bits() {
				sub.Server = a.Addr()
				break
			}
		}
		switch {
		case i == 0 && len(sub.Pool) == 0 && f.DHCP == "full":
			sub.Pool = []dhcp.Range{upperHalf(out.prefix)}
		case i > 0 && sub.Prefix.Overlaps(out.prefix):
			return out, &api.Error{Code: "bad_request", Message: fmt.Sprintf("interface %s: %s of its networks is the interface's own, %s", f.Name, n.Network, out.prefix),
				Hint: "give the pool, the gateway and the rest of the interface's own network beside its name, not below networks"}
		case !sub.Server.IsValid() && !sub.Gateway.IsValid() && f.DHCP == "full":
			return out, &api.Error{Code: "bad_request", Message: fmt.Sprintf("interface %s has no address in %s, so that network is behind a relay, and its gateway is missing", f.Name, n.Network),
				Hint: fmt.Sprintf("name the gateway of %s in the configuration, or give %s an address in it", n.Network, f.Name)}
		}
		out.subnets = append(out.subnets, sub)
	}
	for _, r := range f.Reservations {
		if _, ok := out.subnet(netip.MustParseAddr(r.IP)); !ok {
			return out, &api.Error{Code: "bad_request", Message: fmt.Sprintf("interface %s: the reservation of %s, %s, is in none of its networks", f.Name, r.MAC, r.IP),
				Hint: "name its network below networks, or another address"}
		}
	}
	return out, nil
}

// subnet is a network of the configuration as DHCP has it. The configuration was checked.
func subnet(n config.Network) (dhcp.Subnet, error) {
	sub := dhcp.Subnet{Prefix: n.Prefix(), Domain: n.Domain, LeaseTime: time.Duration(n.Lease)}
	if n.Gateway != "" {
		sub.Gateway = netip.MustParseAddr(n.Gateway)
	}
	for _, a := range n.DNS {
		sub.DNS = append(sub.DNS, netip.MustParseAddr(a))
	}
	for _, p := range n.Pool {
		from, to, err := config.ParseRange(p)
		if err != nil {
			return sub, err
		}
		sub.Pool = append(sub.Pool, dhcp.Range{From: from, To: to})
	}
	return sub, nil
}

// upperHalf is the pool of a network for which none is named.
func upperHalf(p netip.Prefix) dhcp.Range {
	b := p.Masked().Addr().As4()
	base := binary.BigEndian.Uint32(b[:])
	size := uint32(1) << (32 - p.Bits())
	at := func(n uint32) netip.Addr {
		var out [4]byte
		binary.BigEndian.PutUint32(out[:], base+n)
		return netip.AddrFrom4(out)
	}
	if size < 8 {
		return dhcp.Range{From: at(1), To: at(max(1, size-2))}
	}
	return dhcp.Range{From: at(size / 2), To: at(size - 2)}
}

// dhcpDecide asks the one decision function.
func (s *Server) dhcpDecide(ctx context.Context, n node.Node, r dhcp.Request) dhcp.Answer {
	if n.Name == "" && n.Boot == "" {
		return dhcp.Answer{Why: "it is no node: its address is reserved in the configuration"}
	}
	ask := netboot.Identify(netboot.Wire{VendorClass: r.VendorClass, UserClass: r.UserClass, Archs: r.Archs, HasUUID: len(r.UUID) > 0, HasIPXE: r.HasIPXE, Params: r.Params})
	ask.MAC, ask.Mode, ask.Base = r.MAC, netboot.Mode(r.Mode), s.bootBase(r.Server)
	ask.Own = s.loaded.recently(n.Name)
	o := netboot.Decide(n, ask)
	return dhcp.Answer{Boot: o.Decision != netboot.Ignore, Why: o.Why, File: o.File(), Config: o.Config, IPXE: ask.IPXE, Firmware: o.Firmware, Arch: o.Arch}
}

// jobOf is the ID of a node's active job, or "". The job hears of the node.
func (s *Server) jobOf(n node.Name) string { return s.jobHeard(n, false) }

// jobHeard is jobOf where what was heard may be an operating system's.
func (s *Server) jobHeard(n node.Name, system bool) string {
	r, ok := s.jobs.OfNode(n)
	switch {
	case !ok:
		return ""
	case system:
		s.jobs.HeardSystem(r.ID)
	default:
		s.jobs.Heard(r.ID)
	}
	return r.ID
}

// event keeps an event; that one cannot be kept must not stop a node from booting.
func (s *Server) event(ctx context.Context, e api.Event) {
	s.counts.Event(e.Kind)
	if err := s.db.AddEvent(ctx, &e); err != nil {
		s.log.Error("event is lost", "node", e.Node, "kind", e.Kind, "err", err)
	}
}

// newTFTP serves the loaders folder, the two files that iPXE and GRUB read from beside their loader, and what nodes with
// Open Firmware boot.
func (s *Server) newTFTP() *tftp.Server {
	return &tftp.Server{Addr: s.cfg.TFTP, Log: s.log,
		Open: func(ctx context.Context, r tftp.Request) (tftp.File, error) {
			base := s.bootBase(s.addrFor(r.Remote.Addr(), r.Local))
			switch r.Name {
			case netboot.FileAutoexec:
				text, err := netboot.Autoexec(base)
				return tftp.Bytes([]byte(text)), err
			case netboot.FileGRUBConfig:
				text, err := netboot.GRUBConfig(base)
				return tftp.Bytes([]byte(text)), err
			}
			if strings.HasPrefix(r.Name, openFirmwareFile) {
				return s.openFirmware(ctx, r)
			}
			root, err := os.OpenRoot(filepath.Join(s.cfg.State, "loaders"))
			if err != nil {
				return nil, fmt.Errorf("loaders: %w", err)
			}
			defer root.Close()
			return tftp.Dir(root)(ctx, r)
		},
		Done: func(r tftp.Result) {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			n, ok := s.nodeAt(ctx, r.Remote.Addr())
			if !ok || r.Err != nil && netboot.Optional(r.Name) {
				return
			}
			text := fmt.Sprintf("%s by TFTP, %d bytes in %d ms (blksize %d, windowsize %d)", r.Name, r.Size, r.Took.Milliseconds(), r.Block, r.Win)
			if r.Err != nil {
				text = fmt.Sprintf("%s by TFTP: %v", r.Name, r.Err)
				if strings.Contains(r.Err.Error(), "not exist") {
					text += "; build a stateless image, which fetches the loaders"
				}
			}
			if r.Err == nil && slices.Contains(netboot.LoaderNames(), r.Name) {
				s.loaded.now(n.Name)
			}
			if r.Err == nil && strings.HasPrefix(r.Name, openFirmwareFile) {
				s.booted(ctx, n)
			}
			s.event(ctx, api.Event{Node: n.Name, Job: s.jobOf(n.Name), Kind: "loader", Addr: r.Remote.Addr().Unmap().String(), Text: text})
		},
	}
}

// loaders remembers which nodes fetched our loader just now. An iPXE does not say in its DHCP request where it came
// from; the one that asks a moment after our loader was fetched is ours.
type loaders struct {
	mu sync.Mutex
	at map[node.Name]time.Time
}

// loaderLasts is how long after its loader was sent a node's request counts as the loader's: slow firmwares take some
// seconds to start it, and one more boot takes longer than that.
const loaderLasts = 20 * time.Second

func (l *loaders) now(n node.Name) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.at == nil {
		l.at = map[node.Name]time.Time{}
	}
	l.at[n] = time.Now()
}

func (l *loaders) recently(n node.Name) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Since(l.at[n]) < loaderLasts
}

// nodeAt tells which node has an address just now, by fixed address or lease.
func (s *Server) nodeAt(ctx context.Context, a netip.Addr) (node.Node, bool) {
	a = a.Unmap()
	mac, ok, err := s.db.OwnerOf(ctx, a.String())
	if err == nil && !ok {
		var leases []dhcp.Lease
		if leases, err = s.db.DHCPLeases(ctx); err == nil {
			for _, l := range leases {
				if l.Addr == a && !l.Declined {
					mac, ok = l.MAC, true
				}
			}
		}
	}
	if err != nil || !ok {
		return node.Node{}, false
	}
	n, ok, err := s.db.NodeByMAC(ctx, mac)
	return n, ok && err == nil
}
