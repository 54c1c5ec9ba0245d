package dhcp

import (
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"mimeo/internal/boot/netboot"
	"mimeo/internal/cluster/node"
)

var update = flag.Bool("update", false, "write what the code says now into the tables")

// testServer knows the network cards that begin with 52:54:00:77.
func testServer(t testing.TB, mode Mode) *Server {
	t.Helper()
	s := &Server{
		Interface: "br0", Mode: mode, Addr: netip.MustParsePrefix("10.77.0.1/24"),
		Subnets: []Subnet{{Prefix: netip.MustParsePrefix("10.77.0.0/24"), Server: netip.MustParseAddr("10.77.0.1"), Pool: pool("10.77.0.100", "10.77.0.102"),
			Gateway: netip.MustParseAddr("10.77.0.254"), DNS: []netip.Addr{netip.MustParseAddr("10.77.0.253")}, Domain: "rack.example"}},
		Lookup: func(_ context.Context, mac string) (node.Node, bool, error) {
			n := node.Node{Name: node.Name("n" + mac[15:]), Boot: node.BootCapture, NICs: []node.NIC{{MAC: mac}}}
			switch mac {
			case "52:54:00:77:00:01", "52:54:00:77:00:02":
				n.NICs[0].IP = "10.77.0.1" + mac[16:]
			case "52:54:00:77:20:04", "52:54:00:77:20:05":
				n.NICs[0].IP = map[byte]string{'4': "10.77.0.33", '5': "10.77.0.34"}[mac[16]]
			}
			return n, strings.HasPrefix(mac, "52:54:00:77"), nil
		},
		Decide: func(_ context.Context, n node.Node, r Request) Answer {
			ask := netboot.Identify(netboot.Wire{VendorClass: r.VendorClass, UserClass: r.UserClass, Archs: r.Archs,
				HasUUID: len(r.UUID) > 0, HasIPXE: r.HasIPXE, Params: r.Params})
			ask.MAC, ask.Mode, ask.Base = r.MAC, netboot.Mode(r.Mode), "http://10.77.0.1:4480"
			o := netboot.Decide(n, ask)
			return Answer{Boot: o.Decision != netboot.Ignore, Why: o.Why, File: o.File(), Config: o.Config, IPXE: ask.IPXE, Firmware: o.Firmware, Arch: o.Arch}
		},
	}
	if err := s.open(context.Background()); err != nil {
		t.Fatal(err)
	}
	return s
}

func pool(from, to string) []Range {
	return []Range{{netip.MustParseAddr(from), netip.MustParseAddr(to)}}
}

