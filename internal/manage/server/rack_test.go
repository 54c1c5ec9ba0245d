package server

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/vishvananda/netlink"

	"mimeo/internal/boot/netboot"
	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/config"
)

// insideRack marks the process that runs in a network namespace of its own.
const insideRack = "MIMEO_TEST_RACK"

// cable makes a pair of interfaces: the management node's with an address, and a node's.
func cable(t *testing.T, ours, addr, its, mac string) {
	t.Helper()
	hw, err := net.ParseMAC(mac)
	if err != nil {
		t.Fatal(err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = ours
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: its, PeerHardwareAddr: hw}); err != nil {
		t.Fatal("this test needs root: ", err)
	}
	a, err := netlink.ParseAddr(addr)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{ours, its} {
		l, err := netlink.LinkByName(name)
		if err == nil && name == ours {
			err = netlink.AddrAdd(l, a)
		}
		if err == nil {
			err = netlink.LinkSetUp(l)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// own gives an address to a node's interface.
func own(t *testing.T, its string, ip net.IP) {
	t.Helper()
	l, err := netlink.LinkByName(its)
	if err == nil {
		err = netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: net.CIDRMask(32, 32)}})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// ask sends a DISCOVER as a firmware does and returns the offer; nil where none comes.
func ask(t *testing.T, its string, ipxe bool) (*nclient4.Client, *dhcpv4.DHCPv4) {
	t.Helper()
	c, err := nclient4.New(its, nclient4.WithTimeout(time.Second), nclient4.WithRetry(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	mods := []dhcpv4.Modifier{dhcpv4.WithBroadcast(true), dhcpv4.WithOption(dhcpv4.OptClientArch(iana.INTEL_X86PC)), dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient:Arch:00000:UNDI:002001"))}
	if ipxe {
		mods = append(mods, dhcpv4.WithOption(dhcpv4.OptUserClass("iPXE")), dhcpv4.WithGeneric(dhcpv4.GenericOptionCode(175), []byte{0x13, 1, 1}))
	}
	offer, err := c.DiscoverOffer(t.Context(), mods...)
	if err != nil {
		return c, nil
	}
	return c, offer
}

// fetch reads a small file by TFTP, RFC 1350.
func fetch(t *testing.T, from, server, name string) []byte {
	t.Helper()
	to, err := net.ResolveUDPAddr("udp4", server)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(from)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.WriteTo([]byte("\x00\x01"+name+"\x00octet\x00"), to); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 600)
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	n, peer, err := c.ReadFrom(buf)
	if err != nil {
		t.Fatal(err)
	}
	if n < 4 || binary.BigEndian.Uint16(buf) != 3 {
		t.Fatalf("TFTP answers %q", buf[:n])
	}
	c.WriteTo([]byte{0, 4, buf[2], buf[3]}, peer)
	return buf[4:n]
}

// One server on two interfaces, one of them beside another DHCP server, in a network namespace of its own: nodes go from
// their first packet to their script, and each step is kept.
func TestInterfaces(t *testing.T) {
	if os.Getenv(insideRack) == "" {
		t.Parallel()
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestInterfaces$", "-test.timeout=2m")
		cmd.Env = append(os.Environ(), insideRack+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
	cable(t, "full0", "10.9.0.1/24", "n1eth0", "52:54:00:00:00:01")
	cable(t, "proxy0", "10.9.1.1/24", "n2eth0", "52:54:00:00:00:02")

	// Started by hand, as the rig has no interfaces.
	r := &rig{t: t, out: &bytes.Buffer{}}
	cfg := config.Config{State: t.TempDir(), Interfaces: []config.Interface{{Name: "full0", DHCP: "full", Pool: []string{"10.9.0.50-10.9.0.60"}}, {Name: "proxy0", DHCP: "proxy"}}}
	if err := cfg.Complete(); err != nil {
		t.Fatal(err)
	}
	var logged bytes.Buffer
	if r.Server, err = New(t.Context(), cfg, "test", slog.New(slog.NewTextHandler(&logged, nil)), r.out); err != nil {
		t.Fatal(err)
	}
	// A second server finds each port taken, and says which before it does anything.
	second := cfg
	second.State = t.TempDir()
	second.Store = "dir:" + filepath.Join(second.State, "store")
	if _, err := New(t.Context(), second, "test", r.log, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "API port") {
		t.Errorf("a second server: %v", err)
	}
	second.HTTP, second.HTTPS = "127.0.0.1:0", "127.0.0.1:0"
	if _, err := New(t.Context(), second, "test", r.log, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "NFS") {
		t.Errorf("a second server with other ports: %v", err)
	}
	for _, w := range []string{"interface   full0 10.9.0.1/24, DHCP full", "interface   proxy0 10.9.1.1/24, DHCP proxy", "TFTP, NFS"} {
		if !strings.Contains(r.out.String(), w) {
			t.Errorf("it prints %q, without %q", r.out, w)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Serve(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("%s", &logged)
		}
	}()
	r.signIn()
	r.image()
	r.put("loaders/undionly.kpxe", "this is undionly.kpxe", 0o644)

	if _, offer := ask(t, "n1eth0", false); offer != nil {
		t.Errorf("a stranger is offered %v", offer)
	}
	r.must("POST", "/v1/nodes", api.NodeAdd{Range: "n[1-2]", PerNode: map[node.Name]map[string]string{"n1": {"mac": "52:54:00:00:00:01"}, "n2": {"mac": "52:54:00:00:00:02"}}}, nil)
	r.capture("n1")
	r.capture("n2")

	// n1 gets its address from us.
	c, offer := ask(t, "n1eth0", false)
	if offer == nil {
		t.Fatal("n1 gets no offer")
	}
	ip := offer.YourIPAddr
	if a, _ := netip.AddrFromSlice(ip.To4()); offer.BootFileName != "undionly.kpxe" || !offer.ServerIPAddr.Equal(net.IPv4(10, 9, 0, 1)) || a.Less(netip.MustParseAddr("10.9.0.50")) || netip.MustParseAddr("10.9.0.60").Less(a) {
		t.Errorf("n1 is offered %s", offer.Summary())
	}
	if _, err := c.RequestFromOffer(t.Context(), offer, dhcpv4.WithBroadcast(true)); err != nil {
		t.Fatal(err)
	}
	own(t, "n1eth0", ip)
	own(t, "n1eth0", net.IPv4(10, 9, 0, 99))
	if b := fetch(t, ip.String(), "10.9.0.1:69", "undionly.kpxe"); string(b) != "this is undionly.kpxe" {
		t.Errorf("TFTP gave %q", b)
	}
	if b := fetch(t, ip.String(), "10.9.0.1:69", netboot.FileAutoexec); !bytes.HasPrefix(b, []byte("#!ipxe")) || !bytes.Contains(b, []byte("http://10.9.0.1:4480")) {
		t.Errorf("TFTP gave %q", b)
	}
	_, again := ask(t, "n1eth0", true)
	if again == nil || !strings.HasPrefix(again.BootFileName, "http://10.9.0.1:4480/boot/ipxe/52-54-00-00-00-01") || !again.YourIPAddr.Equal(ip) {
		t.Fatalf("n1's iPXE is offered %v", again)
	}
	path := strings.TrimPrefix(again.BootFileName, "http://10.9.0.1:4480")
	code, text := r.getAt("10.9.0.1:4480", ip.String(), path)
	m := tokenIn.FindStringSubmatch(text)
	if code != 200 || m == nil || !strings.Contains(text, api.ParamServer+"=https://10.9.0.1:4443") || !strings.Contains(text, "http://10.9.0.1:4480/boot/stateless/"+build) {
		t.Fatalf("n1's script: %d %s", code, text)
	}
	if code, text := r.getAt("10.9.0.1:4480", "10.9.0.99", path); code != 404 || tokenIn.MatchString(text) {
		t.Errorf("n1's script for another address: %d %s", code, text)
	}
	task := r.hello(m[1], "b1")
	if task.Kind != api.TaskCapture || len(task.Mounts) != 1 || !strings.Contains(task.Mounts[0].Options, "port=4449") {
		t.Errorf("n1's task %+v", task)
	}

	// n2 has its address from somebody else: only how to boot comes from us.
	_, offer = ask(t, "n2eth0", true)
	if offer == nil || !offer.YourIPAddr.IsUnspecified() || !strings.HasPrefix(offer.BootFileName, "http://10.9.1.1:4480/boot/ipxe/") {
		t.Fatalf("n2 is offered %v", offer)
	}
	own(t, "n2eth0", net.IPv4(10, 9, 1, 77))
	path = strings.TrimPrefix(offer.BootFileName, "http://10.9.1.1:4480")
	if code, text := r.getAt("10.9.1.1:4480", "10.9.1.77", path); code != 200 || !strings.Contains(text, api.ParamServer+"=https://10.9.1.1:4443") {
		t.Errorf("n2's script: %d %s", code, text)
	}
	if code, _ := r.getAt("10.9.1.1:4480", "10.9.0.99", path); code != 404 {
		t.Errorf("n2's script for another network: %d", code)
	}

	for name, want := range map[string][]string{"n1": {"dhcp-offer " + ip.String() + " bios amd64 is told to load undionly.kpxe: ", "dhcp-ack " + ip.String(), "loader " + ip.String(), "script " + ip.String(), "agent "}, "n2": {"dhcp-offer ", "script 10.9.1.77"}} {
		var evs []api.Event
		r.must("GET", "/v1/nodes/"+name+"/events", nil, &evs)
		var all strings.Builder
		for _, e := range evs {
			fmt.Fprintf(&all, "%s %s %s\n", e.Kind, e.Addr, e.Text)
		}
		for _, w := range want {
			if !strings.Contains("\n"+all.String(), "\n"+w) {
				t.Errorf("no event %q of %s in\n%s", w, name, &all)
			}
		}
	}
	// What a node asked with is known from then on.
	if n := r.node("n1"); n.Firmware != node.BIOS || n.Arch != node.AMD64 {
		t.Errorf("n1 is %s %s", n.Firmware, n.Arch)
	}
}
