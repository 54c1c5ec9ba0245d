package erase

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// nvmeCmd is struct nvme_passthru_cmd of linux/nvme_ioctl.h.
type nvmeCmd struct {
	opcode      uint8
	flags       uint8
	rsvd1       uint16
	nsid        uint32
	cdw2, cdw3  uint32
	metadata    uint64
	addr        uint64
	metadataLen uint32
	dataLen     uint32
	cdw10       uint32
	cdw11       uint32
	cdw12       uint32
	cdw13       uint32
	cdw14       uint32
	cdw15       uint32
	timeoutMS   uint32
	result      uint32
}

// Requests of linux/nvme_ioctl.h. How a request without data is marked differs between architectures: the mark is taken
// from BLKFLSBUF, which has none either. Both ways together look the same on all.
const (
	nvmeIoctlID    = unix.BLKFLSBUF&^0xffff | 0x4e40 // NVME_IOCTL_ID
	nvmeIoctlAdmin = 0xc0484e41                      // NVME_IOCTL_ADMIN_CMD
)

// Admin commands, NVM Express Base Specification 2.0 section 5.
const (
	nvmeGetLog   = 0x02
	nvmeIdentify = 0x06
	nvmeFormat   = 0x80
	nvmeSanitize = 0x84
)

// nvmeAdmin sends a command to the controller. A status other than success is an error.
func (d *Disk) nvmeAdmin(c nvmeCmd, data []byte) error {
	if len(data) > 0 {
		c.addr, c.dataLen = uint64(uintptr(unsafe.Pointer(&data[0]))), uint32(len(data))
	}
	conn, err := d.File().SyscallConn()
	if err != nil {
		return err
	}
	var status uintptr
	var errno error
	err = conn.Control(func(fd uintptr) { status, errno = ioctlRet(fd, nvmeIoctlAdmin, unsafe.Pointer(&c)) })
	runtime.KeepAlive(data)
	switch {
	case err != nil:
		return err
	case errno != nil:
		return errno
	case status != 0:
		return fmt.Errorf("the disk answers status type %d, code 0x%02x", status>>8&7, status&0xff)
	}
	return nil
}

// nvmeDisk is what a disk says of itself (Identify, section 5.17).
type nvmeDisk struct {
	nsid       uint32
	namespaces int
	format     bool // OACS bit 1
	cryptoFmt  bool // FNA bit 2
	sanitize   uint32
	flbas      uint8
	dps        uint8
	dlfeat     uint8
}

func (d *Disk) nvmeIdentify() (n nvmeDisk, err error) {
	conn, err := d.File().SyscallConn()
	if err != nil {
		return n, err
	}
	var id uintptr
	var errno error
	if err := conn.Control(func(fd uintptr) { id, errno = ioctlRet(fd, nvmeIoctlID, nil) }); err != nil {
		return n, err
	}
	if errno != nil {
		return n, fmt.Errorf("ask for the namespace: %w", errno)
	}
	n.nsid = uint32(id)
	ask := func(nsid, cns uint32) ([]byte, error) {
		b := make([]byte, 4096)
		return b, d.nvmeAdmin(nvmeCmd{opcode: nvmeIdentify, nsid: nsid, cdw10: cns, timeoutMS: 10_000}, b)
	}
	ctrl, err := ask(0, 1)
	if err != nil {
		return n, fmt.Errorf("identify the controller: %w", err)
	}
	ns, err := ask(n.nsid, 0)
	if err != nil {
		return n, fmt.Errorf("identify namespace %d: %w", n.nsid, err)
	}
	list, err := ask(0, 2)
	if err != nil {
		return n, fmt.Errorf("list the namespaces: %w", err)
	}
	n.read(ctrl, ns, list)
	return n, nil
}

// read takes what counts out of the three answers, each of 4096 bytes.
func (n *nvmeDisk) read(ctrl, ns, list []byte) {
	n.format = binary.LittleEndian.Uint16(ctrl[256:])&2 != 0
	n.cryptoFmt = ctrl[524]&4 != 0
	n.sanitize = binary.LittleEndian.Uint32(ctrl[328:])
	n.flbas, n.dps, n.dlfeat = ns[26], ns[29], ns[33]
	for i := 0; i < len(list); i += 4 {
		if binary.LittleEndian.Uint32(list[i:]) != 0 {
			n.namespaces++
		}
	}
}

// SES of Format NVM (section 5.14) and SANACT of Sanitize (section 5.24).
const (
	sesUserData   = 1
	sesCrypto     = 2
	sanactBlock   = 2
	sanactCrypto  = 4
	sanicapCrypto = 1
	sanicapBlock  = 2
)