// TestRecorded answers recorded requests, in both modes.
func TestRecorded(t *testing.T) {
	const path = "testdata/recorded.txt"
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	full, proxy := testServer(t, Full), testServer(t, Proxy)
	var out []string
	for i, block := range strings.Split(strings.TrimRight(string(b), "\n"), "\n\n") {
		in, want, _ := strings.Cut(block, "\n----")
		lines := strings.Split(in, "\n")
		port, raw, _ := strings.Cut(lines[len(lines)-1], " ")
		pkt, err := hex.DecodeString(raw)
		if err != nil {
			t.Fatal(err)
		}
		var got strings.Builder
		for _, s := range []*Server{full, proxy} {
			fmt.Fprintf(&got, "%s: %s\n", s.Mode, handleText(s, port, pkt))
		}
		text := strings.TrimRight(got.String(), "\n")
		if text != strings.TrimPrefix(want, "\n") && !*update {
			t.Errorf("case %d, %s:\n%s\n---- and not\n%s", i+1, lines[0], text, want)
		}
		out = append(out, in+"\n----\n"+text)
	}
	if *update {
		if err := os.WriteFile(path, []byte(strings.Join(out, "\n\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// handleText answers a packet and writes down what goes out.
func handleText(s *Server, port string, pkt []byte) string {
	m, err := parse(pkt)
	if err != nil {
		return "no answer: " + err.Error()
	}
	p, _ := strconv.Atoi(port)
	ans, err := s.handle(context.Background(), packet{port: p, from: netip.MustParseAddrPort("10.77.0.200:68"), msg: m})
	if err != nil {
		return "no answer: " + err.Error()
	}
	var b strings.Builder
	to := ans.to.String()
	if ans.hw != nil {
		to += " at " + ans.hw.String()
	}
	// What goes over the wire, not what was meant.
	r, err := dhcpv4.FromBytes(ans.msg.ToBytes())
	if err != nil {
		return "unreadable: " + err.Error()
	}
	fmt.Fprintf(&b, "%s to %s, event %s\n", r.MessageType(), to, ans.ev.Kind)
	fmt.Fprintf(&b, "  yiaddr %s siaddr %s sname %q file %q\n", r.YourIPAddr, r.ServerIPAddr, r.ServerHostName, r.BootFileName)
	var codes []int
	for c := range r.Options {
		codes = append(codes, int(c))
	}
	sort.Ints(codes)
	for _, c := range codes {
		if c == int(dhcpv4.OptionDHCPMessageType.Code()) || c == int(dhcpv4.OptionEnd.Code()) {
			continue
		}
		v := r.Options[uint8(c)]
		text := hex.EncodeToString(v)
		switch c {
		case 12, 15, 56, 60, 66, 67, 209, 210:
			text = strconv.Quote(string(v))
		case 1, 3, 6, 28, 54:
			a, _ := netip.AddrFromSlice(v)
			text = a.String()
		case 51, 58, 59:
			text = (time.Duration(v[0])<<24 | time.Duration(v[1])<<16 | time.Duration(v[2])<<8 | time.Duration(v[3])).String()
			n, _ := time.ParseDuration(text)
			text = (n * time.Second).String()
		}
		fmt.Fprintf(&b, "  %d %s\n", c, text)
	}
	return strings.TrimRight(b.String(), "\n")
}

// ask makes a request and gives the answer.
func ask(t *testing.T, s *Server, mac string, typ dhcpv4.MessageType, mods ...dhcpv4.Modifier) (*dhcpv4.DHCPv4, error) {
	t.Helper()
	hw, err := parseMAC(mac)
	if err != nil {
		t.Fatal(err)
	}
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(hw), dhcpv4.WithMessageType(typ)}, mods...)...)
	if err != nil {
		t.Fatal(err)
	}
	ans, err := s.handle(context.Background(), packet{port: portServer, msg: m})
	if err != nil {
		return nil, err
	}
	return ans.msg, nil
}

func parseMAC(s string) ([]byte, error) { return hex.DecodeString(strings.ReplaceAll(s, ":", "")) }

func requested(addr string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(netip.MustParseAddr(addr).AsSlice()))
}

func ciaddr(addr string) dhcpv4.Modifier {
	return dhcpv4.WithClientIP(netip.MustParseAddr(addr).AsSlice())
}

func relay(addr string) dhcpv4.Modifier {
	return func(m *dhcpv4.DHCPv4) { m.GatewayIPAddr = netip.MustParseAddr(addr).AsSlice() }
}

// lease takes an address as a client does, and gives it.
func lease(t *testing.T, s *Server, mac string, mods ...dhcpv4.Modifier) string {
	t.Helper()
	o, err := ask(t, s, mac, dhcpv4.MessageTypeDiscover, mods...)
	if err != nil {
		t.Fatalf("%s: no offer: %v", mac, err)
	}
	a, err := ask(t, s, mac, dhcpv4.MessageTypeRequest, append(mods, requested(o.YourIPAddr.String()),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(o.ServerIdentifier())))...)
	if err != nil || a.MessageType() != dhcpv4.MessageTypeAck || !a.YourIPAddr.Equal(o.YourIPAddr) {
		t.Fatalf("%s: offered %s, then %v, %v", mac, o.YourIPAddr, a, err)
	}
	return a.YourIPAddr.String()
}

const (
	macFixed = "52:54:00:77:00:02" // 10.77.0.12
	macA     = "52:54:00:77:00:0a"
	macB     = "52:54:00:77:00:0b"
	macC     = "52:54:00:77:00:0c"
	macD     = "52:54:00:77:00:0d"
)

func TestFixedAddress(t *testing.T) {
	s := testServer(t, Full)
	if got := lease(t, s, macFixed); got != "10.77.0.12" {
		t.Errorf("got %s", got)
	}
	// Another address than the fixed one is refused.
	m, err := ask(t, s, macFixed, dhcpv4.MessageTypeRequest, requested("10.77.0.100"))
	if err != nil || m.MessageType() != dhcpv4.MessageTypeNak {
		t.Errorf("answered %v, %v", m, err)
	}
	m, err = ask(t, s, macFixed, dhcpv4.MessageTypeRequest, ciaddr("10.77.0.12"))
	if err != nil || m.MessageType() != dhcpv4.MessageTypeAck || m.ClientIPAddr.String() != "10.77.0.12" {
		t.Errorf("renewing is answered %v, %v", m, err)
	}
	// A fixed address in the pool is kept for its owner.
	s.book.owner = func(_ context.Context, a netip.Addr) (string, bool, error) {
		return macD, a.String() == "10.77.0.100", nil
	}
	if got := lease(t, s, macA); got != "10.77.0.101" {
		t.Errorf("from a pool whose first address is somebody's own: %s", got)
	}
	s.book.owner = func(context.Context, netip.Addr) (string, bool, error) { return "", false, errors.New("broken") }
	if _, err := ask(t, s, macB, dhcpv4.MessageTypeDiscover); err == nil {
		t.Error("an address was offered while the inventory is broken")
	}
}

