package open

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/power"
	"mimeo/internal/manage/power/powertest"
	"mimeo/lab/vbmc"
)

// serve starts a virtual BMC and returns its two addresses.
func serve(t *testing.T, m vbmc.Machine) (ipmiURL, redfishURL string, b *vbmc.BMC) {
	t.Helper()
	b = vbmc.New(m, "ops", "secret")
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.ServeIPMI(ctx, pc) }()
	srv := httptest.NewServer(b.Handler())
	t.Cleanup(func() {
		cancel()
		<-done
		srv.Close()
	})
	return "ipmi://" + pc.LocalAddr().String(), strings.Replace(srv.URL, "http://", "redfish+http://", 1), b
}

func openBMC(t *testing.T, url, user, password string, suite int) power.Controller {
	t.Helper()
	c, err := With(Options{})(node.Node{BMC: node.BMC{URL: url, User: user, CipherSuite: suite}}, password)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestVirtualBMC(t *testing.T) {
	for _, kind := range []string{"redfish", "ipmi 17", "ipmi 3", "ipmi"} {
		t.Run(kind, func(t *testing.T) {
			m := powertest.NewMachine()
			ipmiURL, redfishURL, b := serve(t, m)
			url, suite := ipmiURL, 0
			switch kind {
			case "redfish":
				url = redfishURL
			case "ipmi 17":
				suite = 17
			case "ipmi 3":
				suite = 3
			}
			powertest.Run(t, m, func(t *testing.T) power.Controller { return openBMC(t, url, "ops", "secret", suite) })
			if n := b.Sessions(); n != 0 {
				t.Errorf("%d Redfish sessions are left behind", n)
			}
		})
	}
}

func TestRefusedAndUnreachable(t *testing.T) {
	ipmiURL, redfishURL, _ := serve(t, powertest.NewMachine())
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	for _, c := range []struct{ url, user, password, code, says string }{
		{redfishURL, "ops", "wrong", "denied", `refused user "ops"`},
		{ipmiURL, "ops", "wrong", "denied", `refused user "ops"`},
		{ipmiURL, "nobody", "secret", "denied", `refused user "nobody"`},
		{"redfish+http://127.0.0.1:1", "ops", "secret", "unreachable", "cannot be reached"},
	} {
		ctl := openBMC(t, c.url, c.user, c.password, 0)
		_, err := ctl.Status(ctx)
		ctl.Close()
		var e *api.Error
		if !errors.As(err, &e) || e.Code != c.code || !strings.Contains(e.Message, c.says) || e.Hint == "" {
			t.Errorf("%s as %s: %v, want %s %q with a hint", c.url, c.user, err, c.code, c.says)
		}
		if err != nil && strings.Contains(err.Error(), "wrong") {
			t.Errorf("the password is shown: %v", err)
		}
	}
}

func TestByHand(t *testing.T) {
	c := openBMC(t, "", "", "", 0)
	if st, err := c.Status(context.Background()); st != power.StateUnknown || err != nil {
		t.Errorf("status %v, %v", st, err)
	}
	if err := c.Cycle(context.Background()); !errors.Is(err, power.ErrByHand) {
		t.Errorf("cycle: %v", err)
	}
	if _, err := With(Options{})(node.Node{BMC: node.BMC{URL: "telnet://x"}}, ""); err == nil {
		t.Error("an unknown scheme is taken")
	}
}

// TestIPMISim holds the IPMI client against OpenIPMI's simulator, which is not ours.
func TestIPMISim(t *testing.T) {
	dir := t.TempDir()
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(pc.LocalAddr().String())
	pc.Close()
	state := filepath.Join(dir, "power")
	write := func(name, text string, mode os.FileMode) string {
		f := filepath.Join(dir, name)
		if err := os.WriteFile(f, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return f
	}
	write("power", "0", 0o644)
	chassis := write("chassis", `#!/bin/sh
shift; verb=$1; shift
if [ "$verb" = get ]; then
  for k in "$@"; do case $k in power) echo "power:$(cat `+state+`)";; boot) echo "boot:$(cat `+state+`.boot 2>/dev/null || echo none)";; *) echo "$k:0";; esac; done
else
  while [ $# -gt 1 ]; do case $1 in power) echo "$2" >`+state+`;; boot) echo "$2" >`+state+`.boot;; shutdown) echo 0 >`+state+`;; esac; shift 2; done
fi
`, 0o755)
	conf := write("lan.conf", fmt.Sprintf(`name "node1"
set_working_mc 0x20
  startlan 1
    addr 127.0.0.1 %s
    priv_limit admin
    allowed_auths_callback none md2 md5 straight
    allowed_auths_user none md2 md5 straight
    allowed_auths_operator none md2 md5 straight
    allowed_auths_admin none md2 md5 straight
    guid a123456789abcdefa123456789abcdef
  endlan
  chassis_control "%s 0x20"
  user 1 true "" "test" user 10 none md2 md5 straight
  user 2 true "ops" "secret" admin 10 none md2 md5 straight
`, port, chassis), 0o644)
	emu := write("sim.emu", "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\nsel_enable 0x20 1000 0x0a\n"+
		// A temperature in halves of a degree, minus 10: M 5, B -100, exponents -1 and 0; its reading is 0x70.
		"sensor_add 0x20 0 7 1 1\nsensor_set_threshold 0x20 0 7 settable 111111 0xe0 0xd0 0xc0 3 2 1\n"+
		"sensor_set_event_support 0x20 0 7 enable scanning per-state 000111111111111 000111111111111 000111111111111 000111111111111\nsensor_set_value 0x20 0 7 0x70 0\nmain_sdr_add 0x20 "+
		"0x00 0x00 0x51 0x01 0x34 0x20 0x00 0x07 0x03 0x01 0x67 0x40 0x01 0x01 0xc0 0x7f 0xc0 0x7f 0x3f 0x3f "+
		"0x00 0x01 0x00 0x00 0x05 0x00 0x9c 0xc0 0x00 0xf0 0x00 0x00 0x00 0x00 0x00 0x00 0xe0 0xd0 0xc0 0x03 0x02 0x01 0x00 0x00 0x00 0x00 0x00 "+
		"0xc9 0x44 0x49 0x4d 0x4d 0x20 0x54 0x65 0x6d 0x70\nmc_enable 0x20\n"+
		"sel_add 0x20 2 0x07 0xa6 0xa7 0x69 0x20 0x00 0x04 0x01 0x07 0x01 0x09 0xff 0xff\n", 0o644)
	sim := exec.Command("ipmi_sim", "-c", conf, "-f", emu, "-n", "-s", dir)
	if err := sim.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop := func() {
		if !stopped {
			stopped = true
			sim.Process.Kill()
			sim.Wait()
		}
	}
	defer stop()
	time.Sleep(500 * time.Millisecond)
	url := "ipmi://127.0.0.1:" + port
	powertest.Run(t, nil, func(t *testing.T) power.Controller { return openBMC(t, url, "ops", "secret", 3) })

	judgeSim(t, url)

	wrong := openBMC(t, url, "ops", "other", 3)
	var e *api.Error
	if _, err := wrong.Status(context.Background()); !errors.As(err, &e) || e.Code != "denied" {
		t.Errorf("a wrong password: %v", err)
	}
	wrong.Close()

	c := openBMC(t, url, "ops", "secret", 3)
	defer c.Close()
	if _, err := c.Status(context.Background()); err != nil {
		t.Fatal(err)
	}
	stop()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
	defer cancel()
	start := time.Now()
	if _, err := c.Status(ctx); !errors.Is(err, power.ErrUnreachable) {
		t.Errorf("a BMC that is gone: %v", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("that took %v", took)
	}
}

// judgeSim reads the simulator's sensors and event log as ipmitool does.
func judgeSim(t *testing.T, url string) {
	c := openBMC(t, url, "ops", "secret", 3)
	defer c.Close()
	_, port, _ := strings.Cut(strings.TrimPrefix(url, "ipmi://"), ":")
	tool := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("ipmitool", append([]string{"-I", "lanplus", "-C", "3", "-H", "127.0.0.1", "-p", port, "-U", "ops", "-P", "secret"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("ipmitool %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	if out := tool("sdr", "list"); !strings.Contains(out, "DIMM Temp") || !strings.Contains(out, "| 46 degrees C") {
		t.Errorf("ipmitool reads\n%s", out)
	}
	list, err := c.Sensors(t.Context())
	if err != nil || len(list) != 1 || list[0].Name != "DIMM Temp" || list[0].Value == nil || *list[0].Value != 46 || list[0].Unit != "°C" {
		t.Errorf("sensors: %v, %+v", err, list)
	}
	if out := tool("sel", "list"); !strings.Contains(out, "Temperature #0x07 | Upper Critical going high") {
		t.Errorf("ipmitool reads\n%s", out)
	}
	log, err := c.Log(t.Context())
	if err != nil || len(log) != 1 || log[0].Text != "temperature DIMM Temp: critically high" || log[0].Severity != "critical" {
		t.Errorf("log: %v, %+v", err, log)
	}
	if err := c.ClearLog(t.Context()); err != nil {
		t.Errorf("clear: %v", err)
	}
	if out := tool("sel", "info"); !strings.Contains(out, "Entries          : 0") {
		t.Errorf("after the log was cleared:\n%s", out)
	}
	if err := c.Identify(t.Context(), true); err != nil {
		t.Errorf("identify: %v", err)
	}
}
