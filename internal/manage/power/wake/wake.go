// Package wake switches nodes on by Wake-on-LAN. Nothing comes back: what it did can only be seen elsewhere.
package wake

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/power"
)

// Options say whom to wake, and where.
type Options struct {
	Node node.Node // its cards are woken

	// To is where the packets go: an interface's name; an address as that of another network's broadcast, with a port or
	// without; or nothing, for the interfaces below.
	To string
	// Interfaces are those that serve nodes. Of them, the one in whose network the node has its fixed address is taken,
	// else all; where there are none, all of this machine that can.
	Interfaces []string
	Password   string // SecureOn: six bytes as a MAC address, or nothing

	Pace *power.Pace
}

// Client is a power.Controller that can switch on only. Make one with Open.
type Client struct {
	power.ByHand // whose errors tell a person what to do
	o            Options
	macs         []net.HardwareAddr
	secure       []byte
}

// The packet goes out so often, as nobody tells whether it came.
const (
	sends = 3
	pause = 100 * time.Millisecond
	port  = 9 // discard; cards look at the payload alone
)

// Open makes a client; it sends nothing yet.
func Open(o Options) (*Client, error) {
	c := &Client{o: o}
	for _, n := range o.Node.NICs {
		mac, err := net.ParseMAC(n.MAC)
		if err != nil || len(mac) != 6 {
			return nil, c.errorf(power.ErrRefused, fmt.Sprintf("cannot be woken at %q, which is no MAC address", n.MAC), "", nil)
		}
		c.macs = append(c.macs, mac)
	}
	if len(c.macs) == 0 {
		return nil, c.errorf(power.ErrRefused, "cannot be woken: it has no MAC address", `set it: mimeo node set NODE mac=MAC`, nil)
	}
	if o.Password != "" {
		p, err := net.ParseMAC(o.Password)
		if err != nil || len(p) != 6 {
			return nil, c.errorf(power.ErrDenied, "has a SecureOn password that is none", "six bytes, as 01:23:45:67:89:ab", nil)
		}
		c.secure = p
	}
	return c, nil
}

// Packet is the magic packet for a card: six bytes 0xff, its address sixteen times, and the SecureOn password if any.
func Packet(mac net.HardwareAddr, secure []byte) []byte {
	p := make([]byte, 0, 6+16*6+len(secure))
	for range 6 {
		p = append(p, 0xff)
	}
	for range 16 {
		p = append(p, mac...)
	}
	return append(p, secure...)
}

// On sends magic packets for the node's cards. Its error is of the kind power.ErrSent where they went out.
func (c *Client) On(ctx context.Context) error {
	to, err := c.wake(ctx)
	if err != nil {
		return err
	}
	return &power.Error{Kind: power.ErrSent, Text: "a magic packet was sent " + to + "; nobody tells whether it woke", Hint: `see whether it boots: "mimeo node events NODE"`}
}

// Cycle cannot switch off: it wakes a node that is off, and asks a person for the rest.
func (c *Client) Cycle(ctx context.Context) error {
	to, err := c.wake(ctx)
	if err != nil {
		return err
	}
	return &power.Error{Kind: power.ErrByHand, Text: "Wake-on-LAN switches on only. A magic packet was sent " + to + ", in case it is off; where it is on, reboot it by hand", Hint: "give it a BMC or a command (exec:NAME), if it can be switched off by one"}
}

func (c *Client) wake(ctx context.Context) (to string, err error) {
	if err := c.o.Pace.Wait(ctx); err != nil {
		return "", err
	}
	ways, err := c.ways()
	if err != nil {
		return "", err
	}
	var names []string
	for _, w := range ways {
		names = append(names, w.name)
	}
	to = strings.Join(names, ", ")
	for n := range sends {
		if n > 0 {
			select {
			case <-ctx.Done():
				return "", ctx.Err()
			case <-time.After(pause):
			}
		}
		var failed []error
		for _, w := range ways {
			if err := c.send(ctx, w); err != nil {
				failed = append(failed, fmt.Errorf("%s: %w", w.name, err))
			}
		}
		if len(failed) == len(ways) {
			return "", c.errorf(power.ErrUnreachable, "cannot be woken: no magic packet could be sent", "see whether the interface is up; set another with bmc=wol:INTERFACE", errors.Join(failed...))
		}
	}
	return to, nil
}

// way is where packets go.
type way struct {
	name  string
	iface string // to send from; empty for the system's own choice
	addr  netip.AddrPort
}

var broadcast = netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), port)

func (c *Client) ways() ([]way, error) {
	if c.o.To != "" {
		if a, err := netip.ParseAddrPort(c.o.To); err == nil {
			return []way{{"to " + a.String(), "", a}}, nil
		}
		if a, err := netip.ParseAddr(strings.Trim(c.o.To, "[]")); err == nil {
			return []way{{"to " + a.String(), "", netip.AddrPortFrom(a, port)}}, nil
		}
		return []way{{"on " + c.o.To, c.o.To, broadcast}}, nil
	}
	names := c.o.Interfaces
	if len(names) == 0 {
		all, err := net.Interfaces()
		if err != nil {
			return nil, c.errorf(power.ErrUnreachable, "cannot be woken", "", err)
		}
		for _, f := range all {
			if f.Flags&(net.FlagUp|net.FlagBroadcast|net.FlagLoopback) == net.FlagUp|net.FlagBroadcast {
				names = append(names, f.Name)
			}
		}
	}
	var all, near []way
	for _, name := range names {
		w := way{"on " + name, name, broadcast}
		all = append(all, w)
		if c.lives(name) {
			near = append(near, w)
		}
	}
	switch {
	case len(near) > 0:
		return near, nil
	case len(all) == 0:
		return nil, c.errorf(power.ErrUnreachable, "cannot be woken: this machine has no interface that is up", "set one with bmc=wol:INTERFACE", nil)
	}
	return all, nil
}

// lives tells whether the node has a fixed address in an interface's network.
func (c *Client) lives(name string) bool {
	f, err := net.InterfaceByName(name)
	if err != nil {
		return false
	}
	addrs, err := f.Addrs()
	if err != nil {
		return false
	}
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		for _, n := range c.o.Node.NICs {
			if ip, e := netip.ParseAddr(n.IP); err == nil && e == nil && p.Contains(ip) {
				return true
			}
		}
	}
	return false
}

func (c *Client) send(ctx context.Context, w way) error {
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		if e := raw.Control(func(fd uintptr) {
			if err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1); err == nil && w.iface != "" {
				err = unix.BindToDevice(int(fd), w.iface)
			}
		}); e != nil {
			return e
		}
		return err
	}}
	network := "udp4"
	if w.addr.Addr().Is6() {
		network = "udp6"
	}
	pc, err := lc.ListenPacket(ctx, network, ":0")
	if err != nil {
		return err
	}
	defer pc.Close()
	for _, mac := range c.macs {
		if _, err := pc.WriteTo(Packet(mac, c.secure), net.UDPAddrFromAddrPort(w.addr)); err != nil {
			return err
		}
	}
	return nil
}

func (c *Client) errorf(kind error, text, hint string, cause error) error {
	return &power.Error{Kind: kind, BMC: "", Text: string(c.o.Node.Name) + " " + text, Hint: hint, Cause: cause}
}
