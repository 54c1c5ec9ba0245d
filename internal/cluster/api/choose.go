package api

import (
	"fmt"
	"path/filepath"
	"strings"

	"mimeo/internal/cluster/node"
)

// ChooseDisk returns which one disk it is for which all that the rule sets holds. With an empty rule it is the only disk that
// is neither removable nor read-only. None or several is an *Error that lists what was found.
func ChooseDisk(rule node.DiskRule, disks []Disk) (int, error) {
	empty := rule == node.DiskRule{}
	var hits []Disk
	at := 0
	for i, d := range disks {
		if empty && (d.Removable || d.ReadOnly) {
			continue
		}
		if diskMatches(rule, d) {
			hits, at = append(hits, d), i
		}
	}
	if len(hits) == 1 {
		return at, nil
	}
	e := &Error{Code: "disk"}
	want := "disk rule " + describeRule(rule)
	if empty {
		want = "without a disk rule the node must have exactly one fixed disk: that"
	}
	switch {
	case len(disks) == 0:
		e.Message = "no disk was found on this node"
		e.Hint = "see whether the driver of its disk controller is in the stateless image, and whether the firmware hides its disks (RAID or VMD mode)"
		return 0, e
	case len(hits) == 0:
		e.Message = fmt.Sprintf("%s matches none of the disks of this node: %s", want, listDisks(disks))
	default:
		e.Message = fmt.Sprintf("%s matches %d disks of this node, not one: %s", want, len(hits), listDisks(hits))
	}
	e.Hint = `choose one with "mimeo node set NODE disk.serial=SERIAL" (or disk.wwn, disk.by_path, disk.bus, disk.min_size, disk.max_size)`
	return 0, e
}

func diskMatches(r node.DiskRule, d Disk) bool {
	return (r.Serial == "" || strings.EqualFold(strings.TrimSpace(r.Serial), d.Serial)) &&
		(r.WWN == "" || d.WWN != "" && plainWWN(r.WWN) == plainWWN(d.WWN)) &&
		(r.Bus == "" || strings.EqualFold(r.Bus, d.Bus)) &&
		(r.ByPath == "" || d.ByPath != "" && samePath(r.ByPath, d.ByPath)) &&
		(r.MinSize == 0 || d.Size >= r.MinSize) &&
		(r.MaxSize == 0 || d.Size <= r.MaxSize)
}

// plainWWN drops what tools put before the digits.
func plainWWN(s string) string {
	s = strings.ToLower(strings.TrimSpace(s))
	for _, p := range []string{"wwn-", "nvme-", "naa.", "eui.", "0x"} {
		s = strings.TrimPrefix(s, p)
	}
	return s
}

// samePath compares two names as in /dev/disk/by-path. Of a SATA disk udev has two, with and without the device's
// number behind the port's.
func samePath(a, b string) bool {
	a, b = filepath.Base(a), filepath.Base(b)
	return a == b || strings.Contains(b, "-ata-") && a+".0" == b
}

// describeRule writes a rule as an admin sets it.
func describeRule(r node.DiskRule) string {
	var w []string
	add := func(key, value string) {
		if value != "" && value != "0" {
			w = append(w, "disk."+key+"="+value)
		}
	}
	add("serial", r.Serial)
	add("wwn", r.WWN)
	add("bus", r.Bus)
	add("by_path", r.ByPath)
	add("min_size", fmt.Sprint(r.MinSize))
	add("max_size", fmt.Sprint(r.MaxSize))
	return strings.Join(w, " ")
}

// Describe says of a disk what a rule can be made of.
func (d Disk) Describe() string {
	w := []string{d.Name, DiskSize(d.Size), d.Bus}
	for _, f := range [][2]string{{"model", d.Model}, {"serial", d.Serial}, {"wwn", d.WWN}, {"by_path", d.ByPath}} {
		if f[1] != "" {
			w = append(w, f[0]+" "+f[1])
		}
	}
	if d.Removable {
		w = append(w, "removable")
	}
	if d.ReadOnly {
		w = append(w, "read-only")
	}
	return strings.Join(w, ", ")
}

func listDisks(disks []Disk) string {
	var out []string
	for _, d := range disks {
		out = append(out, d.Describe())
	}
	return strings.Join(out, "; ")
}

// DiskSize writes the size of a disk as makers do, in powers of ten, and to the byte.
func DiskSize(n int64) string {
	if n >= 10e9 {
		return fmt.Sprintf("%.0f GB (%d bytes)", float64(n)/1e9, n)
	}
	return fmt.Sprintf("%.0f MB (%d bytes)", float64(n)/1e6, n)
}
