// Package boot_test boots real firmwares and runs real clients against the packages of this folder, in a network
// namespace of its own.
package boot_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"mimeo/internal/boot/dhcp"
	"mimeo/internal/boot/netboot"
	"mimeo/internal/cluster/node"
)

// inside marks the process that runs in the namespaces.
const inside = "MIMEO_TEST_INSIDE"

// TestMain runs the tests in a network and a mount namespace of their own, so that no interface and no port of this
// machine is touched, and nothing is left behind.
func TestMain(m *testing.M) {
	if os.Getenv(inside) != "" {
		if err := enter(); err != nil {
			fmt.Fprintln(os.Stderr, "set up the namespace:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		if exit, ok := err.(*exec.ExitError); ok {
			os.Exit(exit.ExitCode())
		}
		fmt.Fprintln(os.Stderr, "run the tests in a namespace (root is needed):", err)
		os.Exit(1)
	}
}

// enter makes "ip netns" private to this process, and a bridge for the management node.
func enter() error {
	for _, args := range [][]string{
		{"mount", "--make-rprivate", "/"},
		{"mkdir", "-p", "/run/netns"},
		{"mount", "-t", "tmpfs", "tmpfs", "/run/netns"},
		{"ip", "link", "set", "lo", "up"},
		{"ip", "link", "add", "br0", "type", "bridge", "stp_state", "0", "forward_delay", "0", "mcast_snooping", "0"},
		{"ip", "addr", "add", "10.77.0.1/24", "dev", "br0"},
		{"ip", "link", "set", "br0", "up"},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	// A link-local address is of use only once duplicate address detection is through.
	for range 50 {
		out, _ := exec.Command("ip", "-6", "addr", "show", "dev", "br0", "scope", "link").Output()
		if bytes.Contains(out, []byte("fe80")) && !bytes.Contains(out, []byte("tentative")) {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("br0 got no IPv6 link-local address")
}

func run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// station is a namespace with one interface, eth0, on the bridge.
func station(t *testing.T, name, mac string) string {
	t.Helper()
	run(t, "ip", "netns", "add", name)
	run(t, "ip", "link", "add", "v"+name, "type", "veth", "peer", "name", "eth0", "address", mac, "netns", name)
	run(t, "ip", "link", "set", "v"+name, "master", "br0", "up")
	run(t, "ip", "-n", name, "link", "set", "lo", "up")
	run(t, "ip", "-n", name, "link", "set", "eth0", "up")
	t.Cleanup(func() {
		run(t, "ip", "netns", "del", name)
		exec.Command("ip", "link", "del", "v"+name).Run() // gone with its peer, sooner or later
	})
	return name
}

// buffer collects what a program prints.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// start runs a program until the test ends.
func start(t *testing.T, out *buffer, args ...string) *os.Process {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd.Process
}

// waitFor waits until the program printed want.
func waitFor(t *testing.T, out *buffer, want string, d time.Duration) {
	t.Helper()
	for end := time.Now().Add(d); !strings.Contains(out.String(), want); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%q was not printed within %v; output:\n%s", want, d, tail(out.String()))
		}
	}
}

func tail(s string) string {
	if len(s) > 6000 {
		s = "..." + s[len(s)-6000:]
	}
	return s
}

// site is a management node's DHCP for a few nodes.
type site struct {
	*dhcp.Server
	nodes map[string]node.Node // by MAC
	mu    sync.Mutex
	ev    []dhcp.Event
	log   *buffer
}

// base is the boot server's URL.
const base = "http://10.77.0.1:4480"

// newSite starts DHCP on br0 for nodes.
func newSite(t *testing.T, mode dhcp.Mode, nodes ...node.Node) *site {
	t.Helper()
	s := &site{nodes: map[string]node.Node{}, log: &buffer{}}
	for _, n := range nodes {
		for _, nic := range n.NICs {
			s.nodes[nic.MAC] = n
		}
	}
	s.Server = &dhcp.Server{
		Interface: "br0",
		Mode:      mode,
		Lookup: func(_ context.Context, mac string) (node.Node, bool, error) {
			n, ok := s.nodes[mac]
			return n, ok, nil
		},
		Decide: decide,
		Events: func(e dhcp.Event) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.ev = append(s.ev, e)
		},
		Log: slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Subnets: []dhcp.Subnet{{Prefix: netip.MustParsePrefix("10.77.0.0/24"), Server: netip.MustParseAddr("10.77.0.1"),
			Pool: []dhcp.Range{{From: netip.MustParseAddr("10.77.0.100"), To: netip.MustParseAddr("10.77.0.110")}}}},
	}
	return s
}

// decide joins dhcp and netboot as the server does.
func decide(_ context.Context, n node.Node, r dhcp.Request) dhcp.Answer {
	ask := netboot.Identify(netboot.Wire{VendorClass: r.VendorClass, UserClass: r.UserClass, Archs: r.Archs,
		HasUUID: len(r.UUID) > 0, HasIPXE: r.HasIPXE, Params: r.Params})
	ask.MAC, ask.Mode, ask.Base = r.MAC, netboot.Mode(r.Mode), base
	o := netboot.Decide(n, ask)
	return dhcp.Answer{Boot: o.Decision != netboot.Ignore, Why: o.Why, File: o.File(), Config: o.Config, IPXE: ask.IPXE,
		Firmware: o.Firmware, Arch: o.Arch}
}

func (s *site) serve(t *testing.T) {
	t.Helper()
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if t.Failed() {
			t.Logf("server's log:\n%s", tail(s.log.String()))
		}
	})
}

