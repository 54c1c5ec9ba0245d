package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"mimeo/internal/night"
	"mimeo/lab/golden"
	"mimeo/lab/rack"
)

// firmwareRow is a kind of node that goes through the whole of capture and deploy, unattended. Its disk is small: the
// firmware is what is looked at.
type firmwareRow struct {
	name     string
	firmware rack.Firmware
	set      []string // of both nodes, as mimeo node set takes it
	boot     string   // how the system on the disk says that it was booted
	asked    []string // what the nodes must have asked for
	never    []string // and what not
	uuids    bool     // the deployed disk gets new UUIDs
	exit     bool     // look also at what the firmware does when it is left to its boot order
	night    bool     // by build/night: all of it is seen with other rows
	stall    bool     // GRUB's first transfer of the initrd stops half way, as was seen on a busy machine
}

var firmwareRows = []firmwareRow{
	{name: "uefi-pxe", firmware: rack.UEFIPXE, boot: "uefi",
		asked: []string{"snponly.efi by TFTP", "autoexec.ipxe by TFTP", "told-disk"}, never: []string{"shimx64.efi by"},
		set: []string{"label.deploy.uuids=all"}, uuids: true, exit: true},
	{name: "uefi-http", firmware: rack.UEFIHTTP, boot: "uefi",
		asked: []string{"snponly.efi by HTTP", "told-disk"}, never: []string{"by TFTP"}, night: true},
	{name: "uefi-sb", firmware: rack.UEFISB, set: []string{"knobs.loader=shim"}, boot: "secure",
		asked: []string{"shimx64.efi by TFTP", "grubx64.efi by TFTP", "told-disk"}, never: []string{"snponly.efi", "ipxe"}, stall: true},
	{name: "uefi-http-sb", firmware: rack.UEFIHTTPSB, set: []string{"knobs.loader=shim"}, boot: "secure",
		asked: []string{"shimx64.efi by HTTP", "grubx64.efi by HTTP", "told-disk"}, never: []string{"snponly.efi", "ipxe", "by TFTP"}, night: true},
}

// debian is the deployed system's entry as efibootmgr shows it, debianBehindNetwork what the agent says of the order.
var (
	debian              = regexp.MustCompile(`Boot[0-9A-F]{4}\* debian\s+HD\(2,GPT,6d1e0c1a-6f0b-4c55-9c1e-5f2f6f3b9ae5,0x1000,0x14000\)/File\(\\EFI\\debian\\shimx64.efi\)`)
	debianNewUUID       = regexp.MustCompile(`Boot[0-9A-F]{4}\* debian\s+HD\(2,GPT,[0-9a-f-]{36},0x1000,0x14000\)/File\(\\EFI\\debian\\shimx64.efi\)`)
	debianBehindNetwork = regexp.MustCompile(`boot order is now ([0-9A-F]{4} UEFI (PXE|HTTP)v[46] \([^)]*\), )+[0-9A-F]{4} debian, [0-9A-F]{4} UEFI Misc Device`)
)

// TestFirmware captures a node of each kind and deploys the image onto another, whose firmware comes from the factory
// and boots from the network first, for ever.
func TestFirmware(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("-short leaves the virtual rack out")
	}
	// The rows run two at a time where there are two processors, and wait for other tests first: each has a limit of
	// its own, from its start.
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	r := newRack(t, ctx)
	buildImages(t, ctx, r, "imaging")
	config := filepath.Join(r.Dir, "mimeod.yaml")
	if err := os.WriteFile(config, []byte("limits:\n  netboot: 150s\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	startServer(t, ctx, r, "--config", config)
	small := filepath.Join(r.Dir, "small.img")
	if err := golden.Make(ctx, small, golden.Config{Cache: cacheDir(t), Small: true}); err != nil {
		t.Fatal(err)
	}
	for i, row := range firmwareRows {
		if row.night && !night.On() {
			continue
		}
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			row.run(t, ctx, r, i, small)
		})
	}
}

