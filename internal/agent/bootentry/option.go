// Package bootentry reads and writes the boot entries of a UEFI machine.
//
// Sections are those of the UEFI specification 2.10: an entry is a variable Boot#### that holds a load option (3.1.3),
// which names what to start by a device path (10.3); the variable BootOrder has their numbers, the first to be tried
// first.
package bootentry

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf16"
)

// active is the attribute LOAD_OPTION_ACTIVE: the firmware tries the entry by itself (3.1.3).
const active = 1

// Option is a load option. What is not understood of it is kept.
type Option struct {
	Attributes uint32
	Name       string // for people
	Path       []Node // of the device and file; more paths may follow in Rest
	Rest       []byte // further device paths
	Data       []byte // for the program that is started
}

// Active tells whether the firmware tries the entry by itself.
func (o Option) Active() bool { return o.Attributes&active != 0 }

// Node is one part of a device path (10.3.1), without its header.
type Node struct {
	Type, Subtype byte
	Data          []byte
}

// Types and subtypes of nodes (10.3.2 to 10.3.6).
const (
	typeMessaging = 3
	typeMedia     = 4
	typeBBS       = 5
	typeEnd       = 0x7f

	msgMAC, msgIPv4, msgIPv6, msgURI = 11, 12, 13, 24
	mediaHD, mediaFile               = 1, 4
	mediaFirmwareFile, mediaFirmware = 6, 7
	bbsBoot                          = 1
	bbsNetwork                       = 6 // device type of a BBS node
	endInstance, endEntire           = 1, 0xff
)

// Parse reads the value of a Boot#### variable.
func Parse(b []byte) (Option, error) {
	var o Option
	if len(b) < 6 {
		return o, fmt.Errorf("load option has %d bytes, fewer than its header", len(b))
	}
	o.Attributes = binary.LittleEndian.Uint32(b)
	paths := int(binary.LittleEndian.Uint16(b[4:]))
	name, rest, ok := text(b[6:])
	if !ok {
		return o, fmt.Errorf("the load option's name does not end")
	}
	if paths > len(rest) {
		return o, fmt.Errorf("load option's device path has %d bytes, and %d are left", paths, len(rest))
	}
	o.Name = name
	o.Data = rest[paths:]
	var err error
	o.Path, o.Rest, err = parsePath(rest[:paths])
	return o, err
}

// parsePath reads nodes up to the end of the first device path.
func parsePath(b []byte) (nodes []Node, rest []byte, err error) {
	for len(b) > 0 {
		if len(b) < 4 {
			return nil, nil, fmt.Errorf("device path ends within the header of a node")
		}
		n := int(binary.LittleEndian.Uint16(b[2:]))
		if n < 4 || n > len(b) {
			return nil, nil, fmt.Errorf("node of a device path has %d bytes, and %d are left", n, len(b))
		}
		node := Node{b[0], b[1], b[4:n]}
		b = b[n:]
		if node.Type == typeEnd && node.Subtype == endEntire {
			if len(node.Data) > 0 {
				return nil, nil, fmt.Errorf("device path's end has %d bytes of data", len(node.Data))
			}
			return nodes, b, nil
		}
		nodes = append(nodes, node)
	}
	return nil, nil, fmt.Errorf("device path does not end")
}

// Encode makes the value of a Boot#### variable.
func (o Option) Encode() ([]byte, error) {
	var path []byte
	for _, n := range append(o.Path[:len(o.Path):len(o.Path)], Node{typeEnd, endEntire, nil}) {
		size := 4 + len(n.Data)
		if size > 0xffff {
			return nil, fmt.Errorf("node of a device path would have %d bytes", size)
		}
		path = append(path, n.Type, n.Subtype, byte(size), byte(size>>8))
		path = append(path, n.Data...)
	}
	path = append(path, o.Rest...)
	if len(path) > 0xffff {
		return nil, fmt.Errorf("device path would have %d bytes", len(path))
	}
	b := binary.LittleEndian.AppendUint32(nil, o.Attributes)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(path)))
	b = append(b, wide(o.Name)...)
	b = append(b, path...)
	return append(b, o.Data...), nil
}

// text reads UCS-2 up to its zero. An unpaired surrogate, which no name has, becomes U+FFFD.
func text(b []byte) (s string, rest []byte, ok bool) {
	var u []uint16
	for ; len(b) >= 2; b = b[2:] {
		c := binary.LittleEndian.Uint16(b)
		if c == 0 {
			return string(utf16.Decode(u)), b[2:], true
		}
		u = append(u, c)
	}
	return "", nil, false
}

