package server

import (
	"fmt"
	"slices"

	"mimeo/internal/cluster/api"
)

// hardwareChanges says in words what a machine reports otherwise than before: what somebody has taken out, put in or
// flashed. Links, names and boot entries change by themselves and do not count, nor does what can be unplugged.
func hardwareChanges(old, now api.Hardware) []string {
	var out []string
	value := func(what, was, is string) {
		if was != is {
			out = append(out, fmt.Sprintf("%s was %s, is %s", what, orDefault(was, "not known"), orDefault(is, "not known")))
		}
	}
	value("machine", old.Vendor+" "+old.Product+" "+old.Serial, now.Vendor+" "+now.Product+" "+now.Serial)
	value("BIOS", old.BIOS, now.BIOS)
	value("Secure Boot", onOff(old.SecureBoot), onOff(now.SecureBoot))
	value("CPU", fmt.Sprintf("%d × %s", old.CPUs, old.CPU), fmt.Sprintf("%d × %s", now.CPUs, now.CPU))
	// What the kernel leaves of the memory differs a little from one kernel to the next.
	if gone := old.Memory - now.Memory; gone > slack(old.Memory) || -gone > slack(old.Memory) {
		value("memory", fmt.Sprintf("%d MiB", old.Memory>>20), fmt.Sprintf("%d MiB", now.Memory>>20))
	}
	lists := func(what string, was, is []string) {
		for _, x := range was {
			if !slices.Contains(is, x) {
				out = append(out, what+" gone: "+x)
			}
		}
		for _, x := range is {
			if !slices.Contains(was, x) {
				out = append(out, what+" new: "+x)
			}
		}
	}
	lists("network card", cards(old), cards(now))
	lists("disk", fixed(old), fixed(now))
	return out
}

// slack is how much memory may be missing without a module being: one part in 32 of it, at least 64 MiB.
func slack(memory int64) int64 { return max(memory/32, 64<<20) }

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

func cards(h api.Hardware) (out []string) {
	for _, n := range h.NICs {
		out = append(out, n.MAC)
	}
	return out
}

// fixed are the disks that nobody unplugs, in words that tell them apart.
func fixed(h api.Hardware) (out []string) {
	for _, d := range h.Disks {
		if !d.Removable && d.Bus != "usb" {
			out = append(out, fmt.Sprintf("%.1f GB %s %s", float64(d.Size)/1e9, d.Model, orDefault(d.Serial, d.WWN)))
		}
	}
	return out
}
