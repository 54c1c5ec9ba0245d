package uplink

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestParseBootIF(t *testing.T) {
	for in, want := range map[string]string{
		"01-52-54-00-12-34-56": "52:54:00:12:34:56", "01:52:54:00:12:34:5A": "52:54:00:12:34:5a", "52:54:00:12:34:56": "52:54:00:12:34:56",
		"": "", "01-52-54": "", "20-52-54-00-12-34-56": "", "01-zz-54-00-12-34-56": "",
	} {
		mac, err := ParseBootIF(in)
		if (err == nil) != (want != "") || err == nil && mac.String() != want {
			t.Errorf("%q: %v, %v", in, mac, err)
		}
	}
}

// namespace runs f on a thread in a network namespace of its own, which goes away with it.
func namespace(t *testing.T, f func()) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		f()
		done <- nil
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// line is a pair of cards joined by a cable: the server's with an address, the node's without.
func line(t *testing.T) Card {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Error(err)
			runtime.Goexit()
		}
	}
	must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "srv"}, PeerName: "eth0"}))
	must(Up("lo"))
	must(Up("srv"))
	must(Up("eth0"))
	srv, err := netlink.LinkByName("srv")
	must(err)
	addr, err := netlink.ParseAddr("10.9.0.1/24")
	must(err)
	must(netlink.AddrAdd(srv, addr))
	eth, err := netlink.LinkByName("eth0")
	must(err)
	return Card{"eth0", eth.Attrs().HardwareAddr}
}

// dnsmasq is a DHCP server that we did not write.
func dnsmasq(t *testing.T, args ...string) (stop func()) {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("dnsmasq", append([]string{"--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=srv", "--bind-interfaces", "--no-ping", "--user=root", "--group=root",
		"--dhcp-leasefile=" + filepath.Join(dir, "leases"), "--pid-file=" + filepath.Join(dir, "pid"), "--log-facility=" + filepath.Join(dir, "log"), "--log-dhcp"}, args...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Error(err)
		runtime.Goexit()
	}
	return func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			b, _ := os.ReadFile(filepath.Join(dir, "log"))
			t.Logf("dnsmasq: %s%s", out.Bytes(), b)
		}
	}
}

func logTo(t *testing.T) Log {
	return func(format string, args ...any) { t.Log(fmt.Sprintf(format, args...)) }
}

func TestAcquireHoldAndChange(t *testing.T) {
	namespace(t, func() {
		card := line(t)
		before, _ := os.ReadFile("/etc/resolv.conf")
		defer func() {
			if after, _ := os.ReadFile("/etc/resolv.conf"); !bytes.Equal(before, after) {
				t.Error("this machine's own /etc/resolv.conf was written to")
			}
		}()
		began := time.Now()
		stop := dnsmasq(t, "--dhcp-range=10.9.0.50,10.9.0.60,255.255.255.0,2m", "--dhcp-option=option:router,10.9.0.1", "--dhcp-option=option:dns-server,10.9.0.2,10.9.0.3", "--dhcp-option=option:domain-name,rack.example")
		defer func() { stop() }()
		l, err := Acquire(t.Context(), card, 30*time.Second, logTo(t))
		if err != nil {
			t.Error(err)
			return
		}
		t.Logf("a lease after %v", time.Since(began))
		if !strings.HasPrefix(l.Addr, "10.9.0.5") || !strings.HasSuffix(l.Addr, "/24") || l.Gateway != "10.9.0.1" || l.Server != "10.9.0.1" || fmt.Sprint(l.DNS) != "[10.9.0.2 10.9.0.3]" || l.Domain != "rack.example" || l.Term != 2*time.Minute || l.Renew <= 0 || l.Renew > time.Minute {
			t.Errorf("%+v", l)
		}
		checkAddr(t, l.Addr)

		path := filepath.Join(t.TempDir(), "lease.json")
		if err := l.Save(path); err != nil {
			t.Error(err)
		}
		kept, err := Read(path)
		if err != nil || kept.Addr != l.Addr || kept.Got != l.Got || !bytes.Equal(kept.Ack, l.Ack) {
			t.Errorf("%+v, %v", kept, err)
			return
		}
		again, err := kept.again(t.Context())
		if err != nil || again.Addr != l.Addr || again.Got <= l.Got {
			t.Errorf("renewed: %+v, %v", again, err)
		}

		// Another server, which knows nothing of that lease, refuses it; the node takes another address.
		stop()
		stop = dnsmasq(t, "--dhcp-range=10.9.0.80,10.9.0.90,255.255.255.0,2m", "--dhcp-authoritative")
		time.Sleep(300 * time.Millisecond)
		again, err = kept.again(t.Context())
		if err != nil || again.Addr == l.Addr {
			t.Errorf("after the server changed: %+v, %v", again, err)
			return
		}
		if err := again.Apply(); err != nil {
			t.Error(err)
		}
		checkAddr(t, again.Addr)
	})
}

