package dhcp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ICMPv6 types and times of router discovery (RFC 4861 sections 4.1, 4.2, 6.2.1).
const (
	icmpSolicit   = 133
	icmpAdvertise = 134
	raEvery       = 60 * time.Second
	raListen      = 3 * time.Second       // auto: how long we listen for another router before the first
	raQuiet       = 30 * time.Minute      // auto: how long we are silent after another router was heard
	raGap         = 50 * time.Millisecond // at least, between two: a rack that comes up asks all at once
)

// advertiser sends IPv6 router advertisements that name no router and no prefix: lifetime 0, no flags. iPXE asks for
// one at each boot and old ROMs wait 16 s for it; with the two flags clear they know that there is nothing more to
// come and go on. Operating systems take nothing from it.
type advertiser struct {
	conn *net.IPConn
	ifi  *net.Interface
	self net.IP // our link-local address
	auto bool   // be silent where another router is heard
	log  *slog.Logger
	wake chan struct{} // a node asked

	mu    sync.Mutex
	quiet time.Time // until then
}

func openAdvertiser(ifi *net.Interface, auto bool, log *slog.Logger) (*advertiser, error) {
	self, err := linkLocal(ifi)
	if err != nil {
		return nil, err
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		cerr := c.Control(func(fd uintptr) { err = raOptions(int(fd), ifi) })
		return errors.Join(cerr, err)
	}}
	pc, err := lc.ListenPacket(context.Background(), "ip6:ipv6-icmp", "::")
	if err != nil {
		return nil, fmt.Errorf("listen for router solicitations on %s: %w", ifi.Name, err)
	}
	return &advertiser{conn: pc.(*net.IPConn), ifi: ifi, self: self, auto: auto, log: log,
		wake: make(chan struct{}, 1)}, nil
}

// raOptions binds the socket to the interface, lets only router discovery through, joins the group of all routers,
// and sends with the hop limit of 255 that receivers insist on (RFC 4861 section 6.1.2).
func raOptions(fd int, ifi *net.Interface) error {
	if err := unix.BindToDevice(fd, ifi.Name); err != nil {
		return fmt.Errorf("bind to interface %s: %w", ifi.Name, err)
	}
	var filter unix.ICMPv6Filter
	for i := range filter.Data {
		filter.Data[i] = ^uint32(0) // a set bit blocks
	}
	for _, t := range []int{icmpSolicit, icmpAdvertise} {
		filter.Data[t/32] &^= 1 << (t % 32)
	}
	mreq := &unix.IPv6Mreq{Interface: uint32(ifi.Index)}
	copy(mreq.Multiaddr[:], net.IPv6linklocalallrouters)
	return errors.Join(
		unix.SetsockoptICMPv6Filter(fd, unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER, &filter),
		unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, mreq),
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255),
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, 255),
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP, 0),
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, ifi.Index),
	)
}

// linkLocal is the interface's fe80:: address, which must be the source of an advertisement.
func linkLocal(ifi *net.Interface) (net.IP, error) {
	addrs, err := ifi.Addrs()
	if err != nil {
		return nil, fmt.Errorf("read addresses of %s: %w", ifi.Name, err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() == nil && n.IP.IsLinkLocalUnicast() {
			return n.IP, nil
		}
	}
	return nil, fmt.Errorf("send router advertisements on %s: it has no IPv6 link-local address", ifi.Name)
}

// advertisement is the message (RFC 4861 section 4.2); the kernel fills in the checksum.
func advertisement(hw net.HardwareAddr) []byte {
	b := []byte{
		icmpAdvertise, 0, 0, 0,
		64,   // hop limit for the nodes to use
		0,    // neither managed nor other configuration
		0, 0, // router lifetime: not a default router
		0, 0, 0, 0, // reachable time: not said
		0, 0, 0, 0, // retransmission time: not said
	}
	if len(hw) == 6 {
		b = append(b, 1, 1) // source link-layer address, 8 bytes
		b = append(b, hw...)
	}
	return b
}

// solicitation asks other routers to show themselves.
func solicitation(hw net.HardwareAddr) []byte {
	b := []byte{icmpSolicit, 0, 0, 0, 0, 0, 0, 0}
	if len(hw) == 6 {
		b = append(b, 1, 1)
		b = append(b, hw...)
	}
	return b
}

// run sends now and then, and when a node asks, until ctx is done.
func (a *advertiser) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { a.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { a.periodic(ctx) })
	buf := make([]byte, 1500)
	for {
		n, from, err := a.conn.ReadFromIP(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			a.log.Warn("receive router solicitation", "interface", a.ifi.Name, "err", err)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(time.Second):
			}
			continue
		}
		a.receive(buf[:n], from)
	}
}

// receive answers a solicitation, and takes note of another router.
func (a *advertiser) receive(b []byte, from *net.IPAddr) {
	if len(b) < 8 || from.IP.Equal(a.self) {
		return
	}
	switch b[0] {
	case icmpSolicit:
		select {
		case a.wake <- struct{}{}:
		default: // one is about to go out, and all nodes hear it
		}
	case icmpAdvertise:
		if a.auto {
			a.mu.Lock()
			defer a.mu.Unlock()
			if time.Now().After(a.quiet) {
				a.log.Info("another IPv6 router is here, no router advertisements of ours", "interface", a.ifi.Name, "addr", from)
			}
			a.quiet = time.Now().Add(raQuiet)
		}
	}
}

func (a *advertiser) silent() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return time.Now().Before(a.quiet)
}

// periodic sends, and is the only one that does. Where it is to give way to others, it looks for them first; a node
// that asks meanwhile is answered all the same.
func (a *advertiser) periodic(ctx context.Context) {
	next := time.Now()
	if a.auto {
		a.send(solicitation(a.ifi.HardwareAddr), net.IPv6linklocalallrouters)
		next = next.Add(raListen)
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(next)):
			next = time.Now().Add(raEvery)
		case <-a.wake:
		}
		if !a.silent() {
			a.advertise()
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(raGap):
		}
	}
}

// advertise sends to all nodes on the link; one that asks from a half-made address hears it too.
func (a *advertiser) advertise() {
	a.send(advertisement(a.ifi.HardwareAddr), net.IPv6linklocalallnodes)
}

func (a *advertiser) send(b []byte, to net.IP) {
	_, err := a.conn.WriteToIP(b, &net.IPAddr{IP: to, Zone: a.ifi.Name})
	if err != nil {
		a.log.Debug("router advertisement not sent", "interface", a.ifi.Name, "err", err)
	}
}
