package dhcp

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"mimeo/internal/cluster/node"
)

// Options that the library has no name for, or has under another one.
const (
	optIPXE       = dhcpv4.GenericOptionCode(175) // iPXE's encapsulated options
	optPXEConfig  = dhcpv4.GenericOptionCode(209) // RFC 5071 section 5: configuration file
	optPXEPrefix  = dhcpv4.GenericOptionCode(210) // RFC 5071 section 6: path prefix
	maxFile       = 127                           // BOOTP's file field, less the zero byte at its end
	ipxeNoProxy   = 176                           // of option 175: do not wait for a ProxyDHCP server
	pxeControl    = 6                             // of option 43: PXE_DISCOVERY_CONTROL
	pxeUseFile    = 8                             // its bit 3: take the boot file of this offer, ask no further
	pxeBootItem   = 71                            // of option 43: PXE_BOOT_ITEM
	vendorEndMark = 255
)

// reply makes an answer with what all answers have (RFC 2131 table 3, RFC 6842, RFC 3046 section 2.2).
func (s *Server) reply(req *dhcpv4.DHCPv4, r Request, t dhcpv4.MessageType) *dhcpv4.DHCPv4 {
	m := &dhcpv4.DHCPv4{
		OpCode:        dhcpv4.OpcodeBootReply,
		HWType:        req.HWType,
		TransactionID: req.TransactionID,
		Flags:         req.Flags,
		ClientIPAddr:  net.IPv4zero,
		YourIPAddr:    net.IPv4zero,
		ServerIPAddr:  net.IPv4zero,
		GatewayIPAddr: req.GatewayIPAddr,
		ClientHWAddr:  req.ClientHWAddr,
		Options:       dhcpv4.Options{},
	}
	m.UpdateOption(dhcpv4.OptMessageType(t))
	m.UpdateOption(dhcpv4.OptServerIdentifier(r.Server.AsSlice()))
	for _, code := range []dhcpv4.OptionCode{dhcpv4.OptionClientIdentifier, dhcpv4.OptionRelayAgentInformation} {
		if v := req.GetOneOption(code); v != nil {
			m.UpdateOption(dhcpv4.OptGeneric(code, v))
		}
	}
	return m
}

// leaseOptions add the address and its times; T1 and T2 are RFC 2131's half and seven eighths.
func leaseOptions(m *dhcpv4.DHCPv4, addr netip.Addr, d time.Duration) {
	m.YourIPAddr = addr.AsSlice()
	m.UpdateOption(dhcpv4.OptIPAddressLeaseTime(d))
	m.UpdateOption(dhcpv4.Option{Code: dhcpv4.OptionRenewTimeValue, Value: dhcpv4.Duration((d / 2).Truncate(time.Second))})
	m.UpdateOption(dhcpv4.Option{Code: dhcpv4.OptionRebindingTimeValue, Value: dhcpv4.Duration((d * 7 / 8).Truncate(time.Second))})
}

// networkOptions add what a node must know of its network.
func networkOptions(m *dhcpv4.DHCPv4, n node.Node, sub Subnet, r Request) {
	bits := sub.Prefix.Bits()
	m.UpdateOption(dhcpv4.OptSubnetMask(net.CIDRMask(bits, 32)))
	if bits < 31 {
		m.UpdateOption(dhcpv4.OptBroadcastAddress(broadcast(sub.Prefix).AsSlice()))
	}
	if sub.Gateway.IsValid() {
		m.UpdateOption(dhcpv4.OptRouter(sub.Gateway.AsSlice()))
	}
	if len(sub.DNS) > 0 {
		var ips []net.IP
		for _, a := range sub.DNS {
			ips = append(ips, a.AsSlice())
		}
		m.UpdateOption(dhcpv4.OptDNS(ips...))
	}
	if sub.Domain != "" {
		m.UpdateOption(dhcpv4.OptDomainName(sub.Domain))
	}
	name := n.Hostname
	if name == "" {
		name = string(n.Name)
	}
	// A firmware has no use for a name, and its buffers are small.
	if name != "" && len(name) <= 255 && !r.Netboot() {
		m.UpdateOption(dhcpv4.OptHostName(name))
	}
}

// bootOptions add the boot file in the form that the firmware which asks wants.
func (s *Server) bootOptions(m, req *dhcpv4.DHCPv4, r Request, a Answer) {
	if !a.Boot {
		return
	}
	m.ServerIPAddr = r.Server.AsSlice()
	if a.File != "" {
		if len(a.File) <= maxFile {
			m.BootFileName = a.File
		}
		m.UpdateOption(dhcpv4.OptBootFileName(a.File))
		if !strings.Contains(a.File, "://") {
			m.ServerHostName = r.Server.String()
			m.UpdateOption(dhcpv4.OptTFTPServerName(r.Server.String()))
		}
	}
	if a.Config != "" {
		m.UpdateOption(dhcpv4.OptGeneric(optPXEConfig, []byte(a.Config)))
		if i := strings.LastIndexByte(a.Config, '/'); i >= 0 {
			m.UpdateOption(dhcpv4.OptGeneric(optPXEPrefix, []byte(a.Config[:i+1])))
		}
	}
	switch {
	case strings.HasPrefix(r.VendorClass, "PXEClient"):
		m.UpdateOption(dhcpv4.OptClassIdentifier("PXEClient"))
		m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, pxeOptions(req)))
	case strings.HasPrefix(r.VendorClass, "HTTPClient"):
		// UEFI 2.10 section 24.7.3.1: without it the offer is not one for HTTP boot.
		m.UpdateOption(dhcpv4.OptClassIdentifier("HTTPClient"))
	}
	if len(r.UUID) > 0 {
		m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, r.UUID))
	}
	if (r.HasIPXE || a.IPXE) && s.Mode == Full {
		m.UpdateOption(dhcpv4.OptGeneric(optIPXE, []byte{ipxeNoProxy, 1, 1}))
	}
}

// pxeOptions is option 43: take this boot file, no menu, no further search. A boot server request names an item of a
// menu, and wants it back (PXE 2.1 table 2-1).
func pxeOptions(req *dhcpv4.DHCPv4) []byte {
	b := []byte{pxeControl, 1, pxeUseFile}
	in := req.GetOneOption(dhcpv4.OptionVendorSpecificInformation)
	for len(in) >= 2 && in[0] != vendorEndMark {
		if in[0] == 0 { // padding
			in = in[1:]
			continue
		}
		n := int(in[1])
		if len(in) < 2+n {
			break
		}
		if in[0] == pxeBootItem && n == 4 {
			// Layer 0 of the item: the first file. Other layers (credentials) do not exist here.
			b = append(b, pxeBootItem, 4)
			b = binary.BigEndian.AppendUint16(b, binary.BigEndian.Uint16(in[2:]))
			b = append(b, 0, 0)
		}
		in = in[2+n:]
	}
	return append(b, vendorEndMark)
}