// checkAddr makes sure that the card has this address alone.
func checkAddr(t *testing.T, want string) {
	t.Helper()
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Error(err)
		return
	}
	list, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil || len(list) != 1 || list[0].IPNet.String() != want {
		t.Errorf("addresses %v, %v; want %s", list, err, want)
	}
	routes, err := netlink.RouteList(link, netlink.FAMILY_V4)
	if err != nil || len(routes) == 0 {
		t.Errorf("routes %v, %v", routes, err)
	}
}

func TestNoServer(t *testing.T) {
	namespace(t, func() {
		card := line(t)
		began := time.Now()
		_, err := Acquire(t.Context(), card, 2*time.Second, logTo(t))
		if err == nil || !strings.Contains(err.Error(), "no DHCP server answered") || !strings.Contains(err.Error(), card.MAC.String()) || time.Since(began) > 6*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

func TestLeaseOfAnOddServer(t *testing.T) {
	ack := func(mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
		m, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithMessageType(dhcpv4.MessageTypeAck), dhcpv4.WithYourIP(net.IPv4(10, 1, 2, 3))}, mods...)...)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	for what, c := range map[string]struct {
		m    *dhcpv4.DHCPv4
		addr string // "" means an error
		term time.Duration
	}{
		"no mask":          {ack(dhcpv4.WithLeaseTime(60)), "10.1.2.3/8", time.Minute},
		"for ever":         {ack(dhcpv4.WithLeaseTime(0xffffffff), dhcpv4.WithNetmask(net.CIDRMask(24, 32))), "10.1.2.3/24", 0},
		"no lease time":    {ack(dhcpv4.WithNetmask(net.CIDRMask(32, 32))), "10.1.2.3/32", 0},
		"no address":       {ack(dhcpv4.WithYourIP(net.IPv4zero)), "", 0},
		"multicast":        {ack(dhcpv4.WithYourIP(net.IPv4(224, 0, 0, 1))), "", 0},
		"mask of zero":     {ack(dhcpv4.WithNetmask(net.CIDRMask(0, 32))), "10.1.2.3/8", 0},
		"T1 after its end": {ack(dhcpv4.WithLeaseTime(60), dhcpv4.WithOption(dhcpv4.OptRenewTimeValue(time.Hour))), "10.1.2.3/8", time.Minute},
	} {
		l, err := newLease("eth0", c.m)
		if (err == nil) != (c.addr != "") || err == nil && (l.Addr != c.addr || l.Term != c.term || l.Renew > l.Term) {
			t.Errorf("%s: %+v, %v", what, l, err)
		}
	}
}

func TestResolver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.Symlink("/not/there", path); err != nil {
		t.Fatal(err)
	}
	if err := (&Lease{}).Resolver(path); err != nil {
		t.Error(err)
	}
	if err := (&Lease{DNS: []string{"10.0.0.2", "10.0.0.3"}, Domain: "rack.example"}).Resolver(path); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); string(b) != "search rack.example\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n" {
		t.Errorf("%q, %v", b, err)
	}
	if err := (&Lease{DNS: []string{"10.0.0.2"}, Domain: "evil\nnameserver 6.6.6.6"}).Resolver(path); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(path); string(b) != "nameserver 10.0.0.2\n" {
		t.Errorf("%q", b)
	}
}

func TestPick(t *testing.T) {
	boot := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	o := WaitOptions{BootIF: boot, Missing: time.Second, Link: time.Second}
	list := []Card{{"none0", net.HardwareAddr{2, 0, 0, 0, 0, 2}}, {"none1", boot}}
	now := time.Now()
	if _, ok := pick(list, map[string]time.Time{"none1": now}, o, 0); ok {
		t.Error("a card without link was taken at once")
	}
	if c, ok := pick(list, map[string]time.Time{"none1": now.Add(-2 * time.Second)}, o, 0); !ok || c.Name != "none1" {
		t.Error("a card whose link did not come was not taken in the end")
	}
	if s := describe(nil, boot); !strings.Contains(s, "driver") {
		t.Error(s)
	}
	if s := describe(list[:1], boot); !strings.Contains(s, "02:00:00:00:00:01") || !strings.Contains(s, "none0") {
		t.Error(s)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	namespace(t, func() { // where there is no card at all
		if _, err := Wait(ctx, WaitOptions{BootIF: boot, Log: logTo(t)}); err == nil {
			t.Error("a card was found where there is none")
		}
	})
}
