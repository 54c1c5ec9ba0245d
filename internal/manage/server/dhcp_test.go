package server

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"mimeo/internal/boot/dhcp"
	"mimeo/internal/cluster/api"
	"mimeo/internal/manage/config"
)

// A node behind a relay gets its script, with the address of ours that it reaches; one of no network does not.
func TestNetworksOfAnInterface(t *testing.T) {
	r := start(t)
	f, err := newIface(config.Interface{Name: "lo", DHCP: "off", Networks: []config.Network{{Network: "10.8.0.0/16"}}})
	if err != nil {
		t.Fatal(err)
	}
	r.ifaces = []iface{f}
	if len(f.subnets) != 2 || f.subnets[0].Server.String() != "127.0.0.1" || f.subnets[1].Server.IsValid() {
		t.Errorf("%+v", f.subnets)
	}
	for remote, want := range map[string]string{"127.0.0.50": "127.0.0.1", "10.8.3.4": "127.0.0.1", "10.9.3.4": "192.0.2.1"} {
		if got := r.addrFor(netip.MustParseAddr(remote), netip.MustParseAddr("192.0.2.1")); got.String() != want {
			t.Errorf("%s reaches us at %s, not %s", remote, got, want)
		}
	}
	r.must("POST", "/v1/nodes", map[string]any{"range": "n9", "set": map[string]string{"mac": "52:54:00:00:00:09", "arch": "amd64", "firmware": "bios"}}, nil)
	n, _, err := r.db.NodeByMAC(t.Context(), "52:54:00:00:00:09")
	if err != nil {
		t.Fatal(err)
	}
	for remote, want := range map[string]bool{"127.0.0.50": true, "10.8.3.4": true, "10.9.3.4": false} {
		if got := r.mayHave(t.Context(), n, "52:54:00:00:00:09", netip.MustParseAddr(remote)); got != want {
			t.Errorf("%s: %v", remote, got)
		}
	}
	if code, _ := r.get("127.0.0.50", script(9)); code != http.StatusOK {
		t.Errorf("the script: %d", code)
	}
	for want, f := range map[string]config.Interface{
		"is behind a relay, and its gateway is missing": {DHCP: "full", Networks: []config.Network{{Network: "10.8.0.0/16"}}},
		"is the interface's own, 127.0.0.1/8":           {DHCP: "full", Networks: []config.Network{{Network: "127.3.0.0/16", Gateway: "127.3.0.1"}}},
	} {
		f.Name = "lo"
		if _, err := newIface(f); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, and not %q", err, want)
		}
	}
}

