package dhcp

import (
	"errors"
	"net"
	"net/netip"
	"strings"
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

// Options may stand in the fields file and sname, and go on from one to the other.
func TestOverload(t *testing.T) {
	hw, _ := parseMAC(macA)
	m, err := dhcpv4.NewDiscovery(hw)
	if err != nil {
		t.Fatal(err)
	}
	m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionOptionOverload, []byte{3}))
	b := m.ToBytes()
	copy(b[108:], "\x3c\x09PXEClient\x5d\x02\x00\x07\x34\x01\x03\xff")
	copy(b[44:], "\x3c\x0b:Arch:00007\xff")
	got, err := parse(b)
	if err != nil {
		t.Fatal(err)
	}
	s := testServer(t, Full)
	if r := s.request(got); r.VendorClass != "PXEClient:Arch:00007" || len(r.Archs) != 1 || r.Archs[0] != 7 {
		t.Errorf("%+v", r)
	}
	for _, bad := range []string{"\x3c\xff", "\x3c", strings.Repeat("\x01\x04\x01\x02\x03", 25) + "\x3c\x7f\x00"} {
		clear(b[108:236])
		copy(b[108:236], bad)
		if m, err := parse(b); err == nil && len(m.GetOneOption(dhcpv4.OptionClassIdentifier)) > 255 {
			t.Errorf("%q is read as %s", bad, m.Summary())
		}
	}
	// Without option 52 these fields are what they are called.
	m.Options = dhcpv4.Options{}
	m.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeDiscover))
	b = m.ToBytes()
	copy(b[108:], "\x3c\x09PXEClient\xff")
	if got, err := parse(b); err != nil || got.GetOneOption(dhcpv4.OptionClassIdentifier) != nil {
		t.Errorf("%v, %v", got, err)
	}
}
