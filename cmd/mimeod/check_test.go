package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mimeo/internal/manage/doctor"
)

// twoNetworks makes a namespace in which mimeod would run, with two networks: on mgmt0 dnsmasq gives addresses, on mgmt1 nobody does.
func twoNetworks(t *testing.T) (run func(stdin string, args ...string) (string, error)) {
	t.Helper()
	own, wire := fmt.Sprintf("mchk-%d", os.Getpid()), fmt.Sprintf("mwire-%d", os.Getpid())
	must := func(script string) {
		t.Helper()
		if out, err := exec.Command("sh", "-euc", script, "sh", own, wire).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", script, err, out)
		}
	}
	t.Cleanup(func() {
		for _, ns := range []string{own, wire} {
			exec.Command("ip", "netns", "del", ns).Run()
		}
	})
	must(`ip netns add "$1"; ip netns add "$2"; ip -n "$1" link set lo up; ip -n "$2" link set lo up
		for i in 0 1; do
			ip -n "$1" link add mgmt$i type veth peer name wire$i netns "$2"
			ip -n "$1" addr add 10.78.$i.1/24 dev mgmt$i; ip -n "$1" link set mgmt$i up; ip -n "$2" link set wire$i up
		done
		ip -n "$2" addr add 10.78.0.9/24 dev wire0`)
	server := exec.Command("ip", "netns", "exec", wire, "dnsmasq", "-k", "-C", "/dev/null", "-u", "root", "-p", "0", "--interface=wire0", "--bind-interfaces",
		"--dhcp-range=10.78.0.50,10.78.0.60", "--no-ping", "--dhcp-leasefile="+filepath.Join(t.TempDir(), "leases"))
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Process.Kill(); server.Wait() })
	must(`for i in $(seq 50); do ip netns exec "$2" ss -Hlnu sport = :67 | grep -q . && exit; sleep 0.1; done; exit 1`)
	return func(stdin string, args ...string) (string, error) {
		cmd := exec.Command("ip", append([]string{"netns", "exec", own, os.Args[0]}, args...)...)
		cmd.Env = append(os.Environ(), "MIMEO_TEST_MAIN=1")
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
}

func TestCheckAndSetup(t *testing.T) {
	run := twoNetworks(t)
	dir := t.TempDir()
	file, state := filepath.Join(dir, "mimeod.yaml"), filepath.Join(dir, "state")
	base := []string{"--config", file, "--state", state}
	if err := os.WriteFile(file, []byte("# mine\nlog: json\n"), 0o644); err != nil {
		t.Fatal(err)
	}

	// Where somebody else gives addresses, full is wrong and proxy right; where nobody does, it is the other way round.
	out, err := run("", append(base, "check", "--json", "--interface", "mgmt0=full", "--interface", "mgmt1=proxy", "--interface", "gone0")...)
	if err == nil {
		t.Error("two servers on a network are taken for good")
	}
	text, _, _ := strings.Cut(out, "mimeod: error")
	var found []doctor.Finding
	if err := json.Unmarshal([]byte(text), &found); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	states := map[string]doctor.State{}
	for _, f := range found {
		states[f.Name] = f.State
		if f.Name == "DHCP on mgmt0" && !strings.Contains(f.Text, "10.78.0.9") {
			t.Errorf("the other server is not named: %+v", f)
		}
	}
	for name, want := range map[string]doctor.State{"interface mgmt0": doctor.OK, "interface gone0": doctor.Bad, "DHCP on mgmt0": doctor.Bad, "DHCP on mgmt1": doctor.Warn,
		"port 4443/tcp": doctor.OK, "port 67/udp": doctor.OK, "state folder": doctor.OK, "stateless images": doctor.Warn} {
		if states[name] != want && !(name == "state folder" && states[name] == doctor.Warn) { // it may lie in memory, or on a small disk
			t.Errorf("%s is %q, want %q", name, states[name], want)
		}
	}
	out, err = run("", append(base, "check", "--interface", "mgmt0=proxy", "--interface", "mgmt1=full")...)
	if err != nil || !strings.Contains(out, "DHCP on mgmt0: 10.78.0.9 gives the addresses") || !strings.Contains(out, "DHCP on mgmt1: no other server answered") {
		t.Errorf("%v\n%s", err, out)
	}

	// An answer that is no yes changes nothing.
	if out, err = run("mgmt0\n\n\nno\n", append(base, "setup")...); err == nil || !strings.Contains(out, "nothing was changed") {
		t.Errorf("%v\n%s", err, out)
	}
	if b, _ := os.ReadFile(file); string(b) != "# mine\nlog: json\n" {
		t.Errorf("the file was changed: %s", b)
	}
	// The other server is heard, so that the mode that is proposed is proxy.
	if out, err = run("mgmt0\n\n"+dir+"/images\nyes\n", append(base, "setup")...); err != nil || !strings.Contains(out, "10.78.0.9 gives addresses there") {
		t.Errorf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(b); !strings.HasPrefix(got, "# mine\nlog: json\n") || !strings.Contains(got, "- name: mgmt0\n    dhcp: proxy\n") || !strings.Contains(got, dir+"/images") {
		t.Errorf("the file has:\n%s", got)
	}
	// The second time there is nothing left to ask.
	if out, err = run("", append(base, "setup")...); err != nil || !strings.Contains(out, "stays as it is") {
		t.Errorf("%v\n%s", err, out)
	}
	if again, _ := os.ReadFile(file); string(again) != string(b) {
		t.Errorf("the file was changed: %s", again)
	}
	// For scripts.
	other := filepath.Join(dir, "other.yaml")
	if err := os.WriteFile(other, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err = run("", "--config", other, "--state", state, "setup", "--interface", "mgmt1", "--yes"); err == nil {
		if b, err := os.ReadFile(other); err != nil || !strings.Contains(string(b), "- name: mgmt1\n    dhcp: full\n") {
			t.Errorf("%v\n%s", err, b)
		}
	} else {
		t.Errorf("%v\n%s", err, out)
	}
}
