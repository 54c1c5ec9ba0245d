package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/lab/golden"
	"mimeo/lab/rack"
)

// benchRows are the machines of which boots are timed.
var benchRows = []struct {
	name     string
	arch     string
	firmware rack.Firmware
	console  string
}{
	{"bios", "amd64", "", ""},
	{"uefi-pxe", "amd64", rack.UEFIPXE, ""},
	{"uefi-http", "amd64", rack.UEFIHTTP, ""},
	{"arm64-uefi-pxe", "arm64", rack.UEFIPXE, "ttyAMA0"},
	{"ppc64el-openfirmware", "ppc64el", rack.OpenFirmware, "hvc0"},
}

// BenchmarkBoot times each kind of machine from power-on until its agent has its task, and each step on the way. Its
// stateless image is that of the profile virtual.
func BenchmarkBoot(b *testing.B) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	r := newRack(b, ctx)
	buildImages(b, ctx, r, "virtual", "amd64", "arm64", "ppc64el")
	startServer(b, ctx, r)
	for i, row := range benchRows {
		disk := filepath.Join(r.Dir, row.name+".img")
		if err := os.WriteFile(disk, make([]byte, 8<<20), 0o644); err != nil {
			b.Fatal(err)
		}
		name := fmt.Sprintf("b%02d", i+1)
		n := addNode(b, ctx, r, rack.NodeConfig{Name: name, MAC: fmt.Sprintf("52:54:00:77:20:%02d", i+1), Serial: strings.ToUpper(name), Disk: disk, Arch: row.arch, Firmware: row.firmware}, fmt.Sprintf("10.77.0.%d", 30+i))
		mimeo(b, ctx, r, "node", "set", name, "profile=virtual")
		if row.console != "" {
			mimeo(b, ctx, r, "node", "set", name, "knobs.console="+row.console)
		}
		mimeo(b, ctx, r, "boot", name, "shell")
		b.Run(row.name, func(b *testing.B) {
			sum := map[string]float64{}
			for b.Loop() {
				from, started := n.ConsoleSize(), time.Now()
				if err := n.PowerOn(); err != nil {
					b.Fatal(err)
				}
				if _, err := n.WaitConsole(ctx, from, `mimeo-agent: ready `+name); err != nil {
					b.Fatal(err)
				}
				took := time.Since(started)
				b.StopTimer()
				if err := n.PowerOff(); err != nil {
					b.Fatal(err)
				}
				sum["s/agent"] += took.Seconds()
				// The first of each kind since power-on; the script is asked for when the loader is up.
				for kind, at := range firstEvents(b, ctx, r, name, started) {
					sum["s/"+kind] += at.Seconds()
				}
				b.StartTimer()
			}
			for unit, s := range sum {
				b.ReportMetric(s/float64(b.N), unit)
			}
		})
	}
}

// firstEvents returns when a node passed its steps, from a time on.
func firstEvents(b *testing.B, ctx context.Context, r *rack.Rack, name string, from time.Time) map[string]time.Duration {
	b.Helper()
	var list []api.Event
	if err := json.Unmarshal([]byte(mimeo(b, ctx, r, "node", "events", name, "--json")), &list); err != nil {
		b.Fatal(err)
	}
	first := map[string]time.Duration{}
	for _, e := range list {
		d := e.Time.Sub(from)
		if old, ok := first[e.Kind]; d > -time.Second && (!ok || d < old) {
			switch e.Kind {
			case "dhcp-offer", "script", "rootimg":
				first[e.Kind] = d
			}
		}
	}
	return first
}

// diskLoader is what the loader on a golden disk says first.
var diskLoader = `Welcome to GRUB|Booting .Debian`

// BenchmarkAway times machines that boot from the network first, until the loader of their disk is up: where the
// management node does not answer, and where it does.
func BenchmarkAway(b *testing.B) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	r := newRack(b, ctx)
	buildImages(b, ctx, r, "imaging", "arm64", "ppc64el")
	startServer(b, ctx, r)
	nodes := make([]*rack.Node, len(benchRows))
	for i, row := range benchRows {
		disk := filepath.Join(r.Dir, row.name+".img")
		var err error
		switch {
		case row.arch != "amd64":
			err = golden.MakeForeign(ctx, disk, golden.Foreign{Arch: row.arch, Image: filepath.Join(r.State, "stateless/imaging", row.arch, "current"),
				Apt: filepath.Join(r.State, "cache/apt/bookworm-"+row.arch, "apt.conf"), Cache: cacheDir(b)})
		default:
			err = golden.Make(ctx, disk, golden.Config{Cache: cacheDir(b), Small: row.firmware != ""})
		}
		if err != nil {
			b.Fatal(err)
		}
		name := fmt.Sprintf("b%02d", i+1)
		nodes[i] = addNode(b, ctx, r, rack.NodeConfig{Name: name, MAC: fmt.Sprintf("52:54:00:77:21:%02d", i+1), Serial: strings.ToUpper(name), Disk: disk, Arch: row.arch, Firmware: row.firmware}, fmt.Sprintf("10.77.0.%d", 30+i))
		if row.console != "" {
			mimeo(b, ctx, r, "node", "set", name, "knobs.console="+row.console)
		}
	}
	for _, away := range []bool{false, true} {
		if away {
			if err := r.StopServer(syscall.SIGTERM); err != nil {
				b.Fatal(err)
			}
		}
		for i, row := range benchRows {
			n := nodes[i]
			b.Run(map[bool]string{false: "there/", true: "away/"}[away]+row.name, func(b *testing.B) {
				for b.Loop() {
					from := n.ConsoleSize()
					if err := n.PowerOn(); err != nil {
						b.Fatal(err)
					}
					if _, err := n.WaitConsole(ctx, from, diskLoader); err != nil {
						b.Fatal(err)
					}
					b.StopTimer()
					if err := n.PowerOff(); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
			})
		}
	}
}
