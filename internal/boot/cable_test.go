package boot_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"mimeo/internal/boot/dhcp"
	"mimeo/internal/boot/netboot"
	"mimeo/internal/cluster/node"
	"mimeo/internal/night"
)

// cable joins a machine's network card to the bridge. It is a poor one: what comes by may be lost, or come twice.
type cable struct {
	lost  float64 // share of the frames, in each direction
	twice bool    // what goes to the machine
	// Nothing passes so long after power-on, as at a switch port that looks for loops first.
	dead time.Duration

	mu   sync.Mutex
	rand *rand.Rand
	from time.Time
	gone int // frames that were lost
}

// plug lays the cable and returns QEMU's argument for it. Frames come with their length before them, four bytes, the
// high one first (QEMU's stream back-end).
func (c *cable) plug(t *testing.T, id string) string {
	t.Helper()
	c.rand, c.from = rand.New(rand.NewPCG(1, 2)), time.Now()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	var req struct {
		name  [unix.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}
	name := "cable-" + id
	copy(req.name[:], name)
	req.flags = unix.IFF_TAP | unix.IFF_NO_PI
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETIFF, uintptr(unsafe.Pointer(&req))); e != 0 {
		t.Fatal(e)
	}
	tap := os.NewFile(uintptr(fd), name)
	run(t, "ip", "link", "set", name, "master", "br0", "up")
	sock := filepath.Join(t.TempDir(), "cable")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		tap.Close()
		wg.Wait()
	})
	wg.Go(func() {
		qemu, err := l.Accept()
		if err != nil {
			return
		}
		wg.Go(func() { // it ends with the tap
			defer qemu.Close()
			b := make([]byte, 4+65536)
			for {
				n, err := tap.Read(b[4:])
				if err != nil {
					return
				}
				binary.BigEndian.PutUint32(b, uint32(n))
				for range c.copies(true) {
					if _, err := qemu.Write(b[:4+n]); err != nil {
						return
					}
				}
			}
		})
		b := make([]byte, 65536)
		for {
			if _, err := io.ReadFull(qemu, b[:4]); err != nil {
				return
			}
			n := binary.BigEndian.Uint32(b)
			if n > uint32(len(b)) {
				return
			}
			if _, err := io.ReadFull(qemu, b[:n]); err != nil {
				return
			}
			if c.copies(false) > 0 {
				tap.Write(b[:n])
			}
		}
	})
	return fmt.Sprintf("stream,id=%s,server=off,addr.type=unix,addr.path=%s", id, sock)
}

// copies is how often a frame arrives.
func (c *cable) copies(toMachine bool) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case time.Since(c.from) < c.dead:
		c.gone++
		return 0
	case c.rand.Float64() < c.lost:
		c.gone++
		return 0
	case toMachine && c.twice:
		return 2
	}
	return 1
}

// TestPoorNetworks boots real firmwares over cables that lose one frame in ten or deliver what they deliver twice, and
// with a card before the one that is known, on a network where nobody answers.
func TestPoorNetworks(t *testing.T) {
	for i, c := range []struct {
		name  string
		uefi  bool
		mode  dhcp.Mode
		cable *cable
		cards int // the last one is on the network, and known
		limit time.Duration
	}{
		{"BIOS one frame in ten lost", false, dhcp.Full, &cable{lost: 0.1}, 1, 60 * time.Second},
		{"UEFI one frame in ten lost", true, dhcp.Full, &cable{lost: 0.1}, 1, 120 * time.Second},
		{"BIOS all twice beside another DHCP server", false, dhcp.Proxy, &cable{twice: true}, 1, 60 * time.Second},
		{"UEFI all twice beside another DHCP server", true, dhcp.Proxy, &cable{twice: true}, 1, 60 * time.Second},
		{"UEFI dead for 20 s", true, dhcp.Full, &cable{dead: 20 * time.Second}, 1, 120 * time.Second},
		{"BIOS second card", false, dhcp.Full, &cable{}, 2, 60 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.cable.dead > 0 {
				night.Only(t)
			}
			mac := func(k int) string { return fmt.Sprintf("52:54:00:77:2%d:0%d", i, k) }
			s := newSite(t, c.mode, node.Node{Name: "n01", NICs: []node.NIC{{MAC: mac(c.cards), IP: "10.77.0.31"}}, Boot: node.BootCapture})
			s.RA = dhcp.RAOn
			if c.mode == dhcp.Proxy {
				startDnsmasq(t)
			}
			var got steps
			serveTFTP(t, &got)
			serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				got.add("http " + r.URL.Path)
				if strings.HasPrefix(r.URL.Path, netboot.PathLoaders) {
					http.ServeFile(w, r, "/usr/lib/ipxe/"+path.Base(r.URL.Path))
					return
				}
				if r.URL.Path == "/data" {
					w.Write(bytes.Repeat([]byte("0123456789abcdef"), 1<<16))
					return
				}
				fmt.Fprintf(w, "#!ipxe\n:again\nimgfetch %s/data || goto again\necho MIMEO-SCRIPT of %s\nsleep 100\n", base, path.Base(r.URL.Path))
			}))
			s.serve(t)
			args := []string{"-netdev", c.cable.plug(t, "c0")}
			card := "virtio-net-pci"
			if c.uefi {
				card += ",romfile="
				vars := filepath.Join(t.TempDir(), "vars")
				run(t, "cp", "/usr/share/OVMF/OVMF_VARS_4M.fd", vars)
				args = append(args, "-machine", "q35", "-drive", "if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
					"-drive", "if=pflash,format=raw,unit=1,file="+vars, "-boot", "menu=on,splash-time=0", "-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n")
			} else {
				args = append(args, "-machine", "q35,graphics=off")
			}
			for k := 1; k < c.cards; k++ { // on a network of their own, on which nobody answers
				args = append(args, "-netdev", fmt.Sprintf("hubport,id=x%d,hubid=%d", k, k), "-device", fmt.Sprintf("%s,netdev=x%d,bootindex=%d,mac=%s", card, k, k, mac(k)))
			}
			args = append(args, "-device", fmt.Sprintf("%s,id=card,netdev=c0,bootindex=%d,mac=%s", card, c.cards, mac(c.cards)))
			out := &buffer{}
			begin := time.Now()
			start(t, out, append([]string{"qemu-system-x86_64", "-accel", "tcg", "-cpu", "max,-erms", "-m", "256", "-smp", "1", "-nodefaults", "-no-user-config",
				"-display", "none", "-serial", "stdio", "-monitor", "none"}, args...)...)
			waitFor(t, out, "MIMEO-SCRIPT of "+strings.ReplaceAll(mac(c.cards), ":", "-"), c.limit)
			c.cable.mu.Lock()
			defer c.cable.mu.Unlock()
			t.Logf("power-on to a script and 1 MiB: %.1f s, %d frames lost", time.Since(begin).Seconds(), c.cable.gone)
			if c.cable.lost > 0 && c.cable.gone < 10 {
				t.Error("the cable was too good")
			}
		})
	}
}
