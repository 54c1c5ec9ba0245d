package hwinfo

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"mimeo/internal/cluster/api"
)

// Print writes h for people.
func Print(w io.Writer, h api.Hardware) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(key string, words ...string) {
		var some []string
		for _, s := range words {
			if s != "" {
				some = append(some, s)
			}
		}
		if len(some) > 0 {
			fmt.Fprintf(t, "%s\t%s\n", key, strings.Join(some, ", "))
		}
	}
	with := func(name, value string) string {
		if value == "" {
			return ""
		}
		return name + " " + value
	}
	when := func(is bool, s string) string {
		if is {
			return s
		}
		return ""
	}
	line("machine", strings.TrimSpace(h.Vendor+" "+h.Product), with("serial", h.Serial), with("UUID", h.UUID))
	firmware := "BIOS"
	if h.UEFI {
		firmware = "UEFI"
	}
	line("firmware", firmware, when(h.SecureBoot, "Secure Boot"), h.BIOS)
	line("processor", string(h.Arch), h.CPU, fmt.Sprintf("%d online", h.CPUs))
	line("memory", fmt.Sprintf("%d MiB", h.Memory>>20))
	if h.BMC != nil {
		line("BMC", h.BMC.Addr, h.BMC.MAC)
	}
	for _, n := range h.NICs {
		line("card "+n.Name, n.MAC, n.Driver, when(n.Link, "link"), when(!n.Link, "no link"), when(n.Mbits > 0, fmt.Sprintf("%d Mbit/s", n.Mbits)), when(n.Booted, "booted from"))
	}
	for _, d := range h.Disks {
		line("disk "+d.Name, api.DiskSize(d.Size), d.Bus, d.Model, with("serial", d.Serial), with("wwn", d.WWN), with("by_path", d.ByPath),
			fmt.Sprintf("sectors of %d bytes", d.SectorSize), when(d.Removable, "removable"), when(d.ReadOnly, "read-only"))
	}
	return t.Flush()
}
