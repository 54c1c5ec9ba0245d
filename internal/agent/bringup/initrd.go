package bringup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"mimeo/internal/agent/console"
	"mimeo/internal/agent/modules"
	"mimeo/internal/agent/uplink"
	"mimeo/internal/agent/upstream"
	"mimeo/internal/cluster/api"
)

const (
	buildFile  = "/etc/mimeo-build" // in the initrd
	dhcpLimit  = 5 * time.Minute
	lastWords  = 10 * time.Second // before a reboot after an error, to be read
	panicAfter = "20"             // seconds until the kernel reboots after a crash of process 1
)

// stage is what Initrd tells the agent in the new root.
type stage struct {
	Card    string `json:"card"`
	Version string `json:"version"`
}

// trouble is an error with what was being done.
type trouble struct {
	at  string // network, rootimg, root
	err error
}

func (t *trouble) Error() string { return t.err.Error() }
func (t *trouble) Unwrap() error { return t.err }

// Initrd is process 1 of the initrd. It replaces itself by Init in the new root, or reboots; it does not return.
//
// In a container the first process is number 1 too: what is not started from an initramfs ends at once.
func Initrd(version string) {
	if err := checkInitramfs(); err != nil {
		fmt.Fprintln(os.Stderr, "mimeo-agent: error: started as /init, but", err)
		os.Exit(1)
	}
	early := mountAll(kernelMounts)
	os.WriteFile("/proc/sys/kernel/panic", []byte(panicAfter), 0) // needs /proc, which is an error below if it is missing
	log := console.Open()
	stdio()
	p, perr := ReadParams()
	log.Printf("version %s, in the initrd of node %s", version, p.Node)
	b := &initrd{params: p, version: version, log: log.Printf, up: func() bool { return false }}
	var err error
	if err = errors.Join(early, perr); err == nil {
		err = b.run(context.Background())
	}
	log.Printf("failed: %v", err)
	b.report(err)
	log.Printf("this node starts anew in %v", lastWords)
	time.Sleep(lastWords)
	reboot(unix.LINUX_REBOOT_CMD_RESTART, log.Printf)
}

// stdio makes the console standard input and output: the kernel gave none where the initrd has no /dev/console.
func stdio() {
	f, err := os.OpenFile("/dev/console", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return
	}
	for fd := range 3 {
		unix.Dup3(int(f.Fd()), fd, 0)
	}
	if f.Fd() > 2 {
		f.Close()
	}
}

type initrd struct {
	params  Params
	version string
	log     func(format string, args ...any)
	up      func() bool // the network is
}

func (b *initrd) run(ctx context.Context) error {
	if err := b.params.check(); err != nil {
		return &trouble{"parameters", err}
	}
	if err := installSelf(); err != nil {
		return &trouble{"system", err}
	}
	drivers, err := Drivers("/", b.params.Line, b.log)
	if err != nil {
		return &trouble{"system", err}
	}
	drivers.Skip = notForNetwork
	card, lease, err := b.network(ctx, drivers)
	if err != nil {
		return &trouble{"network", err}
	}
	b.up = func() bool { return true }
	b.setClock()
	if err := b.checkBuild(); err != nil {
		return &trouble{"build", err}
	}
	if err := lease.Save(leasePath); err != nil {
		return &trouble{"network", err}
	}
	if err := b.rootimg(ctx); err != nil {
		return &trouble{"rootimg", err}
	}
	for _, m := range []string{"loop", "squashfs", "overlay"} {
		if err := drivers.Load(m); err != nil {
			b.log("%v", err) // it may be built in after all: the mounts tell
		}
	}
	if err := mountRoot(); err != nil {
		return &trouble{"root", err}
	}
	if err := b.hand(card); err != nil {
		return &trouble{"root", err}
	}
	if err := lease.Resolver(filepath.Join(rootPath, "etc/resolv.conf")); err != nil {
		b.log("%v", err)
	}
	if b.params.Init != "" {
		if err := b.prepareInit(rootPath); err != nil {
			return &trouble{"root", err}
		}
	}
	if err := switchRoot(rootPath); err != nil {
		return &trouble{"root", err}
	}
	if b.params.Init != "" {
		return &trouble{"root", startInit(b.params.Init)}
	}
	err = unix.Exec(AgentPath, []string{AgentPath, "init"}, os.Environ())
	return &trouble{"root", fmt.Errorf("start %s in the new root: %w", AgentPath, err)}
}

// installSelf keeps this program where the new root finds it, and answers the kernel's own wishes for modules.
func installSelf() error {
	if err := os.MkdirAll(runDir, 0o755); err != nil {
		return err
	}
	in, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(AgentPath, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	if _, err = io.Copy(out, in); err == nil {
		err = out.Close()
	}
	if err == nil {
		err = os.Symlink(AgentPath, probePath)
	}
	if err != nil {
		return fmt.Errorf("copy the agent to %s: %w", AgentPath, err)
	}
	if err := os.WriteFile("/proc/sys/kernel/modprobe", []byte(probePath), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err // it does not exist in a kernel without modules
	}
	return nil
}

// Drivers opens the running kernel's modules below root.
func Drivers(root, cmdline string, log func(string, ...any)) (*modules.Loader, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return nil, err
	}
	release := unix.ByteSliceToString(u.Release[:])
	dir := filepath.Join(root, "lib/modules", release)
	if _, err := os.Stat(dir); err != nil {
		log("no modules for kernel %s: going on with what is built in", release)
	}
	x, err := modules.Open(dir, []string{filepath.Join(root, "lib/modprobe.d"), filepath.Join(root, "etc/modprobe.d")}, cmdline)
	if err != nil {
		return nil, err
	}
	return &modules.Loader{Index: x, Log: log}, nil
}

