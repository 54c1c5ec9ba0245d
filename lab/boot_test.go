package lab

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"mimeo/internal/night"
	"mimeo/lab/rack"
)

// building has a lock for each kind of image, held by the rack that builds it: they share what was built.
var building sync.Map

// buildImages makes stateless images of a profile, of the given architectures or of this machine's, outside of the rack's
// network. They are kept for the other racks and for the next run, where the server finds that nothing has changed.
func buildImages(t testing.TB, ctx context.Context, r *rack.Rack, profile string, archs ...string) {
	t.Helper()
	args := []string{"stateless", "build", profile}
	if len(archs) > 0 {
		args = append(args, "--arch", strings.Join(archs, ","))
	}
	lock, _ := building.LoadOrStore(strings.Join(args, " "), new(sync.Mutex))
	lock.(*sync.Mutex).Lock()
	defer lock.(*sync.Mutex).Unlock()
	if len(archs) > 0 {
		if out, err := exec.Command("../build/agent", append([]string{programs}, archs...)...).CombinedOutput(); err != nil {
			t.Fatalf("build agents: %v\n%s", err, out)
		}
	}
	kept := filepath.Join(cacheDir(t), "stateless")
	if err := os.MkdirAll(kept, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(kept, filepath.Join(r.State, "stateless")); err != nil {
		t.Fatal(err)
	}
	r.Outside = true
	startServer(t, ctx, r)
	t.Log(mimeo(t, ctx, r, args...))
	if err := r.StopServer(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	r.Outside = false
}

// addNode puts a node with an empty disk and an IPMI BMC into the rack and the inventory.
func addNode(t testing.TB, ctx context.Context, r *rack.Rack, c rack.NodeConfig, ip string) *rack.Node {
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
	night.Only(t)
	t.Parallel()
	if testing.Short() {
		t.Skip("-short leaves the virtual rack out")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
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
	first := sshTo(t, ctx, r, key, known, "10.77.0.11", 8*time.Minute, look)
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
	second := sshTo(t, ctx, r, key, known, "10.77.0.11", 8*time.Minute, "ls /etc/gone-after-reboot 2>&1; systemctl is-system-running --wait")
	if !strings.Contains(second, "No such file") || !strings.Contains(second, "running\n") {
		t.Errorf("after its reboot n01 says %s", second)
	}
	if b, err := os.ReadFile(filepath.Join(r.Dir, "n01.img")); err != nil || strings.Trim(string(b), "\x00") != "" {
		t.Errorf("its disk was written to: %v", err)
	}
}

// TestWipeInRack wipes an emulated NVMe disk by its own command and a virtual one by discard, and finds out that a SATA
// disk without the security feature set refuses what it cannot do.
func TestWipeInRack(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("-short leaves the virtual rack out")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
	defer cancel()
	r := newRack(t, ctx)
	buildImages(t, ctx, r, "imaging")
	startServer(t, ctx, r)
	disk := func(name string) string {
		file := filepath.Join(r.Dir, name+".img")
		if out, err := exec.Command("sh", "-c", `yes "of no concern to the next owner" | head -c 80M >"$1"; sgdisk -og -n 1:1M:0 "$1" >/dev/null`, "sh", file).CombinedOutput(); err != nil {
			t.Fatalf("prepare a disk: %v: %s", err, out)
		}
		return file
	}
	addNode(t, ctx, r, rack.NodeConfig{Name: "n01", MAC: "52:54:00:77:02:01", Serial: "WIPE-1", Bus: "nvme", Disk: disk("n01")}, "10.77.0.11")
	addNode(t, ctx, r, rack.NodeConfig{Name: "n02", MAC: "52:54:00:77:02:02", Serial: "WIPE-2", Disk: disk("n02")}, "10.77.0.12")
	addNode(t, ctx, r, rack.NodeConfig{Name: "n03", MAC: "52:54:00:77:02:03", Serial: "WIPE-3", Bus: "sata", Disk: disk("n03")}, "10.77.0.13")
	if _, err := r.Run(ctx, "wipe", "n01"); err == nil || !strings.Contains(err.Error(), "--yes") {
		t.Errorf("a wipe that nobody confirmed: %v", err)
	}
	before, err := os.ReadFile(filepath.Join(r.Dir, "n03.img"))
	if err != nil {
		t.Fatal(err)
	}
	if out, err := r.Run(ctx, "wipe", "n03", "--method", "secure-erase", "--yes", "--watch"); err == nil || !strings.Contains(err.Error(), "ATA security feature set") || !strings.Contains(err.Error(), "nothing was written") {
		t.Errorf("a disk without secure erase: %v\n%s", err, out)
	}
	if after, err := os.ReadFile(filepath.Join(r.Dir, "n03.img")); err != nil || string(after) != string(before) {
		t.Errorf("it was written to: %v", err)
	}
	t.Log(mimeo(t, ctx, r, "wipe", "n01,n02", "--yes", "--watch"))
	for i, want := range []string{"secure-erase: NVMe Format, user data erase", "discard: all blocks given back"} {
		name := []string{"n01", "n02"}[i]
		jobs := mimeo(t, ctx, r, "job", "list", name)
		id := strings.Fields(strings.Split(jobs, "\n")[1])[0]
		text := mimeo(t, ctx, r, "job", "certificate", id)
		t.Log(text)
		if !strings.Contains(text, want) || !strings.Contains(text, "WIPE-"+name[2:]) || !strings.Contains(text, "Virtual Node") || !strings.Contains(text, "right (ed25519)") {
			t.Errorf("certificate of %s: want %q", name, want)
		}
		file := filepath.Join(r.Dir, name+"-certificate.json")
		if err := os.WriteFile(file, []byte(mimeo(t, ctx, r, "job", "certificate", id, "--json")), 0o644); err != nil {
			t.Fatal(err)
		}
		mimeo(t, ctx, r, "job", "certificate", "--check", file)
		b, err := os.ReadFile(filepath.Join(r.Dir, name+".img"))
		if err != nil || strings.Contains(string(b), "of no concern") || strings.Contains(string(b), "EFI PART") {
			t.Errorf("%s holds what it held: %v", name, err)
		}
	}
}

// TestMemtestInRack starts memtest86+ by BIOS and by UEFI, and brings a node back to its disk.
func TestMemtestInRack(t *testing.T) {
	night.Only(t)
	t.Parallel()
	if testing.Short() {
		t.Skip("-short leaves the virtual rack out")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	r := newRack(t, ctx)
	buildImages(t, ctx, r, "imaging")
	startServer(t, ctx, r)
	bios := addNode(t, ctx, r, rack.NodeConfig{Name: "n01", MAC: "52:54:00:77:03:01", Serial: "MEM-1", Memory: 256}, "10.77.0.11")
	uefi := addNode(t, ctx, r, rack.NodeConfig{Name: "n02", MAC: "52:54:00:77:03:02", Serial: "MEM-2", Memory: 256, Firmware: rack.UEFIPXE}, "10.77.0.12")
	mimeo(t, ctx, r, "boot", "n01,n02", "memtest", "--cycle", "--yes")
	for _, n := range []*rack.Node{bios, uefi} {
		got, err := n.WaitConsole(ctx, 0, `(?s)Memtest86\+.*Pass `)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d bytes of memtest86+", n.Name, len(got))
	}
	from := bios.ConsoleSize()
	mimeo(t, ctx, r, "boot", "n01", "disk", "--cycle")
	if _, err := bios.WaitConsole(ctx, from, `n01 boots from its disk`); err != nil {
		t.Error(err)
	}
}

// TestDiscoveryInRack switches on a machine that nobody knows: it reports itself and waits, is accepted, and boots its
// disk as the node that it then is.
func TestDiscoveryInRack(t *testing.T) {
	night.Only(t)
	t.Parallel()
	if testing.Short() {
		t.Skip("-short leaves the virtual rack out")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	r := newRack(t, ctx)
	buildImages(t, ctx, r, "imaging")
	config := filepath.Join(r.Dir, "mimeod.yaml")
	if err := os.WriteFile(config, []byte("interfaces:\n  - {name: "+r.Net.Bridge+", discovery: on}\naccept:\n  - {switch: sw-r3, port: Gi1/0/*, name: \"r3n{port:3}\"}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r.Configured = true
	startServer(t, ctx, r, "--config", config)
	disk := filepath.Join(r.Dir, "n01.img")
	if err := os.WriteFile(disk, make([]byte, 64<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	n, bmc, err := r.AddNode(ctx, rack.NodeConfig{Name: "n01", MAC: "52:54:00:77:04:01", Serial: "NEW-1", Disk: disk, InBand: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.PowerOn(); err != nil {
		t.Fatal(err)
	}
	reported := func() {
		t.Helper()
		for end := time.Now().Add(6 * time.Minute); !strings.Contains(mimeo(t, ctx, r, "node", "discovered"), "NEW-1"); time.Sleep(time.Second) {
			if time.Now().After(end) {
				t.Fatal("it does not report itself")
			}
		}
	}
	reported()
	list := mimeo(t, ctx, r, "node", "discovered")
	t.Log(list)
	for _, want := range []string{"52-54-00-77-04-01", "bios", "amd64", "Mimeo Virtual Node", "NEW-1", r.Net.Bridge} {
		if !strings.Contains(list, want) {
			t.Errorf("no %q", want)
		}
	}
	if nodes := mimeo(t, ctx, r, "node", "list"); strings.Contains(nodes, "52:54:00:77:04:01") {
		t.Errorf("it is a node before anybody said so:\n%s", nodes)
	}
	// The server is started anew, and hears of it again.
	if err := r.StopServer(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := r.StartServerAgain(ctx); err != nil {
		t.Fatal(err)
	}
	reported()
	from := n.ConsoleSize()
	mimeo(t, ctx, r, "node", "accept", "52-54-00-77-04-01", "n05", "bmc=ipmi://"+bmc, "bmc.user="+rack.BMCUser, "bmc.password="+rack.BMCPassword)
	if _, err := n.WaitConsole(ctx, from, `n05 boots from its disk`); err != nil {
		t.Fatal(err)
	}
	if show := mimeo(t, ctx, r, "node", "show", "n05"); !strings.Contains(show, "NEW-1") || !strings.Contains(show, "52:54:00:77:04:01") {
		t.Errorf("n05 is:\n%s", show)
	}
	mimeo(t, ctx, r, "power", "n05", "off", "--yes")
	if b, err := os.ReadFile(disk); err != nil || strings.Trim(string(b), "\x00") != "" {
		t.Errorf("its disk was written to: %v", err)
	}
	if err := n.PowerOff(); err != nil {
		t.Fatal(err)
	}
	// Another is plugged into a port of a switch for which there is a rule.
	n, _, err = r.AddNode(ctx, rack.NodeConfig{Name: "n02", MAC: "52:54:00:77:04:02", Serial: "NEW-2", Disk: disk})
	if err != nil {
		t.Fatal(err)
	}
	says := exec.CommandContext(ctx, "ip", "netns", "exec", r.Net.Name, "python3", "-c", neighbour, n.Tap)
	if err := says.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		says.Process.Kill()
		says.Wait()
	}()
	if err := n.PowerOn(); err != nil {
		t.Fatal(err)
	}
	if _, err := n.WaitConsole(ctx, 0, `r3n012 boots from its disk`); err != nil {
		t.Fatal(err)
	}
	if show := mimeo(t, ctx, r, "node", "show", "r3n012"); !strings.Contains(show, "NEW-2") {
		t.Errorf("r3n012 is:\n%s", show)
	}
}

// neighbour sends what a switch says of its port Gi1/0/12, by LLDP, on an interface.
const neighbour = `
import socket, sys, time
tlv = lambda kind, value: (kind << 9 | len(value)).to_bytes(2, "big") + value
frame = bytes.fromhex("0180c200000e525400aabbcc88cc") + tlv(1, b"\x04\x52\x54\x00\xaa\xbb\xcc") + tlv(2, b"\x05Gi1/0/12") + tlv(3, b"\0\x78") + tlv(5, b"sw-r3") + tlv(0, b"")
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind((sys.argv[1], 0))
while True:
    s.send(frame.ljust(60, b"\0"))
    time.sleep(1)
`
