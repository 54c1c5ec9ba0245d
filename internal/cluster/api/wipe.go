package api

import (
	"encoding/json"
	"time"

	"mimeo/internal/cluster/node"
)

// Paths for what was wiped. docs/formats/wipe-certificate.md describes the certificate.
//
//	GET    /v1/certificates                   → []CertificateEntry, newest first
//	GET    /v1/jobs/{id}/certificate          → SignedCertificate

// The ways to wipe a disk.
const (
	WipeAuto    = "auto"
	WipeSecure  = "secure-erase"
	WipeCrypto  = "crypto"
	WipeDiscard = "discard"
	WipeZero    = "zero"
)

// WipeMethods are all ways to wipe a disk.
var WipeMethods = []string{WipeAuto, WipeDiscard, WipeZero, WipeSecure, WipeCrypto}

// WipeReport is what an agent says of the disks that it wiped.
type WipeReport struct {
	Agent string  `json:"agent"` // program version
	Build string  `json:"build"` // of the stateless image
	Disks []Wiped `json:"disks"`
}

// Wiped is what became of one disk.
type Wiped struct {
	Disk     Disk      `json:"disk"`
	Asked    string    `json:"asked"`           // method that was asked for
	Method   string    `json:"method"`          // that was used: secure-erase, crypto, discard, zero
	Command  string    `json:"command"`         // what the disk was told, in words
	Notes    []string  `json:"notes,omitempty"` // why others were not used, and what failed before
	Start    time.Time `json:"start"`
	End      time.Time `json:"end"`
	Verified string    `json:"verified"`          // how it was looked at, in words
	Read     int64     `json:"read"`              // bytes that were read back
	Samples  int       `json:"samples,omitempty"` // places that were read; 0 where all was
}

// CertificateVersion is the version of the certificate. History, newest first:
//
//	1: the first
const CertificateVersion = 1

// Certificate says that disks were wiped.
type Certificate struct {
	Version int       `json:"version"` // CertificateVersion
	Job     string    `json:"job"`
	Node    node.Name `json:"node"`
	Machine Machine   `json:"machine"`
	Disks   []Wiped   `json:"disks"`
	Agent   string    `json:"agent"`  // version of the agent that did it
	Build   string    `json:"build"`  // of the stateless image that it ran in
	Server  string    `json:"server"` // version of the management node
	Issued  time.Time `json:"issued"`
}

// Machine is what a certificate says of the node's hardware.
type Machine struct {
	Vendor  string `json:"vendor,omitempty"`
	Product string `json:"product,omitempty"`
	Serial  string `json:"serial,omitempty"`
	UUID    string `json:"uuid,omitempty"`
}

// SignedCertificate is a certificate as it was signed: Signature is over the very bytes of Certificate.
type SignedCertificate struct {
	Certificate json.RawMessage `json:"certificate"`
	Algorithm   string          `json:"algorithm"` // ed25519
	Key         []byte          `json:"key"`       // public key of the management node, 32 bytes
	Signature   []byte          `json:"signature"` // 64 bytes
}

// CertificateEntry names a certificate.
type CertificateEntry struct {
	Job    string    `json:"job"`
	Node   node.Name `json:"node"`
	Issued time.Time `json:"issued"`
	Disks  []string  `json:"disks"` // serial numbers, or names where there are none
}
