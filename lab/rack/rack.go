package rack

import (
	"bytes"
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
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"mimeo/lab/vbmc"
)

// BMC account of every virtual node.
const (
	BMCUser     = "admin"
	BMCPassword = "vbmc-secret"
)

// Rack is a network with a management node and compute nodes on it.
type Rack struct {
	Net   *Network
	Dir   string // all that belongs to the rack
	State string // mimeod's state folder
	Bin   string // folder of mimeod and mimeo

	// Outside makes StartServer and CLI work on the machine's own loopback rather than in the rack's network: a
	// stateless image is built from packages that come from outside. Nodes are served inside only.
	Outside bool

	// Configured says that a configuration which StartServer is given names the interface; else it is served as "full".
	Configured bool

	nodes  []*Node
	bmcs   int
	args   []string // of mimeod, as it was started
	life   context.Context
	cancel context.CancelFunc
	group  *errgroup.Group
	mu     sync.Mutex
	daemon *exec.Cmd
	exited chan struct{}
}

// New makes an empty rack. Bin is the folder with the programs.
func New(ctx context.Context, name, dir, bin string) (*Rack, error) {
	network, err := NewNetwork(ctx, name)
	if err != nil {
		return nil, err
	}
	bg, cancel := context.WithCancel(context.Background())
	g, _ := errgroup.WithContext(bg)
	return &Rack{Net: network, Dir: dir, State: filepath.Join(dir, "state"), Bin: bin, life: bg, cancel: cancel, group: g}, nil
}

// AddNode puts a node and its BMC into the rack, and returns the BMC's address.
func (r *Rack) AddNode(ctx context.Context, c NodeConfig) (*Node, string, error) {
	n, err := NewNode(ctx, r.Net, r.Dir, c)
	if err != nil {
		return nil, "", err
	}
	r.nodes = append(r.nodes, n)
	addr, err := r.AddBMC(ctx, n)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", c.Name, err)
	}
	return n, addr, nil
}

// AddBMC gives a machine a BMC and returns its address: IPMI on port 623, Redfish without TLS on port 8000.
func (r *Rack) AddBMC(ctx context.Context, m vbmc.Machine) (string, error) {
	r.bmcs++
	addr := fmt.Sprintf("10.77.0.%d", 200+r.bmcs)
	if err := r.Net.AddAddr(ctx, addr+"/32"); err != nil {
		return "", err
	}
	bmc := vbmc.New(m, BMCUser, BMCPassword)
	if c, ok := m.(interface{ ConsolePath() string }); ok {
		bmc.Serial = func(ctx context.Context) (io.ReadWriteCloser, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", c.ConsolePath())
		}
	}
	var pc net.PacketConn
	var ln net.Listener
	err := r.Net.Do(func() (err error) {
		if pc, err = net.ListenPacket("udp4", addr+":623"); err != nil {
			return err
		}
		ln, err = net.Listen("tcp4", addr+":8000")
		return err
	})
	if err != nil {
		return "", fmt.Errorf("open the BMC's ports: %w", err)
	}
	srv := &http.Server{Handler: bmc.Handler(), ReadHeaderTimeout: 10 * time.Second}
	r.group.Go(func() error { return bmc.ServeIPMI(r.life, pc) })
	r.group.Go(func() error { return srv.Serve(ln) })
	r.group.Go(func() error { <-r.life.Done(); return srv.Close() })
	return addr, nil
}

// StartServer starts mimeod in the rack and waits until it answers. Its log is mimeod.log in the rack's folder.
func (r *Rack) StartServer(ctx context.Context, args ...string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.args = args
	log, err := os.OpenFile(filepath.Join(r.Dir, "mimeod.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	own := []string{"--state", r.State}
	if !r.Configured {
		own = append(own, "--interface", r.Net.Bridge+"=full")
	}
	cmd := r.Net.Command(context.Background(), filepath.Join(r.Bin, "mimeod"), append(own, args...)...)
	if r.Outside {
		cmd = exec.Command(filepath.Join(r.Bin, "mimeod"), append([]string{"--state", r.State, "--http", "127.0.0.1:0", "--https", "127.0.0.1:0"}, args...)...)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start mimeod: %w", err)
	}
	r.daemon, r.exited = cmd, make(chan struct{})
	go func(done chan struct{}) { cmd.Wait(); close(done) }(r.exited)
	for {
		if _, err := os.Stat(filepath.Join(r.State, "admin.json")); err == nil {
			if out, err := r.CLI(ctx, "status").CombinedOutput(); err == nil {
				return nil
			} else if ctx.Err() != nil {
				return fmt.Errorf("mimeod does not answer: %s", out)
			}
		}
		select {
		case <-r.exited:
			b, _ := os.ReadFile(filepath.Join(r.Dir, "mimeod.log"))
			return fmt.Errorf("mimeod ended at once; its log ends with:\n%s", Tail(b, 20))
		case <-ctx.Done():
			return fmt.Errorf("mimeod does not answer: %w", ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// StartServerAgain starts mimeod as it was started before.
func (r *Rack) StartServerAgain(ctx context.Context) error { return r.StartServer(ctx, r.args...) }

// StopServer ends mimeod with a signal: SIGTERM for an orderly end, SIGKILL for a crash.
func (r *Rack) StopServer(sig syscall.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.daemon == nil {
		return nil
	}
	if err := r.daemon.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-r.exited:
	case <-time.After(20 * time.Second):
		r.daemon.Process.Kill()
		<-r.exited
		return errors.New("mimeod did not end within 20 s of its signal")
	}
	r.daemon = nil
	return nil
}

// CLI is a call of the command line on the management node.
func (r *Rack) CLI(ctx context.Context, args ...string) *exec.Cmd {
	cmd := r.Net.Command(ctx, filepath.Join(r.Bin, "mimeo"), args...)
	if r.Outside {
		cmd = exec.CommandContext(ctx, filepath.Join(r.Bin, "mimeo"), args...)
	}
	cmd.Env = append(os.Environ(), "MIMEO_ADMIN_FILE="+filepath.Join(r.State, "admin.json"))
	return cmd
}

// Run calls the command line and returns what it printed; an error holds all of that.
func (r *Rack) Run(ctx context.Context, args ...string) (string, error) {
	var out, errs bytes.Buffer
	cmd := r.CLI(ctx, args...)
	cmd.Stdout, cmd.Stderr = &out, io.MultiWriter(&errs)
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("mimeo %s: %w\n%s%s", strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String(), nil
}

// Close switches all off and removes the network. The folder stays.
func (r *Rack) Close() error {
	var errs []error
	errs = append(errs, r.StopServer(syscall.SIGTERM))
	for _, n := range r.nodes {
		errs = append(errs, n.PowerOff())
	}
	r.cancel()
	if err := r.group.Wait(); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, context.Canceled) && !errors.Is(err, net.ErrClosed) {
		errs = append(errs, err)
	}
	errs = append(errs, r.Net.Close())
	return errors.Join(errs...)
}
