package boot_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"

	"mimeo/internal/boot/dhcp"
	"mimeo/internal/boot/tftp"
	"mimeo/internal/cluster/node"
)

// within runs f on a thread that is in a network namespace: sockets that it opens stay there. The thread goes back
// afterwards; were it ended, the programs that were started from it would be killed.
func within(ns string, f func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer home.Close()
	h, err := os.Open("/run/netns/" + ns)
	if err != nil {
		return err
	}
	defer h.Close()
	if err := unix.Setns(int(h.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	err = f()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, back) // the thread stays locked, and is used for nothing else
	}
	runtime.UnlockOSThread()
	return err
}

// hall is where simulated machines stand: a namespace with one interface, on which all of them are.
type hall struct {
	t    *testing.T
	ns   string
	dhcp *net.UDPConn // port 68; the answers are broadcast, or sent to an address that the interface has
	loss float64      // of what is sent and received

	mu   sync.Mutex
	wait map[dhcpv4.TransactionID]chan *dhcpv4.DHCPv4
	rnd  *rand.Rand
}

func newHall(t *testing.T, loss float64) *hall {
	t.Helper()
	h := &hall{t: t, ns: station(t, "hall", "52:54:00:77:00:f0"), loss: loss, wait: map[dhcpv4.TransactionID]chan *dhcpv4.DHCPv4{}, rnd: rand.New(rand.NewPCG(1, 2))}
	run(t, "ip", "-n", h.ns, "addr", "add", "10.77.0.240/24", "dev", "eth0")
	err := within(h.ns, func() error {
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			var err error
			cerr := c.Control(func(fd uintptr) {
				err = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1), unix.BindToDevice(int(fd), "eth0"))
			})
			return errors.Join(cerr, err)
		}}
		pc, err := lc.ListenPacket(context.Background(), "udp4", ":68")
		if err == nil {
			h.dhcp = pc.(*net.UDPConn)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan bool)
	go func() {
		defer close(done)
		buf := make([]byte, 9000)
		for {
			n, _, err := h.dhcp.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			m, err := dhcpv4.FromBytes(buf[:n])
			if err != nil || m.OpCode != dhcpv4.OpcodeBootReply || h.lost() {
				continue
			}
			h.mu.Lock()
			if c := h.wait[m.TransactionID]; c != nil {
				select {
				case c <- m:
				default:
				}
			}
			h.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		h.dhcp.Close()
		<-done
	})
	return h
}

func (h *hall) lost() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.rnd.Float64() < h.loss
}

// machine is a simulated machine with one firmware.
type machine struct {
	*hall
	mac  string
	fw   firmware
	addr netip.Addr
	try  time.Duration // of the first try at anything; the next ones take twice as long, as in firmwares
}

// firmware is what a DHCP request says of itself.
type firmware struct {
	name   string
	arch   int // -1: it does not say
	class  string
	ipxe   bool
	params []byte // none: what firmwares ask for
}

var firmwares = []firmware{
	{name: "BIOS", arch: 0, class: "PXEClient:Arch:00000:UNDI:002001"},
	{name: "UEFI x64", arch: 7, class: "PXEClient:Arch:00007:UNDI:003000"},
	{name: "UEFI x64 as EBC", arch: 9, class: "PXEClient:Arch:00009:UNDI:003000"},
	{name: "UEFI arm64", arch: 11, class: "PXEClient:Arch:00011:UNDI:003000"},
	{name: "HTTP x64", arch: 16, class: "HTTPClient:Arch:00016:UNDI:003000"},
	{name: "HTTP arm64", arch: 19, class: "HTTPClient:Arch:00019:UNDI:003000"},
	{name: "iPXE in a BIOS ROM", arch: 0, class: "PXEClient:Arch:00000:UNDI:002001", ipxe: true},
	{name: "iPXE in UEFI", arch: 7, class: "PXEClient:Arch:00007:UNDI:003010", ipxe: true},
	{name: "OPAL", arch: 14, params: []byte{1, 3, 12, 15, 28, 42, 66, 67, 209, 210}},
	{name: "Open Firmware", arch: -1, params: []byte{1, 3, 6, 13, 51, 54, 60, 66, 67, 93, 94, 97}},
}