// formatWord is command word 10 of Format NVM that keeps the format which the namespace has.
func (n nvmeDisk) formatWord(ses uint32) uint32 {
	w := uint32(n.flbas&0xf) | uint32(n.flbas>>4&1)<<4 | uint32(n.flbas>>5&3)<<12
	return w | uint32(n.dps&7)<<5 | uint32(n.dps>>3&1)<<8 | ses<<9
}

// nvme finds what a disk can do. Both commands may reach beyond the one namespace that is named, so a disk with
// several is refused.
func (d *Disk) nvme(m Method) (way, error) {
	n, err := d.nvmeIdentify()
	if err != nil {
		return way{}, fmt.Errorf("%s: %w", m, err)
	}
	kind, name, needs := n.choose(m)
	if needs != nil {
		return way{}, needs
	}
	w := way{method: m, what: name}
	if kind.sanitize {
		w.run = func(ctx context.Context, p *pace) error { return d.nvmeSanitize(p, kind.value) }
	} else {
		w.run = func(ctx context.Context, p *pace) error {
			return d.patiently(p, 0, func() error {
				return d.nvmeAdmin(nvmeCmd{opcode: nvmeFormat, nsid: n.nsid, cdw10: n.formatWord(kind.value), timeoutMS: uint32((6 * time.Hour).Milliseconds())}, nil)
			})
		}
	}
	return w, nil
}

type nvmeWay struct {
	sanitize bool
	value    uint32 // SES or SANACT
}

// choose picks the command for a method.
func (n nvmeDisk) choose(m Method) (nvmeWay, string, error) {
	if n.namespaces > 1 {
		return nvmeWay{}, "", fmt.Errorf("%s: the disk has %d namespaces, and the command may erase all of them", m, n.namespaces)
	}
	switch {
	case m == Crypto && n.format && n.cryptoFmt:
		return nvmeWay{false, sesCrypto}, "NVMe Format, cryptographic erase", nil
	case m == Crypto && n.sanitize&sanicapCrypto != 0:
		return nvmeWay{true, sanactCrypto}, "NVMe Sanitize, cryptographic erase", nil
	case m == Crypto:
		return nvmeWay{}, "", errors.New("crypto: the disk offers it by neither Format nor Sanitize")
	case n.sanitize&sanicapBlock != 0:
		return nvmeWay{true, sanactBlock}, "NVMe Sanitize, block erase", nil
	case n.format:
		return nvmeWay{false, sesUserData}, "NVMe Format, user data erase", nil
	}
	return nvmeWay{}, "", errors.New("secure-erase: the disk offers neither Sanitize nor Format")
}

// nvmeSanitize starts a sanitize operation and waits for its end. It goes on over power cycles, and cannot be stopped.
func (d *Disk) nvmeSanitize(p *pace, action uint32) error {
	const unrestricted = 1 << 3 // AUSE: a disk that fails can be used again
	if err := d.nvmeAdmin(nvmeCmd{opcode: nvmeSanitize, cdw10: action | unrestricted, timeoutMS: 120_000}, nil); err != nil {
		return err
	}
	for {
		log := make([]byte, 512)
		const page, all = 0x81, 0xffffffff // sanitize status
		if err := d.nvmeAdmin(nvmeCmd{opcode: nvmeGetLog, nsid: all, cdw10: page | (512/4-1)<<16, timeoutMS: 60_000}, log); err != nil {
			return fmt.Errorf("ask how far it is: %w", err)
		}
		done, part, err := sanitizeStatus(log)
		if done || err != nil {
			return err
		}
		p.at(int64(part * float64(d.Size())))
		time.Sleep(time.Second)
	}
}

// sanitizeStatus reads the sanitize status log page (section 5.16.1.25).
func sanitizeStatus(log []byte) (done bool, part float64, err error) {
	switch s := binary.LittleEndian.Uint16(log[2:]) & 7; s {
	case 1, 4:
		return true, 1, nil
	case 2:
		return false, float64(binary.LittleEndian.Uint16(log)) / 65536, nil
	case 3:
		return false, 0, errors.New("the disk says that it failed")
	default:
		return false, 0, fmt.Errorf("the disk says neither that it goes on nor that it is done (status %d)", s)
	}
}

// nvmeZeros reads what deallocated blocks read as (DLFEAT, NVM Command Set Specification 1.0 section 4.1.5.1).
func (d *Disk) nvmeZeros() (string, error) {
	n, err := d.nvmeIdentify()
	if err != nil {
		return "", err
	}
	if n.dlfeat&7 != 1 {
		return "", errors.New("the disk does not say that deallocated blocks read as zeros (DLFEAT)")
	}
	return "the disk says that they read as zeros (NVMe DLFEAT)", nil
}
