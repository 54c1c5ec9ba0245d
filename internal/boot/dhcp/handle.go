package dhcp

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"mimeo/internal/cluster/node"
)

// Ports (RFC 2131 section 4.1; PXE specification 2.1 section 2.2.3 for the last).
const (
	portServer = 67
	portClient = 68
	portPXE    = 4011
)

// ignored says why a packet gets no answer.
type ignored struct{ why string }

func (e ignored) Error() string { return e.why }

func ignore(format string, args ...any) error { return ignored{fmt.Sprintf(format, args...)} }

// packet is one that came in.
type packet struct {
	port int            // the port of ours that it came to
	from netip.AddrPort // source
	msg  *dhcpv4.DHCPv4
}

// answer is what goes out.
type answer struct {
	msg *dhcpv4.DHCPv4
	to  netip.AddrPort
	hw  net.HardwareAddr // not nil: to.Addr() is not in use yet, send the frame to this network card
	ev  Event
}

// parse reads a packet and refuses what is no request of an Ethernet card.
func parse(b []byte) (*dhcpv4.DHCPv4, error) {
	m, err := dhcpv4.FromBytes(b)
	if err != nil {
		return nil, ignore("malformed packet: %v", err)
	}
	if err := overload(m, b); err != nil {
		return nil, ignore("malformed packet: %v", err)
	}
	switch {
	case m.OpCode != dhcpv4.OpcodeBootRequest:
		return nil, ignore("not a request")
	case m.HWType != iana.HWTypeEthernet || len(m.ClientHWAddr) != 6:
		return nil, ignore("not an Ethernet address")
	case m.MessageType() == dhcpv4.MessageTypeNone:
		return nil, ignore("BOOTP, not DHCP")
	}
	return m, nil
}

// overload adds the options that stand in the fields file and sname where option 52 says so (RFC 2132 section 9.3);
// what is in several places belongs together (RFC 3396 section 7). Another option 52 in there means nothing.
func overload(m *dhcpv4.DHCPv4, b []byte) error {
	v := m.GetOneOption(dhcpv4.OptionOptionOverload)
	if len(v) != 1 || len(b) < 236 {
		return nil
	}
	for _, f := range []struct {
		bit   byte
		field []byte
	}{{1, b[108:236]}, {2, b[44:108]}} {
		if v[0]&f.bit == 0 {
			continue
		}
		more := dhcpv4.Options{}
		if err := more.FromBytes(f.field); err != nil {
			return fmt.Errorf("options in the place of other fields: %w", err)
		}
		for code, text := range more {
			m.Options[code] = append(slices.Clip(m.Options[code]), text...)
		}
	}
	return nil
}

// handle decides what p is answered. The error is ignored where that is on purpose.
func (s *Server) handle(ctx context.Context, p packet) (*answer, error) {
	r := s.request(p.msg)
	n, ok, err := s.Lookup(ctx, r.MAC)
	if err != nil {
		return nil, fmt.Errorf("look up network card %s: %w", r.MAC, err)
	}
	if !ok && s.Unknown != nil {
		n, ok = s.Unknown(r)
	}
	if !ok {
		return nil, ignore("unknown network card")
	}
	if p.port == portPXE {
		return s.handlePXE(ctx, p, n, r)
	}
	if s.Mode == Proxy {
		return s.handleProxy(ctx, p, n, r)
	}
	return s.handleFull(ctx, p, n, r)
}

// request reads from the packet what Decide wants to know.
func (s *Server) request(m *dhcpv4.DHCPv4) Request {
	r := Request{
		Interface:   s.Interface,
		Mode:        s.Mode,
		Server:      s.Addr.Addr(),
		MAC:         m.ClientHWAddr.String(),
		Type:        m.MessageType().String(),
		VendorClass: text(m.GetOneOption(dhcpv4.OptionClassIdentifier)),
		UserClass:   m.GetOneOption(dhcpv4.OptionUserClassInformation),
		UUID:        m.GetOneOption(dhcpv4.OptionClientMachineIdentifier),
		HasIPXE:     m.Options.Has(optIPXE),
		Params:      m.GetOneOption(dhcpv4.OptionParameterRequestList),
		Relay:       addrOf(m.GatewayIPAddr),
	}
	archs := m.GetOneOption(dhcpv4.OptionClientSystemArchitectureType)
	for ; len(archs) >= 2; archs = archs[2:] {
		r.Archs = append(r.Archs, binary.BigEndian.Uint16(archs))
	}
	return r
}