// wide writes UCS-2 with a zero behind it.
func wide(s string) []byte {
	var b []byte
	for _, c := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, c)
	}
	return append(b, 0, 0)
}

// Partition is where an EFI system partition lies, as a node of a device path says it (10.3.5.1). Only those of GPT
// have a GUID, by which the firmware finds them whatever disk they are on.
type Partition struct {
	Number     uint32
	Start, Len uint64 // in logical blocks
	GUID       string // 01234567-89ab-cdef-0123-456789abcdef
}

// node is the hard drive node of p.
func (p Partition) node() (Node, error) {
	guid, err := parseGUID(p.GUID)
	if err != nil {
		return Node{}, err
	}
	b := binary.LittleEndian.AppendUint32(nil, p.Number)
	b = binary.LittleEndian.AppendUint64(b, p.Start)
	b = binary.LittleEndian.AppendUint64(b, p.Len)
	b = append(b, guid[:]...)
	return Node{typeMedia, mediaHD, append(b, 2, 2)}, nil // GPT, and its signature is a GUID
}

// partition returns the partition of an option whose path starts at one, or false.
func (o Option) partition() (p Partition, ok bool) {
	if len(o.Path) == 0 || o.Path[0].Type != typeMedia || o.Path[0].Subtype != mediaHD {
		return p, false
	}
	b := o.Path[0].Data
	if len(b) != 38 || b[36] != 2 || b[37] != 2 {
		return p, false
	}
	return Partition{binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint64(b[4:]), binary.LittleEndian.Uint64(b[12:]), formatGUID([16]byte(b[20:36]))}, true
}

// file is the path of the file that an option starts, as \EFI\debian\shimx64.efi, or "". It may be in several nodes.
func (o Option) file() string {
	var parts []string
	for _, n := range o.Path {
		if n.Type == typeMedia && n.Subtype == mediaFile {
			s, _, ok := text(n.Data)
			if !ok {
				return ""
			}
			if s = strings.Trim(s, `\`); s != "" {
				parts = append(parts, s)
			}
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return `\` + strings.Join(parts, `\`)
}

// isNetwork tells whether an option boots from a network card (its path has the card's address), by UEFI or by a BIOS
// within it.
func (o Option) isNetwork() bool {
	for _, n := range o.Path {
		switch {
		case n.Type == typeMessaging && (n.Subtype == msgMAC || n.Subtype == msgIPv4 || n.Subtype == msgIPv6 || n.Subtype == msgURI):
			return true
		case n.Type == typeBBS && n.Subtype == bbsBoot && len(n.Data) >= 2 && binary.LittleEndian.Uint16(n.Data) == bbsNetwork:
			return true
		}
	}
	return false
}

// isFirmware tells whether an option starts a program of the firmware's own: its setup menu, its shell.
func (o Option) isFirmware() bool {
	return len(o.Path) > 0 && o.Path[0].Type == typeMedia && (o.Path[0].Subtype == mediaFirmware || o.Path[0].Subtype == mediaFirmwareFile)
}

// parseGUID reads the text of a GUID: its first three parts lie with their low bytes first (appendix A).
func parseGUID(s string) (g [16]byte, err error) {
	var a uint32
	var b, c, d uint16
	var e uint64
	if len(s) != 36 {
		return g, fmt.Errorf("%q is no GUID", s)
	}
	if n, err := fmt.Sscanf(strings.ToLower(s), "%08x-%04x-%04x-%04x-%012x", &a, &b, &c, &d, &e); n != 5 || err != nil {
		return g, fmt.Errorf("%q is no GUID", s)
	}
	binary.LittleEndian.PutUint32(g[0:], a)
	binary.LittleEndian.PutUint16(g[4:], b)
	binary.LittleEndian.PutUint16(g[6:], c)
	binary.BigEndian.PutUint64(g[8:], uint64(d)<<48|e)
	return g, nil
}

func formatGUID(g [16]byte) string {
	return fmt.Sprintf("%08x-%04x-%04x-%04x-%012x", binary.LittleEndian.Uint32(g[0:]), binary.LittleEndian.Uint16(g[4:]),
		binary.LittleEndian.Uint16(g[6:]), binary.BigEndian.Uint16(g[8:]), binary.BigEndian.Uint64(g[8:])&0xffffffffffff)
}