// notForNetwork leaves out what the way to rootimg does not need: disks, which may take long to spin up, and graphics.
func notForNetwork(file string) bool {
	for _, d := range []string{"drivers/ata", "drivers/scsi", "drivers/nvme", "drivers/block", "drivers/md", "drivers/mmc", "drivers/target"} {
		if strings.HasPrefix(file, "kernel/"+d+"/") {
			return true
		}
	}
	return NotForServers(file)
}

// NotForServers leaves out what a node that captures and deploys has no use for, and that may blank its screen or wait
// for firmware files.
func NotForServers(file string) bool {
	for _, d := range []string{"sound", "drivers/gpu", "drivers/media", "drivers/bluetooth", "drivers/net/wireless", "drivers/staging", "drivers/infiniband", "drivers/edac", "drivers/watchdog", "net/bluetooth"} {
		if strings.HasPrefix(file, "kernel/"+d+"/") {
			return true
		}
	}
	return false
}

// network waits for the card and gets an address.
func (b *initrd) network(ctx context.Context, drivers *modules.Loader) (uplink.Card, *uplink.Lease, error) {
	var none uplink.Card
	var bootIF net.HardwareAddr
	if b.params.BootIF != "" {
		var err error
		if bootIF, err = uplink.ParseBootIF(b.params.BootIF); err != nil {
			b.log("%v; taking any card with link", err)
		}
	}
	uplink.Up("lo") // nothing here needs it; programs in the new root do
	card, err := uplink.Wait(ctx, uplink.WaitOptions{BootIF: bootIF, Log: b.log,
		Plug: func(ctx context.Context) { drivers.Coldplug(ctx, "/sys") }})
	if err != nil {
		return none, nil, err
	}
	b.log("network card %s (%s)", card.Name, card.MAC)
	if err := drivers.Load("af_packet"); err != nil {
		drivers.Load("net-pf-17") // or built in: DHCP tells
	}
	lease, err := uplink.Acquire(ctx, card, dhcpLimit, b.log)
	if err != nil {
		return none, nil, err
	}
	b.log("address %s from %s", lease.Addr, lease.Server)
	return card, lease, nil
}

// setClock sets a clock that is off by more than two minutes. The boot script was made some seconds before the kernel
// started, and that is near enough: logs and file times need no more.
func (b *initrd) setClock() {
	if b.params.Time.IsZero() {
		return
	}
	want := b.params.Time.Add(console.Uptime())
	if off := time.Until(want); off.Abs() > 2*time.Minute {
		tv := unix.NsecToTimeval(want.UnixNano())
		if err := unix.Settimeofday(&tv); err != nil {
			b.log("set the clock: %v", err)
			return
		}
		b.log("the clock was off by %v, set to %s", off.Round(time.Second), want.UTC().Format(time.RFC3339))
	}
}

// checkBuild makes sure that kernel, initrd and rootimg are of one build: their modules would not fit otherwise.
func (b *initrd) checkBuild() error {
	have, err := os.ReadFile(buildFile)
	if err != nil {
		return fmt.Errorf("read the build of the initrd: %w", err)
	}
	if h := strings.TrimSpace(string(have)); h != b.params.Build {
		return fmt.Errorf("the initrd is of build %s, the boot script is for build %s: build the stateless image anew", h, b.params.Build)
	}
	return nil
}

// rootimg loads the new root into memory.
func (b *initrd) rootimg(ctx context.Context) error {
	f, err := os.OpenFile(imagePath, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	start := time.Now()
	get := &fetcher{url: b.params.RootURL, sum: b.params.RootSum, to: f, log: b.log}
	if err := get.fetch(ctx); err != nil {
		return err
	}
	b.log("rootimg: %d MiB in %v, SHA-256 right", get.off>>20, time.Since(start).Round(10*time.Millisecond))
	return nil
}

// hand keeps what the new root's process 1 needs to know.
func (b *initrd) hand(card uplink.Card) error {
	j, err := json.Marshal(stage{Card: card.Name, Version: b.version})
	if err != nil {
		return err
	}
	return os.WriteFile(stagePath, j, 0o644)
}

// report tells the server what went wrong, if it can be reached.
func (b *initrd) report(err error) {
	if !b.up() {
		return
	}
	at := "system"
	var t *trouble
	if errors.As(err, &t) {
		at = t.at
	}
	s, serr := upstream.New(b.params.Server, b.params.Pin, b.params.Token)
	if serr != nil {
		b.log("%v", serr)
		return
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	have, _ := os.ReadFile(buildFile) // its lack is what is reported
	serr = s.Trouble(ctx, api.Trouble{BootID: BootID(), Agent: b.version, Build: strings.TrimSpace(string(have)), Stage: at,
		Error: &api.Error{Code: "boot", Message: err.Error()}})
	if serr != nil {
		b.log("the server was not told: %v", serr)
	}
}