// message makes a DHCP message of this machine.
func (m *machine) message(typ dhcpv4.MessageType, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	hw, err := net.ParseMAC(m.mac)
	if err != nil {
		panic(err)
	}
	d, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(hw), dhcpv4.WithMessageType(typ), dhcpv4.WithBroadcast(true)}, mods...)...)
	if err != nil {
		panic(err)
	}
	params := m.fw.params
	if params == nil {
		params = []byte{1, 2, 3, 4, 5, 6, 12, 13, 15, 17, 18, 22, 23, 28, 40, 41, 42, 43, 50, 51, 54, 58, 59, 60, 66, 67, 97, 128, 129, 130, 131, 132, 133, 134, 135, 175}
	}
	d.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionParameterRequestList, params))
	if m.fw.class != "" {
		d.UpdateOption(dhcpv4.OptClassIdentifier(m.fw.class))
		d.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, append([]byte{0}, make([]byte, 16)...)))
	}
	if m.fw.arch >= 0 {
		d.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClientSystemArchitectureType, binary.BigEndian.AppendUint16(nil, uint16(m.fw.arch))))
	}
	if m.fw.ipxe {
		d.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionUserClassInformation, []byte("iPXE")))
		d.UpdateOption(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(175), []byte{0xb1, 4, 0x80, 0x86, 0x10, 0x0e}))
	}
	return d
}

// ask sends d, again and again, until an answer comes that suits.
func (m *machine) ask(d *dhcpv4.DHCPv4, suits func(*dhcpv4.DHCPv4) bool) (*dhcpv4.DHCPv4, error) {
	return m.askAt(d, "255.255.255.255:67", suits)
}

func (m *machine) askAt(d *dhcpv4.DHCPv4, at string, suits func(*dhcpv4.DHCPv4) bool) (*dhcpv4.DHCPv4, error) {
	c := make(chan *dhcpv4.DHCPv4, 8)
	m.mu.Lock()
	m.wait[d.TransactionID] = c
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		delete(m.wait, d.TransactionID)
		m.mu.Unlock()
	}()
	wait := m.try
	for range 6 {
		if !m.lost() {
			if _, err := m.dhcp.WriteToUDPAddrPort(d.ToBytes(), netip.MustParseAddrPort(at)); err != nil {
				return nil, err
			}
		}
		over := time.After(wait)
		wait *= 2
	listen:
		for {
			select {
			case a := <-c:
				if suits(a) {
					return a, nil
				}
			case <-over:
				break listen
			}
		}
	}
	return nil, fmt.Errorf("%s %s: no answer to %s", m.mac, m.fw.name, d.MessageType())
}

// configure takes a lease: an offer, then an ACK. With an address, the boot file is in either.
func (m *machine) configure() (*dhcpv4.DHCPv4, error) {
	d := m.message(dhcpv4.MessageTypeDiscover)
	offer, err := m.ask(d, func(a *dhcpv4.DHCPv4) bool {
		return a.MessageType() == dhcpv4.MessageTypeOffer && !a.YourIPAddr.IsUnspecified()
	})
	if err != nil {
		return nil, err
	}
	r := m.message(dhcpv4.MessageTypeRequest, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(offer.YourIPAddr)),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(offer.ServerIdentifier())))
	ack, err := m.ask(r, func(a *dhcpv4.DHCPv4) bool { return a.MessageType() == dhcpv4.MessageTypeAck })
	if err != nil {
		return nil, err
	}
	m.addr = addr4(ack.YourIPAddr)
	return ack, nil
}

// bootFile is what an answer names: option 67, else the field.
func bootFile(a *dhcpv4.DHCPv4) string {
	if f := strings.TrimRight(string(a.GetOneOption(dhcpv4.OptionBootfileName)), "\x00"); f != "" {
		return f
	}
	return a.BootFileName
}

