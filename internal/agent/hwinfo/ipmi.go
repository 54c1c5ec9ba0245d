package hwinfo

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"mimeo/internal/cluster/api"
)

// Structures of linux/ipmi.h.
type ipmiMsg struct {
	netfn   uint8
	cmd     uint8
	dataLen uint16
	data    unsafe.Pointer
}

type ipmiReq struct {
	addr    unsafe.Pointer
	addrLen uint32
	msgid   int
	msg     ipmiMsg
}

type ipmiRecv struct {
	recvType int32
	addr     unsafe.Pointer
	addrLen  uint32
	msgid    int
	msg      ipmiMsg
}

// ipmiAddr is struct ipmi_system_interface_addr: the machine's own BMC.
type ipmiAddr struct {
	addrType int32
	channel  int16
	lun      uint8
}

const (
	ipmiSystem   = 0x0c                                 // IPMI_SYSTEM_INTERFACE_ADDR_TYPE
	ipmiBMC      = 0x0f                                 // IPMI_BMC_CHANNEL
	ipmiSend     = unix.BLKBSZGET&0xe0000000 | 0x28690d // IPMICTL_SEND_COMMAND; the mark of a request that reads differs between architectures
	ipmiReceive  = 0xc030690b                           // IPMICTL_RECEIVE_MSG_TRUNC
	netfnLAN     = 0x0c                                 // transport, IPMI 2.0 section 23
	cmdGetLAN    = 0x02
	lanIP        = 3
	lanMAC       = 5
	lanChannels  = 8 // 1 to 7 may be a network
	ipmiPatience = 3 * time.Second
)

// BMC asks this machine's own BMC, by the kernel's driver, which address it has; nil where there is none that answers.
func BMC(root string) *api.HardwareBMC {
	for _, dev := range []string{"dev/ipmi0", "dev/ipmi/0", "dev/ipmidev/0"} {
		f, err := os.OpenFile(filepath.Join(root, dev), os.O_RDWR|unix.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		defer f.Close()
		for channel := byte(1); channel < lanChannels; channel++ {
			if b, gone := lanOf(f, channel); gone {
				return nil
			} else if b != nil {
				return b
			}
		}
		return nil
	}
	return nil
}

// lanOf reads a channel's address; gone says that the BMC does not answer at all.
func lanOf(f *os.File, channel byte) (b *api.HardwareBMC, gone bool) {
	get := func(param byte) ([]byte, error) {
		return ipmiAsk(f, netfnLAN, cmdGetLAN, []byte{channel, param, 0, 0})
	}
	ip, err := get(lanIP)
	if err != nil {
		return nil, true
	}
	mac, _ := get(lanMAC)
	return readLAN(ip, mac), false
}

// readLAN reads two answers of Get LAN Configuration Parameters: completion code, revision, value.
func readLAN(ip, mac []byte) *api.HardwareBMC {
	if len(ip) < 6 || ip[0] != 0 {
		return nil
	}
	b := &api.HardwareBMC{}
	if a := netip.AddrFrom4([4]byte(ip[2:6])); !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() {
		b.Addr = a.String()
	}
	if len(mac) >= 8 && mac[0] == 0 {
		if m := net.HardwareAddr(mac[2:8]); m.String() != "00:00:00:00:00:00" {
			b.MAC = m.String()
		}
	}
	if *b == (api.HardwareBMC{}) {
		return nil
	}
	return b
}

// ipmiAsk sends one request and returns the answer's data, the completion code first.
func ipmiAsk(f *os.File, netfn, cmd byte, data []byte) ([]byte, error) {
	to := ipmiAddr{addrType: ipmiSystem, channel: ipmiBMC}
	req := ipmiReq{addr: unsafe.Pointer(&to), addrLen: uint32(unsafe.Sizeof(to)), msgid: 1, msg: ipmiMsg{netfn: netfn, cmd: cmd, dataLen: uint16(len(data)), data: unsafe.Pointer(&data[0])}}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ipmiSend, uintptr(unsafe.Pointer(&req))); errno != 0 {
		return nil, fmt.Errorf("ask the BMC: %w", errno)
	}
	for end := time.Now().Add(ipmiPatience); ; {
		left := time.Until(end)
		if left <= 0 {
			return nil, fmt.Errorf("the BMC does not answer within %v", ipmiPatience)
		}
		fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, int(left.Milliseconds())+1); err != nil && err != unix.EINTR {
			return nil, err
		} else if n <= 0 {
			continue
		}
		var from [40]byte // struct ipmi_addr
		buf := make([]byte, 272)
		got := ipmiRecv{addr: unsafe.Pointer(&from[0]), addrLen: uint32(len(from)), msg: ipmiMsg{dataLen: uint16(len(buf)), data: unsafe.Pointer(&buf[0])}}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ipmiReceive, uintptr(unsafe.Pointer(&got))); errno != 0 {
			if errno == unix.EAGAIN {
				continue
			}
			return nil, fmt.Errorf("hear the BMC: %w", errno)
		}
		if got.msg.netfn == netfn|1 && got.msg.cmd == cmd && int(got.msg.dataLen) <= len(buf) {
			return buf[:got.msg.dataLen], nil
		}
	}
}
