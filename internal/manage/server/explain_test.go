package server

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"mimeo/internal/boot/dhcp"
	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/config"
)

// What a node would be offered is told with its address, who answers, and where its firmware is known from.
func TestExplain(t *testing.T) {
	r := start(t)
	explain := func(name string) (e api.BootExplain) {
		r.must("GET", "/v1/nodes/"+name+"/boot", nil, &e)
		return e
	}
	if e := explain("n1"); !strings.Contains(e.DHCP, "serves no interface") || e.From != "own" || e.Firmware != node.BIOS || e.Loader != "undionly.kpxe" {
		t.Errorf("%+v", e)
	}
	f, err := newIface(config.Interface{Name: "lo", DHCP: "full"})
	if err != nil {
		t.Fatal(err)
	}
	r.ifaces = []iface{f}
	r.must("POST", "/v1/nodes", map[string]any{"range": "n[3-5]", "per_node": map[string]any{"n3": map[string]string{"mac": "52:54:00:00:00:03"}, "n4": map[string]string{"mac": "52:54:00:00:00:04", "ip": "10.1.1.1"}, "n5": map[string]string{}}}, nil)
	if e := explain("n1"); e.DHCP != "Mimeo, on lo" || e.Address != "127.0.0.11, its fixed address" {
		t.Errorf("%+v", e)
	}
	if e := explain("n3"); e.Address != "one of the pool" || e.From != "" || !strings.Contains(e.Why, "not netbooted yet") {
		t.Errorf("%+v", e)
	}
	if e := explain("n4"); !strings.Contains(e.Address, "in no network") {
		t.Errorf("%+v", e)
	}
	if e := explain("n5"); !strings.Contains(e.DHCP, "no network card") {
		t.Errorf("%+v", e)
	}
	if err := r.db.Learn(t.Context(), "n3", node.UEFIHTTP, node.ARM64); err != nil {
		t.Fatal(err)
	}
	l := dhcp.Lease{Addr: netip.MustParseAddr("127.0.0.77"), MAC: "52:54:00:00:00:03", Node: "n3", Expires: time.Now().Add(time.Hour)}
	if err := r.db.PutDHCPLease(t.Context(), l, time.Now()); err != nil {
		t.Fatal(err)
	}
	base := r.bootBase(netip.MustParseAddr("127.0.0.1"))
	if e := explain("n3"); e.From != "learnt" || e.Arch != node.ARM64 || e.Loader != base+"/loaders/ipxe-arm64.efi" || !strings.HasPrefix(e.Address, "127.0.0.77, leased until ") || !strings.Contains(e.Script, "#!ipxe") {
		t.Errorf("%+v", e)
	}
	if err := r.db.Learn(t.Context(), "n3", node.OPAL, node.PPC64EL); err != nil {
		t.Fatal(err)
	}
	if e := explain("n3"); !strings.HasPrefix(e.Loader, base+"/boot/petitboot/52-54-00-00-00-03") || strings.HasPrefix(e.Script, "(") {
		t.Errorf("%+v", e)
	}
	r.ifaces[0].DHCP = "proxy"
	if e := explain("n1"); !strings.Contains(e.DHCP, "(proxy), on lo") {
		t.Errorf("%+v", e)
	}
}
