package uplink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Lease is an address with what belongs to it. It is kept in a file for the program that renews it.
type Lease struct {
	Card    string        `json:"card"`
	Addr    string        `json:"addr"` // with prefix length
	Gateway string        `json:"gateway,omitempty"`
	DNS     []string      `json:"dns,omitempty"`
	Domain  string        `json:"domain,omitempty"`
	Server  string        `json:"server"`
	Term    time.Duration `json:"term"`    // from Got on; 0 means for ever
	Renew   time.Duration `json:"renew"`   // T1, from Got on
	Got     time.Duration `json:"uptime"`  // since the kernel started: the clock may be wrong
	Ack     []byte        `json:"message"` // the server's DHCPACK
}

// uptime is the clock of leases.
func uptime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// How long one question waits for an answer before it is asked again: shortly at first, as a first packet is easily
// lost. Switches that learn a port's loops (STP) stay silent for up to 30 s after link.
const (
	haste    = time.Second
	patience = 3 * time.Second
)

// Acquire asks for an address on a card until it gets one, for at most limit. The address is set when it returns.
func Acquire(ctx context.Context, c Card, limit time.Duration, log Log) (*Lease, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no DHCP server answered network card %s (%s) for %v", c.Name, c.MAC, limit))
	defer cancel()
	wait := time.Second
	for try := 1; ; try++ {
		each := patience
		if try == 1 {
			each = haste
		}
		l, err := ask(ctx, c, each)
		if err == nil {
			if err = l.Apply(); err == nil {
				return l, nil
			}
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		log("DHCP on %s, try %d: %v", c.Name, try, err)
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(wait):
		}
		wait = min(wait*2, 15*time.Second)
	}
}

// ask goes through DISCOVER, OFFER, REQUEST and ACK once (RFC 2131 section 3.1).
func ask(ctx context.Context, c Card, each time.Duration) (*Lease, error) {
	client, err := nclient4.New(c.Name, nclient4.WithTimeout(each), nclient4.WithRetry(3))
	if err != nil {
		return nil, fmt.Errorf("open a DHCP socket: %w", err)
	}
	defer client.Close()
	got, err := client.Request(ctx, dhcpv4.WithRequestedOptions(dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter,
		dhcpv4.OptionDomainNameServer, dhcpv4.OptionDomainName, dhcpv4.OptionIPAddressLeaseTime))
	if err != nil {
		return nil, err
	}
	return newLease(c.Name, got.ACK)
}

// newLease reads a DHCPACK (RFC 2132).
func newLease(card string, ack *dhcpv4.DHCPv4) (*Lease, error) {
	ip := ack.YourIPAddr.To4()
	if ip == nil || ip.IsUnspecified() || ip.IsMulticast() {
		return nil, fmt.Errorf("DHCP server %s gave address %v", ack.ServerIdentifier(), ack.YourIPAddr)
	}
	mask := ack.SubnetMask()
	if ones, bits := mask.Size(); bits != 32 || ones == 0 {
		mask = ip.DefaultMask()
	}
	l := &Lease{Card: card, Addr: (&net.IPNet{IP: ip, Mask: mask}).String(), Server: ack.ServerIdentifier().String(),
		Domain: ack.DomainName(), Term: ack.IPAddressLeaseTime(0), Got: uptime(), Ack: ack.ToBytes()}
	if l.Term == 0xffffffff*time.Second {
		l.Term = 0
	}
	l.Renew = ack.IPAddressRenewalTime(l.Term / 2)
	if l.Renew <= 0 || l.Renew > l.Term {
		l.Renew = l.Term / 2
	}
	for _, r := range ack.Router() {
		if !r.IsUnspecified() {
			l.Gateway = r.String()
			break
		}
	}
	for _, d := range ack.DNS() {
		l.DNS = append(l.DNS, d.String())
	}
	return l, nil
}

