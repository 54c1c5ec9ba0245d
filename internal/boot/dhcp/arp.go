package dhcp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Times of probing. A machine answers within some milliseconds; what was heard of an address counts for a while.
const (
	probeEvery = 10 * time.Second // addresses that are to be given next are probed this often
	probeAhead = 8                // so many of each pool
	probeAgain = 5 * time.Minute  // and each of them no more often than this
	probeWait  = 2 * time.Second  // for the answer
	usedHold   = 15 * time.Minute // an address at which another machine was heard is not given
)

// prober asks by ARP whether an address is in use already, before a node is told to take it (RFC 5227 section 2.1.1).
// Nobody waits for the answer: the addresses that are to be given next are probed in spare time, and what is offered
// once more while the node makes up its mind. An answer that comes before the node's REQUEST makes that a NAK.
type prober struct {
	server *Server
	file   *os.File // packet socket that hears ARP
	hw     net.HardwareAddr

	mu    sync.Mutex
	asked map[netip.Addr]probe
}

type probe struct {
	at    time.Time
	offer wish // zero where it was probed in spare time
}

func openProber(s *Server, ifi *net.Interface) (*prober, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(htons(unix.ETH_P_ARP)))
	if err != nil {
		return nil, fmt.Errorf("open ARP socket on %s: %w", ifi.Name, err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ARP), Ifindex: ifi.Index}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bind ARP socket to %s: %w", ifi.Name, err)
	}
	return &prober{server: s, file: os.NewFile(uintptr(fd), "arp"), hw: ifi.HardwareAddr, asked: map[netip.Addr]probe{}}, nil
}

// run hears answers and probes in spare time until ctx is done.
func (p *prober) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { p.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		tick := time.NewTicker(probeEvery)
		defer tick.Stop()
		for {
			for _, a := range p.server.book.ahead(p.server.Subnets, probeAhead) {
				p.ask(a, wish{})
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	buf := make([]byte, 128)
	for {
		n, err := p.file.Read(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, os.ErrClosed):
			return fmt.Errorf("receive ARP on %s: %w", p.server.Interface, err)
		case err != nil: // the interface may be down for a while
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(time.Second):
			}
			continue
		}
		if addr, mac, ok := parseARP(buf[:n]); ok {
			p.heard(ctx, addr, mac)
		}
	}
}

// ask sends a probe. An offer is probed at once, other addresses now and then.
func (p *prober) ask(addr netip.Addr, w wish) {
	now := p.server.Now()
	p.mu.Lock()
	for a, q := range p.asked {
		if now.Sub(q.at) >= probeAgain {
			delete(p.asked, a)
		}
	}
	_, lately := p.asked[addr]
	if lately && w.mac == "" {
		p.mu.Unlock()
		return
	}
	p.asked[addr] = probe{now, w}
	p.mu.Unlock()
	if _, err := p.file.Write(probeFrame(p.hw, addr)); err != nil {
		p.server.log().Debug("arp probe not sent", "interface", p.server.Interface, "addr", addr, "err", err)
	}
}

// heard takes an answer to one of our probes. A node with several network cards may answer with another one than it
// asks with: that is no conflict.
func (p *prober) heard(ctx context.Context, addr netip.Addr, mac string) {
	p.mu.Lock()
	q, ok := p.asked[addr]
	p.mu.Unlock()
	s := p.server
	if !ok || s.Now().Sub(q.at) > probeWait || mac == q.offer.mac {
		return
	}
	n, known, err := s.Lookup(ctx, mac)
	if err != nil || (known && q.offer.node != "" && n.Name == q.offer.node) || !s.book.used(addr, mac) {
		return
	}
	who := mac
	if known {
		who = fmt.Sprintf("%s (%s)", n.Name, mac)
	}
	if s.said.now("used "+addr.String(), s.Now()) {
		s.log().Warn("dhcp: an address of the pool is in use by a machine that was not given it", "interface", s.Interface, "addr", addr, "by", who)
	}
	if q.offer.node != "" {
		s.event(Event{Kind: "dhcp-conflict", Node: q.offer.node, MAC: q.offer.mac, Addr: addr, Text: fmt.Sprintf("%s was offered, and is in use by %s", addr, who)})
	}
}

// probeFrame asks who has addr, without saying that we do (RFC 826, RFC 5227).
func probeFrame(hw net.HardwareAddr, addr netip.Addr) []byte {
	b := make([]byte, 42)
	copy(b, "\xff\xff\xff\xff\xff\xff")
	copy(b[6:], hw)
	binary.BigEndian.PutUint16(b[12:], unix.ETH_P_ARP)
	copy(b[14:], "\x00\x01\x08\x00\x06\x04\x00\x01")
	copy(b[22:], hw)
	copy(b[38:], addr.AsSlice())
	return b
}

// parseARP reads who says to have which address: the sender of a request or an answer.
func parseARP(b []byte) (addr netip.Addr, mac string, ok bool) {
	if len(b) < 42 || binary.BigEndian.Uint16(b[12:]) != unix.ETH_P_ARP || string(b[14:20]) != "\x00\x01\x08\x00\x06\x04" {
		return addr, "", false
	}
	if op := binary.BigEndian.Uint16(b[20:]); op != 1 && op != 2 {
		return addr, "", false
	}
	addr = netip.AddrFrom4([4]byte(b[28:32]))
	return addr, net.HardwareAddr(b[22:28]).String(), !addr.IsUnspecified()
}