func (row firmwareRow) run(t *testing.T, ctx context.Context, r *rack.Rack, i int, small string) {
	name := row.name
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	disks := [2]string{filepath.Join(r.Dir, name+"-1.img"), filepath.Join(r.Dir, name+"-2.img")}
	copySparse(t, small, disks[0])
	// The other disk is larger, and has a system of its own in the way.
	if out, err := exec.Command("sh", "-c", `truncate -s 200M "$1"; sgdisk -og -n 1:1M:+100M -n 2:0:0 "$1" >/dev/null; head -c 20M /dev/urandom | dd of="$1" bs=1M seek=2 conv=notrunc status=none`, "sh", disks[1]).CombinedOutput(); err != nil {
		t.Fatalf("prepare a disk: %v: %s", err, out)
	}
	var nodes [2]*rack.Node
	for k := range nodes {
		n := fmt.Sprintf("f%d%d", i, k+1)
		nodes[k] = addNode(t, ctx, r, rack.NodeConfig{Name: n, MAC: fmt.Sprintf("52:54:00:77:1%d:0%d", i, k+1), Serial: strings.ToUpper(n),
			Disk: disks[k], Firmware: row.firmware}, fmt.Sprintf("10.77.0.%d", 20+2*i+k))
		if len(row.set) > 0 {
			mimeo(t, ctx, r, append([]string{"node", "set", n}, row.set...)...)
		}
	}
	defer func() {
		for _, n := range nodes {
			if t.Failed() {
				b, _ := os.ReadFile(n.Console)
				t.Logf("%s ends with:\n%s\n%s", n.Name, rack.Tail(b, 40), mimeo(t, context.Background(), r, "node", "events", n.Name))
			}
			n.PowerOff()
		}
	}()
	up := func(n *rack.Node, from int64, as string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(ctx, 180*time.Second)
		defer cancel()
		text, err := n.WaitConsole(ctx, from, `(?s)^.*`+golden.Marker+` node=`+as+` root=/dev/vda3 id=[0-9a-f]+ boot=`+row.boot)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	start := time.Now()
	step := func(what string) {
		t.Logf("%s: %.1f s", what, time.Since(start).Seconds())
		start = time.Now()
	}
	a, b := nodes[0], nodes[1]
	if row.stall {
		// Script, kernel, initrd: GRUB's third port.
		nft(t, ctx, r, fmt.Sprintf("add table ip stall; add chain ip stall out { type filter hook output priority 0; }; add rule ip stall out ip daddr 10.77.0.%d tcp dport 21552 quota over 4 mbytes drop", 20+2*i))
	}
	mimeo(t, ctx, r, "capture", a.Name, "--image", name, "--watch")
	step("captured")
	if row.stall {
		nft(t, ctx, r, "delete table ip stall")
		events := mimeo(t, ctx, r, "node", "events", a.Name)
		if n := strings.Count(events, "initrd.img: begins"); n != 2 || strings.Contains(events, "netboots once more") {
			t.Errorf("the initrd was begun %d times, want 2 in one netboot:\n%s", n, events)
		}
	}
	up(a, 0, "golden")
	step("booted the disk")
	a.PowerOff()
	mimeo(t, ctx, r, "deploy", b.Name, "--image", name, "--watch", "--yes")
	step("deployed")
	text := up(b, 0, b.Name)
	step("booted the disk")
	entry := debian
	if row.uuids {
		entry = debianNewUUID
		old, err := exec.Command("sh", "-euc", `sfdisk -d "$1" | grep -ioE "$2"`, "sh", disks[1], golden.DiskGUID+"|"+golden.ESPGUID).Output()
		root, _ := exec.Command("blkid", "-p", "-o", "value", "-s", "UUID", "-O", fmt.Sprint(42<<20), disks[1]).Output()
		if err == nil || len(root) != 37 || strings.TrimSpace(string(root)) == golden.RootUUID {
			t.Errorf("UUIDs of the captured disk are on the deployed one: %s%s", old, root)
		}
	}
	if !entry.MatchString(text) || row.uuids && debian.MatchString(text) {
		t.Errorf("the deployed system's boot entries are not %s:\n%s", entry, text)
	}
	if row.boot == "secure" {
		if show := mimeo(t, ctx, r, "node", "show", b.Name); !regexp.MustCompile(`(?m)^secure boot +on$`).MatchString(show) {
			t.Errorf("nothing is said of Secure Boot:\n%s", show)
		}
	}
	if events := mimeo(t, ctx, r, "node", "events", b.Name); !debianBehindNetwork.MatchString(events) {
		t.Errorf("the boot order is not the network, then the disk:\n%s", events)
	}
	if row.boot == "secure" {
		// At once again: GRUB comes from the ports of the boot before.
		from := b.ConsoleSize()
		if err := b.Reset(); err != nil {
			t.Fatal(err)
		}
		up(b, from, b.Name)
		step("booted the disk again")
	}
	if row.exit {
		// iPXE gives the turn back; the firmware tries its other network entries, then the one that the agent wrote.
		b.PowerOff()
		start = time.Now()
		mimeo(t, ctx, r, "node", "set", b.Name, "knobs.disk_boot=exit")
		from := b.ConsoleSize()
		if err := b.PowerOn(); err != nil {
			t.Fatal(err)
		}
		text = up(b, from, b.Name)
		step("booted the disk by the firmware's entry")
		current := regexp.MustCompile(`BootCurrent: ([0-9A-F]{4})`).FindStringSubmatch(text)
		if current == nil || !strings.Contains(text, "Boot"+current[1]+"* debian") {
			t.Errorf("the firmware did not start the entry: %v", current)
		}
	}
	for _, n := range nodes {
		events := mimeo(t, ctx, r, "node", "events", n.Name)
		for _, want := range row.asked {
			if !strings.Contains(events, want) {
				t.Errorf("%s's events lack %q:\n%s", n.Name, want, events)
			}
		}
		for _, not := range row.never {
			if strings.Contains(events, not) {
				t.Errorf("%s's events have %q:\n%s", n.Name, not, events)
			}
		}
	}
}

// nft changes what the server's network namespace lets through.
func nft(t *testing.T, ctx context.Context, r *rack.Rack, ruleset string) {
	t.Helper()
	if out, err := r.Net.Command(ctx, "nft", ruleset).CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
}