func (s *site) events() []dhcp.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]dhcp.Event(nil), s.ev...)
}

// qemu starts a machine with one network card on the bridge; its serial port is out.
func qemu(t *testing.T, mac string, out *buffer, args ...string) {
	t.Helper()
	tap := "t" + strings.ReplaceAll(mac[9:], ":", "")
	run(t, "ip", "tuntap", "add", tap, "mode", "tap")
	t.Cleanup(func() { run(t, "ip", "link", "del", tap) })
	run(t, "ip", "link", "set", tap, "master", "br0", "up")
	start(t, out, append([]string{
		"qemu-system-x86_64", "-accel", "tcg", "-cpu", "max,-erms", "-m", "256", "-smp", "1", "-nodefaults", "-no-user-config",
		"-display", "none", "-serial", "stdio", "-monitor", "none",
		"-netdev", "tap,id=n0,ifname=" + tap + ",script=no,downscript=no",
	}, args...)...)
}

func qemuBIOS(t *testing.T, mac string, out *buffer, args ...string) {
	t.Helper()
	qemu(t, mac, out, append([]string{"-machine", "q35,graphics=off",
		"-device", "virtio-net-pci,netdev=n0,bootindex=1,mac=" + mac}, args...)...)
}

// bootDisk is a disk whose boot sector prints text on the serial port.
func bootDisk(t *testing.T, text string) string {
	t.Helper()
	// Real mode at 0x7c00: for each byte at msg: wait for the port's transmitter, send it; then halt.
	code := []byte{
		0x31, 0xc0, 0x8e, 0xd8, // xor ax,ax; mov ds,ax
		0xbe, 0x1e, 0x7c, // mov si,0x7c1e (msg)
		0xac,       // next: lodsb
		0x84, 0xc0, // test al,al
		0x74, 0x0f, // jz halt
		0x88, 0xc4, // mov ah,al
		0xba, 0xfd, 0x03, // mov dx,0x3fd
		0xec,       // ready: in al,dx
		0xa8, 0x20, // test al,0x20
		0x74, 0xfb, // jz ready
		0xb2, 0xf8, // mov dl,0xf8
		0x88, 0xe0, // mov al,ah
		0xee,       // out dx,al
		0xeb, 0xea, // jmp next
		0xf4, // halt: hlt
	}
	sector := make([]byte, 1<<20)
	copy(sector, code)
	copy(sector[0x1e:], text+"\r\n\x00")
	sector[510], sector[511] = 0x55, 0xaa
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, sector, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// tinyKernel is a bzImage (the x86 boot protocol, version 2.12) that prints its command line on the serial port and
// halts.
func tinyKernel() []byte {
	b := make([]byte, 1536)
	b[0x1f1] = 1                // one sector of set-up code
	b[0x1f4] = 0x20             // 512 bytes after it, in units of 16
	copy(b[0x1fe:], "\x55\xaa") // boot flag
	copy(b[0x200:], "\xeb\x62HdrS\x0c\x02")
	b[0x211] = 1    // loaded high
	b[0x216] = 0x10 // code32_start: 1 MiB
	copy(b[0x224:], "\x00\xfe")
	copy(b[0x22c:], "\xff\xff\xff\x37") // highest address of the initrd
	copy(b[0x238:], "\xff\x07")         // longest command line
	copy(b[0x264:], []byte{
		0x66, 0xa1, 0x28, 0x02, // mov eax,[0x228] (address of the command line)
		0x66, 0x89, 0xc6, // mov esi,eax
		0x83, 0xe6, 0x0f, // and si,15
		0x66, 0xc1, 0xe8, 0x04, // shr eax,4
		0x8e, 0xc0, // mov es,ax
		0x26, 0x8a, 0x24, // next: mov ah,[es:si]
		0x46,       // inc si
		0x84, 0xe4, // test ah,ah
		0x74, 0x0f, // jz end
		0xba, 0xfd, 0x03, // mov dx,0x3fd
		0xec,       // ready: in al,dx
		0xa8, 0x20, // test al,0x20
		0x74, 0xfb, // jz ready
		0xb2, 0xf8, // mov dl,0xf8
		0x88, 0xe0, // mov al,ah
		0xee,       // out dx,al
		0xeb, 0xe9, // jmp next
		0xba, 0xfd, 0x03, // end: mov dx,0x3fd
		0xec,       // ready2: in al,dx
		0xa8, 0x20, // test al,0x20
		0x74, 0xfb, // jz ready2
		0xb2, 0xf8, // mov dl,0xf8
		0xb0, 0x0a, // mov al,'\n'
		0xee,       // out dx,al
		0xf4,       // stop: hlt
		0xeb, 0xfd, // jmp stop
	})
	return b
}
