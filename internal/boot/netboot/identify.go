package netboot

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"

	"mimeo/internal/cluster/node"
)

// Codes of the client system architecture (DHCP option 93), as IANA lists them under "Processor Architecture Types"
// (RFC 4578 section 2.1, RFC 5970 section 3.3).
const (
	archBIOS         = 0
	archUEFIx86      = 6
	archUEFIx64      = 7
	archEBC          = 9 // what many x64 firmwares send, after the erratum of RFC 4578
	archUEFIarm32    = 10
	archUEFIarm64    = 11
	archOpenFirmware = 12
	archOPAL         = 14
	archHTTPx86      = 15
	archHTTPx64      = 16
	archHTTPebc      = 17
	archHTTParm32    = 18
	archHTTParm64    = 19
	archHTTPbios     = 20
)

// Wire is what a DHCP request says about the firmware that sent it.
type Wire struct {
	VendorClass string   // option 60
	UserClass   []byte   // option 77, raw: iPXE sends plain text, RFC 3004 wants counted strings
	Archs       []uint16 // option 93, empty where not sent
	HasUUID     bool     // option 97
	HasIPXE     bool     // option 175
	Params      []byte   // option 55
}

// Identify learns firmware, architecture and iPXE from the options of a DHCP request. A request from an operating
// system, which wants an address and nothing to boot, gives an Ask with no firmware.
func Identify(w Wire) Ask {
	ask := Ask{VendorClass: w.VendorClass, IPXE: w.HasIPXE || isIPXE(w.UserClass)}
	archs := w.Archs
	if len(archs) == 0 {
		archs = archFromVendorClass(w.VendorClass)
	}
	if len(archs) > 0 {
		ask.fromCode(archs)
		return ask
	}
	switch {
	case ask.IPXE:
		// Every iPXE sends option 93; one that lost it on the way is most likely a BIOS ROM.
		ask.Firmware, ask.Arch = node.BIOS, node.AMD64
	case strings.HasPrefix(w.VendorClass, "PXEClient"):
		ask.Firmware, ask.Arch = node.BIOS, node.AMD64
	case w.VendorClass == "" && slices.Contains(w.Params, 67) && slices.Contains(w.Params, 93):
		// SLOF's DISCOVER: no vendor class, no option 93, but it asks for boot file and architecture (measured).
		ask.Firmware, ask.Arch = node.OpenFirmware, node.PPC64EL
	}
	return ask
}

// fromCode takes the first code that we can serve; a firmware may list several, in the order it likes them.
func (a *Ask) fromCode(codes []uint16) {
	for _, c := range codes {
		switch c {
		case archBIOS:
			a.Firmware, a.Arch = node.BIOS, node.AMD64
		case archUEFIx64, archEBC:
			a.Firmware, a.Arch = node.UEFI, node.AMD64
		case archUEFIarm64:
			a.Firmware, a.Arch = node.UEFI, node.ARM64
		case archHTTPx64, archHTTPebc:
			a.Firmware, a.Arch = node.UEFIHTTP, node.AMD64
		case archHTTParm64:
			a.Firmware, a.Arch = node.UEFIHTTP, node.ARM64
		case archOpenFirmware:
			a.Firmware, a.Arch = node.OpenFirmware, node.PPC64EL
		case archOPAL:
			a.Firmware, a.Arch = node.OPAL, node.PPC64EL
		default:
			continue
		}
		return
	}
	a.Note = unservable(codes[0])
}

// unservable names an architecture for which there is no loader.
func unservable(code uint16) string {
	switch code {
	case archUEFIx86, archHTTPx86:
		return fmt.Sprintf("32-bit x86 UEFI (architecture code %d) cannot start a 64-bit loader", code)
	case archUEFIarm32, archHTTParm32:
		return fmt.Sprintf("32-bit ARM (architecture code %d) has no loader", code)
	case archHTTPbios:
		return fmt.Sprintf("HTTP boot of a BIOS (architecture code %d) has no loader", code)
	}
	return fmt.Sprintf("no loader for architecture code %d", code)
}

// archFromVendorClass reads "PXEClient:Arch:00007:UNDI:003016", for relays and firmwares that drop option 93.
func archFromVendorClass(class string) []uint16 {
	parts := strings.Split(class, ":")
	if len(parts) < 3 || parts[1] != "Arch" || (parts[0] != "PXEClient" && parts[0] != "HTTPClient") {
		return nil
	}
	n := 0
	for _, c := range parts[2] {
		if c < '0' || c > '9' || n > 65535 {
			return nil
		}
		n = n*10 + int(c-'0')
	}
	if n > 65535 || parts[2] == "" {
		return nil
	}
	return []uint16{uint16(n)}
}

// isIPXE finds iPXE's user class, plain ("iPXE") or in the counted form of RFC 3004 section 4.
func isIPXE(class []byte) bool {
	if string(class) == "iPXE" {
		return true
	}
	for len(class) > 0 {
		n := int(class[0])
		if n == 0 || n > len(class)-1 {
			return false
		}
		if string(class[1:1+n]) == "iPXE" {
			return true
		}
		class = class[1+n:]
	}
	return false
}

// AskFromQuery reads the query of a script's URL: firmware and arch as ScriptURL wrote them, or platform and buildarch
// as autoexec.ipxe has iPXE fill them in. What it does not know stays unknown.
func AskFromQuery(q url.Values) Ask {
	var a Ask
	switch fw := node.Firmware(q.Get("firmware")); fw {
	case node.BIOS, node.UEFI, node.UEFIHTTP, node.OpenFirmware, node.OPAL:
		a.Firmware = fw
	}
	switch arch := node.Arch(q.Get("arch")); arch {
	case node.AMD64, node.ARM64, node.PPC64EL:
		a.Arch = arch
	}
	switch q.Get("platform") { // iPXE's ${platform}
	case "pcbios":
		a.Firmware, a.Arch = node.BIOS, node.AMD64
	case "efi":
		if a.Firmware == node.FirmwareUnknown {
			a.Firmware = node.UEFI
		}
	}
	switch q.Get("buildarch") { // iPXE's ${buildarch}
	case "x86_64":
		a.Arch = node.AMD64
	case "arm64":
		a.Arch = node.ARM64
	}
	return a
}

// ParseMAC reads the MAC of a script's URL, with hyphens or colons, and gives it as the inventory keeps it: lower case
// with colons.
func ParseMAC(s string) (string, error) {
	hw, err := net.ParseMAC(s)
	if err != nil {
		return "", fmt.Errorf("read network card's address %q: %w", s, err)
	}
	if len(hw) != 6 {
		return "", fmt.Errorf("read network card's address %q: it has %d bytes, not 6", s, len(hw))
	}
	return hw.String(), nil
}