func TestRefusedRequests(t *testing.T) {
	s := testServer(t, Full)
	for name, c := range map[string]struct {
		mac  string
		typ  dhcpv4.MessageType
		mods []dhcpv4.Modifier
		want string // "nak", or part of the reason
	}{
		"stranger":          {"52:54:00:99:00:01", dhcpv4.MessageTypeDiscover, nil, "unknown network card"},
		"other server":      {macA, dhcpv4.MessageTypeRequest, []dhcpv4.Modifier{requested("10.77.0.100"), dhcpv4.WithOption(dhcpv4.OptServerIdentifier([]byte{10, 77, 0, 9}))}, "takes the offer of 10.77.0.9"},
		"no address":        {macA, dhcpv4.MessageTypeRequest, nil, "names no address"},
		"outside":           {macA, dhcpv4.MessageTypeRequest, []dhcpv4.Modifier{requested("192.168.1.5")}, "nak"},
		"not of the pool":   {macA, dhcpv4.MessageTypeRequest, []dhcpv4.Modifier{requested("10.77.0.50")}, "nak"},
		"ours":              {macA, dhcpv4.MessageTypeRequest, []dhcpv4.Modifier{requested("10.77.0.1")}, "nak"},
		"unknown relay":     {macA, dhcpv4.MessageTypeDiscover, []dhcpv4.Modifier{relay("172.16.0.1")}, "relay 172.16.0.1"},
		"release of nobody": {macA, dhcpv4.MessageTypeRelease, []dhcpv4.Modifier{ciaddr("10.77.0.100")}, "does not have"},
		"decline of nobody": {macA, dhcpv4.MessageTypeDecline, []dhcpv4.Modifier{requested("10.77.0.100")}, "does not have"},
		"an offer":          {macA, dhcpv4.MessageTypeOffer, nil, "is not a request"},
	} {
		m, err := ask(t, s, c.mac, c.typ, c.mods...)
		switch {
		case c.want == "nak":
			if err != nil || m.MessageType() != dhcpv4.MessageTypeNak || !m.YourIPAddr.IsUnspecified() {
				t.Errorf("%s: answered %v, %v", name, m, err)
			}
		case err == nil || !strings.Contains(err.Error(), c.want):
			t.Errorf("%s: answered %v, %v", name, m, err)
		}
	}
}

// TestBootServerRequest asks on port 4011, as PXE firmwares do that want to.
func TestBootServerRequest(t *testing.T) {
	for _, mode := range []Mode{Full, Proxy} {
		s := testServer(t, mode)
		hw, _ := parseMAC(macA)
		m, _ := dhcpv4.New(dhcpv4.WithHwAddr(hw), dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest), ciaddr("10.77.0.200"),
			dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient:Arch:00000:UNDI:002001")),
			dhcpv4.WithGeneric(dhcpv4.OptionVendorSpecificInformation, []byte{71, 4, 0, 5, 0, 0, 255}))
		ans, err := s.handle(context.Background(), packet{port: portPXE, from: netip.MustParseAddrPort("10.77.0.200:4011"), msg: m})
		if err != nil {
			t.Fatal(err)
		}
		r := ans.msg
		if ans.to.String() != "10.77.0.200:4011" || r.MessageType() != dhcpv4.MessageTypeAck || r.BootFileName != "undionly.kpxe" ||
			!r.YourIPAddr.IsUnspecified() || string(r.GetOneOption(dhcpv4.OptionVendorSpecificInformation)) != "\x06\x01\x08\x47\x04\x00\x05\x00\x00\xff" {
			t.Errorf("%s: to %s: %s", mode, ans.to, r.Summary())
		}
		m.UpdateOption(dhcpv4.OptClassIdentifier("anything"))
		if _, err := s.handle(context.Background(), packet{port: portPXE, msg: m}); err == nil {
			t.Error("what is no firmware was answered")
		}
	}
}

