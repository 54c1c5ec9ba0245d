// Package dhcp answers DHCP and ProxyDHCP for known nodes.
//
// A Server serves one interface. In mode Full it gives addresses and boot files, in mode Proxy it stands beside
// somebody else's DHCP server and adds the boot file alone. It never answers a network card that neither Lookup nor Unknown knows.
// It follows RFC 2131 and 2132, 3046 (relays), 4578 and the PXE specification 2.1 (boot), 6842 (client identifier).
package dhcp

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"mimeo/internal/cluster/node"
)

// Mode is what a Server does on its interface.
type Mode string

// The modes.
const (
	Full  Mode = "full"
	Proxy Mode = "proxy"
	Off   Mode = "off"
)

// RAMode says whether IPv6 router advertisements are sent.
type RAMode string

// The modes. Auto, which is also the zero value, sends in mode Full where no other router is heard.
const (
	RAAuto RAMode = "auto"
	RAOn   RAMode = "on"
	RAOff  RAMode = "off"
)

// Request is what a packet says, for Decide and for events.
type Request struct {
	Interface   string
	Mode        Mode
	Server      netip.Addr // our address on that interface: what the node can reach
	MAC         string     // lower case, colons
	Type        string     // DISCOVER, REQUEST, INFORM, ...
	VendorClass string     // option 60
	UserClass   []byte     // option 77, raw
	Archs       []uint16   // option 93
	UUID        []byte     // option 97, raw
	HasIPXE     bool       // option 175
	Params      []byte     // option 55
	Relay       netip.Addr // giaddr; zero where there is no relay
}

// Answer is what the node boots, as netboot decided.
type Answer struct {
	Boot     bool   // false: no boot file; in mode Proxy nothing is answered then
	Why      string // in words
	File     string // name for TFTP, or a URL
	Config   string // option 209, for petitboot
	IPXE     bool   // the one that asks is an iPXE
	Firmware node.Firmware
	Arch     node.Arch
}

// Event is a step that a node passed.
type Event struct {
	Time     time.Time
	Kind     string // dhcp-offer, dhcp-ack, dhcp-nak, dhcp-none, dhcp-conflict, dhcp-decline, dhcp-release
	Node     node.Name
	MAC      string
	Addr     netip.Addr // given; zero in mode Proxy
	Firmware node.Firmware
	Arch     node.Arch
	IPXE     bool
	File     string // that it is to load, or the configuration
	Text     string // for people
}

// Lease says that an address belongs to a network card for a time.
type Lease struct {
	Addr     netip.Addr
	MAC      string
	Node     node.Name
	Expires  time.Time
	Declined bool // another machine was found to use it: nobody gets it until Expires
}

// ErrTaken says that an address was given to another network card meanwhile.
var ErrTaken = errors.New("address is taken")

// Leases keeps the leases across restarts. There is at most one for an address.
type Leases interface {
	// DHCPLeases gives all leases, also those that have expired: a node gets its old address again.
	DHCPLeases(ctx context.Context) ([]Lease, error)
	// PutDHCPLease keeps l, in place of the lease of the same address where that one is of the same network card, is
	// declined or has expired at now; else the error is ErrTaken. When it returns nil, the lease survives a power cut.
	PutDHCPLease(ctx context.Context, l Lease, now time.Time) error
	// DeleteDHCPLease forgets the lease of an address, if there is one.
	DeleteDHCPLease(ctx context.Context, addr netip.Addr) error
}

// Range is a range of addresses, both ends included.
type Range struct{ From, To netip.Addr }

// Server answers DHCP on one interface. Zero values mean the default.
type Server struct {
	Interface string
	Mode      Mode

	// Lookup says which node a network card (lower case, colons) belongs to.
	Lookup func(ctx context.Context, mac string) (n node.Node, ok bool, err error)
	// Unknown says what to take a network card for that belongs to no node; nil means that none is answered.
	Unknown func(r Request) (n node.Node, ok bool)
	// Decide says what n boots, when r asks.
	Decide func(ctx context.Context, n node.Node, r Request) Answer
	Leases Leases      // mode Full; nil means kept in memory
	Events func(Event) // may be nil; called from the goroutines that answer, so it must be quick
	Now    func() time.Time
	Log    *slog.Logger // nil means silent

	// FixedOwner says which network card the inventory gives an address to, so that the pool never gives it to another.
	// nil means that no fixed address lies in a pool.
	FixedOwner func(ctx context.Context, addr netip.Addr) (mac string, ok bool, err error)

	Addr    netip.Prefix // ours; zero means the first IPv4 address of the interface
	Subnets []Subnet     // mode Full: the network of Addr and others, on this wire or behind relays
	RA      RAMode
	NoProbe bool // do not ask by ARP whether an address is in use before it is given

	socks *sockets
	book  *book
	said  seldom
	heard floods
}

// Subnet is a network in which addresses are given. Zero values mean none, unless it says otherwise.
type Subnet struct {
	Prefix    netip.Prefix
	Server    netip.Addr // ours in it; zero: it is not on this wire, and its requests come through a relay
	Pool      []Range    // for nodes without a fixed address
	Gateway   netip.Addr
	DNS       []netip.Addr
	Domain    string
	LeaseTime time.Duration // 0 means 1 h
}

func (n Subnet) leaseTime() time.Duration {
	if n.LeaseTime > 0 {
		return n.LeaseTime
	}
	return time.Hour
}
