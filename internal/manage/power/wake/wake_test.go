package wake

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/power"
)

// TestPacket is what AMD's white paper 20213 has, byte by byte.
func TestPacket(t *testing.T) {
	got := fmt.Sprintf("%x", Packet(net.HardwareAddr{0x52, 0x54, 0, 0, 0, 7}, []byte{1, 2, 3, 4, 5, 6}))
	if want := "ffffffffffff" + strings.Repeat("525400000007", 16) + "010203040506"; got != want {
		t.Errorf("%s", got)
	}
}

var wanted = node.Node{Name: "n07", NICs: []node.NIC{{MAC: "52:54:00:00:00:07", IP: "10.77.2.7"}}}

// TestWays: the interface in whose network the node lives, else all that serve nodes.
func TestWays(t *testing.T) {
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v\n%s", args, err, out)
		}
	}
	// Two networks, in a namespace of this thread's own, which ends with the test.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	for n, name := range []string{"wol1", "wol2"} {
		ip("link", "add", name, "type", "veth", "peer", "name", name+"p")
		ip("addr", "add", fmt.Sprintf("10.77.%d.1/24", n+1), "dev", name)
		ip("link", "set", name, "up")
		ip("link", "set", name+"p", "up")
	}
	for _, tc := range []struct {
		name       string
		o          Options
		one, other int // packets on wol1, wol2
	}{
		{"where it lives", Options{Node: wanted, Interfaces: []string{"wol1", "wol2"}}, 0, sends},
		{"nobody knows where it lives", Options{Node: node.Node{Name: "n", NICs: []node.NIC{{MAC: "52:54:00:00:00:07"}}}, Interfaces: []string{"wol1", "wol2"}}, sends, sends},
		{"by name", Options{Node: wanted, To: "wol1", Interfaces: []string{"wol2"}}, sends, 0},
		{"another network's broadcast", Options{Node: wanted, To: "10.77.1.255"}, sends, 0},
		{"with a password", Options{Node: wanted, To: "wol2", Password: "01:02:03:04:05:06"}, 0, sends},
		{"two cards", Options{Node: node.Node{Name: "n", NICs: []node.NIC{{MAC: "52:54:00:00:00:07"}, {MAC: "52:54:00:00:01:07"}}}, To: "wol1"}, 2 * sends, 0},
	} {
		var dumps []*dump
		for _, name := range []string{"wol1p", "wol2p"} {
			dumps = append(dumps, record(t, name))
		}
		c, err := Open(tc.o)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.On(t.Context()); !errors.Is(err, power.ErrSent) {
			t.Errorf("%s: %v", tc.name, err)
		}
		time.Sleep(100 * time.Millisecond) // for tcpdump to write down the last
		secure, _ := net.ParseMAC(tc.o.Password)
		packet := Packet(net.HardwareAddr{0x52, 0x54, 0, 0, 0, 7}, secure)
		for i, want := range []int{tc.one, tc.other} {
			n, first := dumps[i].stop(t)
			if n != want || want > 0 && !bytes.Contains(first, packet) {
				t.Errorf("%s: %d packets on wol%d, want %d\n%x", tc.name, n, i+1, want, first)
			}
		}
	}
	c, err := Open(Options{Node: wanted, To: "wol9"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.On(t.Context()); !errors.Is(err, power.ErrUnreachable) {
		t.Errorf("no such interface: %v", err)
	}
	if err := c.Cycle(t.Context()); !errors.Is(err, power.ErrUnreachable) {
		t.Errorf("no such interface: %v", err)
	}
}

// dump is tcpdump on an interface, which is not ours.
type dump struct {
	cmd *exec.Cmd
	out bytes.Buffer
}

func record(t *testing.T, iface string) *dump {
	t.Helper()
	d := &dump{cmd: exec.Command("tcpdump", "-i", iface, "-n", "-U", "--immediate-mode", "-w", "-", "udp", "port", "9")}
	ready, err := d.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	d.cmd.Stdout = &d.out
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1000)
	if n, err := ready.Read(buf); err != nil { // "listening on"
		t.Fatalf("tcpdump: %v %s", err, buf[:n])
	}
	return d
}

// stop returns how many packets came, and all the bytes.
func (d *dump) stop(t *testing.T) (n int, raw []byte) {
	t.Helper()
	d.cmd.Process.Kill()
	d.cmd.Wait()
	raw = d.out.Bytes()
	if len(raw) < 24 {
		t.Fatalf("tcpdump wrote %d bytes", len(raw))
	}
	for rest := raw[24:]; len(rest) >= 16; n++ { // pcap: a header of 16 bytes with the length for each packet
		size := 16 + int(rest[8]) + int(rest[9])<<8
		rest = rest[min(size, len(rest)):]
	}
	return n, raw
}

func TestRefused(t *testing.T) {
	for _, o := range []Options{{Node: node.Node{Name: "n"}}, {Node: node.Node{NICs: []node.NIC{{MAC: "x"}}}}, {Node: wanted, Password: "secret"}} {
		if _, err := Open(o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
	c, err := Open(Options{Node: wanted, To: "127.0.0.1:9"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Cycle(t.Context()); !errors.Is(err, power.ErrByHand) || !strings.Contains(err.Error(), "reboot it by hand") {
		t.Errorf("cycle: %v", err)
	}
	if err := c.Off(t.Context()); !errors.Is(err, power.ErrByHand) {
		t.Errorf("off: %v", err)
	}
	if st, err := c.Status(t.Context()); st != power.StateUnknown || err != nil {
		t.Errorf("status: %q, %v", st, err)
	}
}
