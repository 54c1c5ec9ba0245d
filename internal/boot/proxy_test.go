package boot_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"mimeo/internal/boot/dhcp"
)

// TestProxyBesideOthers boots machines where another server gives the addresses and knows nothing of us: by the boot
// file of our offer, as most firmwares do, and by asking port 4011 for it, as the specification has it.
func TestProxyBesideOthers(t *testing.T) {
	serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "this is ", r.URL) }))
	serveFiles(t)
	for _, o := range others {
		t.Run(o.name, func(t *testing.T) {
			d := runOther(t, o, "")
			s := newSite(t, dhcp.Proxy)
			h := newHall(t, 0)
			var all []*machine
			for i, f := range firmwares {
				if f.class == "" { // these know no proxyDHCP
					continue
				}
				m := &machine{hall: h, mac: fmt.Sprintf("52:54:00:77:04:%02x", i), fw: f, try: time.Second}
				s.nodes[m.mac] = f.node(fmt.Sprintf("n%02d", i), m.mac, "")
				all = append(all, m)
			}
			s.serve(t)
			for _, m := range all {
				want := decide(t.Context(), s.nodes[m.mac], requestOf(m)).File
				m.proxyBoot(t, want)
			}
			os := &machine{hall: h, mac: all[0].mac, fw: firmware{name: "an operating system", arch: -1, params: []byte{1, 3, 6, 12}}, try: time.Second}
			before := len(s.events())
			if ack, err := os.configure(); err != nil || bootFile(ack) != "" || addrOf(ack) == "" {
				t.Errorf("an operating system: %v, %v", ack, err)
			}
			if len(s.events()) != before {
				t.Errorf("we answered an operating system: %v", s.events()[before:])
			}
			if t.Failed() {
				t.Logf("%s says:\n%s", o.name, tail(d.String()))
			}
		})
	}
}

func addrOf(a *dhcpv4.DHCPv4) string {
	if a.YourIPAddr.IsUnspecified() {
		return ""
	}
	return a.YourIPAddr.String()
}

// proxyBoot takes both offers, then the address of the one and the file of the other.
func (m *machine) proxyBoot(t *testing.T, want string) {
	t.Helper()
	var address, boot *dhcpv4.DHCPv4
	_, err := m.ask(m.message(dhcpv4.MessageTypeDiscover), func(a *dhcpv4.DHCPv4) bool {
		switch a.ServerIdentifier().String() {
		case "10.77.0.2":
			address = a
		case "10.77.0.1":
			boot = a
		}
		return address != nil && boot != nil
	})
	if err != nil {
		t.Errorf("%v; offers %v and %v", err, address, boot)
		return
	}
	if addrOf(boot) != "" || bootFile(boot) != want || bootFile(address) != "" || addrOf(address) == "" {
		t.Errorf("%s: offers\n%s\n%s", m.fw.name, address.Summary(), boot.Summary())
		return
	}
	ack, err := m.ask(m.message(dhcpv4.MessageTypeRequest, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(address.YourIPAddr)),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(address.ServerIdentifier()))), func(a *dhcpv4.DHCPv4) bool { return a.MessageType() == dhcpv4.MessageTypeAck })
	if err != nil || ack.ServerIdentifier().String() != "10.77.0.2" {
		t.Errorf("%s: %v, %v", m.fw.name, ack, err)
		return
	}
	pxe, err := m.askAt(m.message(dhcpv4.MessageTypeRequest, dhcpv4.WithClientIP(ack.YourIPAddr), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(boot.ServerIdentifier()))),
		"10.77.0.1:4011", func(a *dhcpv4.DHCPv4) bool { return a.MessageType() == dhcpv4.MessageTypeAck })
	if err != nil || addrOf(pxe) != "" || bootFile(pxe) != want {
		t.Errorf("%s, on port 4011: %v, %v", m.fw.name, pxe, err)
		return
	}
	class, _, _ := strings.Cut(m.fw.class, ":")
	if boot.ClassIdentifier() != class || pxe.ClassIdentifier() != class {
		t.Errorf("%s: vendor classes %q and %q", m.fw.name, boot.ClassIdentifier(), pxe.ClassIdentifier())
	}
	m.addr = addr4(ack.YourIPAddr)
	if err := m.up(); err != nil {
		t.Fatal(err)
	}
	if b, err := m.load(want, boot.ServerIPAddr); err != nil || !strings.HasPrefix(string(b), "this is ") {
		t.Errorf("%s: %q, %v", m.fw.name, b, err)
	}
}
