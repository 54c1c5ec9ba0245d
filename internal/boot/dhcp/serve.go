package dhcp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sync/errgroup"

	"mimeo/internal/cluster/api"
)

// Listen opens the sockets and reads the leases, so that a taken port or a missing interface is an error at start.
// Serve calls it where it was not called.
func (s *Server) Listen() error {
	if s.socks != nil || s.Mode == Off {
		return nil
	}
	if s.Mode != Full && s.Mode != Proxy {
		return fmt.Errorf("serve DHCP on %s: mode %q is not full, proxy or off", s.Interface, s.Mode)
	}
	if s.RA != "" && s.RA != RAAuto && s.RA != RAOn && s.RA != RAOff {
		return fmt.Errorf("serve DHCP on %s: router advertisements are %q, not auto, on or off", s.Interface, s.RA)
	}
	if s.Lookup == nil || s.Decide == nil {
		return fmt.Errorf("serve DHCP on %s: Lookup and Decide must be set", s.Interface)
	}
	ifi, err := net.InterfaceByName(s.Interface)
	if err != nil {
		return &api.Error{Code: "not_found", Message: fmt.Sprintf("serve DHCP on %s: %v", s.Interface, err),
			Hint: "\"ip -brief link\" lists the interfaces of this machine"}
	}
	if !s.Addr.IsValid() {
		if s.Addr, err = firstIPv4(ifi); err != nil {
			return err
		}
	}
	if err := s.Load(context.Background()); err != nil {
		return err
	}
	if s.socks, err = openSockets(ifi); err != nil {
		return err
	}
	if s.Mode == Full && !s.NoProbe {
		if s.socks.arp, err = openProber(s, ifi); err != nil {
			s.socks.close()
			s.socks = nil
			return err
		}
	}
	auto := s.RA == RAAuto || s.RA == ""
	if s.RA == RAOn || (auto && s.Mode == Full) {
		s.socks.ra, err = openAdvertiser(ifi, auto, s.log())
		if err != nil && s.RA == RAOn {
			s.socks.close()
			s.socks = nil
			return err
		}
		if err != nil {
			// Without IPv6 on this machine nodes boot too, only later.
			s.log().Warn("no router advertisements: old iPXE ROMs wait 16 s at each boot", "interface", s.Interface, "err", err)
		}
	}
	return nil
}

// Load reads the leases. Listen calls it where it was not called.
func (s *Server) Load(ctx context.Context) error {
	if s.book != nil {
		return nil
	}
	return s.open(ctx)
}

// open makes the book ready.
func (s *Server) open(ctx context.Context) error {
	if s.Now == nil {
		s.Now = time.Now
	}
	if s.Leases == nil {
		s.Leases = &Memory{}
	}
	s.book = &book{store: s.Leases, now: s.Now, owner: s.FixedOwner}
	return s.book.load(ctx)
}

// firstIPv4 is the address that nodes reach us at.
func firstIPv4(ifi *net.Interface) (netip.Prefix, error) {
	addrs, err := ifi.Addrs()
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("read addresses of %s: %w", ifi.Name, err)
	}
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err == nil && p.Addr().Is4() {
			return p, nil
		}
	}
	return netip.Prefix{}, &api.Error{Code: "bad_request", Message: fmt.Sprintf("serve DHCP on %s: it has no IPv4 address", ifi.Name),
		Hint: "give the interface a fixed address in the nodes' network first"}
}

// Serve answers until ctx is done, and returns nil then, when all has stopped.
func (s *Server) Serve(ctx context.Context) error {
	if s.Mode == Off {
		<-ctx.Done()
		return nil
	}
	if err := s.Listen(); err != nil {
		return err
	}
	socks := s.socks
	g, ctx := errgroup.WithContext(ctx)
	// Closing the packet socket waits for the readers, which are the ones that write to it.
	defer socks.close()
	stop := context.AfterFunc(ctx, func() {
		socks.dhcp.SetReadDeadline(time.Unix(1, 0))
		socks.pxe.SetReadDeadline(time.Unix(1, 0))
	})
	defer stop()
	for range readers {
		g.Go(func() error { return s.loop(ctx, socks.dhcp, portServer) })
	}
	g.Go(func() error { return s.loop(ctx, socks.pxe, portPXE) })
	if socks.ra != nil {
		g.Go(func() error { return socks.ra.run(ctx) })
	}
	if socks.arp != nil {
		g.Go(func() error { return socks.arp.run(ctx) })
	}
	return g.Wait()
}

// readers answer port 67 side by side: while the lease of one node reaches the disk, another is looked up. More gain
// nothing, as leases are written one after the other.
const readers = 2

// loop answers packets of one port, one after the other.
func (s *Server) loop(ctx context.Context, conn *net.UDPConn, port int) error {
	buf := make([]byte, 9216)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("receive DHCP on %s port %d: %w", s.Interface, port, err)
			}
			// The interface may be down for a while; the socket lives on.
			s.log().Warn("dhcp receive", "interface", s.Interface, "port", port, "err", err)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(time.Second):
			}
			continue
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		m, err := parse(buf[:n])
		if err != nil {
			s.log().Debug("dhcp ignored", "interface", s.Interface, "addr", from, "why", err)
			continue
		}
		if ok, first := s.heard.add([6]byte(m.ClientHWAddr), s.Now()); !ok {
			if first && s.said.now("flood "+m.ClientHWAddr.String(), s.Now()) {
				s.log().Warn("dhcp: a network card asks too often, and is not answered for a while", "interface", s.Interface,
					"mac", m.ClientHWAddr.String(), "most", floodMost, "within", floodWindow)
			}
			continue
		}
		s.serve(ctx, conn, port, from, m)
	}
}

// serve answers one packet, or logs why it does not.
func (s *Server) serve(ctx context.Context, conn *net.UDPConn, port int, from netip.AddrPort, m *dhcpv4.DHCPv4) {
	ans, err := s.handle(ctx, packet{port: port, from: from, msg: m})
	if err != nil {
		log := s.log().With("interface", s.Interface, "mac", m.ClientHWAddr.String(), "type", m.MessageType().String())
		if _, ok := errors.AsType[ignored](err); ok {
			log.Debug("dhcp ignored", "why", err)
		} else {
			log.Error("dhcp not answered", "err", err)
		}
		return
	}
	if err := s.send(conn, port, ans); err != nil {
		s.log().Error("dhcp not answered", "interface", s.Interface, "mac", m.ClientHWAddr.String(), "err", err)
		return
	}
	s.log().Debug("dhcp answered", "interface", s.Interface, "mac", m.ClientHWAddr.String(), "type", ans.msg.MessageType().String(),
		"node", ans.ev.Node, "addr", ans.ev.Addr, "file", ans.ev.File, "why", ans.ev.Text)
	s.event(ans.ev)
}

func (s *Server) send(conn *net.UDPConn, port int, ans *answer) error {
	b := ans.msg.ToBytes()
	if ans.hw != nil {
		return s.socks.sendFrame(netip.AddrPortFrom(addrOf(ans.msg.ServerIdentifier()), uint16(port)), ans.to, ans.hw, b)
	}
	_, err := conn.WriteToUDPAddrPort(b, ans.to)
	return err
}

func (s *Server) event(e Event) {
	if s.Events == nil {
		return
	}
	e.Time = s.Now()
	s.Events(e)
}

func (s *Server) log() *slog.Logger {
	if s.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Log
}
