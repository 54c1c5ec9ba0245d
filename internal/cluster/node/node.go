// Package node holds the words for a compute node: its network cards, BMC, firmware, architecture and boot state.
package node

import "time"

// Name is a node's name: lower-case letters, digits and hyphens, at most 63 characters.
type Name string

// Firmware is how a node boots; it says nothing of what the node can run.
type Firmware string

// The firmwares.
const (
	FirmwareUnknown Firmware = ""
	BIOS            Firmware = "bios"
	UEFI            Firmware = "uefi"
	UEFIHTTP        Firmware = "uefi-http"
	OpenFirmware    Firmware = "openfirmware"
	OPAL            Firmware = "opal"
)

// Arch is what a node can run, in Debian's words.
type Arch string

// The architectures.
const (
	ArchUnknown Arch = ""
	AMD64       Arch = "amd64"
	ARM64       Arch = "arm64"
	PPC64EL     Arch = "ppc64el"
)

// BootState is what a node boots next.
type BootState string

// The boot states.
const (
	BootDisk      BootState = "disk"      // its own disk; where every job ends
	BootCapture   BootState = "capture"   // the stateless image, to capture its disk
	BootDeploy    BootState = "deploy"    // the stateless image, to write its disk
	BootShell     BootState = "shell"     // the stateless image, with a shell for a person
	BootStateless BootState = "stateless" // the stateless image of the node's profile, for good
	BootWipe      BootState = "wipe"      // the stateless image, to erase its disk
	BootMemtest   BootState = "memtest"   // a test of its memory, for good
	BootDiscover  BootState = "discover"  // the stateless image, to report itself
)

// Node is a compute node as the inventory knows it.
type Node struct {
	Name      Name              `json:"name"`
	Groups    []string          `json:"groups,omitempty"`
	NICs      []NIC             `json:"nics"` // the first is the one it boots from, until another asks
	BMC       BMC               `json:"bmc"`
	Arch      Arch              `json:"arch,omitempty"`     // learnt from its DHCP request, unless set
	Firmware  Firmware          `json:"firmware,omitempty"` // learnt likewise
	Disk      DiskRule          `json:"disk"`
	Profile   string            `json:"profile,omitempty"` // stateless image; empty means "imaging"
	Boot      BootState         `json:"boot"`
	BootOnce  bool              `json:"boot_once,omitempty"` // falls back to disk after one boot
	Knobs     Knobs             `json:"knobs"`
	Labels    map[string]string `json:"labels,omitempty"`
	Hostname  string            `json:"hostname,omitempty"` // for deploy; empty means Name
	Created   time.Time         `json:"created"`
	LastImage string            `json:"last_image,omitempty"` // NAME@REV last captured from or deployed to it
}

// NIC is a network card that a node may boot from.
type NIC struct {
	MAC string `json:"mac"`          // lower case, colons
	IP  string `json:"ip,omitempty"` // fixed IPv4 address; empty means one from the pool
}

// BMC says how to switch a node's power. The password is never shown: it lives in the inventory, sealed.
type BMC struct {
	URL         string `json:"url,omitempty"` // ipmi://10.0.9.7, redfish://10.0.9.7, exec:NAME, wol:, manual: (by hand); empty means manual
	User        string `json:"user,omitempty"`
	HasPassword bool   `json:"has_password,omitempty"`
	Insecure    bool   `json:"insecure,omitempty"`     // Redfish: accept any certificate
	CipherSuite int    `json:"cipher_suite,omitempty"` // IPMI: 3 or 17; 0 means 17, then 3
}

// DiskRule chooses the disk of a job. All fields that are set must hold; exactly one disk must match. With none set,
// the node must have exactly one disk that is not removable.
type DiskRule struct {
	Serial  string `json:"serial,omitempty"`
	WWN     string `json:"wwn,omitempty"`
	Bus     string `json:"bus,omitempty"`      // nvme, sata, scsi, virtio, usb, mmc
	ByPath  string `json:"by_path,omitempty"`  // as in /dev/disk/by-path
	MinSize int64  `json:"min_size,omitempty"` // bytes
	MaxSize int64  `json:"max_size,omitempty"` // bytes
}

// Knobs are per-node work-arounds for firmwares.
type Knobs struct {
	DiskBoot string `json:"disk_boot,omitempty"` // "sanboot" or "exit"; empty means what suits the firmware
	Loader   string `json:"loader,omitempty"`    // "own": our iPXE even where the ROM is one; "shim": Secure Boot (UEFI); empty means iPXE
	Console  string `json:"console,omitempty"`   // kernel's console= value, as ttyS0,115200
	Cmdline  string `json:"cmdline,omitempty"`   // more kernel parameters
	NVRAM    string `json:"nvram,omitempty"`     // "off": a deploy leaves the firmware's boot entries as they are (UEFI); empty means on
}
