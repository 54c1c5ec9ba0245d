package boot_test

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"mimeo/internal/boot/dhcp"
	"mimeo/internal/cluster/node"
)

// TestAddressInUse has a machine that nobody knows sit on the first two addresses of the pool. The first is found
// before anybody asks; the second appears later, is offered, and the node that wants it is told no and gets the third.
func TestAddressInUse(t *testing.T) {
	s := newSite(t, dhcp.Full, node.Node{Name: "n41", NICs: []node.NIC{{MAC: "52:54:00:77:00:41"}}}, node.Node{Name: "n42", NICs: []node.NIC{{MAC: "52:54:00:77:00:42"}}})
	squatter := station(t, "sq", "52:54:00:88:00:01")
	run(t, "ip", "-n", squatter, "addr", "add", "10.77.0.100/24", "dev", "eth0")
	s.serve(t)
	for end := time.Now().Add(5 * time.Second); s.Uses()[0].Declined != 1; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the address that is in use was not found in spare time")
		}
	}
	udhcpc := func(ns string) string {
		return run(t, "ip", "netns", "exec", ns, "busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-s", addressScript(t), "-t", "5", "-T", "1", "-A", "1")
	}
	start := time.Now()
	if got := udhcpc(station(t, "c41", "52:54:00:77:00:41")); !strings.Contains(got, "lease of 10.77.0.101 obtained") {
		t.Errorf("udhcpc says:\n%s", got)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("the lease took %v", took)
	}
	run(t, "ip", "-n", squatter, "addr", "add", "10.77.0.102/24", "dev", "eth0")
	h := newHall(t, 0)
	m := &machine{hall: h, mac: "52:54:00:77:00:42", fw: firmwares[0], try: time.Second}
	offer := func() string {
		a, err := m.ask(m.message(dhcpv4.MessageTypeDiscover), func(a *dhcpv4.DHCPv4) bool { return a.MessageType() == dhcpv4.MessageTypeOffer })
		if err != nil {
			t.Fatal(err)
		}
		return a.YourIPAddr.String()
	}
	if got := offer(); got != "10.77.0.102" {
		t.Fatalf("offered %s", got)
	}
	for end := time.Now().Add(5 * time.Second); s.Uses()[0].Declined != 2; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the offer was not probed")
		}
	}
	nak, err := m.ask(m.message(dhcpv4.MessageTypeRequest, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.IPv4(10, 77, 0, 102))), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 77, 0, 1)))), func(a *dhcpv4.DHCPv4) bool {
		return a.MessageType() == dhcpv4.MessageTypeAck || a.MessageType() == dhcpv4.MessageTypeNak
	})
	if err != nil || nak.MessageType() != dhcpv4.MessageTypeNak {
		t.Errorf("a REQUEST of an address in use is answered %v, %v", nak, err)
	}
	if got := offer(); got != "10.77.0.103" {
		t.Errorf("offered %s then", got)
	}
	conflict := false
	for _, e := range s.events() {
		conflict = conflict || e.Kind == "dhcp-conflict" && e.Node == "n42" && strings.Contains(e.Text, "10.77.0.102 was offered, and is in use by 52:54:00:88:00:01")
	}
	if !conflict {
		t.Errorf("events: %v", s.events())
	}
}