// What is given is told, and leases of networks that are served no more are forgotten when they have ended.
func TestLeasesAreTold(t *testing.T) {
	r := start(t)
	f, err := newIface(config.Interface{Name: "lo", DHCP: "full", Pool: []string{"127.0.0.1-127.0.0.11"}})
	if err != nil {
		t.Fatal(err)
	}
	r.ifaces = []iface{f}
	now := time.Now()
	for addr, l := range map[string]dhcp.Lease{
		"127.0.0.5":  {MAC: "52:54:00:00:00:02", Node: "n2", Expires: now.Add(time.Hour)},
		"127.0.0.6":  {MAC: "52:54:00:00:00:02", Node: "n2", Expires: now.Add(time.Hour), Declined: true},
		"127.0.0.7":  {MAC: "52:54:00:00:00:02", Node: "n2", Expires: now.Add(-time.Hour)},
		"10.99.0.7":  {MAC: "52:54:00:00:00:02", Node: "n2", Expires: now.Add(-time.Hour)},
		"10.99.0.70": {MAC: "52:54:00:00:00:02", Node: "n2", Expires: now.Add(time.Hour)},
	} {
		l.Addr = netip.MustParseAddr(addr)
		if err := r.db.PutDHCPLease(t.Context(), l, now); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.forgetLeases(t.Context()); err != nil {
		t.Fatal(err)
	}
	d := r.newDHCP(f)
	d.Interface = "lo"
	if err := d.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.dhcp = append(r.dhcp, d)
	defer func() { r.dhcp = nil }()
	var s api.DHCPStatus
	r.must("GET", "/v1/dhcp", nil, &s)
	var got []string
	for _, l := range s.Leases {
		got = append(got, l.Addr+" "+l.State)
	}
	if want := "10.99.0.70 leased, 127.0.0.5 leased, 127.0.0.6 conflict, 127.0.0.7 ended"; strings.Join(got, ", ") != want {
		t.Errorf("leases: %s", got)
	}
	// 127.0.0.1 is ours, 127.0.0.11 n1's.
	if n := s.Networks[0]; n.Size != 10 || n.Leased != 1 || n.Conflicts != 1 || n.Reserved != 1 || n.Free != 7 || n.Server != "127.0.0.1" || n.Pool[0] != "127.0.0.1-127.0.0.11" {
		t.Errorf("%+v", n)
	}
}

func TestSnippetOfASite(t *testing.T) {
	r := start(t)
	r.fails("GET", "/v1/dhcp/snippet?server=kea", nil, "conflict", "no interface")
	r.ifaces = nil
	for name, mode := range map[string]string{"lo": "off"} {
		f, err := newIface(config.Interface{Name: name, DHCP: mode})
		if err != nil {
			t.Fatal(err)
		}
		r.ifaces = append(r.ifaces, f)
	}
	r.must("POST", "/v1/nodes", map[string]any{"range": "n8", "set": map[string]string{"mac": "52:54:00:00:00:08", "ip": "10.5.0.8"}}, nil)
	var s api.DHCPSnippet
	r.must("GET", "/v1/dhcp/snippet?server=dnsmasq", nil, &s)
	// n8 has a fixed address in another network.
	if s.Interface != "lo" || s.Nodes != 2 || s.Note != "" || !strings.Contains(s.Text, "dhcp-host=52:54:00:00:00:01,set:mimeo,127.0.0.11,n1\n") ||
		!strings.Contains(s.Text, r.bootBase(netip.MustParseAddr("127.0.0.1"))+"/loaders/autoexec.ipxe") || !strings.Contains(s.Text, "mimeo dhcp snippet dnsmasq --interface lo") {
		t.Errorf("%+v", s)
	}
	r.fails("GET", "/v1/dhcp/snippet?server=bootpd", nil, "bad_request", `"bootpd"`)
	r.fails("GET", "/v1/dhcp/snippet?server=isc&interface=eth9", nil, "not_found", "eth9")
	r.ifaces[0].DHCP = "full"
	r.must("GET", "/v1/dhcp/snippet?server=isc&interface=lo", nil, &s)
	if !strings.Contains(s.Note, "set dhcp to off") {
		t.Errorf("%+v", s)
	}
	r.ifaces = append(r.ifaces, r.ifaces[0])
	r.fails("GET", "/v1/dhcp/snippet?server=isc", nil, "bad_request", "several")
}

// A machine that is no node may have a fixed address in the configuration: it boots nothing, nobody else gets the
// address, and a node with that network card goes first.
func TestReservations(t *testing.T) {
	r := start(t)
	c := config.Interface{Name: "lo", DHCP: "full", Reservations: []config.Reservation{{MAC: "52:54:00:aa:00:01", IP: "127.0.0.40", Name: "n1-bmc"}, {MAC: "52:54:00:00:00:01", IP: "127.0.0.41"}}}
	f, err := newIface(c)
	if err != nil {
		t.Fatal(err)
	}
	d := r.newDHCP(f)
	n, ok, err := d.Lookup(t.Context(), "52:54:00:aa:00:01")
	if err != nil || !ok || n.Name != "" || n.NICs[0].IP != "127.0.0.40" || n.Hostname != "n1-bmc" {
		t.Errorf("%+v, %v, %v", n, ok, err)
	}
	if a := d.Decide(t.Context(), n, pxe("52:54:00:aa:00:01")); a.Boot || a.File != "" {
		t.Errorf("it is told to boot: %+v", a)
	}
	if mac, ok, err := d.FixedOwner(t.Context(), netip.MustParseAddr("127.0.0.40")); mac != "52:54:00:aa:00:01" || !ok || err != nil {
		t.Errorf("%s, %v, %v", mac, ok, err)
	}
	if mac, _, _ := d.FixedOwner(t.Context(), netip.MustParseAddr("127.0.0.11")); mac != "52:54:00:00:00:01" {
		t.Errorf("n1's address is %s's", mac)
	}
	if n, ok, _ := d.Lookup(t.Context(), "52:54:00:00:00:01"); !ok || n.Name != "n1" || n.NICs[0].IP != "127.0.0.11" {
		t.Errorf("%+v", n)
	}
	if _, ok, _ := d.Lookup(t.Context(), "52:54:00:aa:00:02"); ok {
		t.Error("a stranger is known")
	}
	c.Reservations[0].IP = "10.5.5.5"
	if _, err := newIface(c); err == nil || !strings.Contains(err.Error(), "none of its networks") {
		t.Errorf("%v", err)
	}
}
