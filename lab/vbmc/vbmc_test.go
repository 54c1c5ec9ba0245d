package vbmc

import (
	"context"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
)

// switchBoard is a machine that is only a state.
type switchBoard struct {
	mu   sync.Mutex
	on   bool
	log  []string
	next string
}

func (s *switchBoard) note(what string, on bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, what)
	s.on = on
	return nil
}
func (s *switchBoard) Power() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.on
}
func (s *switchBoard) PowerOn() error  { return s.note("on", true) }
func (s *switchBoard) PowerOff() error { return s.note("off", false) }
func (s *switchBoard) Reset() error    { return s.note("reset", true) }
func (s *switchBoard) SoftOff() error  { return s.note("soft", false) }
func (s *switchBoard) SetNextBoot(device string, once, uefi bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = fmt.Sprintf("%s once=%v uefi=%v", device, once, uefi)
	return nil
}
func (s *switchBoard) nextBoot() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next
}

func serveIPMI(t *testing.T, b *BMC) (port string) {
	t.Helper()
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.ServeIPMI(ctx, pc) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("ServeIPMI: %v", err)
		}
	})
	_, port, _ = net.SplitHostPort(pc.LocalAddr().String())
	return port
}

// TestIPMITool judges the IPMI side with ipmitool, with both cipher suites.
func TestIPMITool(t *testing.T) {
	for _, suite := range []string{"3", "17"} {
		t.Run("suite "+suite, func(t *testing.T) {
			m := &switchBoard{}
			port := serveIPMI(t, New(m, "admin", "secret-17"))
			tool := func(want string, args ...string) {
				t.Helper()
				out, err := exec.Command("ipmitool", append([]string{"-I", "lanplus", "-C", suite, "-H", "127.0.0.1", "-p", port, "-U", "admin", "-P", "secret-17"}, args...)...).CombinedOutput()
				if err != nil || !strings.Contains(string(out), want) {
					t.Fatalf("ipmitool %v: %v, want %q:\n%s", args, err, want, out)
				}
			}
			tool("Chassis Power is off", "power", "status")
			tool("Up/On", "power", "on")
			tool("Chassis Power is on", "power", "status")
			tool("Cycle", "power", "cycle")
			tool("Reset", "power", "reset")
			tool("Soft", "power", "soft")
			tool("Chassis Power is off", "power", "status")
			tool("Set Boot Device to pxe", "chassis", "bootdev", "pxe")
			if got := m.nextBoot(); got != "pxe once=true uefi=false" {
				t.Errorf("next boot is %q", got)
			}
			tool("Force PXE", "chassis", "bootparam", "get", "5")
			tool("Set Boot Device to disk", "chassis", "bootdev", "disk", "options=persistent,efiboot")
			if got := m.nextBoot(); got != "disk once=false uefi=true" {
				t.Errorf("next boot is %q", got)
			}
			tool("IPMI Version              : 2.0", "mc", "info")
			tool("", "chassis", "identify", "5")
			if got := strings.Join(m.log, " "); got != "on off on reset soft" {
				t.Errorf("the machine was told %q", got)
			}
			out, err := exec.Command("ipmitool", "-I", "lanplus", "-C", suite, "-N", "1", "-R", "1", "-H", "127.0.0.1", "-p", port, "-U", "admin", "-P", "wrong", "power", "off").CombinedOutput()
			if err == nil {
				t.Errorf("a wrong password is let in: %s", out)
			}
		})
	}
}

// TestSushy judges the Redfish side with OpenStack's client.
func TestSushy(t *testing.T) {
	m := &switchBoard{}
	b := New(m, "admin", "secret")
	srv := httptest.NewServer(b.Handler())
	defer srv.Close()
	script := fmt.Sprintf(`
import sushy
c = sushy.Sushy(%q, username='admin', password='secret')
s = c.get_system_collection().get_members()[0]
assert s.power_state == sushy.POWER_STATE_OFF if hasattr(sushy, 'POWER_STATE_OFF') else True
s.reset_system(sushy.RESET_ON); s.refresh(force=True)
assert 'on' in str(s.power_state).lower(), s.power_state
s.set_system_boot_options(target=sushy.BOOT_SOURCE_TARGET_PXE, enabled=sushy.BOOT_SOURCE_ENABLED_ONCE, mode=sushy.BOOT_SOURCE_MODE_UEFI)
s.refresh(force=True)
print('boot', s.boot.target, s.boot.enabled, s.boot.mode)
s.reset_system(sushy.RESET_FORCE_OFF); s.refresh(force=True)
print('power', s.power_state)
`, srv.URL)
	out, err := exec.Command("/usr/bin/python3", "-W", "ignore", "-c", script).CombinedOutput()
	if err != nil || !strings.Contains(strings.ToLower(string(out)), "pxe") || m.Power() {
		t.Fatalf("sushy: %v\n%s", err, out)
	}
	if got := m.nextBoot(); got != "pxe once=true uefi=true" {
		t.Errorf("next boot is %q", got)
	}
}

// TestRedfishtool judges the Redfish side with the DMTF's command.
func TestRedfishtool(t *testing.T) {
	m := &switchBoard{}
	srv := httptest.NewServer(New(m, "admin", "secret").Handler())
	defer srv.Close()
	tool := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("redfishtool", append([]string{"-r", strings.TrimPrefix(srv.URL, "http://"), "-u", "admin", "-p", "secret", "-S", "Never", "-A", "Basic"}, args...)...)
		cmd.Env = append(os.Environ(), "PATH=/usr/bin:/bin")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("redfishtool %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	if out := tool("Systems", "-F"); !strings.Contains(out, `"PowerState": "Off"`) {
		t.Errorf("system is %s", out)
	}
	tool("Systems", "reset", "On")
	if !m.Power() {
		t.Error("redfishtool did not switch it on")
	}
	tool("Systems", "setBootOverride", "Once", "Pxe")
	if got := m.nextBoot(); !strings.HasPrefix(got, "pxe once=true") {
		t.Errorf("next boot is %q", got)
	}
}

func TestHostilePackets(t *testing.T) {
	s := &ipmiServer{bmc: New(&switchBoard{}, "admin", "secret"), sessions: map[uint32]*session{}}
	open := append([]byte{6, 0, 0xff, 7, 6, payloadOpenRequest, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0}, make([]byte, 32)...)
	for n := range open {
		s.handle(open[:n], nil)
	}
	for i := range 5000 {
		p := append([]byte(nil), open...)
		p[4+i%(len(p)-4)] = byte(i / 7)
		s.handle(p, nil)
	}
	if len(s.sessions) > maxSessions {
		t.Errorf("%d sessions", len(s.sessions))
	}
}
