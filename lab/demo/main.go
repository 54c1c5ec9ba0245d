// Command demo does the main job in a virtual rack, through the public command line, as an admin would on real nodes.
package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"

	"mimeo/internal/cluster/api"
	"mimeo/lab/golden"
	"mimeo/lab/rack"
)

func main() {
	dir := flag.String("dir", "build/out/demo", "folder for all that the demo makes; emptied first")
	bin := flag.String("bin", "bin", "folder with the programs")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *dir, *bin); err != nil {
		fmt.Fprintln(os.Stderr, "\ndemo: error:", err)
		os.Exit(1)
	}
}

// demo is one run.
type demo struct {
	rack    *rack.Rack
	dir     string
	started time.Time
	keyFile string
	steps   [][2]string // what, how long
}

func (d *demo) say(format string, args ...any) {
	fmt.Printf("   [%s] %s\n", clock(time.Since(d.started)), fmt.Sprintf(format, args...))
}

func (d *demo) title(n int, text string) {
	fmt.Printf("\n== %d. %s\n\n", n, text)
}

func clock(t time.Duration) string {
	return fmt.Sprintf("%02d:%02d", int(t.Minutes()), int(t.Seconds())%60)
}

// timed notes how long a step took.
func (d *demo) timed(what string, f func() error) error {
	t := time.Now()
	err := f()
	d.steps = append(d.steps, [2]string{what, fmt.Sprintf("%.1f s", time.Since(t).Seconds())})
	return err
}

// mimeo shows a command and runs it, as typed by the admin on the management node.
func (d *demo) mimeo(ctx context.Context, stdin string, args ...string) error {
	shown := "mimeo " + strings.Join(args, " ")
	if stdin != "" {
		shown = "echo '***' | " + shown
	}
	fmt.Printf("$ %s\n", shown)
	cmd := d.rack.CLI(ctx, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w; the server's log is %s, the nodes' consoles lie beside it", shown, err, filepath.Join(d.dir, "mimeod.log"))
	}
	return nil
}

// up waits until a node's installed system has come up from its disk, and shows what it says of itself.
func (d *demo) up(ctx context.Context, n *rack.Node, from int64) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
	defer cancel()
	mark, err := n.WaitConsole(ctx, from, golden.Marker+`[^\r\n]*size=\d+`)
	if err != nil {
		return "", err
	}
	if _, err := n.WaitConsole(ctx, from, `login:`); err != nil {
		return "", err
	}
	d.say("%s's console: %s", n.Name, strings.TrimPrefix(mark, golden.Marker+" "))
	return mark, nil
}

func (d *demo) hostKeys(ctx context.Context, addr string) string {
	out, _ := d.rack.Net.Command(ctx, "ssh-keyscan", "-T", "20", "-t", "ed25519", addr).Output()
	f := strings.Fields(string(out))
	if len(f) < 3 {
		return "?"
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(f[1] + " " + f[2]))
	if err != nil {
		return "?"
	}
	return ssh.FingerprintSHA256(key)
}

func makeKey(file string) (public string, err error) {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", err
	}
	block, err := ssh.MarshalPrivateKey(priv, "demo")
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		return "", err
	}
	p, err := ssh.NewPublicKey(pub)
	if err != nil {
		return "", err
	}
	return string(ssh.MarshalAuthorizedKey(p)), nil
}

const (
	addr1 = "10.77.0.11"
	addr2 = "10.77.0.12"
)

