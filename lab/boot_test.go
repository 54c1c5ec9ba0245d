package lab

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mimeo/lab/rack"
)

// buildImages builds stateless images, outside of the rack's network.
func buildImages(t *testing.T, ctx context.Context, r *rack.Rack, profiles ...string) {
	t.Helper()
	r.Outside = true
	startServer(t, ctx, r)
	for _, p := range profiles {
		t.Log(mimeo(t, ctx, r, "stateless", "build", p))
	}
	if err := r.StopServer(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	r.Outside = false
}

// addNode puts a node with an empty disk and an IPMI BMC into the rack and the inventory.
func addNode(t *testing.T, ctx context.Context, r *rack.Rack, c rack.NodeConfig, ip string) *rack.Node {
	t.Helper()
	if c.Disk == "" {
		c.Disk = filepath.Join(r.Dir, c.Name+".img")
		if err := os.WriteFile(c.Disk, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(c.Disk, 64<<20); err != nil {
			t.Fatal(err)
		}
	}
	n, bmc, err := r.AddNode(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	mimeo(t, ctx, r, "node", "add", c.Name, "--mac", n.MAC, "--ip", ip, "--bmc", "ipmi://"+bmc, "--user", rack.BMCUser, "--set", "bmc.password="+rack.BMCPassword, "--set", "knobs.console=ttyS0,115200")
	return n
}

// sshTo runs a command on a node once it lets the key in. The node's own key is kept in known: the first is taken,
// another one later is refused.
func sshTo(t *testing.T, ctx context.Context, r *rack.Rack, key, known, ip string, limit time.Duration, command string) string {
	t.Helper()
	var out []byte
	var err error
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(2 * time.Second) {
		out, err = r.Net.Command(ctx, "ssh", "-i", key, "-o", "StrictHostKeyChecking=accept-new", "-o", "UserKnownHostsFile="+known, "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=5",
			"-o", "BatchMode=yes", "root@"+ip, command).CombinedOutput()
		if err == nil {
			return string(out)
		}
	}
	t.Fatalf("%s by SSH: %v: %s", command, err, out)
	return ""
}

// TestStatelessForGood boots a node into a whole system in RAM with systemd, twice, with the server started anew in
// between.
func TestStatelessForGood(t *testing.T) {
	if testing.Short() {
		t.Skip("-short leaves the virtual rack out")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	r := newRack(t, ctx)
	key, known := filepath.Join(r.Dir, "key"), filepath.Join(r.Dir, "known_hosts")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	file := filepath.Join(r.State, "profiles", "cluster.yaml")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	profile := "extends: compute\npostscripts:\n  pre:\n    - {name: broken, content: \"#!/bin/sh\\necho no filer here; exit 3\\n\"}\n    - {name: fine, content: \"#!/bin/sh\\necho $NODE of $NODE_GROUPS >/run/fine\\n\"}\n"
	if err := os.WriteFile(file, []byte(profile), 0o644); err != nil {
		t.Fatal(err)
	}
	buildImages(t, ctx, r, "cluster")
	startServer(t, ctx, r)
	n := addNode(t, ctx, r, rack.NodeConfig{Name: "n01", MAC: "52:54:00:77:01:01", Serial: "UNUSED-1", Memory: 1280}, "10.77.0.11")
	mimeo(t, ctx, r, "group", "add", "diskless", "profile=cluster")
	mimeo(t, ctx, r, "node", "set", "n01", "groups+=diskless", "hostname=login.example.org")
	mimeo(t, ctx, r, "boot", "n01", "stateless", "--ssh-key", key+".pub", "--cycle")

	look := `systemctl is-system-running --wait; systemctl --failed --no-legend; systemctl is-active ssh chrony mimeo-agent systemd-udevd; hostname; hostname -f; findmnt -no FSTYPE /; cat /run/fine; cat /proc/1/comm; cat /proc/sys/kernel/random/boot_id`
	first := sshTo(t, ctx, r, key, known, "10.77.0.11", 4*time.Minute, look)
	t.Log(first)
	for _, want := range []string{"running\nactive\nactive\nactive\nactive\nlogin\nlogin.example.org\noverlay\nn01 of diskless\nsystemd\n"} {
		if !strings.Contains(first, want) {
			t.Errorf("n01 says %q, not %q", first, want)
		}
	}
	if events := mimeo(t, ctx, r, "node", "events", "n01"); !strings.Contains(events, "broken: exit status 3") || !strings.Contains(events, "no filer here") || !strings.Contains(events, "this stateless system is up; failed: ") {
		t.Errorf("a postscript failed, and the events say:\n%s", events)
	}
	// What it boots outlives the server, and its host key the node's reboot.
	if err := r.StopServer(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := r.StartServerAgain(ctx); err != nil {
		t.Fatal(err)
	}
	from := n.ConsoleSize()
	sshTo(t, ctx, r, key, known, "10.77.0.11", time.Minute, "touch /etc/gone-after-reboot; systemctl reboot; exit 0")
	if _, err := n.WaitConsole(ctx, from, `in the initrd of node n01`); err != nil {
		t.Fatal(err)
	}
	second := sshTo(t, ctx, r, key, known, "10.77.0.11", 4*time.Minute, "ls /etc/gone-after-reboot 2>&1; systemctl is-system-running --wait")
	if !strings.Contains(second, "No such file") || !strings.Contains(second, "running\n") {
		t.Errorf("after its reboot n01 says %s", second)
	}
	if b, err := os.ReadFile(filepath.Join(r.Dir, "n01.img")); err != nil || strings.Trim(string(b), "\x00") != "" {
		t.Errorf("its disk was written to: %v", err)
	}
}
