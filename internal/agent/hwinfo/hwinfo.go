// Package hwinfo reads what this machine is made of.
//
// It reads sysfs and procfs alone: no udev, no other program. Every function takes the folder in which they lie, "/" on
// a running machine, so that the trees of machines which are not at hand can be read as well.
package hwinfo

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

// Read reports the machine. bootMAC, which may be empty, marks the network card that it booted from. What cannot be
// read is left empty: no machine has all of it.
func Read(root, bootMAC string) api.Hardware {
	h := api.Hardware{Arch: Arch(), NICs: nics(root, bootMAC), Disks: []api.Disk{}}
	dmi(root, &h)
	deviceTree(root, &h)
	if h.UEFI = UEFI(root); h.UEFI {
		// Four bytes of attributes, then the value (UEFI 2.10 section 3.3).
		b, err := os.ReadFile(filepath.Join(root, "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"))
		h.SecureBoot = err == nil && len(b) == 5 && b[4] == 1
	}
	h.CPU, h.CPUs = cpu(root)
	h.Memory = memory(root)
	for _, d := range Disks(root) {
		h.Disks = append(h.Disks, d.Disk)
	}
	return h
}

// UEFI tells whether the machine was booted by UEFI.
func UEFI(root string) bool {
	_, err := os.Stat(filepath.Join(root, "sys/firmware/efi"))
	return err == nil
}

// Arch returns the architecture that this program was built for.
func Arch() node.Arch {
	if runtime.GOARCH == "ppc64le" {
		return node.PPC64EL
	}
	return node.Arch(runtime.GOARCH)
}

// text reads a file of one line; "" where there is none.
func text(elem ...string) string {
	b, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(strings.Trim(string(b), "\x00"))
}

// number reads a file that holds a number; 0 where there is none.
func number(elem ...string) int64 {
	n, err := strconv.ParseInt(text(elem...), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// linkBase returns the last part of what a link points to.
func linkBase(elem ...string) string {
	to, err := os.Readlink(filepath.Join(elem...))
	if err != nil {
		return ""
	}
	return filepath.Base(to)
}

// fillers are what board makers leave in DMI where nobody filled anything in.
var fillers = []string{"to be filled by o.e.m.", "default string", "system manufacturer", "system product name", "system serial number", "not specified", "none", "0123456789", "123456789", "not available"}

// dmi reads what the firmware says of the machine (SMBIOS, through the kernel).
func dmi(root string, h *api.Hardware) {
	get := func(name string) string {
		s := text(root, "sys/class/dmi/id", name)
		if slices.Contains(fillers, strings.ToLower(s)) {
			return ""
		}
		return s
	}
	h.Vendor, h.Product, h.Serial, h.UUID = get("sys_vendor"), get("product_name"), get("product_serial"), strings.ToLower(get("product_uuid"))
	var bios []string
	for _, n := range []string{"bios_vendor", "bios_version", "bios_date"} {
		if s := get(n); s != "" {
			bios = append(bios, s)
		}
	}
	h.BIOS = strings.Join(bios, " ")
}

// deviceTree fills what DMI left empty on machines that are described by a device tree.
func deviceTree(root string, h *api.Hardware) {
	dt := filepath.Join(root, "proc/device-tree")
	if h.Product == "" {
		h.Product = text(dt, "model")
	}
	if h.Vendor == "" {
		if maker, _, ok := strings.Cut(text(dt, "compatible"), ","); ok && h.Product != "" {
			h.Vendor = maker
		}
	}
	for _, name := range []string{"serial-number", "system-id"} {
		if h.Serial == "" {
			h.Serial = text(dt, name)
		}
	}
}

// cpu returns the model of the first processor and the number of those that are online.
func cpu(root string) (model string, n int) {
	for line := range strings.Lines(text(root, "proc/cpuinfo")) {
		key, value, ok := strings.Cut(line, ":")
		if key = strings.TrimSpace(key); !ok || model != "" {
			continue
		}
		if key == "model name" || key == "cpu" { // amd64 and ppc64el; arm64 has neither
			model = strings.Join(strings.Fields(value), " ")
		}
	}
	for part := range strings.SplitSeq(text(root, "sys/devices/system/cpu/online"), ",") {
		first, last, ranged := strings.Cut(part, "-")
		a, err := strconv.Atoi(first)
		if err != nil {
			continue
		}
		b := a
		if ranged {
			if b, err = strconv.Atoi(last); err != nil {
				continue
			}
		}
		n += max(b-a+1, 0)
	}
	return model, n
}

func memory(root string) int64 {
	for line := range strings.Lines(text(root, "proc/meminfo")) {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			if f := strings.Fields(rest); len(f) > 0 {
				n, err := strconv.ParseInt(f[0], 10, 64)
				if err == nil {
					return n << 10
				}
			}
		}
	}
	return 0
}

// nics lists the network cards that stand for hardware, in the order of their names.
func nics(root, bootMAC string) []api.HardwareNIC {
	out := []api.HardwareNIC{}
	dirs, _ := filepath.Glob(filepath.Join(root, "sys/class/net/*")) // sorted; the pattern is well formed
	for _, d := range dirs {
		if _, err := os.Stat(filepath.Join(d, "device")); err != nil || text(d, "type") != "1" { // ARPHRD_ETHER
			continue
		}
		n := api.HardwareNIC{Name: filepath.Base(d), MAC: strings.ToLower(text(d, "address")), Driver: linkBase(d, "device/driver"),
			Link: text(d, "carrier") == "1"}
		if mbits := number(d, "speed"); n.Link && mbits > 0 {
			n.Mbits = int(mbits)
		}
		n.Booted = bootMAC != "" && strings.EqualFold(n.MAC, bootMAC)
		out = append(out, n)
	}
	return out
}
