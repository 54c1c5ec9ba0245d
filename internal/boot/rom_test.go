package boot_test

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mimeo/internal/boot/dhcp"
	"mimeo/internal/boot/netboot"
	"mimeo/internal/boot/tftp"
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

// TestROMBootsStateless boots the same machine into a kernel, which shows its command line. The server does not answer
// the first time.
func TestROMBootsStateless(t *testing.T) {
	const mac = "52:54:00:77:00:07"
	n := node.Node{Name: "n07", NICs: []node.NIC{{MAC: mac}}, Boot: node.BootCapture, Knobs: node.Knobs{Console: "ttyS0", Cmdline: "a.b=c,d;e quiet"}}
	s := newSite(t, dhcp.Full, n)
	var mu sync.Mutex
	var asked []string
	serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, r.URL.Path)
		switch r.URL.Path {
		case "/boot/ipxe/52-54-00-77-00-07":
			ask := netboot.AskFromQuery(r.URL.Query())
			o := netboot.Decide(n, ask)
			err := netboot.Render(w, netboot.Script{Kind: netboot.KindIPXE, Decision: o.Decision, Node: n.Name, Why: o.Why,
				Firmware: o.Firmware, Arch: o.Arch, Knobs: n.Knobs, Kernel: base + "/s/vmlinuz", Initrd: base + "/s/initrd.img",
				RootImg: base + "/s/rootimg", RootSum: strings.Repeat("5a", 32), Build: "b1", Server: "https://10.77.0.1:4443",
				Pin: strings.Repeat("c3", 32), Token: "t0k3n", MAC: mac, Time: time.Unix(1790000000, 0)})
			if err != nil {
				t.Error(err)
			}
		case "/s/vmlinuz":
			if len(asked) == 2 {
				http.Error(w, "not yet", http.StatusServiceUnavailable)
				return
			}
			w.Write(tinyKernel())
		case "/s/initrd.img":
			w.Write(make([]byte, 100_000))
		default:
			t.Errorf("asked for %s", r.URL)
		}
	}))
	s.serve(t)
	out := &buffer{}
	qemuBIOS(t, mac, out)
	want := "initrd=initrd.img mimeo.server=https://10.77.0.1:4443 mimeo.pin=" + strings.Repeat("c3", 32) +
		" mimeo.node=n07 mimeo.token=t0k3n mimeo.rootimg=http://10.77.0.1:4480/s/rootimg mimeo.rootsha256=" + strings.Repeat("5a", 32) +
		" mimeo.build=b1 BOOTIF=01-52-54-00-77-00-07 mimeo.time=1790000000 console=ttyS0 a.b=c,d;e quiet\n"
	waitFor(t, out, want, 25*time.Second)
	if !strings.Contains(out.String(), "loading failed (1 of 10)") {
		t.Errorf("the failure was not told:\n%s", tail(out.String()))
	}
	mu.Lock()
	defer mu.Unlock()
	if got := strings.Join(asked, " "); got != "/boot/ipxe/52-54-00-77-00-07 /s/vmlinuz /s/vmlinuz /s/initrd.img" {
		t.Errorf("asked for %s", got)
	}
}

