package rack

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"time"
)

// NodeConfig describes a node of the rack.
type NodeConfig struct {
	Name   string
	MAC    string
	Disk   string // image file, raw
	Serial string // of the disk, as the node sees it
	Bus    string // how the disk is attached: virtio, nvme, sata or scsi; empty means virtio
	Memory int    // MiB; 0 means 512
	CPUs   int    // with KVM; 0 means 1
	Accel  string // "kvm" or "tcg"; empty means tcg

	Arch     string   // amd64; empty means that
	Firmware Firmware // empty means BIOS

	InBand   bool // a BMC that the system can ask by /dev/ipmi0; it is not the one that AddBMC gives
	NoReboot bool // switch off where the system reboots, so that a test can look at the disk
}

// Node is a machine in QEMU. Its boot order is network first, for ever, unless its BMC says otherwise for one boot.
type Node struct {
	NodeConfig
	Tap     string
	Console string // file to which all serial output is added

	net    *Network
	dir    string
	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{}
	next   string // "", "pxe" or "disk"
	once   bool
	boots  int
}

// Power tells whether the node is on.
func (n *Node) Power() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.on()
}

func (n *Node) on() bool {
	if n.cmd == nil {
		return false
	}
	select {
	case <-n.exited:
		return false
	default:
		return true
	}
}

// PowerOn starts the node; it does nothing where it is on.
func (n *Node) PowerOn() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.on() {
		return nil
	}
	nicIndex, diskIndex := 1, 2
	if n.next == "disk" {
		nicIndex, diskIndex = 2, 1
	}
	if n.once {
		n.next, n.once = "", false
	}
	os.Remove(n.qmpPath())
	os.Remove(n.ConsolePath())
	program, args, err := n.machine(nicIndex, diskIndex)
	if err != nil {
		return fmt.Errorf("%s: %w", n.Name, err)
	}
	cmd := n.net.Command(context.Background(), program, args...)
	log, err := os.OpenFile(filepath.Join(n.dir, n.Name+".qemu.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s: start QEMU: %w", n.Name, err)
	}
	n.boots++
	n.cmd, n.exited = cmd, make(chan struct{})
	go func(done chan struct{}) {
		cmd.Wait()
		close(done)
	}(n.exited)
	return nil
}

// PowerOff pulls the plug; it does nothing where the node is off.
func (n *Node) PowerOff() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.on() {
		return nil
	}
	if err := n.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-n.exited
	return nil
}

// Reset pushes the reset button.
func (n *Node) Reset() error {
	if !n.Power() {
		return fmt.Errorf("%s is off", n.Name)
	}
	// The boot device may have been changed since: QEMU only takes a new order at its start.
	if err := n.PowerOff(); err != nil {
		return err
	}
	return n.PowerOn()
}

// SoftOff asks the operating system to power off.
func (n *Node) SoftOff() error { return n.qmp("system_powerdown") }

// SetNextBoot picks the device of the next power-on: "pxe", "disk" or "" for the node's own order.
func (n *Node) SetNextBoot(device string, once, _ bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.next, n.once = device, once
	return nil
}

// Boots tells how often the node was powered on.
func (n *Node) Boots() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.boots
}

// ConsolePath is the socket on which the serial console can be typed at.
func (n *Node) ConsolePath() string { return filepath.Join(n.dir, n.Name+".console") }

func (n *Node) qmpPath() string { return filepath.Join(n.dir, n.Name+".qmp") }

func (n *Node) qmp(command string) error {
	c, err := net.DialTimeout("unix", n.qmpPath(), 5*time.Second)
	if err != nil {
		return fmt.Errorf("%s: QEMU monitor: %w", n.Name, err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	r := bufio.NewReader(c)
	if _, err := r.ReadString('\n'); err != nil { // greeting
		return err
	}
	for _, cmd := range []string{"qmp_capabilities", command} {
		if err := json.NewEncoder(c).Encode(map[string]string{"execute": cmd}); err != nil {
			return err
		}
		if _, err := r.ReadString('\n'); err != nil {
			return err
		}
	}
	return nil
}

// ConsoleSize is how much the node has printed so far; WaitConsole takes it as its start.
func (n *Node) ConsoleSize() int64 {
	fi, err := os.Stat(n.Console)
	if err != nil {
		return 0
	}
	return fi.Size()
}

// WaitConsole waits until the node prints what pattern matches, after the first from bytes of its console, and
// returns the match. When the context ends its error holds the console's last lines.
func (n *Node) WaitConsole(ctx context.Context, from int64, pattern string) (string, error) {
	re := regexp.MustCompile(pattern)
	for {
		b, err := os.ReadFile(n.Console)
		if err == nil && int64(len(b)) > from {
			if m := re.Find(b[from:]); m != nil {
				return string(m), nil
			}
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("%s did not print %q: %w; its console ends with:\n%s", n.Name, pattern, ctx.Err(), Tail(b, 40))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Tail returns the last lines of a console, for error messages.
func Tail(b []byte, lines int) string {
	end := len(b)
	for i := end - 1; i >= 0; i-- {
		if b[i] == '\n' {
			lines--
			if lines < 0 {
				return string(b[i+1 : end])
			}
		}
	}
	return string(b)
}

// NewNode puts a node into the rack, switched off. Its console log and sockets lie in dir.
func NewNode(ctx context.Context, network *Network, dir string, c NodeConfig) (*Node, error) {
	n := &Node{NodeConfig: c, Tap: "tap-" + c.Name, net: network, dir: dir, Console: filepath.Join(dir, c.Name+".log")}
	if err := network.Tap(ctx, n.Tap); err != nil {
		return nil, err
	}
	return n, nil
}