// Apply sets the address and the route. An address that the card had before goes first: the kernel would take those of
// the same network along with it.
func (l *Lease) Apply() error {
	link, err := netlink.LinkByName(l.Card)
	if err != nil {
		return fmt.Errorf("set address %s on %s: %w", l.Addr, l.Card, err)
	}
	addr, err := netlink.ParseAddr(l.Addr)
	if err != nil {
		return fmt.Errorf("set address %s on %s: %w", l.Addr, l.Card, err)
	}
	old, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", l.Card, err)
	}
	for _, o := range old {
		if !o.Equal(*addr) {
			netlink.AddrDel(link, &o) // the new one is what counts
		}
	}
	if err := netlink.AddrReplace(link, addr); err != nil {
		return fmt.Errorf("set address %s on %s: %w", l.Addr, l.Card, err)
	}
	if l.Gateway != "" {
		gw := net.ParseIP(l.Gateway)
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: gw, Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}}
		if !addr.Contains(gw) {
			route.Flags = int(netlink.FLAG_ONLINK)
		}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("set route over %s: %w", l.Gateway, err)
		}
	}
	return nil
}

// Resolver writes the file of name servers; without name servers it leaves it alone. The agent itself needs no names,
// as its server is an address.
func (l *Lease) Resolver(path string) error {
	var b strings.Builder
	if l.Domain != "" && !strings.ContainsAny(l.Domain, " \t\n#;") {
		fmt.Fprintf(&b, "search %s\n", l.Domain)
	}
	for _, d := range l.DNS {
		fmt.Fprintf(&b, "nameserver %s\n", d)
	}
	if b.Len() == 0 {
		return nil
	}
	os.Remove(path) // may be a link to where no one writes
	return os.WriteFile(path, []byte(b.String()), 0o644)
}

// Save keeps the lease in a file.
func (l *Lease) Save(path string) error {
	b, err := json.Marshal(l)
	if err == nil {
		err = os.WriteFile(path, b, 0o644)
	}
	if err != nil {
		return fmt.Errorf("keep the DHCP lease: %w", err)
	}
	return nil
}

// Read reads a lease that Save kept.
func Read(path string) (*Lease, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the DHCP lease: %w", err)
	}
	l := &Lease{}
	if err := json.Unmarshal(b, l); err != nil {
		return nil, fmt.Errorf("read the DHCP lease in %s: %w", path, err)
	}
	return l, nil
}

// Hold keeps the lease until ctx ends: it renews it at T1 and asks anew where that fails. resolver is the file that is
// kept up to date with it. An address whose lease has
// run out stays in use while no server answers, since without it the node would be lost to everybody.
func (l *Lease) Hold(ctx context.Context, resolver string, log Log) {
	wait := l.left(l.Renew)
	for {
		if l.Term == 0 {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		next, err := l.again(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			log("renew the DHCP lease of %s: %v", l.Addr, err)
			wait = min(max(l.left(l.Term)/2, 10*time.Second), 5*time.Minute)
			continue
		}
		if next.Addr != l.Addr {
			log("the DHCP server changed this node's address from %s to %s", l.Addr, next.Addr)
		}
		*l = *next
		if err := errors.Join(l.Apply(), l.Resolver(resolver)); err != nil {
			log("%v", err)
		}
		wait = l.left(l.Renew)
	}
}

// left returns how long it is until d after the lease was got, at least a second.
func (l *Lease) left(d time.Duration) time.Duration { return max(l.Got+d-uptime(), time.Second) }

// again renews the lease, or gets another one where its server says no or nothing.
func (l *Lease) again(ctx context.Context) (*Lease, error) {
	link, err := net.InterfaceByName(l.Card)
	if err != nil {
		return nil, err
	}
	ack, err := dhcpv4.FromBytes(l.Ack)
	if err != nil {
		return nil, fmt.Errorf("read the DHCP server's last message: %w", err)
	}
	c := Card{l.Card, link.HardwareAddr}
	client, err := nclient4.New(l.Card, nclient4.WithTimeout(patience), nclient4.WithRetry(3))
	if err != nil {
		return nil, err
	}
	got, err := client.Renew(ctx, &nclient4.Lease{Offer: ack, ACK: ack})
	client.Close()
	if err == nil {
		return newLease(l.Card, got.ACK)
	}
	var nak *nclient4.ErrNak
	if errors.As(err, &nak) || l.left(l.Term*7/8) == time.Second { // T2: RFC 2131 section 4.4.5
		return ask(ctx, c, patience)
	}
	return nil, err
}
