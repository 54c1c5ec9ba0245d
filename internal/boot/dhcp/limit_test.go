package dhcp

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

func TestFloodOfOneCard(t *testing.T) {
	var f floods
	now := time.Unix(1790000000, 0)
	bad, good := [6]byte{1}, [6]byte{2}
	answered, firsts := 0, 0
	for i := range 1000 {
		ok, first := f.add(bad, now.Add(time.Duration(i)*time.Millisecond))
		if ok {
			answered++
		}
		if first {
			firsts++
		}
	}
	if answered != floodMost || firsts != 1 {
		t.Errorf("%d of 1000 were answered, and it was said %d times", answered, firsts)
	}
	if ok, _ := f.add(good, now.Add(time.Second)); !ok {
		t.Error("another card has to wait for it")
	}
	if ok, _ := f.add(bad, now.Add(floodWindow)); !ok {
		t.Error("it is never answered again")
	}
	// Cards that are made up fill no memory.
	for i := range 3 * floodCards {
		f.add([6]byte{3, byte(i), byte(i >> 8), byte(i >> 16)}, now.Add(floodWindow))
	}
	if len(f.count) > floodCards {
		t.Errorf("%d cards are counted", len(f.count))
	}
}

// A full pool is told once a minute, to the node's events, and by Uses.
func TestFullPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := testServer(t, Full)
		told := 0
		s.Events = func(e Event) {
			if e.Kind == "dhcp-none" && e.Node == "n0d" && e.Text == "no address to give: pool exhausted: the pool of 10.77.0.0/24 is all in use; a larger pool, or a shorter lease, would help" {
				told++
			}
		}
		for _, mac := range []string{macA, macB, macC} {
			lease(t, s, mac)
		}
		for range 30 {
			if _, err := ask(t, s, macD, dhcpv4.MessageTypeDiscover); !errors.As(err, &ignored{}) {
				t.Fatal(err)
			}
			time.Sleep(3 * time.Second)
		}
		if told != 2 {
			t.Errorf("told %d times within 90 s", told)
		}
		u := s.Uses()[0]
		if u.Size != 3 || u.Leased != 3 || u.Free() != 0 || u.Refused != 30 || time.Since(u.Last) != 3*time.Second {
			t.Errorf("%+v", u)
		}
		if _, err := ask(t, s, macA, dhcpv4.MessageTypeDecline, requested("10.77.0.100")); err == nil {
			t.Error("a DECLINE was answered")
		}
		ask(t, s, macB, dhcpv4.MessageTypeRelease, ciaddr("10.77.0.101"))
		ask(t, s, macD, dhcpv4.MessageTypeDiscover)
		if u := s.Uses()[0]; u.Leased != 1 || u.Declined != 1 || u.Offered != 1 || u.Free() != 0 {
			t.Errorf("%+v", u)
		}
		time.Sleep(2 * time.Hour)
		if u := s.Uses()[0]; u.Free() != 3 {
			t.Errorf("%+v", u)
		}
	})
}

func TestARPPackets(t *testing.T) {
	hw := net.HardwareAddr{0x52, 0x54, 0, 0x77, 0, 1}
	b := probeFrame(hw, netip.MustParseAddr("10.77.0.100"))
	if _, _, ok := parseARP(b); ok {
		t.Error("a probe says that somebody has an address")
	}
	answer := append([]byte(nil), b...)
	answer[21] = 2
	copy(answer[22:], "\x52\x54\x00\x88\x00\x09\x0a\x4d\x00\x64")
	if a, mac, ok := parseARP(answer); !ok || a.String() != "10.77.0.100" || mac != "52:54:00:88:00:09" {
		t.Errorf("%s, %s, %v", a, mac, ok)
	}
	for n := range answer {
		if _, _, ok := parseARP(answer[:n]); ok {
			t.Errorf("%d bytes are taken", n)
		}
	}
}
