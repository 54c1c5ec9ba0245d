package lab

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mimeo/internal/night"
	"mimeo/lab/golden"
	"mimeo/lab/rack"
)

// again is how often each node of another architecture boots its stateless image once more, one after the other.
var again = flag.Int("again", 0, "take each node of another architecture through capture and deploy this many times more")

// archRow is a kind of machine that is not amd64: a disk of one is captured and deployed to another.
type archRow struct {
	arch    string
	from    rack.Firmware
	to      rack.Firmware
	console string
	boot    string   // what a golden disk says of how it was booted
	steps   []string // that the events of the second name
	night   bool     // by build/night
}

var archRows = []archRow{
	{arch: "arm64", from: rack.UEFIPXE, to: rack.UEFIHTTP, console: "ttyAMA0", boot: "uefi", steps: []string{"ipxe-arm64.efi by HTTP", "kernel", "initrd", "rootimg", "agent", "told-disk"}},
	{arch: "arm64", from: rack.UEFIHTTP, to: rack.UEFIPXE, console: "ttyAMA0", boot: "uefi", steps: []string{"ipxe-arm64.efi by TFTP", "kernel", "initrd", "rootimg", "agent", "told-disk"}, night: true},
	{arch: "ppc64el", from: rack.OpenFirmware, to: rack.OpenFirmware, console: "hvc0", boot: "openfirmware", steps: []string{"boot/openfirmware/", "by TFTP", "rootimg", "agent", "told-disk"}},
}

// TestArchitectures takes a node of each kind through the whole: its disk is captured and deployed to another, and both
// boot from disk, though they ask the network first for ever.
func TestArchitectures(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("-short leaves the virtual rack out")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Minute+time.Duration(*again)*10*time.Minute)
	defer cancel()
	r := newRack(t, ctx)
	buildImages(t, ctx, r, "imaging", "arm64", "ppc64el")
	startServer(t, ctx, r)
	for i, row := range archRows {
		within := func(f func(t *testing.T, ctx context.Context)) func(t *testing.T) {
			return func(t *testing.T) {
				ctx, cancel := context.WithTimeout(ctx, 8*time.Minute+time.Duration(*again)*3*time.Minute)
				defer cancel()
				f(t, ctx)
			}
		}
		if row.night && !night.On() {
			continue
		}
		ok := t.Run(row.arch+" "+string(row.to), within(func(t *testing.T, ctx context.Context) { row.through(t, ctx, r, i) }))
		if ok && row.to == rack.OpenFirmware {
			t.Run("ppc64el opal", within(func(t *testing.T, ctx context.Context) { opal(t, ctx, r, row.image()) }))
		}
	}
}

func (row archRow) image() string { return row.arch + "-" + string(row.from) }

func (row archRow) through(t *testing.T, ctx context.Context, r *rack.Rack, i int) {
	image := row.image()
	var nodes [2]*rack.Node
	for k, firmware := range []rack.Firmware{row.from, row.to} {
		name := fmt.Sprintf("%c%02d", 'a'+i, k+1)
		disk := filepath.Join(r.Dir, name+".img")
		if k == 0 {
			err := golden.MakeForeign(ctx, disk, golden.Foreign{Arch: row.arch, Image: filepath.Join(r.State, "stateless/imaging", row.arch, "current"),
				Apt: filepath.Join(r.State, "cache/apt/bookworm-"+row.arch, "apt.conf"), Cache: cacheDir(t)})
			if err != nil {
				t.Fatal(err)
			}
		} else if err := os.WriteFile(disk, nil, 0o644); err != nil {
			t.Fatal(err)
		} else if err := os.Truncate(disk, 384<<20); err != nil {
			t.Fatal(err)
		}
		mac := fmt.Sprintf("52:54:00:77:1%d:0%d", i, k+1)
		n, bmc, err := r.AddNode(ctx, rack.NodeConfig{Name: name, MAC: mac, Disk: disk, Serial: "DISK-" + name, Memory: 1024, Arch: row.arch, Firmware: firmware})
		if err != nil {
			t.Fatal(err)
		}
		nodes[k] = n
		mimeo(t, ctx, r, "node", "add", name, "--mac", mac, "--bmc", "ipmi://"+bmc, "--user", rack.BMCUser, "--set", "bmc.password="+rack.BMCPassword, "--set", "knobs.console="+row.console)
	}
	t.Cleanup(func() {
		for _, n := range nodes {
			if err := n.PowerOff(); err != nil {
				t.Error(err)
			}
			if t.Failed() {
				text, _ := os.ReadFile(n.Console)
				t.Logf("%s's console ends with:\n%s", n.Name, rack.Tail(text, 30))
				events, err := r.Run(context.Background(), "node", "events", n.Name)
				t.Log(events, err)
			}
		}
	})
	up := func(n *rack.Node, from int64, node string) {
		t.Helper()
		mark, err := n.WaitConsole(ctx, from, golden.Marker+` node=`+node+` root=/dev/vda2 id=[0-9a-f]{32} boot=`+row.boot+` size=\d+`)
		if err != nil {
			t.Fatalf("%s does not boot its disk: %v", n.Name, err)
		}
		t.Log(mark)
	}
	started := time.Now()
	t.Log(mimeo(t, ctx, r, "capture", nodes[0].Name, "--image", image, "--watch"))
	up(nodes[0], 0, "golden")
	t.Logf("captured and up after %.0f s", time.Since(started).Seconds())
	if err := nodes[0].PowerOff(); err != nil {
		t.Fatal(err)
	}
	t.Log(mimeo(t, ctx, r, "deploy", nodes[1].Name, "--image", image, "--watch"))
	up(nodes[1], 0, nodes[1].Name)
	t.Logf("deployed and up after %.0f s", time.Since(started).Seconds())
	from := nodes[1].ConsoleSize()
	if err := nodes[1].Reset(); err != nil {
		t.Fatal(err)
	}
	up(nodes[1], from, nodes[1].Name)
	row.again(t, ctx, r, nodes[1], image)
	events := mimeo(t, ctx, r, "node", "events", nodes[1].Name)
	for _, step := range row.steps {
		if !strings.Contains(events, step) {
			t.Errorf("the events lack %q:\n%s", step, events)
		}
	}
	show := mimeo(t, ctx, r, "node", "show", nodes[1].Name)
	if !strings.Contains(show, row.arch) {
		t.Errorf("its architecture was not learnt:\n%s", show)
	}
}

// again takes a node through all of it as often as was asked for: its disk is captured, and the image is deployed to it;
// it boots its disk after both, and nobody touches it.
func (row archRow) again(t *testing.T, ctx context.Context, r *rack.Rack, n *rack.Node, image string) {
	t.Helper()
	for i := range *again {
		for _, do := range [][]string{{"capture", n.Name, "--image", image + "-again", "--watch"}, {"deploy", n.Name, "--image", image, "--watch", "--yes"}} {
			from, started := n.ConsoleSize(), time.Now()
			mimeo(t, ctx, r, do...)
			if _, err := n.WaitConsole(ctx, from, golden.Marker+` node=`+n.Name); err != nil {
				t.Fatalf("round %d of %d: after a %s %v", i+1, *again, do[0], err)
			}
			t.Logf("round %d of %d: %s, and up from disk after %.1f s", i+1, *again, do[0], time.Since(started).Seconds())
		}
	}
}
