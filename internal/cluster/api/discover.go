package api

import (
	"time"

	"mimeo/internal/cluster/node"
)

// Paths for machines that are not known.
//
//	GET    /v1/discovered                     → []Discovered, newest first
//	POST   /v1/discovered       DiscoveredAccept → []NodeStatus: the new node
//	DELETE /v1/discovered/{id}                → Affected: forgotten until it asks again

// Discovered is a machine that netbooted on an interface with discovery on, and belongs to no node.
type Discovered struct {
	ID        string        `json:"id"` // MAC of the card that it booted from, with hyphens
	MAC       string        `json:"mac"`
	Interface string        `json:"interface"` // of the management node
	Addr      string        `json:"addr,omitempty"`
	Arch      node.Arch     `json:"arch,omitempty"`
	Firmware  node.Firmware `json:"firmware,omitempty"`
	First     time.Time     `json:"first"`
	Seen      time.Time     `json:"seen"`
	Hardware  *Hardware     `json:"hardware,omitempty"` // once its agent is up
	Note      string        `json:"note,omitempty"`     // why the rule that fits did not make it a node
}

// DiscoveredAccept makes a node of a machine.
type DiscoveredAccept struct {
	ID   string            `json:"id"`
	Name node.Name         `json:"name"`
	Set  map[string]string `json:"set,omitempty"` // as NodeSet.Set; goes before what the machine says of itself
}

// HardwareBMC is what a machine's own BMC says of its network, asked from within.
type HardwareBMC struct {
	Addr string `json:"addr,omitempty"` // IPv4
	MAC  string `json:"mac,omitempty"`
}
