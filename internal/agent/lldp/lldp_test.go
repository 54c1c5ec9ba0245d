package lldp

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mimeo/internal/cluster/api"
)

// sample is what a switch might send: chassis and port by MAC and name, TTL, descriptions, VLAN 42.
const sample = "0180c200000e" + "525400000001" + "88cc" +
	"0207" + "04" + "525400aabbcc" + "0409" + "05" + "4769312f302f3132" + "0602" + "0078" +
	"0808" + "75706c696e6b2031" + "0a05" + "73772d7233" + "fe06" + "0080c2" + "01" + "002a" + "0000"

func TestParse(t *testing.T) {
	frame, err := hex.DecodeString(sample)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(frame)
	if want := (api.HardwareSwitch{Chassis: "52:54:00:aa:bb:cc", Name: "sw-r3", Port: "Gi1/0/12", PortDescription: "uplink 1", VLAN: 42}); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for n := range len(frame) {
		if _, err := Parse(frame[:n]); err == nil {
			t.Errorf("the first %d bytes are a frame", n)
		}
	}
	gone := strings.Replace(sample, "06020078", "06020000", 1)
	frame, _ = hex.DecodeString(gone)
	if _, err := Parse(frame); !errors.Is(err, ErrGone) {
		t.Errorf("%v", err)
	}
	for _, wrong := range []string{strings.Replace(sample, "88cc", "88cd", 1), strings.Replace(sample, "0207", "0a07", 1), strings.Replace(sample, "0602", "0402", 1)} {
		frame, _ = hex.DecodeString(wrong)
		if s, err := Parse(frame); err == nil {
			t.Errorf("%s: %+v", wrong, s)
		}
	}
}

func FuzzParse(f *testing.F) {
	frame, _ := hex.DecodeString(sample)
	f.Add(frame)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Parse(b)
		if err == nil && (s.Chassis == "" || s.Port == "" || len(s.Name) > maxText) {
			t.Errorf("%+v", s)
		}
	})
}

// TestListen hears lldpd, on the other end of a cable.
func TestListen(t *testing.T) {
	if os.Getenv("MIMEO_TEST_INSIDE") == "" { // again, in a network namespace of its own
		cmd := exec.Command("unshare", "--net", os.Args[0], "-test.run=^TestListen$", "-test.v")
		cmd.Env = append(os.Environ(), "MIMEO_TEST_INSIDE=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	sh := func(line string) {
		t.Helper()
		if out, err := exec.Command("sh", "-ec", line).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
	}
	// The switch is a process of its own, in another namespace.
	dir := t.TempDir()
	sh("chmod 755 " + dir + " " + filepath.Dir(dir)) // its helper runs as another user
	ns := fmt.Sprintf("mlldp%d", os.Getpid())
	sh("ip netns add " + ns)
	defer sh("ip netns del " + ns)
	sh(`ip link add eth7 type veth peer name port12 netns ` + ns + ` && ip link set eth7 up && ip -n ` + ns + ` link set port12 address 52:54:00:12:00:12 up`)
	l, err := Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var said strings.Builder
	lldpd := exec.Command("ip", "netns", "exec", ns, "lldpd", "-d", "-I", "port12", "-C", "port12", "-u", filepath.Join(dir, "socket"), "-p", filepath.Join(dir, "pid"), "-S", "a switch")
	lldpd.Stderr = &said
	if err := lldpd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		lldpd.Process.Kill()
		lldpd.Wait()
	}()
	for start := time.Now(); time.Since(start) < 20*time.Second; time.Sleep(50 * time.Millisecond) {
		if s, ok := l.Heard()["eth7"]; ok {
			if s.Chassis != "52:54:00:12:00:12" || s.Port != "52:54:00:12:00:12" && s.Port != "port12" || s.Name == "" {
				t.Errorf("%+v", s)
			}
			return
		}
	}
	t.Errorf("nothing was heard: %v\n%s", l.Heard(), said.String())
}
