package boot_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"mimeo/internal/boot/dhcp"
	"mimeo/internal/cluster/node"
)

// TestFlood has one node's card ask 500 times while another node wants an address, and sends what is no DHCP in between.
func TestFlood(t *testing.T) {
	s := newSite(t, dhcp.Full, node.Node{Name: "n51", NICs: []node.NIC{{MAC: "52:54:00:77:00:51"}}}, node.Node{Name: "n52", NICs: []node.NIC{{MAC: "52:54:00:77:00:52"}}})
	s.serve(t)
	h := newHall(t, 0)
	bad := &machine{hall: h, mac: "52:54:00:77:00:51", fw: firmwares[0], try: time.Second}
	good := &machine{hall: h, mac: "52:54:00:77:00:52", fw: firmwares[0], try: time.Second}
	flood := bad.message(dhcpv4.MessageTypeDiscover).ToBytes()
	to := netip.MustParseAddrPort("255.255.255.255:67")
	done := make(chan error, 1)
	go func() {
		_, err := good.configure()
		done <- err
	}()
	for i := range 500 {
		for _, b := range [][]byte{flood, flood[:i%len(flood)]} {
			if _, err := h.dhcp.WriteToUDPAddrPort(b, to); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Millisecond)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	offers := 0
	for _, e := range s.events() {
		if e.Node == "n51" {
			offers++
		}
	}
	if offers == 0 || offers > 80 { // 40 in each of two windows at most
		t.Errorf("the flood was answered %d times", offers)
	}
	if n := strings.Count(s.log.String(), "asks too often"); n != 1 {
		t.Errorf("it was said %d times", n)
	}
}
