package api

import (
	"time"

	"mimeo/internal/cluster/node"
)

// DHCPStatus is what GET /v1/dhcp answers.
type DHCPStatus struct {
	Networks []DHCPNetwork `json:"networks"`
	Leases   []DHCPLease   `json:"leases"` // in order of their addresses, also those that have ended
}

// DHCPNetwork is a network in which nodes are served. The numbers are of its pool, where addresses are given.
type DHCPNetwork struct {
	Interface string     `json:"interface"`
	DHCP      string     `json:"dhcp"`             // full, proxy, off
	Network   string     `json:"network"`          // with prefix length
	Server    string     `json:"server,omitempty"` // our address in it; none: it is behind relays
	Gateway   string     `json:"gateway,omitempty"`
	Pool      []string   `json:"pool,omitempty"` // FROM-TO
	Size      int        `json:"size"`           // addresses that the pool can give
	Leased    int        `json:"leased"`
	Conflicts int        `json:"conflicts"`            // that another machine was found to use
	Reserved  int        `json:"reserved"`             // that are the fixed addresses of nodes, and not leased
	Free      int        `json:"free"`                 // that could be given now
	Refused   int        `json:"refused"`              // requests that found no free address, since the start
	RefusedAt *time.Time `json:"refused_at,omitempty"` // the last of these
}

// States of a lease.
const (
	LeaseActive   = "leased"
	LeaseEnded    = "ended"
	LeaseConflict = "conflict" // another machine was found to use the address: nobody gets it until the time
)

// DHCPLease is an address that was given.
type DHCPLease struct {
	Addr    string    `json:"addr"`
	MAC     string    `json:"mac"`
	Node    node.Name `json:"node,omitempty"` // none for a machine that is not known
	State   string    `json:"state"`
	Expires time.Time `json:"expires"`
}

// DHCPSnippet is what GET /v1/dhcp/snippet answers: configuration for somebody else's DHCP server.
type DHCPSnippet struct {
	Server    string `json:"server"` // dnsmasq, isc, kea
	Interface string `json:"interface"`
	Nodes     int    `json:"nodes"`
	Text      string `json:"text"`
	Note      string `json:"note,omitempty"` // what to know before it is used
}
