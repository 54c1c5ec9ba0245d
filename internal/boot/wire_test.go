package boot_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mimeo/internal/boot/dhcp"
	"mimeo/internal/cluster/node"
	"mimeo/internal/imaging/uml"
)

// addressScript is a program for udhcpc and dhclient that sets the address and the way out.
func addressScript(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "script")
	text := "#!/bin/sh\n[ \"$1\" = bound -o \"$1\" = renew ] || exit 0\nip addr replace $ip/$mask dev $interface\n" +
		"[ -z \"$router\" ] || ip route replace default via $router dev $interface\nexit 0\n"
	if err := os.WriteFile(file, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestBehindRelay has a client in another network take a lease through ISC's relay, which adds option 82, and renew it
// without the relay.
func TestBehindRelay(t *testing.T) {
	const mac = "52:54:00:77:00:21"
	s := newSite(t, dhcp.Full, node.Node{Name: "n21", NICs: []node.NIC{{MAC: mac}}})
	s.Subnets = append(s.Subnets, dhcp.Subnet{Prefix: netip.MustParsePrefix("10.88.0.0/16"), Gateway: netip.MustParseAddr("10.88.0.1"), LeaseTime: 10 * time.Minute,
		Pool: []dhcp.Range{{From: netip.MustParseAddr("10.88.1.1"), To: netip.MustParseAddr("10.88.1.9")}}})
	s.serve(t)
	relay := station(t, "rl", "52:54:00:77:00:fd")
	run(t, "ip", "-n", relay, "addr", "add", "10.77.0.3/24", "dev", "eth0")
	run(t, "ip", "netns", "add", "c21")
	t.Cleanup(func() { run(t, "ip", "netns", "del", "c21") })
	run(t, "ip", "-n", relay, "link", "add", "lan", "type", "veth", "peer", "name", "eth0", "address", mac, "netns", "c21")
	run(t, "ip", "-n", relay, "addr", "add", "10.88.0.1/16", "dev", "lan")
	run(t, "ip", "-n", relay, "link", "set", "lan", "up")
	run(t, "ip", "-n", "c21", "link", "set", "eth0", "up")
	run(t, "ip", "netns", "exec", relay, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
	run(t, "ip", "route", "add", "10.88.0.0/16", "via", "10.77.0.3")
	t.Cleanup(func() { run(t, "ip", "route", "del", "10.88.0.0/16") })
	rl, cl := &buffer{}, &buffer{}
	start(t, rl, "ip", "netns", "exec", relay, "dhcrelay", "-4", "-d", "--no-pid", "-a", "-id", "lan", "-iu", "eth0", "10.77.0.1")
	waitFor(t, rl, "Sending on   Socket", 5*time.Second)
	client := start(t, cl, "ip", "netns", "exec", "c21", "busybox", "udhcpc", "-i", "eth0", "-f", "-s", addressScript(t), "-t", "3", "-T", "2")
	waitFor(t, cl, "lease of 10.88.1.1 obtained from 10.77.0.1, lease time 600", 10*time.Second)
	client.Signal(syscall.SIGUSR1) // renew now
	waitFor(t, cl, "sending renew to server 10.77.0.1", 10*time.Second)
	for end := time.Now().Add(5 * time.Second); strings.Count(cl.String(), "lease of 10.88.1.1 obtained") < 2; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the lease was not renewed:\n%s\n%s", cl, rl)
		}
	}
	if strings.Count(cl.String(), "broadcasting discover") != 1 {
		t.Errorf("it began anew:\n%s", cl)
	}
	if !strings.Contains(rl.String(), "Forwarded BOOTREPLY for "+mac) {
		t.Errorf("the relay says:\n%s", rl)
	}
}

