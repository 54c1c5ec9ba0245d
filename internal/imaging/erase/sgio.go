package erase

import (
	"fmt"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sgHdr is struct sg_io_hdr of scsi/sg.h.
type sgHdr struct {
	interfaceID    int32
	dxferDirection int32
	cmdLen         uint8
	mxSbLen        uint8
	iovecCount     uint16
	dxferLen       uint32
	dxferp         unsafe.Pointer
	cmdp           unsafe.Pointer
	sbp            unsafe.Pointer
	timeout        uint32 // ms
	flags          uint32
	packID         int32
	usrPtr         unsafe.Pointer
	status         uint8
	maskedStatus   uint8
	msgStatus      uint8
	sbLenWr        uint8
	hostStatus     uint16
	driverStatus   uint16
	resid          int32
	duration       uint32
	info           uint32
}

// Of scsi/sg.h.
const (
	sgIO   = 0x2285
	sgNone = -1
	sgOut  = -2
	sgIn   = -3
)

// ioctlRet calls a driver that answers with a number.
func ioctlRet(fd uintptr, req uint, arg unsafe.Pointer) (uintptr, error) {
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, uintptr(req), uintptr(arg))
	if errno != 0 {
		return 0, errno
	}
	return r, nil
}

// senseError is what a disk says of a command that it did not do (SPC-4 section 4.5).
type senseError struct {
	key, asc, ascq byte
	progress       int // of 65536; -1 where it does not say
}

func (e *senseError) Error() string {
	keys := map[byte]string{2: "not ready", 3: "medium error", 4: "hardware error", 5: "the disk does not know or refuses the command", 7: "protected", 11: "aborted"}
	text := keys[e.key]
	if text == "" {
		text = "the disk refuses"
	}
	return fmt.Sprintf("%s (sense %x/%02x/%02x)", text, e.key, e.asc, e.ascq)
}

// readSense reads sense data in either format.
func readSense(b []byte) *senseError {
	e := &senseError{progress: -1}
	if len(b) < 8 {
		return e
	}
	switch b[0] & 0x7f {
	case 0x72, 0x73: // descriptors
		e.key, e.asc, e.ascq = b[1]&0xf, b[2], b[3]
	default:
		e.key = b[2] & 0xf
		if len(b) > 13 {
			e.asc, e.ascq = b[12], b[13]
		}
		if len(b) > 17 && b[15]&0x80 != 0 {
			e.progress = int(b[16])<<8 | int(b[17])
		}
	}
	return e
}

// sg sends a SCSI command. Where the disk does not do it the error is a *senseError if the disk says why.
func (d *Disk) sg(cdb []byte, direction int32, data []byte, limit time.Duration) error {
	sense := make([]byte, 64)
	h := sgHdr{interfaceID: 'S', dxferDirection: direction, cmdLen: uint8(len(cdb)), mxSbLen: uint8(len(sense)), dxferLen: uint32(len(data)),
		cmdp: unsafe.Pointer(&cdb[0]), sbp: unsafe.Pointer(&sense[0]), timeout: uint32(limit.Milliseconds())}
	if len(data) > 0 {
		h.dxferp = unsafe.Pointer(&data[0])
	}
	err := d.ioctl(sgIO, unsafe.Pointer(&h))
	runtime.KeepAlive(cdb)
	runtime.KeepAlive(data)
	const driverSense = 0x08
	switch {
	case err != nil:
		return err
	case h.sbLenWr > 0 && h.status != 0:
		e := readSense(sense[:min(int(h.sbLenWr), len(sense))])
		if e.key > 1 { // recovered errors are none
			return e
		}
		return nil
	case h.status != 0 || h.hostStatus != 0 || h.driverStatus&^driverSense != 0:
		return fmt.Errorf("the controller answers status 0x%02x, host 0x%02x, driver 0x%02x", h.status, h.hostStatus, h.driverStatus)
	}
	return nil
}
