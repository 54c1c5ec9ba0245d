package bringup

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"mimeo/internal/agent/modules"
	"mimeo/internal/agent/uplink"
)

// rootMounts are those of kernelMounts and what programs in the stateless image want besides.
var rootMounts = append(append([]mount(nil), kernelMounts...),
	mount{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666"},
	mount{"tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	mount{"tmpfs", "/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777,size=30%"},
)

// System makes the stateless image ready for the agent: mounts, host name, drivers of all devices. What it starts goes
// on until ctx ends; wait then returns when all of it has stopped.
func System(ctx context.Context, p Params, log func(string, ...any)) (wait func(), err error) {
	if _, err := readStage(); err != nil {
		return nil, fmt.Errorf("this is no stateless image: %w", err)
	}
	limitMemory()
	if err := mountAll(rootMounts); err != nil {
		return nil, err
	}
	if isMounted("/sys") {
		efi := mount{"efivarfs", "/sys/firmware/efi/efivars", "efivarfs", plain, ""}
		if _, err := os.Stat(efi.target); err == nil && !isMounted(efi.target) {
			efi.do() // for boot entries; many machines have none
		}
	}
	name, _, _ := strings.Cut(p.Host(), ".")
	if err := unix.Sethostname([]byte(name)); err != nil {
		log("set the host name: %v", err)
	}
	uplink.Up("lo")
	stdLinks()

	drivers, err := Drivers("/", p.Line, log)
	if err != nil {
		return nil, err
	}
	drivers.Skip = NotForServers
	var wg sync.WaitGroup
	ready := make(chan struct{})
	var once sync.Once
	wg.Go(func() {
		defer once.Do(func() { close(ready) })
		if err := drivers.Watch(ctx, func() { once.Do(func() { close(ready) }) }); err != nil {
			log("%v", err)
		}
	})
	<-ready
	start := time.Now()
	n := drivers.Coldplug(ctx, "/sys")
	drivers.Load("sd_mod")       // built in where it is not a module
	drivers.Load("ipmi_devintf") // no device asks for it: /dev/ipmi0, where there is a BMC
	settle(ctx, drivers, log)
	log("%d drivers loaded, disks settled after %v", n, time.Since(start).Round(10*time.Millisecond))

	if lease, err := uplink.Read(leasePath); err != nil {
		log("%v", err)
	} else {
		wg.Go(func() { lease.Hold(ctx, "/etc/resolv.conf", log) })
	}
	return wg.Wait, nil
}

// stdLinks makes the links in /dev that udev would.
func stdLinks() {
	for name, to := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"} {
		os.Symlink(to, filepath.Join("/dev", name)) // there already after a crash
	}
}

// Disks may come seconds after their controller: settled is when nothing has changed for a while.
const (
	settleFor  = 400 * time.Millisecond
	settleSlow = 3 * time.Second // where a controller that scans its bus is there: SCSI, SAS, USB
	settleMax  = 60 * time.Second
)

// settle waits for the list of disks to stop changing.
func settle(ctx context.Context, drivers *modules.Loader, log func(string, ...any)) {
	start := time.Now()
	last, since := "", start
	said := start
	for ctx.Err() == nil && time.Since(start) < settleMax {
		if now := strings.Join(disks(), " "); now != last {
			last, since = now, time.Now()
		}
		calm := settleFor
		if slowBus() || last == "" {
			calm = settleSlow
		}
		if time.Since(since) >= calm {
			return
		}
		if time.Since(said) > 5*time.Second {
			said = time.Now()
			log("waiting for disks; so far: %s", last)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// disks lists whole disks and partitions.
func disks() []string {
	list, _ := filepath.Glob("/sys/class/block/*")
	var out []string
	for _, d := range list {
		if n := filepath.Base(d); !strings.HasPrefix(n, "loop") && !strings.HasPrefix(n, "ram") {
			out = append(out, n)
		}
	}
	return out
}

var ataHost = regexp.MustCompile(`/ata\d+/host\d+$`)

// slowBus tells whether a controller is there whose disks come one by one after its driver was loaded. Those of SATA
// are there by then: the kernel waits for their links before it says that the module is loaded.
func slowBus() bool {
	hosts, _ := filepath.Glob("/sys/class/scsi_host/host*")
	for _, h := range hosts {
		// The link goes to …/ata1/host0/scsi_host/host0.
		if dev, err := filepath.EvalSymlinks(filepath.Join(h, "device")); err != nil || !ataHost.MatchString(dev) {
			return true
		}
	}
	return false
}

// limitMemory makes the garbage collector work harder before the machine is out of memory. What the kernel has given
// to tmpfs, the root image above all, is not free any more.
func limitMemory() {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	total, ok1 := memory("MemTotal")
	free, ok2 := memory("MemAvailable")
	if !ok1 || !ok2 {
		return
	}
	limit := max(min(free*3/4, total/2), 64<<20)
	debug.SetMemoryLimit(limit)
	// The kernel should rather end a postscript than the agent.
	os.WriteFile("/proc/self/oom_score_adj", []byte("-500"), 0)
}

// readStage tells what the initrd left: the card that this node booted from.
func readStage() (s stage, err error) {
	b, err := os.ReadFile(stagePath)
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		err = fmt.Errorf("read what the initrd left: %w", err)
	}
	return s, err
}

// Card returns the network card that this node booted from, or "".
func Card() string {
	s, err := readStage()
	if err != nil {
		return ""
	}
	return s.Card
}