// TestTwoInterfaces serves an interface that is named as a VLAN of another one, beside that: each answers what it hears.
func TestTwoInterfaces(t *testing.T) {
	const mac = "52:54:00:77:00:22"
	ns := station(t, "c22", mac)
	if os.Getenv(tagging) == "" {
		run(t, "ip", "link", "add", "br0.9", "type", "veth", "peer", "name", "eth0.9", "address", mac, "netns", ns)
	} else { // one cable for both, with tags of IEEE 802.1Q
		run(t, "ip", "link", "add", "link", "br0", "name", "br0.9", "type", "vlan", "id", "9")
		run(t, "ip", "-n", ns, "link", "add", "link", "eth0", "name", "eth0.9", "type", "vlan", "id", "9")
	}
	run(t, "ip", "addr", "add", "10.79.0.1/24", "dev", "br0.9")
	run(t, "ip", "link", "set", "br0.9", "up")
	run(t, "ip", "-n", ns, "link", "set", "eth0.9", "up")
	n := node.Node{Name: "n22", NICs: []node.NIC{{MAC: mac}}}
	plain, tagged := newSite(t, dhcp.Full, n), newSite(t, dhcp.Full, n)
	tagged.Interface = "br0.9"
	tagged.Subnets = []dhcp.Subnet{{Prefix: netip.MustParsePrefix("10.79.0.0/24"), Server: netip.MustParseAddr("10.79.0.1"),
		Pool: []dhcp.Range{{From: netip.MustParseAddr("10.79.0.50"), To: netip.MustParseAddr("10.79.0.59")}}}}
	plain.serve(t)
	tagged.serve(t)
	for dev, want := range map[string]string{"eth0.9": "lease of 10.79.0.50 obtained from 10.79.0.1", "eth0": "lease of 10.77.0.100 obtained from 10.77.0.1"} {
		if got := run(t, "ip", "netns", "exec", ns, "busybox", "udhcpc", "-i", dev, "-n", "-q", "-f", "-s", addressScript(t), "-t", "3", "-T", "2"); !strings.Contains(got, want) {
			t.Errorf("on %s:\n%s", dev, got)
		}
	}
	if len(plain.events()) != 2 || len(tagged.events()) != 2 {
		t.Errorf("events: %v and %v", plain.events(), tagged.events())
	}
}

// tagging marks the process whose kernel has VLANs.
const tagging = "MIMEO_TEST_VLAN"

// TestVLAN is TestTwoInterfaces on a VLAN and on the interface that it is part of, with a kernel that knows these.
func TestVLAN(t *testing.T) {
	dir, err := os.MkdirTemp("/var/tmp", "mimeo-vlan-") // the guest has a /tmp of its own
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	self := filepath.Join(dir, "boot.test")
	run(t, "cp", fmt.Sprintf("/proc/%d/exe", os.Getpid()), self)
	run(t, "chmod", "755", dir)
	cmd := "unset " + inside + "\nmodprobe -a af_packet ipv6 bridge veth 8021q\n" + tagging + "=1 " + self + " -test.run='^TestTwoInterfaces$' -test.v -test.timeout=2m\n"
	if out := uml.Run(t, cmd); !strings.Contains(out, "--- PASS: TestTwoInterfaces") {
		t.Error(out)
	}
}

// TestDhcpcd has the third common client take a lease.
func TestDhcpcd(t *testing.T) {
	s := newSite(t, dhcp.Full, node.Node{Name: "n23", NICs: []node.NIC{{MAC: "52:54:00:77:00:23", IP: "10.77.0.23"}}})
	s.serve(t)
	for _, dir := range []string{"/run/dhcpcd", "/var/lib/dhcpcd"} { // in the mount namespace of this test
		if _, err := os.Stat(dir); err != nil {
			run(t, "mkdir", "-p", dir)
			t.Cleanup(func() { os.Remove(dir) })
		}
		run(t, "mount", "-t", "tmpfs", "tmpfs", dir)
		t.Cleanup(func() { run(t, "umount", dir) })
	}
	ns := station(t, "c23", "52:54:00:77:00:23")
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nenv | grep ^new_ >>"+script+".env\nexit 0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	out := run(t, "ip", "netns", "exec", ns, "timeout", "20", "dhcpcd", "-4", "-1", "-B", "-d", "-f", "/dev/null", "-c", script, "--noarp", "-o", "host_name", "-t", "10", "eth0")
	if !strings.Contains(out, "leased 10.77.0.23 for 3600 seconds") {
		t.Errorf("dhcpcd says:\n%s", out)
	}
	if env := readFile(t, script+".env"); !strings.Contains(env, "new_ip_address=10.77.0.23\n") || !strings.Contains(env, "new_host_name=n23\n") || strings.Contains(env, "new_filename") {
		t.Errorf("dhcpcd was told:\n%s", env)
	}
}