// up gives the machine's address to the hall, so that it can load files.
func (m *machine) up() error {
	out, err := exec.Command("ip", "-n", m.ns, "addr", "replace", m.addr.String()+"/24", "dev", "eth0").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// load fetches a boot file as a firmware does: by HTTP where it is a URL, else by TFTP from server.
func (m *machine) load(file string, server net.IP) ([]byte, error) {
	if strings.HasPrefix(file, "http://") {
		return m.http(file)
	}
	return m.tftp(file, server)
}

func (m *machine) http(url string) ([]byte, error) {
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (c net.Conn, err error) {
		err = within(m.ns, func() error {
			c, err = (&net.Dialer{LocalAddr: &net.TCPAddr{IP: m.addr.AsSlice()}}).DialContext(ctx, "tcp4", addr)
			return err
		})
		return c, err
	}}
	r, err := (&http.Client{Transport: tr, Timeout: 30 * time.Second}).Get(url)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, r.Status)
	}
	return io.ReadAll(r.Body)
}

// tftp fetches a file in blocks of 512 bytes, without options, as the oldest ROMs do.
func (m *machine) tftp(file string, server net.IP) ([]byte, error) {
	var conn *net.UDPConn
	err := within(m.ns, func() (err error) {
		conn, err = net.ListenUDP("udp4", &net.UDPAddr{IP: m.addr.AsSlice()})
		return err
	})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ip, _ := netip.AddrFromSlice(server.To4())
	to := netip.AddrPortFrom(ip, 69)
	last := append([]byte("\x00\x01"+file), "\x00octet\x00"...)
	var got []byte
	buf := make([]byte, 600)
	next, tries, wait := uint16(1), 0, m.try
	send := true
	for {
		if send && !m.lost() {
			conn.WriteToUDPAddrPort(last, to)
		}
		send = false
		conn.SetReadDeadline(time.Now().Add(wait))
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			if tries++; tries > 6 {
				return nil, fmt.Errorf("%s: %s by TFTP: no answer after %d bytes", m.mac, file, len(got))
			}
			wait *= 2
			send = true
			continue
		}
		if m.lost() || n < 4 {
			continue
		}
		if buf[1] == 5 {
			return nil, fmt.Errorf("%s by TFTP: %q", file, buf[4:n])
		}
		if buf[1] != 3 || (to.Port() != 69 && from != to) {
			continue
		}
		block := binary.BigEndian.Uint16(buf[2:])
		if block != next {
			continue // a repeated one: what was acknowledged is not acknowledged again, or all would double
		}
		to = from
		got = append(got, buf[4:n]...)
		last = []byte{0, 4, buf[2], buf[3]}
		next, tries, wait, send = next+1, 0, m.try, true
		if n < 516 {
			conn.WriteToUDPAddrPort(last, to)
			return got, nil
		}
	}
}

// bootsAs is the node that a machine with this firmware is.
func (f firmware) node(name, mac, ip string) node.Node {
	n := node.Node{Name: node.Name(name), NICs: []node.NIC{{MAC: mac, IP: ip}}, Boot: node.BootDisk}
	switch f.name {
	case "Open Firmware":
		n.Firmware, n.Arch = node.OpenFirmware, node.PPC64EL
	case "OPAL":
		n.Firmware, n.Arch = node.OPAL, node.PPC64EL
	}
	return n
}

// requestOf is what our server would read from a machine's DISCOVER.
func requestOf(m *machine) dhcp.Request {
	r := dhcp.Request{MAC: m.mac, Mode: dhcp.Full, VendorClass: m.fw.class, HasIPXE: m.fw.ipxe, Params: m.fw.params}
	if m.fw.arch >= 0 {
		r.Archs = []uint16{uint16(m.fw.arch)}
	}
	if m.fw.ipxe {
		r.UserClass = []byte("iPXE")
	}
	return r
}

func dhcpOption(code uint8) dhcpv4.OptionCode { return dhcpv4.GenericOptionCode(code) }

// serveFiles serves any file by TFTP: its text is "this is NAME".
func serveFiles(t *testing.T) {
	t.Helper()
	s := &tftp.Server{Addr: "10.77.0.1:69", Interface: "br0", Open: func(_ context.Context, r tftp.Request) (tftp.File, error) {
		return tftp.Bytes([]byte("this is " + r.Name)), nil
	}}
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func addr4(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip.To4())
	return a
}
