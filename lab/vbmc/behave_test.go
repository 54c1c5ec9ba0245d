package vbmc

import (
	"bytes"
	"context"
	"net"
	"os/exec"
	"strings"
	"testing"
)

// ipmitool runs the command against a BMC whose account is admin, secret.
func ipmitool(t *testing.T, port string, args ...string) (string, error) {
	t.Helper()
	out, err := exec.Command("ipmitool", append([]string{"-I", "lanplus", "-N", "1", "-R", "2", "-H", "127.0.0.1", "-p", port, "-U", "admin", "-P", "secret"}, args...)...).CombinedOutput()
	return string(out), err
}

// TestPrivileges lets a user look and an operator switch.
func TestPrivileges(t *testing.T) {
	m := &switchBoard{}
	port := serveIPMI(t, New(m, "admin", "secret"))
	if out, err := ipmitool(t, port, "-C", "17", "-L", "USER", "power", "status"); err != nil || !strings.Contains(out, "is off") {
		t.Errorf("status as a user: %v\n%s", err, out)
	}
	for _, args := range [][]string{{"power", "on"}, {"chassis", "bootdev", "pxe"}} {
		if out, err := ipmitool(t, port, append([]string{"-C", "17", "-L", "USER"}, args...)...); !strings.Contains(out, "nsufficient privilege") {
			t.Errorf("%v as a user: %v\n%s", args, err, out)
		}
	}
	if m.Power() || m.nextBoot() != "" {
		t.Errorf("a user switched it: %v, %q", m.Power(), m.nextBoot())
	}
	if out, err := ipmitool(t, port, "-C", "17", "-L", "OPERATOR", "power", "on"); err != nil || !m.Power() {
		t.Errorf("on as an operator: %v\n%s", err, out)
	}
}

// TestOff refuses what wants a machine that is on.
func TestOff(t *testing.T) {
	m := &switchBoard{}
	port := serveIPMI(t, New(m, "admin", "secret"))
	for _, verb := range []string{"cycle", "reset"} {
		if out, err := ipmitool(t, port, "-C", "3", "power", verb); err == nil || !strings.Contains(out, "not supported in present state") {
			t.Errorf("%s of what is off: %v\n%s", verb, err, out)
		}
	}
	if len(m.log) != 0 {
		t.Errorf("the machine was told %q", m.log)
	}
}

// TestSuites speaks only the suites that it is told to.
func TestSuites(t *testing.T) {
	b := New(&switchBoard{}, "admin", "secret")
	b.Suites = []int{3}
	port := serveIPMI(t, b)
	if out, err := ipmitool(t, port, "-C", "3", "power", "status"); err != nil {
		t.Errorf("suite 3: %v\n%s", err, out)
	}
	if out, err := ipmitool(t, port, "-C", "17", "power", "status"); err == nil {
		t.Errorf("suite 17 is spoken: %s", out)
	}
}

// twice brings each packet of a session two times, as a bad switch or somebody on the wire does. The session's set-up
// is left alone: ipmitool itself gives up on an answer that comes twice.
type twice struct {
	net.PacketConn
	held []byte
	from net.Addr
}

func (c *twice) ReadFrom(buf []byte) (int, net.Addr, error) {
	if c.held != nil {
		n := copy(buf, c.held)
		c.held = nil
		return n, c.from, nil
	}
	n, addr, err := c.PacketConn.ReadFrom(buf)
	if err == nil && n > 5 && buf[4] == authPlus && buf[5]&0xc0 == 0xc0 {
		c.held, c.from = bytes.Clone(buf[:n]), addr
	}
	return n, addr, err
}

// TestTwice carries out once what comes twice.
func TestTwice(t *testing.T) {
	m := &switchBoard{}
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- New(m, "admin", "secret").ServeIPMI(ctx, &twice{PacketConn: pc}) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	_, port, _ := net.SplitHostPort(pc.LocalAddr().String())
	for _, verb := range []string{"on", "reset", "cycle", "off"} {
		if out, err := ipmitool(t, port, "-C", "17", "power", verb); err != nil {
			t.Errorf("%s: %v\n%s", verb, err, out)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if got := strings.Join(m.log, " "); got != "on reset off on off" {
		t.Errorf("the machine was told %q", got)
	}
}
