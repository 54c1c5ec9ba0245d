// Package rack is a virtual rack: nodes in QEMU with their BMCs, on a network of their own.
package rack

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Network is a bridge in a network namespace of its own. Nothing of it is seen from the machine's own network.
type Network struct {
	Name   string // of the namespace
	Bridge string // br0; the management node's interface
	Addr   string // the management node's address, without prefix length
	handle *os.File
}

// NewNetwork makes the namespace and the bridge, with the address 10.77.0.1/24.
func NewNetwork(ctx context.Context, name string) (*Network, error) {
	n := &Network{Name: name, Bridge: "br0", Addr: "10.77.0.1"}
	steps := [][]string{
		{"ip", "netns", "add", name},
		{"ip", "-n", name, "link", "set", "lo", "up"},
		{"ip", "-n", name, "link", "add", n.Bridge, "type", "bridge", "stp_state", "0", "forward_delay", "0"},
		{"ip", "-n", name, "addr", "add", n.Addr + "/24", "dev", n.Bridge},
		{"ip", "-n", name, "-6", "addr", "add", "fd77::1/64", "dev", n.Bridge, "nodad"},
		{"ip", "-n", name, "link", "set", n.Bridge, "up"},
	}
	for _, s := range steps {
		if err := run(ctx, s...); err != nil {
			n.Close()
			return nil, fmt.Errorf("make network %s: %w", name, err)
		}
	}
	h, err := os.Open("/run/netns/" + name)
	if err != nil {
		n.Close()
		return nil, fmt.Errorf("make network %s: %w", name, err)
	}
	n.handle = h
	return n, nil
}

// Tap adds a port to the bridge for a node's network card.
func (n *Network) Tap(ctx context.Context, name string) error {
	for _, s := range [][]string{
		{"ip", "-n", n.Name, "tuntap", "add", name, "mode", "tap"},
		{"ip", "-n", n.Name, "link", "set", name, "master", n.Bridge, "up"},
	} {
		if err := run(ctx, s...); err != nil {
			return err
		}
	}
	return nil
}

// Link switches a port of the bridge up or down, as if its cable were pulled.
func (n *Network) Link(ctx context.Context, name string, up bool) error {
	state := "down"
	if up {
		state = "up"
	}
	return run(ctx, "ip", "-n", n.Name, "link", "set", name, state)
}

// Loopback switches the network's loopback interface: without it, programs on the management node's addresses do not
// hear each other.
func (n *Network) Loopback(ctx context.Context, up bool) error { return n.Link(ctx, "lo", up) }

// AddAddr gives the management node's bridge one more address, for a BMC.
func (n *Network) AddAddr(ctx context.Context, addr string) error {
	return run(ctx, "ip", "-n", n.Name, "addr", "add", addr, "dev", n.Bridge)
}

// Command is a program that will run inside the network. Killing its process kills the program.
func (n *Network) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", n.Name, name}, args...)...)
}

// Do calls f on a thread that stands inside the network; sockets that f opens belong to it for good.
func (n *Network) Do(f func() error) error {
	errc := make(chan error, 1)
	go func() {
		// The thread is not unlocked: it ends with this goroutine and never serves code outside the network.
		runtime.LockOSThread()
		if err := unix.Setns(int(n.handle.Fd()), unix.CLONE_NEWNET); err != nil {
			errc <- fmt.Errorf("enter network %s: %w", n.Name, err)
			return
		}
		errc <- f()
	}()
	return <-errc
}

// Close removes the namespace and all that is in it.
func (n *Network) Close() error {
	if n.handle != nil {
		n.handle.Close()
	}
	return run(context.Background(), "ip", "netns", "del", n.Name)
}

func run(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
