package node

import (
	"fmt"
	"strconv"
	"strings"
)

// isLabel tells whether a text may name a label.
func isLabel(s string) bool {
	return s != "" && len(s) <= 100 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/") == ""
}

// LabelUnattend is the label that names a node's answer file for the setup of Windows, a file of the postscripts folder.
const LabelUnattend = "windows.unattend"

// LabelUUIDs is the label that says which UUIDs a deploy makes new; its values:
const (
	LabelUUIDs       = "deploy.uuids"
	UUIDsFilesystems = "filesystems"
	UUIDsPartitions  = "partitions" // and that of the disk
	UUIDsAll         = "all"
)

// LabelConsoleLog is the label that says when a node's serial console is logged.
const LabelConsoleLog = "console.log"

// CheckConsoleLog tells whether a text says when a serial console is logged.
func CheckConsoleLog(s string) error {
	if s != "all" && s != "attached" && s != "none" {
		return fmt.Errorf("%q: want all, attached (while somebody is) or none", s)
	}
	return nil
}

func checkLabel(label, v string) error {
	if label == LabelConsoleLog && v != "" {
		return CheckConsoleLog(v)
	}
	if label == LabelUUIDs && v != "" && v != UUIDsFilesystems && v != UUIDsPartitions && v != UUIDsAll {
		return fmt.Errorf("%q: want %s, %s or %s", v, UUIDsFilesystems, UUIDsPartitions, UUIDsAll)
	}
	if label == LabelUnattend && v != "" && !IsScript(v) {
		return fmt.Errorf("%q is no name of a file in the folder of postscripts", v)
	}
	if key, ok := strings.CutPrefix(label, LabelScripts); ok {
		return checkScripts(key, v)
	}
	return nil
}

func checkSize(v string) (string, error) {
	n, err := ParseSize(v)
	if err != nil {
		return "", err
	}
	return FormatSize(n), nil
}

// ParseSize reads bytes, or a number with K, M, G or T: powers of 1024 with an i (GiB), of 1000 as disks are sold.
func ParseSize(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	num := strings.TrimRight(s, "KMGTiB")
	unit := strings.TrimSuffix(strings.TrimSpace(s[len(num):]), "B")
	base := int64(1000)
	if strings.HasSuffix(unit, "i") {
		base, unit = 1024, strings.TrimSuffix(unit, "i")
	}
	i := strings.Index("KMGT", unit)
	if len(unit) > 1 || i < 0 || unit == "" && base == 1024 {
		return 0, fmt.Errorf("%q: want bytes, or a number with K, M, G or T", s)
	}
	factor := int64(1)
	if unit != "" {
		for range i + 1 {
			factor *= base
		}
	}
	num = strings.TrimSpace(num)
	if n, err := strconv.ParseInt(num, 10, 64); err == nil && n >= 0 && n <= (1<<62)/factor {
		return n * factor, nil
	}
	f, err := strconv.ParseFloat(num, 64)
	if err != nil || !(f >= 0 && f <= 1e15) {
		return 0, fmt.Errorf("%q: want bytes, or a number with K, M, G or T", s)
	}
	if f *= float64(factor); f > 1<<62 {
		return 0, fmt.Errorf("%q is too large", s)
	}
	return int64(f), nil
}

// FormatSize writes bytes as briefly as ParseSize reads them without loss: 500G, 10GiB, 12345.
func FormatSize(n int64) string {
	best := strconv.FormatInt(n, 10)
	for _, u := range []struct {
		base int64
		tail string
	}{{1000, ""}, {1024, "iB"}} {
		m := n
		for _, c := range "KMGT" {
			if m == 0 || m%u.base != 0 {
				break
			}
			m /= u.base
			if s := strconv.FormatInt(m, 10) + string(c) + u.tail; len(s) < len(best) {
				best = s
			}
		}
	}
	return best
}
