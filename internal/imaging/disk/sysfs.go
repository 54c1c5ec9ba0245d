package disk

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// number is a block device's number, major and minor.
type number uint64

func rdev(st os.FileInfo) number {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return 0
	}
	return number(sys.Rdev)
}

func (n number) String() string {
	return fmt.Sprintf("%d:%d", unix.Major(uint64(n)), unix.Minor(uint64(n)))
}

// parseNumber reads "8:1".
func parseNumber(s string) (number, bool) {
	var major, minor uint32
	if _, err := fmt.Sscanf(s, "%d:%d", &major, &minor); err != nil {
		return 0, false
	}
	return number(unix.Mkdev(major, minor)), true
}

// sysDir returns the folder of a block device in sysfs, without symbolic links.
func sysDir(n number) string {
	dir, err := filepath.EvalSymlinks("/sys/dev/block/" + n.String())
	if err != nil {
		return ""
	}
	return dir
}

func sysText(elem ...string) string {
	b, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(strings.ReplaceAll(string(b), "\x00", ""))
}

// identity returns what sysfs knows of the disk's make. For a partition it is that of its disk.
func identity(n number) (model, serial, wwn string) {
	dir := sysDir(n)
	if dir == "" {
		return "", "", ""
	}
	if sysText(dir, "partition") != "" {
		dir = filepath.Dir(dir)
	}
	model = strings.Join(strings.Fields(sysText(dir, "device/model")), " ")
	if model == "" {
		model = sysText(dir, "device/name") // MMC
	}
	for _, f := range []string{"serial", "device/serial"} { // virtio; NVMe and MMC
		if serial = sysText(dir, f); serial != "" {
			break
		}
	}
	if serial == "" {
		serial = vpdSerial(dir)
	}
	for _, f := range []string{"wwid", "device/wwid"} {
		if s := sysText(dir, f); strings.HasPrefix(s, "naa.") || strings.HasPrefix(s, "eui.") {
			wwn = "0x" + strings.ToLower(s[4:])
			break
		}
	}
	return model, serial, wwn
}

// vpdSerial reads the unit serial number page (SPC-4 section 7.8.15): the third and fourth byte are the length of the
// text behind the four bytes of header.
func vpdSerial(dir string) string {
	b, err := os.ReadFile(filepath.Join(dir, "device/vpd_pg80"))
	if err != nil || len(b) < 4 || b[1] != 0x80 {
		return ""
	}
	n := int(b[2])<<8 | int(b[3])
	return strings.TrimSpace(strings.Trim(string(b[4:min(4+n, len(b))]), "\x00"))
}

// family returns the device numbers of a disk and all its partitions, or of a partition alone.
func family(n number) []number {
	all := []number{n}
	dir := sysDir(n)
	if dir == "" {
		return all
	}
	devs, _ := filepath.Glob(filepath.Join(dir, "*", "dev")) // the pattern is well formed
	for _, f := range devs {
		if sysText(filepath.Dir(f), "partition") == "" {
			continue
		}
		if p, ok := parseNumber(sysText(f)); ok {
			all = append(all, p)
		}
	}
	return all
}

// devName returns "/dev/sda1" for a device number.
func devName(n number) string {
	if dir := sysDir(n); dir != "" {
		return "/dev/" + strings.ReplaceAll(filepath.Base(dir), "!", "/") // sysfs names have no slashes
	}
	return "device " + n.String()
}
