// Package netboot decides what a node boots now, and renders the script for it.
//
// Decide is pure: DHCP asks it which loader to offer, HTTP asks it which script to serve, and the command line asks it
// what a node would boot. Render turns a decision, with the addresses and the token of this boot, into the text that
// the node's loader reads. docs/formats/boot.md lists the URLs and kernel parameters.
package netboot

import (
	"net/url"
	"strings"

	"mimeo/internal/cluster/node"
)

// Paths below the boot server's base URL. MAC is written with hyphens, as 52-54-00-12-34-56.
const (
	PathScripts = "/boot/"    // PathScripts + KIND + "/" + MAC
	PathLoaders = "/loaders/" // PathLoaders + file name; also the root of TFTP
)

// Names of the loaders in the loaders folder.
const (
	LoaderBIOS       = "undionly.kpxe"  // iPXE on the PXE stack of the network card
	LoaderUEFIAMD64  = "snponly.efi"    // iPXE on the network driver of the firmware
	LoaderUEFIARM64  = "ipxe-arm64.efi" // iPXE with its own drivers
	LoaderShimAMD64  = "shimx64.efi"    // Secure Boot: loads grubx64.efi from its own folder
	LoaderGRUBAMD64  = "grubx64.efi"
	LoaderShimARM64  = "shimaa64.efi"
	LoaderGRUBARM64  = "grubaa64.efi"
	FileAutoexec     = "autoexec.ipxe" // fetched by iPXE in UEFI from the folder that it came from
	FileMemtestBIOS  = "memtest.bin"   // memtest86+, which an iPXE loads by HTTP
	FileMemtestUEFI  = "memtest.efi"
	FileGRUBConfig   = "grub/grub.cfg" // fetched by a signed GRUB from the TFTP root
	DefaultProfile   = "imaging"
	KnobLoaderSecure = "shim" // node.Knobs.Loader: shim and a signed GRUB instead of iPXE
	KnobLoaderOwn    = "own"  // node.Knobs.Loader: our iPXE by TFTP even where the network card's ROM is an iPXE, as old ones have faults
)

// Kind is the language of a boot script.
type Kind string

// The kinds of script, as they stand in a script's URL.
const (
	KindNone         Kind = ""
	KindIPXE         Kind = "ipxe"
	KindGRUB         Kind = "grub"
	KindPetitboot    Kind = "petitboot"
	KindOpenFirmware Kind = "openfirmware" // Forth, or PowerImage; by TFTP alone
)

// Decision is what a node is told to boot.
type Decision string

// The decisions.
const (
	Disk      Decision = "disk"
	Stateless Decision = "stateless"
	Memtest   Decision = "memtest"
	Ignore    Decision = "ignore" // nothing to boot: DHCP gives at most an address
	Wait      Decision = "wait"   // ask again later; the server's to say, Decide never does
)

// Mode is who gives the node its address.
type Mode string

// The modes.
const (
	Full  Mode = "full"  // our DHCP
	Proxy Mode = "proxy" // somebody else's, ours adds the boot file
)

// Ask is what is known of the one that asks.
type Ask struct {
	Firmware    node.Firmware
	Arch        node.Arch
	IPXE        bool   // it is an iPXE already and reads a script
	Own         bool   // that iPXE is the one that we served
	VendorClass string // as sent
	MAC         string // the network card that asks
	Mode        Mode   // empty where DHCP is not concerned
	Base        string // boot server as the node reaches it: http://ADDRESS:PORT
	Note        string // what Identify has to say about an ask that it cannot serve
}

// Offer is what the node is given.
type Offer struct {
	Decision Decision
	Profile  string // Stateless: its stateless image
	Why      string // in words, for people
	Firmware node.Firmware
	Arch     node.Arch
	Loader   string // file name for TFTP; or
	URL      string // URL of the loader (HTTP boot) or of the script (iPXE)
	Script   Kind   // which script the loader will ask for
	Config   string // OPAL: URL of the configuration, for DHCP option 209
}

// File is the boot file as DHCP gives it: the URL where there is one, else the loader's name.
func (o Offer) File() string {
	if o.URL != "" {
		return o.URL
	}
	return o.Loader
}

// Decide says what n boots now when it asks as ask does. The boot state is part of the node. It never changes
// anything and needs nothing but its arguments.
func Decide(n node.Node, ask Ask) Offer {
	o := Offer{Firmware: ask.Firmware, Arch: ask.Arch}
	// What was learnt before helps where a script is asked for. It must not turn the DHCP request of an operating
	// system into one of the firmware; Open Firmware alone cannot be told from one by its options.
	if o.Firmware == node.FirmwareUnknown && (ask.Mode == "" || n.Firmware == node.OpenFirmware) {
		o.Firmware = n.Firmware
	}
	if o.Arch == node.ArchUnknown {
		o.Arch = n.Arch
	}
	if o.Arch == node.ArchUnknown && o.Firmware == node.BIOS {
		o.Arch = node.AMD64
	}
	o.decideWhat(n)
	if why := o.unable(ask); why != "" {
		return Offer{Decision: Ignore, Why: why, Firmware: o.Firmware, Arch: o.Arch}
	}
	o.chooseLoader(n, ask)
	return o
}