func run(ctx context.Context, dir, bin string) (err error) {
	d := &demo{started: time.Now()}
	if d.dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	if bin, err = filepath.Abs(bin); err != nil {
		return err
	}
	cache := filepath.Join(filepath.Dir(d.dir), "cache")
	if err := os.RemoveAll(d.dir); err != nil {
		return err
	}
	for _, p := range []string{d.dir, cache} {
		if err := os.MkdirAll(p, 0o755); err != nil {
			return err
		}
	}
	d.keyFile = filepath.Join(d.dir, "admin-key")
	public, err := makeKey(d.keyFile)
	if err != nil {
		return err
	}

	d.title(1, "The management node's daemon, on its defaults, builds the stateless image; meanwhile n01's disk gets a real Debian")
	if d.rack, err = rack.New(ctx, fmt.Sprintf("mimeo-demo-%d", os.Getpid()), d.dir, bin); err != nil {
		return err
	}
	defer func() {
		fmt.Println()
		d.say("stopping all that was started")
		err = errors.Join(err, d.rack.Close())
	}()
	// A cache of packages that earlier runs fetched makes the build of the stateless image quicker.
	if err := shareCache(d.rack.State, cache); err != nil {
		return err
	}
	d.rack.Outside = true
	if err := d.rack.StartServer(ctx); err != nil {
		return err
	}
	disk1, disk2 := filepath.Join(d.dir, "n01.img"), filepath.Join(d.dir, "n02.img")
	var g errgroup.Group
	g.Go(func() error {
		return d.timed("n01's Debian made with mmdebstrap", func() error {
			return golden.Make(ctx, disk1, golden.Config{Cache: cache, SizeMiB: 3072, SSHPubKey: public, Log: func(s string) { d.say("%s", s) }})
		})
	})
	err = d.timed("stateless image built", func() error { return d.mimeo(ctx, "", "stateless", "build", "imaging") })
	if err := errors.Join(g.Wait(), err); err != nil {
		return err
	}

	d.title(2, "A rack: a network of its own, the management node on it, two nodes with BMCs")
	if err := d.rack.StopServer(syscall.SIGTERM); err != nil {
		return err
	}
	d.rack.Outside = false
	if err := d.rack.StartServer(ctx); err != nil {
		return err
	}
	d.say("network namespace %s, bridge %s with %s; mimeod answers DHCP, TFTP, HTTP, HTTPS and NFS in it", d.rack.Net.Name, d.rack.Net.Bridge, d.rack.Net.Addr)
	if err := d.mimeo(ctx, "", "status"); err != nil {
		return err
	}
	if err := os.WriteFile(disk2, nil, 0o644); err != nil {
		return err
	}
	if err := os.Truncate(disk2, 5<<30); err != nil {
		return err
	}
	kernels, _ := filepath.Glob(filepath.Join(d.rack.State, "stateless/imaging/amd64/*/vmlinuz"))
	accel := "tcg"
	if len(kernels) > 0 {
		accel = rack.Accel(ctx, cache, kernels[0])
	}
	d.say("nodes run on %s", map[string]string{"kvm": "KVM", "tcg": "QEMU's emulation (no working KVM here)"}[accel])
	n1, bmc1, err := d.rack.AddNode(ctx, rack.NodeConfig{Name: "n01", MAC: "52:54:00:77:00:01", Disk: disk1, Serial: "GOLDEN-1", Memory: 512, CPUs: 2, Accel: accel})
	if err != nil {
		return err
	}
	n2, bmc2, err := d.rack.AddNode(ctx, rack.NodeConfig{Name: "n02", MAC: "52:54:00:77:00:02", Disk: disk2, Serial: "TARGET-2", Memory: 512, CPUs: 2, Accel: accel})
	if err != nil {
		return err
	}

	d.title(3, "The nodes are made known, and n01 is switched on: it asks by PXE, is told to boot its disk, and lives")
	if err := d.mimeo(ctx, rack.BMCPassword+"\n", "node", "add", "n01", "--mac", n1.MAC, "--ip", addr1, "--bmc", "ipmi://"+bmc1, "--user", rack.BMCUser, "--password-stdin", "--set", "knobs.console=ttyS0,115200"); err != nil {
		return err
	}
	if err := d.mimeo(ctx, rack.BMCPassword+"\n", "node", "add", "n02", "--mac", n2.MAC, "--ip", addr2, "--bmc", "redfish+http://"+bmc2+":8000", "--user", rack.BMCUser, "--password-stdin", "--set", "knobs.console=ttyS0,115200", "--set", "knobs.loader=own"); err != nil {
		return err
	}
	if err := d.mimeo(ctx, "", "power", "n01", "on"); err != nil {
		return err
	}
	var mark1 string
	if err := d.timed("n01 from power-on to login, from its disk", func() error { mark1, err = d.up(ctx, n1, 0); return err }); err != nil {
		return err
	}
	keys1 := d.hostKeys(ctx, addr1)

	d.title(4, "Capture n01, over the network, with one command")
	from := n1.ConsoleSize()
	if err := d.timed("capture n01, first", func() error {
		return d.mimeo(ctx, "", "capture", "n01", "--image", "debian12", "--watch")
	}); err != nil {
		return err
	}
	if err := d.timed("n01 up again after the capture", func() error { _, err := d.up(ctx, n1, from); return err }); err != nil {
		return err
	}

	d.title(5, "Deploy it onto n02, whose disk is empty and larger")
	if err := d.timed("deploy n02, first", func() error {
		return d.mimeo(ctx, "", "deploy", "n02", "--image", "debian12", "--watch")
	}); err != nil {
		return err
	}
	var mark2 string
	if err := d.timed("n02 up from its new disk", func() error { mark2, err = d.up(ctx, n2, 0); return err }); err != nil {
		return err
	}
	if err := d.compare(mark1, mark2, keys1, d.hostKeys(ctx, addr2)); err != nil {
		return err
	}

	d.title(6, "Change n01 a little, capture it again, deploy n02 again: only what is new moves")
	change := "echo 'Welcome to the second revision.' >/etc/motd; head -c 6000000 /dev/urandom >/var/lib/new.bin; cp -a /usr/share/perl /opt/perl; rm -rf /usr/share/doc/libc6; sync"
	fmt.Printf("$ ssh root@n01 %q\n", change)
	cmd := d.rack.Net.Command(ctx, "ssh", "-i", d.keyFile, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=30", "root@"+addr1, change)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("change n01 over ssh: %w: %s", err, out)
	}
	from = n1.ConsoleSize()
	if err := d.timed("capture n01, second", func() error {
		return d.mimeo(ctx, "", "capture", "n01", "--image", "debian12", "--watch")
	}); err != nil {
		return err
	}
	from2 := n2.ConsoleSize()
	if err := d.timed("deploy n02, second", func() error {
		return d.mimeo(ctx, "", "deploy", "n02", "--image", "debian12", "--watch")
	}); err != nil {
		return err
	}
	if err := d.timed("n02 up with the second revision", func() error { _, err := d.up(ctx, n2, from2); return err }); err != nil {
		return err
	}
	cmd = d.rack.Net.Command(ctx, "ssh", "-i", d.keyFile, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=30", "root@"+addr2, "cat /etc/motd; hostname")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "second revision") {
		return fmt.Errorf("n02 does not show the second revision: %v: %s", err, out)
	}
	d.say("n02 says: %s", strings.Join(strings.Fields(string(out)), " "))
	if err := d.mimeo(ctx, "", "image", "verify", "debian12"); err != nil {
		return err
	}
	if err := d.mimeo(ctx, "", "image", "cat", "debian12", "/etc/motd"); err != nil {
		return err
	}
	if err := d.diff(ctx); err != nil {
		return err
	}
	return d.summary(ctx)
}