// text is an option's text without the zero byte that some firmwares add.
func text(b []byte) string { return strings.TrimRight(string(b), "\x00") }

// addrOf is an IPv4 address of a packet; zero for 0.0.0.0.
func addrOf(ip net.IP) netip.Addr {
	a, ok := netip.AddrFromSlice(ip.To4())
	if !ok || a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}

// Netboot says whether a firmware asks, and not an operating system.
func (r Request) Netboot() bool {
	return strings.HasPrefix(r.VendorClass, "PXEClient") || strings.HasPrefix(r.VendorClass, "HTTPClient") || r.HasIPXE
}

// handleProxy answers a firmware's DISCOVER with an offer that holds a boot file and no address. The REQUEST that
// follows is for the other server.
func (s *Server) handleProxy(ctx context.Context, p packet, n node.Node, r Request) (*answer, error) {
	if p.msg.MessageType() != dhcpv4.MessageTypeDiscover {
		return nil, ignore("%s is for the server that gives addresses", r.Type)
	}
	if !r.Netboot() {
		return nil, ignore("not a firmware that asks for a boot file")
	}
	a := s.Decide(ctx, n, r)
	if !a.Boot {
		return nil, ignore("nothing to boot: %s", a.Why)
	}
	m := s.reply(p.msg, r, dhcpv4.MessageTypeOffer)
	s.bootOptions(m, p.msg, r, a)
	return s.answer(p, m, n, r, a, "dhcp-offer"), nil
}

// handlePXE answers on port 4011: a firmware that took an offer with an address asks here for its boot file (PXE 2.1
// section 2.2.3). It has its address already.
func (s *Server) handlePXE(ctx context.Context, p packet, n node.Node, r Request) (*answer, error) {
	switch p.msg.MessageType() {
	case dhcpv4.MessageTypeRequest, dhcpv4.MessageTypeInform:
	default:
		return nil, ignore("%s on port %d", r.Type, portPXE)
	}
	if !r.Netboot() {
		return nil, ignore("not a firmware that asks for a boot file")
	}
	if id := addrOf(p.msg.ServerIdentifier()); id.IsValid() && !s.ours(id) {
		return nil, ignore("meant for boot server %s", id)
	}
	a := s.Decide(ctx, n, r)
	if !a.Boot {
		return nil, ignore("nothing to boot: %s", a.Why)
	}
	m := s.reply(p.msg, r, dhcpv4.MessageTypeAck)
	m.ClientIPAddr = p.msg.ClientIPAddr
	s.bootOptions(m, p.msg, r, a)
	ans := s.answer(p, m, n, r, a, "dhcp-ack")
	ans.to, ans.hw = p.from, nil
	return ans, nil
}

