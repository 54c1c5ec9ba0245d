package dhcp

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"pgregory.net/rapid"
)

// TestLeasesOverTime follows three nodes and a pool of three addresses through days.
func TestLeasesOverTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &Memory{}
		s := testServer(t, Full)
		s.Leases = store
		restart := func() {
			if err := s.open(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		restart()
		want := func(mac, addr string) {
			t.Helper()
			if got := lease(t, s, mac); got != addr {
				t.Errorf("%s got %s, not %s", mac, got, addr)
			}
		}
		want(macA, "10.77.0.100")
		want(macB, "10.77.0.101")
		want(macA, "10.77.0.100") // again, at once

		time.Sleep(59 * time.Minute)
		if m, err := ask(t, s, macA, dhcpv4.MessageTypeRequest, ciaddr("10.77.0.100")); err != nil || m.MessageType() != dhcpv4.MessageTypeAck {
			t.Errorf("renewing: %v, %v", m, err)
		}
		restart() // what was acknowledged survives
		want(macC, "10.77.0.102")
		if _, err := ask(t, s, macD, dhcpv4.MessageTypeDiscover); err == nil {
			t.Error("an address was offered from a full pool")
		}
		if m, err := ask(t, s, macD, dhcpv4.MessageTypeRequest, requested("10.77.0.101")); err != nil || m.MessageType() != dhcpv4.MessageTypeNak {
			t.Errorf("somebody's address: %v, %v", m, err)
		}

		// B's lease ends two minutes later; D gets its address, B another when C gives one up.
		time.Sleep(2 * time.Minute)
		want(macD, "10.77.0.101")
		if _, err := ask(t, s, macC, dhcpv4.MessageTypeRelease, ciaddr("10.77.0.102")); err == nil {
			t.Error("a RELEASE was answered")
		}
		want(macB, "10.77.0.102")

		// A finds another machine at its address. Nobody gets it for a quarter of an hour.
		if _, err := ask(t, s, macA, dhcpv4.MessageTypeDecline, requested("10.77.0.100")); err == nil {
			t.Error("a DECLINE was answered")
		}
		restart()
		if _, err := ask(t, s, macA, dhcpv4.MessageTypeDiscover); err == nil {
			t.Error("a declined address was offered")
		}
		time.Sleep(declineHold)
		want(macA, "10.77.0.100")

		// After a week without anybody, each gets its own back, whatever the order.
		time.Sleep(7 * 24 * time.Hour)
		want(macB, "10.77.0.102")
		want(macD, "10.77.0.101")
		want(macA, "10.77.0.100")
	})
}

// TestOffersDoNotCollide lets an offer lapse.
func TestOffersDoNotCollide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := testServer(t, Full)
		for i, mac := range []string{macA, macB, macC} {
			m, err := ask(t, s, mac, dhcpv4.MessageTypeDiscover, requested("10.77.0.100"))
			if err != nil || m.YourIPAddr.String() != fmt.Sprintf("10.77.0.10%d", i) {
				t.Fatalf("%s was offered %v, %v", mac, m, err)
			}
		}
		if _, err := ask(t, s, macD, dhcpv4.MessageTypeDiscover); err == nil {
			t.Error("an address was offered twice")
		}
		time.Sleep(offerHold)
		if m, err := ask(t, s, macD, dhcpv4.MessageTypeDiscover, requested("10.77.0.101")); err != nil || m.YourIPAddr.String() != "10.77.0.101" {
			t.Errorf("after the offers lapsed: %v, %v", m, err)
		}
	})
}

// TestNoAddressTwice runs random requests of many nodes over restarts, and looks after each at who believes to hold
// what.
func TestNoAddressTwice(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		now := time.Unix(1790000000, 0)
		s := testServer(t, Full)
		s.Now = func() time.Time { return now }
		s.Leases = &Memory{}
		if err := s.open(context.Background()); err != nil {
			rt.Fatal(err)
		}
		type held struct {
			mac   string
			until time.Time
		}
		holds := map[string]held{} // by address, as the nodes believe
		rt.Repeat(map[string]func(*rapid.T){
			"request": func(rt *rapid.T) {
				mac := fmt.Sprintf("52:54:00:77:00:1%d", rapid.IntRange(0, 5).Draw(rt, "node"))
				addr := fmt.Sprintf("10.77.0.10%d", rapid.IntRange(0, 3).Draw(rt, "addr"))
				mod := requested(addr)
				if rapid.Bool().Draw(rt, "renew") {
					mod = ciaddr(addr)
				}
				m, err := ask(t, s, mac, dhcpv4.MessageTypeRequest, mod)
				if err != nil || m.MessageType() != dhcpv4.MessageTypeAck {
					return
				}
				if h, ok := holds[addr]; ok && h.mac != mac && now.Before(h.until) {
					rt.Fatalf("%s got %s, which %s holds", mac, addr, h.mac)
				}
				for a, h := range holds { // a node holds what it was given last
					if h.mac == mac {
						delete(holds, a)
					}
				}
				holds[addr] = held{mac, now.Add(m.IPAddressLeaseTime(0))}
			},
			"discover": func(rt *rapid.T) {
				mac := fmt.Sprintf("52:54:00:77:00:1%d", rapid.IntRange(0, 5).Draw(rt, "node"))
				m, err := ask(t, s, mac, dhcpv4.MessageTypeDiscover)
				if err != nil {
					return
				}
				if h, ok := holds[m.YourIPAddr.String()]; ok && h.mac != mac && now.Before(h.until) {
					rt.Fatalf("%s was offered %s, which %s holds", mac, m.YourIPAddr, h.mac)
				}
			},
			"release": func(rt *rapid.T) {
				for a, h := range holds {
					ask(t, s, h.mac, dhcpv4.MessageTypeRelease, ciaddr(a))
					delete(holds, a)
					return
				}
			},
			"wait": func(rt *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(1, 90).Draw(rt, "minutes")) * time.Minute)
			},
			"restart": func(rt *rapid.T) { s.open(context.Background()) },
		})
	})
}

func TestBroadcastAddress(t *testing.T) {
	for prefix, want := range map[string]string{"10.77.0.1/24": "10.77.0.255", "10.1.2.3/20": "10.1.15.255", "10.0.0.9/30": "10.0.0.11", "1.2.3.4/0": "255.255.255.255"} {
		if got := broadcast(netip.MustParsePrefix(prefix)); got.String() != want {
			t.Errorf("of %s: %s, not %s", prefix, got, want)
		}
	}
}