// diff shows the end of what differs between the two revisions.
func (d *demo) diff(ctx context.Context) error {
	fmt.Println("\n$ mimeo image diff debian12@1 debian12@2 | tail -n 8")
	out, err := d.rack.Run(ctx, "image", "diff", "debian12@1", "debian12@2")
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	fmt.Println(strings.Join(lines[max(0, len(lines)-8):], "\n"))
	return nil
}

// compare holds the two nodes' identities against each other.
func (d *demo) compare(mark1, mark2, keys1, keys2 string) error {
	word := regexp.MustCompile(`(\w+)=(\S+)`)
	read := func(s string) map[string]string {
		m := map[string]string{}
		for _, w := range word.FindAllStringSubmatch(s, -1) {
			m[w[1]] = w[2]
		}
		return m
	}
	a, b := read(mark1), read(mark2)
	fmt.Printf("\n   %-14s %-48s %s\n", "", "n01 (captured)", "n02 (deployed)")
	for _, r := range [][3]string{{"hostname", a["node"], b["node"]}, {"machine-id", a["id"], b["id"]}, {"SSH host key", keys1, keys2}, {"root, bytes", a["size"], b["size"]}} {
		fmt.Printf("   %-14s %-48s %s\n", r[0], r[1], r[2])
		if r[1] == r[2] || r[1] == "" || r[2] == "" || r[2] == "?" {
			return fmt.Errorf("n02 should have its own %s: n01 %q, n02 %q", r[0], r[1], r[2])
		}
	}
	fmt.Println()
	return nil
}