// handleFull is a DHCP server (RFC 2131 section 4.3).
func (s *Server) handleFull(ctx context.Context, p packet, n node.Node, r Request) (*answer, error) {
	w, err := s.wish(n, r, p.msg)
	if err != nil {
		return nil, err
	}
	switch p.msg.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		return s.discover(ctx, p, n, r, w)
	case dhcpv4.MessageTypeRequest:
		return s.requested(ctx, p, n, r, w)
	case dhcpv4.MessageTypeInform:
		sub, r := s.at(w, r, addrOf(p.msg.ClientIPAddr))
		a := s.Decide(ctx, n, r)
		m := s.reply(p.msg, r, dhcpv4.MessageTypeAck)
		m.ClientIPAddr = p.msg.ClientIPAddr
		networkOptions(m, n, sub, r)
		s.bootOptions(m, p.msg, r, a)
		return s.answer(p, m, n, r, a, "dhcp-ack"), nil
	case dhcpv4.MessageTypeDecline:
		addr := addrOf(p.msg.RequestedIPAddress())
		ok, err := s.book.decline(ctx, r.MAC, n.Name, addr)
		if err != nil || !ok {
			return nil, errors.Join(err, ignore("declines an address that it does not have"))
		}
		s.event(Event{Kind: "dhcp-decline", Node: n.Name, MAC: r.MAC, Addr: addr,
			Text: fmt.Sprintf("found another machine that uses %s", addr)})
		return nil, ignore("declined %s", addr)
	case dhcpv4.MessageTypeRelease:
		addr := addrOf(p.msg.ClientIPAddr)
		ok, err := s.book.release(ctx, r.MAC, addr)
		if err != nil || !ok {
			return nil, errors.Join(err, ignore("releases an address that it does not have"))
		}
		s.event(Event{Kind: "dhcp-release", Node: n.Name, MAC: r.MAC, Addr: addr, Text: "gave up " + addr.String()})
		return nil, ignore("released %s", addr)
	}
	return nil, ignore("%s is not a request", r.Type)
}

// wish gathers what the book must know: the networks that the packet came from and the card's fixed address.
func (s *Server) wish(n node.Node, r Request, m *dhcpv4.DHCPv4) (wish, error) {
	w := wish{mac: r.MAC, node: n.Name, requested: addrOf(m.RequestedIPAddress()), relay: r.Relay}
	var err error
	if w.subnets, err = s.subnets(r.Relay, m); err != nil {
		return w, err
	}
	for _, nic := range n.NICs {
		if nic.MAC != r.MAC || nic.IP == "" {
			continue
		}
		ip, err := netip.ParseAddr(nic.IP)
		if err != nil {
			return w, fmt.Errorf("read fixed address of %s: %w", n.Name, err)
		}
		w.fixed = ip.Unmap()
	}
	return w, nil
}

// subnets are those of the wire that a packet came from. A relay names it by its own address there, or in option 82
// by another one (RFC 3527 section 3). A node behind a relay that renews its lease asks us by itself (RFC 2131 section
// 4.3.2): then its address says where it is.
func (s *Server) subnets(relay netip.Addr, m *dhcpv4.DHCPv4) ([]Subnet, error) {
	at := relay
	if info := m.RelayAgentInfo(); relay.IsValid() && info != nil {
		if link := addrOf(info.Get(dhcpv4.LinkSelectionSubOption)); link.IsValid() {
			at = link
		}
	}
	if ci := addrOf(m.ClientIPAddr); !at.IsValid() && ci.IsValid() {
		at = ci
	}
	var wire []Subnet // networks of one wire belong together
	found := !at.IsValid()
	for _, n := range s.Subnets {
		if n.Server.IsValid() {
			wire = append(wire, n)
		}
		if at.IsValid() && n.Prefix.Contains(at) {
			if !n.Server.IsValid() {
				return []Subnet{n}, nil
			}
			found = true
		}
	}
	if !found && relay.IsValid() {
		return nil, ignore("relay %s is of no configured network", at)
	}
	return wire, nil
}

// discover offers an address.
func (s *Server) discover(ctx context.Context, p packet, n node.Node, r Request, w wish) (*answer, error) {
	addr, err := s.book.offer(ctx, w)
	if errors.Is(err, errNoAddress) {
		if s.said.now(r.MAC, s.Now()) { // it asks every few seconds
			s.log().Warn("dhcp has no address", "interface", s.Interface, "node", n.Name, "mac", r.MAC, "why", err)
			s.event(Event{Kind: "dhcp-none", Node: n.Name, MAC: r.MAC, Text: err.Error()})
		}
		return nil, ignore("%v", err)
	}
	if err != nil {
		return nil, err
	}
	sub, r := s.at(w, r, addr)
	if s.socks != nil && s.socks.arp != nil && sub.Server.IsValid() && !r.Relay.IsValid() && !s.book.held(addr, r.MAC) {
		s.socks.arp.ask(addr, w)
	}
	a := s.Decide(ctx, n, r)
	m := s.reply(p.msg, r, dhcpv4.MessageTypeOffer)
	leaseOptions(m, addr, sub.leaseTime())
	networkOptions(m, n, sub, r)
	s.bootOptions(m, p.msg, r, a)
	return s.answer(p, m, n, r, a, "dhcp-offer"), nil
}

