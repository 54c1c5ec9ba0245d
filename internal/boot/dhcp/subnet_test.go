package dhcp

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"mimeo/internal/cluster/node"
)

// manySubnets has two networks on its wire and two behind relays.
func manySubnets(t *testing.T) *Server {
	t.Helper()
	s := testServer(t, Full)
	s.Subnets = append(s.Subnets,
		Subnet{Prefix: netip.MustParsePrefix("10.78.0.0/24"), Server: netip.MustParseAddr("10.78.0.1"), Pool: pool("10.78.0.5", "10.78.0.6"), Gateway: netip.MustParseAddr("10.78.0.254")},
		Subnet{Prefix: netip.MustParsePrefix("10.88.0.0/16"), Pool: pool("10.88.1.1", "10.88.1.9"), Gateway: netip.MustParseAddr("10.88.0.1"), LeaseTime: 600e9},
		Subnet{Prefix: netip.MustParsePrefix("10.89.0.0/16"), Gateway: netip.MustParseAddr("10.89.0.1")})
	s.Lookup = func(_ context.Context, mac string) (node.Node, bool, error) {
		n := node.Node{Name: node.Name("n" + mac[15:]), NICs: []node.NIC{{MAC: mac}}}
		n.NICs[0].IP = map[string]string{"52:54:00:77:00:02": "10.78.0.12", "52:54:00:77:00:03": "10.89.0.13"}[mac]
		return n, strings.HasPrefix(mac, "52:54:00:77"), nil
	}
	return s
}

func TestRelay(t *testing.T) {
	s := manySubnets(t)
	hw, _ := parseMAC(macA)
	m, _ := dhcpv4.NewDiscovery(hw, relay("10.88.0.1"), dhcpv4.WithGeneric(dhcpv4.OptionRelayAgentInformation, []byte{1, 2, 'p', '7'}))
	ans, err := s.handle(context.Background(), packet{port: portServer, msg: m})
	if err != nil {
		t.Fatal(err)
	}
	r := ans.msg
	if ans.to.String() != "10.88.0.1:67" || ans.hw != nil || r.YourIPAddr.String() != "10.88.1.1" || r.Router()[0].String() != "10.88.0.1" ||
		r.SubnetMask().String() != "ffff0000" || string(r.GetOneOption(dhcpv4.OptionRelayAgentInformation)) != "\x01\x02p7" ||
		r.ServerIdentifier().String() != "10.77.0.1" || r.IPAddressLeaseTime(0).Minutes() != 10 {
		t.Errorf("to %s: %s", ans.to, r.Summary())
	}
	// A relay of our own network: our pool.
	if got := lease(t, s, macB, relay("10.77.0.7")); got != "10.77.0.100" {
		t.Errorf("got %s", got)
	}
	// The node moved: its lease over there does not count here.
	if got := lease(t, s, macA); got != "10.77.0.101" {
		t.Errorf("got %s", got)
	}
	// A relay whose own address is of another network says in option 82 which one is meant.
	link := dhcpv4.WithOption(dhcpv4.OptRelayAgentInfo(dhcpv4.OptGeneric(dhcpv4.LinkSelectionSubOption, []byte{10, 88, 0, 0})))
	if got := lease(t, s, macC, relay("172.16.0.9"), link); got != "10.88.1.1" { // A's offer there was never taken
		t.Errorf("by link selection: got %s", got)
	}
	// It renews without the relay.
	m, err = ask(t, s, macC, dhcpv4.MessageTypeRequest, ciaddr("10.88.1.1"))
	if err != nil || m.MessageType() != dhcpv4.MessageTypeAck || m.YourIPAddr.String() != "10.88.1.1" || m.Router()[0].String() != "10.88.0.1" {
		t.Errorf("renewing behind a relay: %v, %v", m, err)
	}
	// A fixed address behind a relay, in a network without a pool; there, others get none.
	if got := lease(t, s, "52:54:00:77:00:03", relay("10.89.0.1")); got != "10.89.0.13" {
		t.Errorf("got %s", got)
	}
	if _, err := ask(t, s, macD, dhcpv4.MessageTypeDiscover, relay("10.89.0.1")); err == nil || !strings.Contains(err.Error(), "10.89.0.0/16 has no pool") {
		t.Errorf("without a pool: %v", err)
	}
}

func TestSeveralSubnetsOnOneWire(t *testing.T) {
	s := manySubnets(t)
	// A fixed address in the second network: that network's options, and our address there.
	m, err := ask(t, s, macFixed, dhcpv4.MessageTypeDiscover)
	if err != nil || m.YourIPAddr.String() != "10.78.0.12" || m.ServerIdentifier().String() != "10.78.0.1" || m.Router()[0].String() != "10.78.0.254" || m.DomainName() != "" {
		t.Errorf("%v, %v", m, err)
	}
	if got := lease(t, s, macFixed); got != "10.78.0.12" {
		t.Errorf("got %s", got)
	}
	// The second pool is used when the first is, and the boot server is the address that the node can reach.
	got := map[string]bool{}
	for _, mac := range []string{macA, macB, macC, macD, "52:54:00:77:00:0e"} {
		got[lease(t, s, mac)] = true
	}
	if len(got) != 5 || !got["10.77.0.102"] || !got["10.78.0.6"] {
		t.Errorf("got %v", got)
	}
	if _, err := ask(t, s, "52:54:00:77:00:0f", dhcpv4.MessageTypeDiscover); err == nil || !strings.Contains(err.Error(), "the pool of 10.77.0.0/24, 10.78.0.0/24 is all in use") {
		t.Errorf("from full pools: %v", err)
	}
	m, err = ask(t, s, "52:54:00:77:00:0e", dhcpv4.MessageTypeDiscover, dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient:Arch:00007:UNDI:003000")))
	if err != nil || m.ServerIPAddr.String() != m.ServerIdentifier().String() || !strings.HasPrefix(m.ServerIPAddr.String(), "10.78.") {
		t.Errorf("%v, %v", m, err)
	}
}

// One that has its address by itself asks for the rest: it is told the network, and neither address nor lease.
func TestInform(t *testing.T) {
	s := manySubnets(t)
	for ip, gateway := range map[string]string{"10.77.0.50": "10.77.0.254", "10.78.0.50": "10.78.0.254", "10.88.7.7": "10.88.0.1"} {
		m, err := ask(t, s, macA, dhcpv4.MessageTypeInform, ciaddr(ip))
		if err != nil || m.MessageType() != dhcpv4.MessageTypeAck || !m.YourIPAddr.IsUnspecified() || m.ClientIPAddr.String() != ip || m.IPAddressLeaseTime(0) != 0 || m.Router()[0].String() != gateway {
			t.Errorf("%s: %v, %v", ip, m, err)
		}
	}
	if u := s.Uses()[0]; u.Leased+u.Offered != 0 {
		t.Errorf("addresses were given: %+v", u)
	}
}
