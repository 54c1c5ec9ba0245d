// Package sim is a node without a virtual machine: the real agent as a process, image files as its disks. It boots in
// a second, so that many faults can be tried. It stands below the lab's QEMU nodes, which show that the rest is true.
package sim

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/lab/rack"
)

// Node is a vbmc.Machine.
type Node struct {
	Name  string
	MAC   string
	IP    string // an address on the rack's bridge that the node asks from
	Disks []string
	Agent string // path of mimeo-agent
	Log   string // file for the agent's output

	// Dead makes the node's network card silent: it never netboots.
	Dead bool

	net    *rack.Network
	mu     sync.Mutex
	stop   context.CancelFunc
	done   chan struct{}
	agent  *exec.Cmd
	boots  int
	booted int // times it was told to boot its disk
}

// New puts a node on the network, switched off.
func New(ctx context.Context, network *rack.Network, n *Node) error {
	n.net = network
	return network.AddAddr(ctx, n.IP+"/32")
}

// Power tells whether the node is on.
func (n *Node) Power() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.stop != nil
}

// PowerOn starts the node.
func (n *Node) PowerOn() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stop != nil {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.stop, n.done = cancel, make(chan struct{})
	go func(done chan struct{}) {
		defer close(done)
		n.life(ctx)
	}(n.done)
	return nil
}

// PowerOff pulls the plug: the agent is killed, with no last word.
func (n *Node) PowerOff() error {
	n.mu.Lock()
	stop, done := n.stop, n.done
	n.stop = nil
	n.mu.Unlock()
	if stop != nil {
		stop()
		<-done
	}
	return nil
}

// Reset switches off and on.
func (n *Node) Reset() error {
	if err := n.PowerOff(); err != nil {
		return err
	}
	return n.PowerOn()
}

// SoftOff switches off.
func (n *Node) SoftOff() error { return n.PowerOff() }

// SetNextBoot is taken and not needed: the node asks the network first, for ever.
func (n *Node) SetNextBoot(string, bool, bool) error { return nil }

// KillAgent kills the agent as a crash would; the node then reboots by itself. It tells whether one was running.
func (n *Node) KillAgent() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.agent == nil || n.agent.Process == nil {
		return false
	}
	return n.agent.Process.Kill() == nil
}

// Boots tells how often the node netbooted, and how often it was told to boot its disk.
func (n *Node) Boots() (netboots, disk int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.boots, n.booted
}

// life netboots until the node is told to boot its disk, and then stays there.
func (n *Node) life(ctx context.Context) {
	for ctx.Err() == nil {
		if n.Dead {
			<-ctx.Done()
			return
		}
		script, err := n.script(ctx)
		if err == nil {
			n.mu.Lock()
			n.boots++
			n.mu.Unlock()
			params := parse(script)
			if params[api.ParamServer] == "" && (strings.Contains(script, "sanboot") || strings.Contains(script, "exit")) {
				n.mu.Lock()
				n.booted++
				n.mu.Unlock()
				<-ctx.Done()
				return
			}
			if params[api.ParamServer] != "" {
				n.run(ctx, params)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(300 * time.Millisecond): // a real node takes seconds
		}
	}
}

// script asks for the node's boot script as iPXE would.
func (n *Node) script(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var body []byte
	err := n.net.Do(func() error {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(n.IP)}, Timeout: 3 * time.Second}
		conn, err := d.DialContext(ctx, "tcp4", n.net.Addr+":4480")
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		req, err := http.NewRequest(http.MethodGet, "http://"+n.net.Addr+":4480/boot/ipxe/"+strings.ReplaceAll(n.MAC, ":", "-")+"?firmware=bios&arch=amd64", nil)
		if err != nil {
			return err
		}
		req.Header.Set("User-Agent", "iPXE/1.21.1 (sim)")
		req.Close = true
		if err := req.Write(conn); err != nil {
			return err
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("boot script: %s", resp.Status)
		}
		body, err = io.ReadAll(resp.Body)
		return err
	})
	return string(body), err
}

// parse collects the kernel parameters of a script.
func parse(script string) map[string]string {
	out := map[string]string{}
	for _, w := range strings.Fields(script) {
		if k, v, ok := strings.Cut(w, "="); ok {
			out[k] = v
		}
	}
	return out
}

// run is the node in the stateless image: the agent, until it ends or is killed.
func (n *Node) run(ctx context.Context, p map[string]string) {
	args := []string{"run", "--server", p[api.ParamServer], "--pin", p[api.ParamPin], "--token", p[api.ParamToken], "--node", p[api.ParamNode]}
	for _, d := range n.Disks {
		args = append(args, "--disk-image", d)
	}
	cmd := n.net.Command(ctx, n.Agent, args...)
	log, err := os.OpenFile(n.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return
	}
	defer log.Close()
	fmt.Fprintf(log, "--- %s netboots: %s\n", n.Name, filepath.Base(n.Agent))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.WaitDelay = time.Second
	n.mu.Lock()
	err = cmd.Start()
	if err == nil {
		n.agent = cmd
	}
	n.mu.Unlock()
	if err != nil {
		fmt.Fprintln(log, "---", err)
		return
	}
	err = cmd.Wait()
	n.mu.Lock()
	n.agent = nil
	n.mu.Unlock()
	if err != nil && !errors.Is(ctx.Err(), context.Canceled) {
		fmt.Fprintln(log, "--- agent ended:", err)
	}
}
