package dhcp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"mimeo/internal/cluster/api"
)

// sockets are what a server listens on.
type sockets struct {
	dhcp  *net.UDPConn // port 67
	pxe   *net.UDPConn // port 4011
	raw   int          // packet socket for nodes that have no address yet; -1 where closed
	index int          // of the interface
	hw    net.HardwareAddr
	ra    *advertiser // nil where none are sent
	arp   *prober     // nil where nothing is probed
}

// openSockets opens the ports on one interface alone, so that a second interface may have a server of its own.
func openSockets(ifi *net.Interface) (*sockets, error) {
	s := &sockets{raw: -1, index: ifi.Index, hw: ifi.HardwareAddr}
	var err error
	if s.dhcp, err = listenOn(ifi.Name, portServer); err != nil {
		return nil, err
	}
	if s.pxe, err = listenOn(ifi.Name, portPXE); err != nil {
		s.close()
		return nil, err
	}
	// Protocol 0: it sends, and receives nothing.
	if s.raw, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		s.raw = -1
		s.close()
		return nil, fmt.Errorf("open packet socket on %s: %w", ifi.Name, err)
	}
	return s, nil
}

func listenOn(ifname string, port int) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		cerr := c.Control(func(fd uintptr) {
			if err = unix.BindToDevice(int(fd), ifname); err != nil {
				err = fmt.Errorf("bind to interface %s: %w", ifname, err)
				return
			}
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
		})
		return errors.Join(cerr, err)
	}}
	pc, err := lc.ListenPacket(context.Background(), "udp4", ":"+strconv.Itoa(port))
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, &api.Error{Code: "conflict",
			Message: fmt.Sprintf("listen for DHCP on %s: port %d is taken by another program", ifname, port),
			Hint:    fmt.Sprintf("stop the DHCP server that runs on this machine (ss -ulpn 'sport = :%d' names it), or keep it off %s", port, ifname)}
	}
	if err != nil {
		return nil, fmt.Errorf("listen for DHCP on %s port %d: %w", ifname, port, err)
	}
	return pc.(*net.UDPConn), nil
}

func (s *sockets) close() {
	if s.dhcp != nil {
		s.dhcp.Close()
	}
	if s.pxe != nil {
		s.pxe.Close()
	}
	if s.raw >= 0 {
		unix.Close(s.raw)
		s.raw = -1
	}
	if s.ra != nil {
		s.ra.conn.Close()
	}
	if s.arp != nil {
		s.arp.file.Close()
	}
}

// sendFrame sends a datagram to a network card that does not answer ARP yet.
func (s *sockets) sendFrame(from, to netip.AddrPort, hw net.HardwareAddr, payload []byte) error {
	dst := &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_IP), Ifindex: s.index, Halen: uint8(len(hw))}
	copy(dst.Addr[:], hw)
	if err := unix.Sendto(s.raw, datagram(from, to, payload), 0, dst); err != nil {
		return fmt.Errorf("send to %s: %w", hw, err)
	}
	return nil
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// datagram is an IPv4 packet (RFC 791) with a UDP datagram (RFC 768).
func datagram(from, to netip.AddrPort, payload []byte) []byte {
	udp := 8 + len(payload)
	b := make([]byte, 20+udp)
	src, dst := from.Addr().As4(), to.Addr().As4()
	b[0] = 0x45
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	b[6] = 0x40 // do not fragment
	b[8], b[9] = 64, 17
	copy(b[12:], src[:])
	copy(b[16:], dst[:])
	binary.BigEndian.PutUint16(b[10:], checksum(b[:20], 0))
	u := b[20:]
	binary.BigEndian.PutUint16(u, from.Port())
	binary.BigEndian.PutUint16(u[2:], to.Port())
	binary.BigEndian.PutUint16(u[4:], uint16(udp))
	copy(u[8:], payload)
	pseudo := uint32(17) + uint32(udp)
	for _, a := range [][4]byte{src, dst} {
		pseudo += uint32(binary.BigEndian.Uint16(a[:])) + uint32(binary.BigEndian.Uint16(a[2:]))
	}
	sum := checksum(u, pseudo)
	if sum == 0 {
		sum = 0xffff // RFC 768: zero means that there is none
	}
	binary.BigEndian.PutUint16(u[6:], sum)
	return b
}

// checksum is the Internet checksum (RFC 1071).
func checksum(b []byte, sum uint32) uint16 {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