// TestUEFILoadsIPXE boots edk2 without an iPXE ROM. Its own PXE client, or its HTTP client, takes our offer and loads
// iPXE, which then asks for its script; in the middle case dnsmasq gives the addresses.
func TestUEFILoadsIPXE(t *testing.T) {
	const mac = "52:54:00:77:00:08"
	for _, c := range []struct {
		name   string
		mode   dhcp.Mode
		off    string // another of the firmware's ways that is switched off, beside PXE over IPv6
		loader string
	}{
		{"PXE", dhcp.Full, "", "tftp snponly.efi"},
		{"ProxyDHCP", dhcp.Proxy, "", "tftp snponly.efi"},
		{"HTTP", dhcp.Full, "IPv4PXESupport", "http /loaders/snponly.efi"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t, c.mode, node.Node{Name: "n08", NICs: []node.NIC{{MAC: mac}}, Boot: node.BootDisk})
			s.RA = dhcp.RAOn
			if c.mode == dhcp.Proxy {
				startDnsmasq(t)
			}
			var got steps
			serveTFTP(t, &got)
			serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				got.add("http " + r.URL.String())
				if strings.HasPrefix(r.URL.Path, netboot.PathLoaders) {
					http.ServeFile(w, r, "/usr/lib/ipxe/"+path.Base(r.URL.Path))
					return
				}
				fmt.Fprintln(w, "#!ipxe\necho MIMEO-SCRIPT\nsleep 100")
			}))
			s.serve(t)
			vars := filepath.Join(t.TempDir(), "vars")
			run(t, "cp", "/usr/share/OVMF/OVMF_VARS_4M.fd", vars)
			out := &buffer{}
			qemu(t, mac, out, "-machine", "q35", "-drive", "if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
				"-drive", "if=pflash,format=raw,unit=1,file="+vars, "-boot", "menu=on,splash-time=0",
				"-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n",
				"-fw_cfg", "name=opt/org.tianocore/"+cmp.Or(c.off, "none")+",string=n",
				"-device", "virtio-net-pci,netdev=n0,romfile=,bootindex=1,mac="+mac)
			waitFor(t, out, "MIMEO-SCRIPT", 60*time.Second)
			for _, want := range []string{c.loader, "http /boot/ipxe/52-54-00-77-00-08?arch=amd64&firmware=uefi"} {
				if !got.has(want) {
					t.Errorf("%q did not happen, but %q", want, got.all())
				}
			}
		})
	}
}

// steps are what the servers were asked for.
type steps struct {
	mu   sync.Mutex
	list []string
}

func (s *steps) add(x string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, x)
}

func (s *steps) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.list)
}

func (s *steps) has(x string) bool { return slices.Contains(s.all(), x) }

// serveTFTP serves Debian's iPXE and notes what was sent whole.
func serveTFTP(t *testing.T, got *steps) {
	t.Helper()
	root, err := os.OpenRoot("/usr/lib/ipxe")
	if err != nil {
		t.Fatal(err)
	}
	s := &tftp.Server{Addr: "10.77.0.1:69", Interface: "br0", Open: tftp.Dir(root), Done: func(r tftp.Result) {
		// edk2 asks for the size first and breaks off, then loads.
		if r.Err == nil {
			got.add("tftp " + r.Name)
		}
	}}
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		root.Close()
	})
}

// TestAutoexecFindsItsNode runs autoexec.ipxe in the ROM: it asks by DHCP again and goes on with the script of the
// card's node, with what iPXE says of itself. The server does not answer the first time.
func TestAutoexecFindsItsNode(t *testing.T) {
	const mac = "52:54:00:77:00:09"
	s := newSite(t, dhcp.Full, node.Node{Name: "n09", NICs: []node.NIC{{MAC: mac}}, Boot: node.BootDisk})
	var got steps
	serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got.add(r.URL.String())
		switch len(got.all()) {
		case 1:
			text, err := netboot.Autoexec(base)
			if err != nil {
				t.Error(err)
			}
			fmt.Fprint(w, text)
		case 2:
			http.Error(w, "not yet", http.StatusServiceUnavailable)
		default:
			fmt.Fprintln(w, "#!ipxe\necho MIMEO-SCRIPT\nsleep 100")
		}
	}))
	s.serve(t)
	out := &buffer{}
	qemuBIOS(t, mac, out)
	waitFor(t, out, "MIMEO-SCRIPT", 30*time.Second)
	const want = "/boot/ipxe/52-54-00-77-00-09?platform=pcbios&buildarch=i386"
	if all := got.all(); len(all) != 3 || all[1] != want || all[2] != want {
		t.Errorf("asked for %q", all)
	}
}