func TestDatagramChecksums(t *testing.T) {
	from, to := netip.MustParseAddrPort("10.77.0.1:67"), netip.MustParseAddrPort("10.77.0.100:68")
	for n := range 5 {
		b := datagram(from, to, []byte("abcd")[:min(n, 4)])
		if checksum(b[:20], 0) != 0 {
			t.Errorf("payload of %d: header's checksum is wrong", n)
		}
		pseudo := append(append([]byte{}, b[12:20]...), 0, 17, 0, byte(len(b)-20))
		if checksum(append(pseudo, b[20:]...), 0) != 0 {
			t.Errorf("payload of %d: datagram's checksum is wrong", n)
		}
	}
}

func FuzzHandle(f *testing.F) {
	b, err := os.ReadFile("testdata/recorded.txt")
	if err != nil {
		f.Fatal(err)
	}
	for _, line := range strings.Split(string(b), "\n") {
		if port, raw, ok := strings.Cut(line, " "); ok && port == "67" {
			pkt, err := hex.DecodeString(raw)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(pkt, true)
			f.Add(pkt, false)
		}
	}
	if m, err := dhcpv4.NewDiscovery([]byte{0x52, 0x54, 0, 0x77, 0, 1}); err == nil {
		m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionOptionOverload, []byte{3}))
		b := m.ToBytes()
		copy(b[108:], "\x3c\x09PXEClient\x34\x01\x03\xff")
		copy(b[44:], "\x52\x06\x05\x04\x0a\x4d\x00\x09\xff")
		f.Add(b, false)
	}
	full, proxy := testServer(f, Full), testServer(f, Proxy)
	f.Fuzz(func(t *testing.T, b []byte, pxe bool) {
		m, err := parse(b)
		if err != nil {
			return
		}
		port := portServer
		if pxe {
			port = portPXE
		}
		known := strings.HasPrefix(m.ClientHWAddr.String(), "52:54:00:77")
		for _, s := range []*Server{full, proxy} {
			ans, err := s.handle(context.Background(), packet{port: port, from: netip.MustParseAddrPort("10.77.0.9:68"), msg: m})
			if err != nil {
				continue
			}
			if !known {
				t.Fatal("a stranger was answered")
			}
			out, err := dhcpv4.FromBytes(ans.msg.ToBytes())
			if err != nil || out.OpCode != dhcpv4.OpcodeBootReply || out.TransactionID != m.TransactionID {
				t.Fatalf("answer %v: %v", out, err)
			}
			if s == proxy && !out.YourIPAddr.IsUnspecified() {
				t.Fatal("proxy gives an address")
			}
		}
	})
}

// A network card that belongs to no node is answered where Unknown takes it for something, and nowhere else; it gets an
// address and a boot file like the others.
func TestUnknown(t *testing.T) {
	discover, err := dhcpv4.NewDiscovery([]byte{0x52, 0x54, 0, 0x99, 0, 1}, dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient:Arch:00007:UNDI:003000")))
	if err != nil {
		t.Fatal(err)
	}
	for _, mode := range []Mode{Full, Proxy} {
		s := testServer(t, mode)
		if _, err := s.handle(t.Context(), packet{port: portServer, msg: discover}); !errors.As(err, &ignored{}) {
			t.Errorf("%s: a stranger gets an answer: %v", mode, err)
		}
		take := true
		s.Unknown = func(r Request) (node.Node, bool) {
			if r.MAC != "52:54:00:99:00:01" || !r.Netboot() || r.Interface != "br0" {
				t.Errorf("%+v", r)
			}
			return node.Node{Boot: node.BootDiscover}, take
		}
		ans, err := s.handle(t.Context(), packet{port: portServer, msg: discover})
		if err != nil {
			t.Fatal(err)
		}
		if ans.ev.Node != "" || ans.ev.MAC != "52:54:00:99:00:01" || ans.ev.File != "snponly.efi" || ans.msg.YourIPAddr.IsUnspecified() != (mode == Proxy) {
			t.Errorf("%s: %+v, %s", mode, ans.ev, ans.msg.Summary())
		}
		take = false
		if _, err := s.handle(t.Context(), packet{port: portServer, msg: discover}); !errors.As(err, &ignored{}) {
			t.Errorf("%s: a stranger that is not taken gets an answer: %v", mode, err)
		}
	}
}
