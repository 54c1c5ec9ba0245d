package hwinfo

import (
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// hdioGetIdentity is HDIO_GET_IDENTITY of linux/hdreg.h.
const hdioGetIdentity = 0x030d

// ataSerial asks a SATA disk for its serial number: words 10 to 19 of IDENTIFY DEVICE (ACS-3 section 7.12). Kernels that
// offer no vpd_pg80 for such disks need this.
func ataSerial(path string) string {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	var id [512]byte
	// The kernel has swapped the bytes of the text already.
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), hdioGetIdentity, uintptr(unsafe.Pointer(&id[0]))); errno != 0 {
		return ""
	}
	return strings.TrimSpace(strings.Trim(string(id[20:40]), "\x00"))
}
