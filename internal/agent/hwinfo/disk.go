package hwinfo

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"mimeo/internal/cluster/api"
)

// Disk is a whole disk of this machine.
type Disk struct {
	api.Disk
	Path           string // of its device file, or of the image file that stands in for a disk
	PhysicalSector int    // bytes
	Image          bool   // Path is an image file
}

// notDisks are block devices that are not disks: made by the kernel in memory or on top of others, media that are
// read-only by nature, and the boot and replay-protected parts of eMMC.
var notDisks = regexp.MustCompile(`^(loop|ram|zram|dm-|md|sr|fd|nbd|drbd|rbd|bcache|mtdblock|ubiblock|pmem\d+s)|^mmcblk\d+(boot|rpmb|gp)`)

// Disks lists the whole disks that have a medium, in the order of their names.
func Disks(root string) []Disk {
	var out []Disk
	dirs, _ := filepath.Glob(filepath.Join(root, "sys/block/*")) // sorted; the pattern is well formed
	for _, d := range dirs {
		name := filepath.Base(d)
		if notDisks.MatchString(name) || text(d, "hidden") == "1" {
			continue
		}
		size := number(d, "size") * 512 // always in units of 512 bytes
		dev, err := filepath.EvalSymlinks(d)
		if err != nil || size <= 0 {
			continue
		}
		bus := busOf(name, dev)
		if bus == "" {
			continue
		}
		serial, model := identify(root, name, dev, bus)
		out = append(out, Disk{
			Path:           filepath.Join("/dev", strings.ReplaceAll(name, "!", "/")), // "cciss!c0d0": sysfs has no slashes
			PhysicalSector: int(number(d, "queue/physical_block_size")),
			Disk: api.Disk{
				Name: name, Size: size, SectorSize: max(int(number(d, "queue/logical_block_size")), 512),
				Model: model, Serial: serial, WWN: wwn(dev), Bus: bus, ByPath: byPath(root, dev),
				Removable: text(d, "removable") == "1", ReadOnly: text(d, "ro") == "1", Rotational: text(d, "queue/rotational") == "1",
			},
		})
	}
	return out
}

var ataPort = regexp.MustCompile(`/ata\d+/`)

// busOf tells how a disk is attached, or "" for what hangs on nothing.
func busOf(name, dev string) string {
	switch {
	case strings.HasPrefix(name, "nvme"):
		return "nvme" // with multipath it hangs on a virtual device
	case strings.Contains(dev, "/devices/virtual/"):
		return ""
	case strings.HasPrefix(name, "vd"):
		return "virtio"
	case strings.HasPrefix(name, "mmcblk"):
		return "mmc"
	case strings.Contains(dev, "/usb"):
		return "usb"
	case ataPort.MatchString(dev):
		return "sata"
	case strings.HasPrefix(name, "xvd"):
		return "xen"
	}
	return "scsi"
}

// identify returns serial number and model.
func identify(root, name, dev, bus string) (serial, model string) {
	model = strings.Join(strings.Fields(text(dev, "device/model")), " ")
	switch bus {
	case "virtio":
		return text(dev, "serial"), model
	case "nvme":
		return text(dev, "device/serial"), model
	case "mmc":
		return strings.TrimPrefix(text(dev, "device/serial"), "0x"), text(dev, "device/name")
	}
	if vendor := text(dev, "device/vendor"); vendor != "" && vendor != "ATA" {
		model = strings.TrimSpace(vendor + " " + model)
	}
	if serial = vpdSerial(dev); serial == "" && bus == "usb" {
		serial = usbSerial(root, dev)
	}
	if serial == "" && bus == "sata" && filepath.Clean(root) == "/" {
		serial = ataSerial("/dev/" + name)
	}
	return serial, model
}

// vpdSerial reads the unit serial number page (SPC-4 section 7.8.15): four bytes of header, the third and fourth of
// which are the length, then the number.
func vpdSerial(dev string) string {
	b, err := os.ReadFile(filepath.Join(dev, "device/vpd_pg80"))
	if err != nil || len(b) < 4 || b[1] != 0x80 {
		return ""
	}
	n := int(b[2])<<8 | int(b[3])
	return strings.TrimSpace(strings.Trim(string(b[4:min(4+n, len(b))]), "\x00"))
}

// usbSerial goes up to the USB device, which is what has an idVendor.
func usbSerial(root, dev string) string {
	top := filepath.Join(root, "sys")
	for d := filepath.Dir(dev); strings.HasPrefix(d, top) && d != top; d = filepath.Dir(d) {
		if text(d, "idVendor") != "" {
			return text(d, "serial")
		}
	}
	return ""
}

// wwn returns the disk's world wide name as 0x and hexadecimal digits, or "". A wwid of the kernel is "naa.…", "eui.…",
// or text made of vendor and serial number, which is no world wide name.
func wwn(dev string) string {
	for _, f := range []string{"wwid", "device/wwid"} {
		if s := text(dev, f); strings.HasPrefix(s, "naa.") || strings.HasPrefix(s, "eui.") {
			return "0x" + strings.ToLower(s[4:])
		}
	}
	return ""
}
