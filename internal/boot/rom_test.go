package boot_test

import (
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"mimeo/internal/boot/dhcp"
	"mimeo/internal/boot/netboot"
	"mimeo/internal/cluster/node"
)

// serveHTTP is the boot server.
func serveHTTP(t *testing.T, h http.Handler) {
	t.Helper()
	l, err := net.Listen("tcp", "10.77.0.1:4480")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(l)
	}()
	t.Cleanup(func() {
		srv.Close()
		<-done
	})
}

// TestROMBootsFromDisk boots a BIOS with an iPXE ROM: it gets its script's URL by DHCP, is told to wait once, then to
// boot from its disk.
func TestROMBootsFromDisk(t *testing.T) {
	const mac = "52:54:00:77:00:01"
	n := node.Node{Name: "n01", NICs: []node.NIC{{MAC: mac, IP: "10.77.0.11"}}, Boot: node.BootDisk}
	s := newSite(t, dhcp.Full, n)
	asked := 0
	serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/boot/ipxe/52-54-00-77-00-01" || r.RemoteAddr[:10] != "10.77.0.11" {
			t.Errorf("asked for %s from %s", r.URL, r.RemoteAddr)
		}
		ask := netboot.AskFromQuery(r.URL.Query())
		o := netboot.Decide(n, ask)
		script := netboot.Script{Kind: netboot.KindIPXE, Decision: o.Decision, Node: n.Name, Why: o.Why, Firmware: o.Firmware, Arch: o.Arch}
		if asked++; asked == 1 {
			script.Decision, script.After, script.Again = netboot.Wait, time.Second, base+r.URL.String()
		}
		if err := netboot.Render(w, script); err != nil {
			t.Error(err)
		}
	}))
	s.serve(t)
	out := &buffer{}
	start := time.Now()
	qemuBIOS(t, mac, out, "-drive", "file="+bootDisk(t, "MIMEO-DISK")+",format=raw,if=none,id=d0",
		"-device", "virtio-blk-pci,drive=d0,bootindex=2")
	waitFor(t, out, "MIMEO-DISK", 25*time.Second)
	took := time.Since(start)
	t.Logf("power-on to disk: %v", took)
	if !strings.Contains(out.String(), "n01 boots from its disk") {
		t.Errorf("the disk was booted without the script:\n%s", tail(out.String()))
	}
	if asked != 2 {
		t.Errorf("%d scripts were asked for, not 2", asked)
	}
	// The old ROM waits 16 s for an IPv6 router where none answers.
	if took > 14*time.Second {
		t.Errorf("it took %v: are router advertisements sent?", took)
	}
}
