// Package lldp hears which port of which switch a network card is plugged into.
//
// It follows IEEE 802.1AB-2016: frames with EtherType 0x88cc to 01:80:c2:00:00:0e, which carry a list of TLVs.
package lldp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"unicode"

	"mimeo/internal/cluster/api"
)

const (
	etherType = 0x88cc
	headLen   = 14  // of an Ethernet frame, without a VLAN tag
	maxText   = 255 // bytes of a name that are kept
)

// Types of TLVs (section 8.5), and subtypes of chassis and port IDs (tables 8-2 and 8-3).
const (
	tlvEnd         = 0
	tlvChassis     = 1
	tlvPort        = 2
	tlvTTL         = 3
	tlvPortText    = 4
	tlvSystem      = 5
	tlvOrganised   = 127
	chassisMAC     = 4
	chassisAddress = 5
	portMAC        = 3
	portAddress    = 4
)

// portVLAN is the TLV of IEEE 802.1 that has the VLAN of untagged frames (annex D.2.1).
var portVLAN = [4]byte{0x00, 0x80, 0xc2, 1}

// ErrGone is a frame by which a neighbour says that it will not be heard any more.
var ErrGone = errors.New("the neighbour is gone")

// Parse reads an Ethernet frame.
func Parse(frame []byte) (api.HardwareSwitch, error) {
	var s api.HardwareSwitch
	if len(frame) < headLen || binary.BigEndian.Uint16(frame[12:]) != etherType {
		return s, errors.New("it is no LLDP frame")
	}
	seen := map[byte]bool{}
	for b := frame[headLen:]; ; {
		if len(b) < 2 {
			return s, errors.New("it has no end")
		}
		typ, n := b[0]>>1, int(binary.BigEndian.Uint16(b)&0x1ff)
		if b = b[2:]; n > len(b) {
			return s, fmt.Errorf("a TLV of type %d has %d bytes, %d are left", typ, n, len(b))
		}
		v := b[:n]
		b = b[n:]
		if typ == tlvEnd {
			break
		}
		if typ <= tlvTTL && (seen[typ] || int(typ) != len(seen)+1 || n < 2) {
			return s, fmt.Errorf("a TLV of type %d is out of place, or empty", typ)
		}
		seen[typ] = true
		switch typ {
		case tlvChassis:
			s.Chassis = id(v, chassisMAC, chassisAddress)
		case tlvPort:
			s.Port = id(v, portMAC, portAddress)
		case tlvTTL:
			if binary.BigEndian.Uint16(v) == 0 {
				return s, ErrGone
			}
		case tlvPortText:
			s.PortDescription = text(v)
		case tlvSystem:
			s.Name = text(v)
		case tlvOrganised:
			if n >= 6 && [4]byte(v) == portVLAN {
				s.VLAN = int(binary.BigEndian.Uint16(v[4:]))
			}
		}
	}
	if !seen[tlvTTL] || s.Chassis == "" || s.Port == "" {
		return s, errors.New("it does not say which port of which switch")
	}
	return s, nil
}

// id is a chassis or port ID in words: its subtype comes first.
func id(v []byte, mac, address byte) string {
	kind, v := v[0], v[1:]
	switch {
	case kind == mac && len(v) == 6:
		return net.HardwareAddr(v).String()
	case kind == address && len(v) > 1:
		if a, ok := netip.AddrFromSlice(v[1:]); ok { // the family comes first
			return a.String()
		}
	}
	return text(v)
}

// text is what a switch has for a name, without what could harm a terminal.
func text(v []byte) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(string(v[:min(len(v), maxText)]), "")))
}