// decideWhat reads the boot state.
func (o *Offer) decideWhat(n node.Node) {
	profile := n.Profile
	if profile == "" {
		profile = DefaultProfile
	}
	switch n.Boot {
	case node.BootDisk:
		o.Decision, o.Why = Disk, "boot state is disk"
	case node.BootCapture, node.BootDeploy, node.BootWipe, node.BootShell, node.BootStateless, node.BootDiscover:
		o.Decision, o.Profile = Stateless, profile
		o.Why = "boot state is " + string(n.Boot)
	case node.BootMemtest:
		o.Decision, o.Why = Memtest, "boot state is memtest"
		if why := NoMemtest(o.Firmware, o.Arch, n.Knobs); why != "" {
			o.Decision, o.Why = Disk, "boot state is memtest, and "+why
		}
	case "":
		o.Decision, o.Why = Disk, "no boot state is set"
	default:
		// A state from a newer version: the disk is the answer that harms nothing.
		o.Decision, o.Why = Disk, "boot state "+clean(string(n.Boot))+" is not known here"
	}
}

// NoMemtest says in words why a node's memory cannot be tested, or "". What is unknown speaks for it.
func NoMemtest(fw node.Firmware, arch node.Arch, k node.Knobs) string {
	switch {
	case arch != node.ArchUnknown && arch != node.AMD64:
		return "there is no memory test for " + string(arch)
	case fw == node.OpenFirmware || fw == node.OPAL:
		return "there is no memory test for " + string(fw)
	case k.Loader == KnobLoaderSecure:
		return "memtest86+ is not signed for Secure Boot (knobs.loader is shim)"
	}
	return ""
}

// MemtestFile is the loader that tests the memory of a machine with this firmware.
func MemtestFile(fw node.Firmware) string {
	if fw == node.BIOS {
		return FileMemtestBIOS
	}
	return FileMemtestUEFI
}

// unable says in words why nothing can be offered, or "".
func (o *Offer) unable(ask Ask) string {
	switch {
	case ask.Note != "":
		return ask.Note
	case o.Firmware == node.FirmwareUnknown:
		return "it does not ask for something to boot"
	case o.Arch == node.ArchUnknown:
		return "its firmware does not say its architecture, and none is set"
	}
	switch o.Firmware {
	case node.BIOS:
		if o.Arch != node.AMD64 {
			return "no loader for BIOS on " + string(o.Arch)
		}
	case node.UEFI, node.UEFIHTTP:
		if o.Arch != node.AMD64 && o.Arch != node.ARM64 {
			return "no loader for UEFI on " + string(o.Arch)
		}
	case node.OpenFirmware, node.OPAL:
		if o.Arch != node.PPC64EL {
			return "no loader for " + string(o.Firmware) + " on " + string(o.Arch)
		}
	default:
		return "no loader for firmware " + clean(string(o.Firmware))
	}
	return ""
}

// chooseLoader follows the table in DESIGN, "What a node boots".
func (o *Offer) chooseLoader(n node.Node, ask Ask) {
	uefi := o.Firmware == node.UEFI || o.Firmware == node.UEFIHTTP
	switch {
	case ask.IPXE && (ask.Own || n.Knobs.Loader != KnobLoaderOwn):
		o.Script = KindIPXE
		o.URL = ScriptURL(ask.Base, KindIPXE, ask.MAC, o.Firmware, o.Arch)
		return
	case o.Firmware == node.BIOS:
		o.Script, o.Loader = KindIPXE, LoaderBIOS
	case uefi && n.Knobs.Loader == KnobLoaderSecure:
		o.Script, o.Loader = KindGRUB, LoaderShimAMD64
		if o.Arch == node.ARM64 {
			o.Loader = LoaderShimARM64
		}
	case uefi:
		o.Script, o.Loader = KindIPXE, LoaderUEFIAMD64
		if o.Arch == node.ARM64 {
			o.Loader = LoaderUEFIARM64
		}
	case o.Firmware == node.OpenFirmware:
		// It needs no loader: the file that it asks for by TFTP is the script.
		o.Script = KindOpenFirmware
		o.Loader = strings.TrimPrefix(PathScripts, "/") + string(KindOpenFirmware) + "/" + strings.ReplaceAll(strings.ToLower(ask.MAC), ":", "-")
	case o.Firmware == node.OPAL:
		o.Script = KindPetitboot
		o.Config = ScriptURL(ask.Base, KindPetitboot, ask.MAC, o.Firmware, o.Arch)
	}
	if o.Firmware == node.UEFIHTTP {
		o.URL, o.Loader = ask.Base+PathLoaders+o.Loader, ""
	}
}

// ScriptURL is where the node with this network card finds its script. Firmware and architecture go along as the
// query, so that the script fits the one that asked even where nothing was learnt before.
func ScriptURL(base string, kind Kind, mac string, fw node.Firmware, arch node.Arch) string {
	u := base + PathScripts + string(kind) + "/" + strings.ReplaceAll(strings.ToLower(mac), ":", "-")
	q := url.Values{}
	if fw != node.FirmwareUnknown {
		q.Set("firmware", string(fw))
	}
	if arch != node.ArchUnknown {
		q.Set("arch", string(arch))
	}
	if len(q) > 0 {
		u += "?" + q.Encode()
	}
	return u
}

// Optional tells whether a file is one that loaders ask for and do well without: shim's lists of what is revoked and its
// further certificates, GRUB's lists of modules.
func Optional(name string) bool {
	for _, p := range []string{"revocations_", "shim_certificate_", "grub/x86_64-efi/", "grub/arm64-efi/"} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

// LoaderNames are the files that Decide may name, for the one who fills the loaders folder.
func LoaderNames() []string {
	return []string{LoaderBIOS, LoaderUEFIAMD64, LoaderUEFIARM64, LoaderShimAMD64, LoaderGRUBAMD64, LoaderShimARM64, LoaderGRUBARM64}
}