// requested answers a REQUEST in each of the client's states (RFC 2131 section 4.3.2): selecting names us and the
// address; init-reboot names the address alone; renewing and rebinding have it in ciaddr.
func (s *Server) requested(ctx context.Context, p packet, n node.Node, r Request, w wish) (*answer, error) {
	if id := addrOf(p.msg.ServerIdentifier()); id.IsValid() && !s.ours(id) {
		s.book.forget(r.MAC)
		return nil, ignore("takes the offer of %s", id)
	}
	addr := w.requested
	if ci := addrOf(p.msg.ClientIPAddr); ci.IsValid() {
		addr = ci
	}
	if !addr.IsValid() {
		return nil, ignore("REQUEST names no address")
	}
	sub, r := s.at(w, r, addr)
	if err := s.book.lease(ctx, w, addr, sub.leaseTime()); err != nil {
		if !errors.Is(err, errNoAddress) && !errors.Is(err, ErrTaken) {
			return nil, err
		}
		// The network card is known, and so is its network: we may say no at once, and it starts over.
		m := s.reply(p.msg, r, dhcpv4.MessageTypeNak)
		m.UpdateOption(dhcpv4.OptMessage(err.Error()))
		ans := s.answer(p, m, n, r, Answer{Why: err.Error()}, "dhcp-nak")
		ans.hw = nil
		if !r.Relay.IsValid() {
			ans.to = netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), portClient)
		} else {
			m.SetBroadcast() // RFC 2131 section 4.3.2: the relay must not send it to an address that is wrong
		}
		return ans, nil
	}
	a := s.Decide(ctx, n, r)
	m := s.reply(p.msg, r, dhcpv4.MessageTypeAck)
	m.ClientIPAddr = p.msg.ClientIPAddr
	leaseOptions(m, addr, sub.leaseTime())
	networkOptions(m, n, sub, r)
	s.bootOptions(m, p.msg, r, a)
	return s.answer(p, m, n, r, a, "dhcp-ack"), nil
}

// answer finds the way back (RFC 2131 section 4.1).
func (s *Server) answer(p packet, m *dhcpv4.DHCPv4, n node.Node, r Request, a Answer, kind string) *answer {
	ans := &answer{msg: m}
	switch {
	case r.Relay.IsValid():
		ans.to = netip.AddrPortFrom(r.Relay, portServer)
	case addrOf(p.msg.ClientIPAddr).IsValid():
		ans.to = netip.AddrPortFrom(addrOf(p.msg.ClientIPAddr), portClient)
	case p.msg.IsBroadcast() || !addrOf(m.YourIPAddr).IsValid():
		ans.to = netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), portClient)
	default:
		ans.to, ans.hw = netip.AddrPortFrom(addrOf(m.YourIPAddr), portClient), p.msg.ClientHWAddr
	}
	ans.ev = Event{Kind: kind, Node: n.Name, MAC: r.MAC, Addr: addrOf(m.YourIPAddr), Firmware: a.Firmware, Arch: a.Arch,
		IPXE: a.IPXE, Text: a.Why}
	if a.Boot {
		ans.ev.File = cmp.Or(a.File, a.Config)
	}
	return ans
}

// at is the subnet of an address, and the request as one to our own address there.
func (s *Server) at(w wish, r Request, addr netip.Addr) (Subnet, Request) {
	sub, ok := w.subnet(addr)
	if !ok && len(w.subnets) > 0 {
		sub = w.subnets[0]
	}
	if sub.Server.IsValid() {
		r.Server = sub.Server
	}
	return sub, r
}

// ours tells whether an address is one that we sign with.
func (s *Server) ours(a netip.Addr) bool {
	return a == s.Addr.Addr() || slices.ContainsFunc(s.Subnets, func(n Subnet) bool { return n.Server == a })
}
