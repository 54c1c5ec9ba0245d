package boot_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mimeo/internal/boot/dhcp"
	"mimeo/internal/boot/netboot"
	"mimeo/internal/cluster/node"
)

// TestClientsGetLeases has ISC's client and busybox's take a lease, one with a fixed address, one from the pool.
func TestClientsGetLeases(t *testing.T) {
	s := newSite(t, dhcp.Full,
		node.Node{Name: "n02", NICs: []node.NIC{{MAC: "52:54:00:77:00:02", IP: "10.77.0.12"}}, Firmware: node.BIOS},
		node.Node{Name: "n03", NICs: []node.NIC{{MAC: "52:54:00:77:00:03"}}})
	s.serve(t)

	ns := station(t, "c2", "52:54:00:77:00:02")
	dir := t.TempDir()
	script := filepath.Join(dir, "script")
	// Both clients call a program with what they learnt in the environment; ours shows it and sets the address.
	text := "#!/bin/sh\nenv | sort >>" + dir + "/env\n" +
		"[ -z \"$new_ip_address\" ] || ip addr replace $new_ip_address/24 dev eth0\n" +
		"[ \"$1\" != bound ] || ip addr replace $ip/$mask dev eth0\nexit 0\n"
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	cl := &buffer{}
	start(t, cl, "ip", "netns", "exec", ns, "dhclient", "-4", "-1", "-v", "-d", "-sf", script, "-lf", dir+"/leases",
		"-pf", dir+"/pid", "-cf", "/dev/null", "eth0")
	waitFor(t, cl, "bound to 10.77.0.12", 10*time.Second)
	env := readFile(t, dir+"/env")
	for _, want := range []string{"new_host_name=n02", "new_subnet_mask=255.255.255.0", "new_dhcp_lease_time=3600",
		"new_dhcp_renewal_time=1800", "new_dhcp_rebinding_time=3150", "new_dhcp_server_identifier=10.77.0.1"} {
		if !strings.Contains(env, want+"\n") {
			t.Errorf("dhclient was not told %s; it has:\n%s", want, env)
		}
	}
	if strings.Contains(env, "new_filename") {
		t.Error("an operating system got a boot file")
	}

	ns = station(t, "c3", "52:54:00:77:00:03")
	got := run(t, "ip", "netns", "exec", ns, "busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-s", script, "-t", "3", "-T", "2")
	if !strings.Contains(got, "lease of 10.77.0.100 obtained from 10.77.0.1") {
		t.Errorf("udhcpc says:\n%s", got)
	}
	run(t, "ip", "netns", "exec", ns, "busybox", "ping", "-c", "1", "-W", "2", "10.77.0.1")
	// The same card gets the same address again.
	if again := run(t, "ip", "netns", "exec", ns, "busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-R", "-s", script); !strings.Contains(again, "10.77.0.100") {
		t.Errorf("udhcpc says, the second time:\n%s", again)
	}
	kinds := ""
	for _, e := range s.events() {
		kinds += " " + string(e.Node) + ":" + e.Kind
	}
	if !strings.Contains(kinds, "n02:dhcp-offer n02:dhcp-ack") || !strings.Contains(kinds, "n03:dhcp-offer n03:dhcp-ack") {
		t.Errorf("events are%s", kinds)
	}
}

// TestStrangersHearNothing has a client with an unknown network card ask, while tcpdump looks.
func TestStrangersHearNothing(t *testing.T) {
	s := newSite(t, dhcp.Full, node.Node{Name: "n04", NICs: []node.NIC{{MAC: "52:54:00:77:00:04"}}})
	s.serve(t)
	ns := station(t, "c5", "52:54:00:77:00:05")
	dump := &buffer{}
	start(t, dump, "tcpdump", "-l", "-n", "-i", "br0", "udp", "port", "67")
	waitFor(t, dump, "listening on", 5*time.Second)
	cl := &buffer{}
	start(t, cl, "ip", "netns", "exec", ns, "busybox", "udhcpc", "-i", "eth0", "-n", "-f", "-t", "3", "-T", "1", "-s", "/bin/true")
	waitFor(t, cl, "no lease", 10*time.Second)
	waitFor(t, dump, "Request from 52:54:00:77:00:05", 2*time.Second)
	if strings.Contains(dump.String(), "Reply") {
		t.Errorf("a stranger was answered:\n%s", dump)
	}
	if !strings.Contains(s.log.String(), "unknown network card") {
		t.Errorf("the log does not say why; it says:\n%s", s.log)
	}
	if ev := s.events(); len(ev) > 0 {
		t.Errorf("a stranger made events: %v", ev)
	}
}

// TestProxyBesideDnsmasq boots a BIOS with an iPXE ROM where dnsmasq gives the addresses and we add the boot file.
func TestProxyBesideDnsmasq(t *testing.T) {
	const mac = "52:54:00:77:00:06"
	n := node.Node{Name: "n06", NICs: []node.NIC{{MAC: mac}}, Boot: node.BootDisk}
	s := newSite(t, dhcp.Proxy, n)
	s.RA = dhcp.RAOn // dnsmasq is not configured for it
	d := startDnsmasq(t)
	got := make(chan string, 10)
	serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got <- r.URL.Path + " " + r.RemoteAddr[:9]
		o := netboot.Decide(n, netboot.AskFromQuery(r.URL.Query()))
		if err := netboot.Render(w, netboot.Script{Kind: netboot.KindIPXE, Decision: o.Decision, Node: n.Name, Why: o.Why,
			Firmware: o.Firmware, Arch: o.Arch}); err != nil {
			t.Error(err)
		}
	}))
	s.serve(t)
	out := &buffer{}
	qemuBIOS(t, mac, out, "-drive", "file="+bootDisk(t, "MIMEO-DISK")+",format=raw,if=none,id=d0",
		"-device", "virtio-blk-pci,drive=d0,bootindex=2")
	waitFor(t, out, "MIMEO-DISK", 30*time.Second)
	select {
	case g := <-got:
		if g != "/boot/ipxe/52-54-00-77-00-06 10.77.0.2" {
			t.Errorf("asked for %q", g)
		}
	default:
		t.Errorf("no script was asked for:\n%s\n%s", tail(out.String()), tail(d.String()))
	}
	for _, e := range s.events() {
		if e.Addr.IsValid() {
			t.Errorf("proxy gave an address: %+v", e)
		}
	}
	if !strings.Contains(d.String(), "DHCPACK(eth0) 10.77.0.2") {
		t.Errorf("dnsmasq gave no address:\n%s", tail(d.String()))
	}
}

// startDnsmasq runs somebody else's DHCP server at 10.77.0.2.
func startDnsmasq(t *testing.T) *buffer {
	t.Helper()
	dns := station(t, "dns", "52:54:00:77:00:fe")
	run(t, "ip", "-n", dns, "addr", "add", "10.77.0.2/24", "dev", "eth0")
	d := &buffer{}
	start(t, d, "ip", "netns", "exec", dns, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root",
		"--group=root", "--no-ping", "--log-dhcp", "--log-facility=-", "--dhcp-range=10.77.0.200,10.77.0.210,1h",
		"--dhcp-leasefile="+t.TempDir()+"/leases", "--pid-file=")
	waitFor(t, d, "DHCP, IP range", 5*time.Second)
	return d
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