func (d *demo) summary(ctx context.Context) error {
	d.title(7, "What happened")
	if err := d.mimeo(ctx, "", "image", "list"); err != nil {
		return err
	}
	out, err := d.rack.Run(ctx, "job", "list", "--json")
	if err != nil {
		return err
	}
	var jobs []api.Job
	if err := json.Unmarshal([]byte(out), &jobs); err != nil {
		return fmt.Errorf("read the jobs: %w", err)
	}
	fmt.Printf("\n%-26s", "seconds in each phase")
	phases := []api.Phase{api.PhasePowering, api.PhaseNetbooting, api.PhaseAgent, api.PhasePre, api.PhaseMapping, api.PhaseCapturing, api.PhaseWriting, api.PhaseFinishing, api.PhaseVerifying, api.PhasePublishing, api.PhaseRebooting}
	for _, p := range phases {
		fmt.Printf(" %10.10s", p)
	}
	fmt.Printf(" %9s %9s %9s %9s %9s\n", "MB read", "new", "stored", "sent", "written")
	for i := len(jobs) - 1; i >= 0; i-- {
		j := jobs[i]
		fmt.Printf("%-26s", fmt.Sprintf("%s %s@%d %s", j.Kind, j.Image, j.Rev, j.Node))
		for _, p := range phases {
			if v, ok := j.PhaseMS[p]; ok {
				fmt.Printf(" %10.1f", float64(v)/1000)
			} else {
				fmt.Printf(" %10s", "")
			}
		}
		for _, k := range []string{"read", "new", "stored", "sent", "written"} {
			fmt.Printf(" %9.1f", float64(j.Counts[k])/1e6)
		}
		fmt.Println()
	}
	fmt.Println()
	for _, s := range d.steps {
		fmt.Printf("  %-46s %10s\n", s[0], s[1])
	}
	fmt.Println("\nWhat n02 went through:")
	fmt.Println()
	if err := d.mimeo(ctx, "", "node", "events", "n02"); err != nil {
		return err
	}
	fmt.Printf(`
The main job took %s in all. Where to look next:
  %s
      the nodes' consoles (*.log), mimeod.log, the disks, the store (state/store)
  README.md          how to do this on a real rack
  docs/              user guide, glossary, formats
  ./test             all tests; ./bench compares with partclone
`, clock(time.Since(d.started)), d.dir)
	return nil
}

// shareCache keeps downloaded packages between runs: the state folder is new each time.
func shareCache(state, cache string) error {
	pkgs := filepath.Join(cache, "packages")
	if err := os.MkdirAll(pkgs, 0o755); err != nil {
		return err
	}
	if err := os.MkdirAll(state, 0o700); err != nil {
		return err
	}
	return os.Symlink(pkgs, filepath.Join(state, "cache"))
}
