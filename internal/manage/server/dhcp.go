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
func (s *Server) newDHCP(f iface) (*dhcp.Server, error) {
	d := &dhcp.Server{Interface: f.Name, Mode: dhcp.Mode(f.DHCP), Addr: f.prefix, Leases: s.db, Log: s.log, LeaseTime: time.Duration(f.Lease), Domain: f.Domain,
		Lookup: func(ctx context.Context, mac string) (node.Node, bool, error) { return s.db.NodeByMAC(ctx, mac) },
		Decide: s.dhcpDecide, Events: s.dhcpEvent,
		FixedOwner: func(ctx context.Context, a netip.Addr) (string, bool, error) { return s.db.OwnerOf(ctx, a.String()) },
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
	if f.Gateway != "" {
		d.Gateway = netip.MustParseAddr(f.Gateway) // the configuration was checked
	}
	for _, a := range f.DNS {
		d.DNS = append(d.DNS, netip.MustParseAddr(a))
	}
	for _, p := range f.Pool {
		from, to, err := config.ParseRange(p)
		if err != nil {
			return nil, err
		}
		d.Pool = append(d.Pool, dhcp.Range{From: from, To: to})
	}
	if len(d.Pool) == 0 && f.DHCP == "full" {
		d.Pool = []dhcp.Range{upperHalf(f.prefix)}
	}
	return d, nil
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
	ask := netboot.Identify(netboot.Wire{VendorClass: r.VendorClass, UserClass: r.UserClass, Archs: r.Archs, HasUUID: len(r.UUID) > 0, HasIPXE: r.HasIPXE, Params: r.Params})
	ask.MAC, ask.Mode, ask.Base = r.MAC, netboot.Mode(r.Mode), s.bootBase(r.Server)
	ask.Own = s.loaded.recently(n.Name)
	o := netboot.Decide(n, ask)
	return dhcp.Answer{Boot: o.Decision != netboot.Ignore, Why: o.Why, File: o.File(), Config: o.Config, IPXE: ask.IPXE, Firmware: o.Firmware, Arch: o.Arch}
}

// dhcpEvent keeps what a node asked and got. A request of an operating system teaches nothing of the firmware.
func (s *Server) dhcpEvent(e dhcp.Event) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	addr := e.MAC
	if e.Addr.IsValid() {
		addr = e.Addr.String()
	}
	if e.Node == "" { // discovered keeps what is known of it
		s.found.learn(e.MAC, e.Addr, e.Firmware, e.Arch, e.IPXE)
		return
	}
	s.event(ctx, api.Event{Time: e.Time, Node: e.Node, Job: s.jobOf(e.Node), Kind: e.Kind, Addr: addr, Text: e.Text})
	if e.Firmware != "" && e.File != "" {
		// The loader that iPXE is in a UEFI HTTP boot does not make the firmware another one.
		if err := s.db.Learn(ctx, e.Node, learnt(e), e.Arch); err != nil {
			s.log.Error("firmware is not kept", "node", e.Node, "err", err)
		}
	}
}

func learnt(e dhcp.Event) node.Firmware {
	if e.IPXE {
		return "" // it reports what it runs on, which a request of the firmware itself said better
	}
	return e.Firmware
}

// jobOf is the ID of a node's active job, or "".
func (s *Server) jobOf(n node.Name) string {
	if r, ok := s.jobs.OfNode(n); ok {
		s.jobs.Heard(r.ID)
		return r.ID
	}
	return ""
}

// event keeps an event; that one cannot be kept must not stop a node from booting.
func (s *Server) event(ctx context.Context, e api.Event) {
	if err := s.db.AddEvent(ctx, &e); err != nil {
		s.log.Error("event is lost", "node", e.Node, "kind", e.Kind, "err", err)
	}
}

// newTFTP serves the loaders folder, and the two files that iPXE and GRUB read from beside their loader.
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
			if !ok {
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
