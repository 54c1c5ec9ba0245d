package hwinfo

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// byPath names a disk by where it is plugged in, as udev names its link in /dev/disk/by-path, or returns "" where udev
// makes none. dev is the disk's folder in sysfs. From the disk up to the root, each device of a known kind puts its part
// in front.
func byPath(root, dev string) string {
	top := filepath.Join(root, "sys/devices")
	var parts []string
	transport, parent := false, false
	put := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	for d := filepath.Dir(dev); len(d) > len(top) && strings.HasPrefix(d, top); d = filepath.Dir(d) {
		name := filepath.Base(d)
		switch linkBase(d, "subsystem") {
		case "scsi":
			if !scsiAddress.MatchString(name) {
				continue
			}
			part, host := scsiPart(root, d, name)
			if part == "" {
				return ""
			}
			put("%s", part)
			transport = true
			d = host
		case "nvme":
			if transport {
				continue
			}
			nsid := text(dev, "nsid")
			if nsid == "" {
				return ""
			}
			put("nvme-%s", nsid)
			transport = true
		case "nvme-subsystem":
			return "" // the way to it is not one
		case "virtio", "vmbus":
			transport = true
		case "usb":
			if _, port, ok := strings.Cut(name, "-"); ok && strings.Contains(name, ":") { // an interface
				put("usb-0:%s", port)
				transport = true
			}
		case "platform":
			put("platform-%s", name)
			transport, parent = true, true
			d = skip(d, "platform")
		case "pci":
			put("pci-%s", name)
			parent = true
			d = skip(d, "pci")
		case "acpi":
			put("acpi-%s", name)
			parent = true
			d = skip(d, "acpi")
		case "xen":
			put("xen-%s", name)
			parent = true
			d = skip(d, "xen")
		}
	}
	if !transport || !parent {
		return ""
	}
	slices.Reverse(parts)
	return strings.Join(parts, "-")
}

// skip goes up while the folder above belongs to the same subsystem: bridges between the device and the root.
func skip(d, subsystem string) string {
	for linkBase(filepath.Dir(d), "subsystem") == subsystem {
		d = filepath.Dir(d)
	}
	return d
}

var (
	scsiAddress = regexp.MustCompile(`^(\d+):(\d+):(\d+):(\d+)$`)
	scsiHost    = regexp.MustCompile(`^host(\d+)$`)
	ataName     = regexp.MustCompile(`^ata\d+$`)
)

// scsiPart names a SCSI device by its address on the controller, and returns the folder of its host, which is where to
// go on.
func scsiPart(root, dev, name string) (part, host string) {
	var h, bus, target, lun int
	if n, _ := fmt.Sscanf(name, "%d:%d:%d:%d", &h, &bus, &target, &lun); n != 4 {
		return "", ""
	}
	for host = dev; !scsiHost.MatchString(filepath.Base(host)); host = filepath.Dir(host) {
		if len(host) <= len(root)+1 {
			return "", ""
		}
		switch base := filepath.Base(host); {
		case strings.HasPrefix(base, "rport-"):
			port := text(root, "sys/class/fc_transport", filepath.Base(filepath.Dir(dev)), "port_name")
			if port == "" {
				return "", ""
			}
			return fmt.Sprintf("fc-%s-lun-%d", port, lun), hostOf(host)
		case strings.HasPrefix(base, "end_device-"):
			addr := text(root, "sys/class/sas_device", base, "sas_address")
			if addr == "" {
				return "", ""
			}
			phy := text(root, "sys/class/sas_device", base, "phy_identifier")
			if direct := strings.Count(base, ":") == 1; direct && phy != "" {
				return fmt.Sprintf("sas-phy%s-lun-%d", phy, lun), hostOf(host)
			}
			return fmt.Sprintf("sas-%s-lun-%d", addr, lun), hostOf(host)
		}
	}
	above := filepath.Dir(host)
	if ata := filepath.Base(above); ataName.MatchString(ata) {
		port := text(root, "sys/class/ata_port", ata, "port_no")
		if port == "" {
			port = text(above, "ata_port", ata, "port_no")
		}
		if port == "" {
			return "", ""
		}
		if bus != 0 {
			return fmt.Sprintf("ata-%s.%d.0", port, bus), host // behind a port multiplier
		}
		return fmt.Sprintf("ata-%s.%d", port, target), host
	}
	// The host's number depends on the order in which drivers came up: count from the first of the same controller.
	return fmt.Sprintf("scsi-%d:%d:%d:%d", h-firstHost(above, h), bus, target, lun), host
}

func hostOf(d string) string {
	for !scsiHost.MatchString(filepath.Base(d)) && len(d) > 1 {
		d = filepath.Dir(d)
	}
	return d
}

// firstHost returns the lowest host number in a controller's folder.
func firstHost(dir string, n int) int {
	list, err := os.ReadDir(dir)
	if err != nil {
		return n
	}
	for _, e := range list {
		if m := scsiHost.FindStringSubmatch(e.Name()); m != nil {
			if i, err := strconv.Atoi(m[1]); err == nil {
				n = min(n, i)
			}
		}
	}
	return n
}
