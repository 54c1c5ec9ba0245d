// Package server joins the management node's parts behind the HTTP API.
package server

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"mimeo/internal/boot/dhcp"
	"mimeo/internal/boot/tftp"
	"mimeo/internal/imaging/store/cache"
	"mimeo/internal/imaging/store/dir"
	"mimeo/internal/imaging/store/httpstore"
	"mimeo/internal/imaging/store/sign"
	"mimeo/internal/manage/config"
	"mimeo/internal/manage/console"
	"mimeo/internal/manage/hook"
	"mimeo/internal/manage/inventory"
	"mimeo/internal/manage/job"
	"mimeo/internal/manage/metrics"
	"mimeo/internal/manage/nfs"
	"mimeo/internal/manage/power"
	"mimeo/internal/manage/schedule"
)

// Server is a management node. Make one with New, then call Serve.
type Server struct {
	cfg     config.Config
	version string
	log     *slog.Logger
	started time.Time

	db      *inventory.DB
	store   *dir.Store
	chunks  *httpstore.Service // the store, as agents reach it
	cache   *cache.Store       // before it; nil: none
	copies  copies             // to the second store
	copying sync.Mutex         // while somebody copies to it
	jobs    *job.Engine
	counts  *metrics.Metrics
	hooks   *hook.Hooks
	power   *power.Pool
	secret  []byte             // makes the nodes' tokens
	key     ed25519.PrivateKey // signs certificates of wipes, and revisions
	trust   sign.Keys          // whose signatures of revisions count
	cert    tls.Certificate
	pin     string

	ifaces []iface
	https  net.Listener
	http   net.Listener
	tftp   *tftp.Server
	nfs    *nfs.Server
	dhcp   []*dhcp.Server
	heard  chan dhcp.Event // to be kept

	schedules *schedule.Runner
	published chan string // names of images that have a new revision
	consoles  *console.Keeper

	retire   sync.RWMutex  // jobs are made under it, revisions removed with it held alone
	builds   sync.Mutex    // one stateless build at a time
	trials   sync.Mutex    // one boot test at a time
	browsing chan struct{} // agents that read images' files just now
	files    fileHashes

	bodyLimit time.Duration // for a message to arrive
	loaded    loaders
	found     discovered
	accepting accepting
	once      sync.Map // node.Name to when a node that boots something once fetched its script
	boots     sync.Map // node.Name to the boot ID of its last agent
}

// iface is an interface on which nodes are served.
type iface struct {
	config.Interface
	prefix  netip.Prefix  // our first address on it
	subnets []dhcp.Subnet // that address's network, then the configured ones
}

// subnet is the network of the interface that an address is in.
func (f iface) subnet(a netip.Addr) (dhcp.Subnet, bool) {
	for _, n := range f.subnets {
		if n.Prefix.Contains(a.Unmap()) {
			return n, true
		}
	}
	return dhcp.Subnet{}, false
}

// New opens everything that Serve needs, all ports included, so that what is wrong shows before anything is done.
// Where it fails, all is closed again.
func New(ctx context.Context, cfg config.Config, version string, log *slog.Logger, out io.Writer) (_ *Server, err error) {
	s := &Server{browsing: make(chan struct{}, maxBrowse), cfg: cfg, version: version, log: log, started: time.Now(), bodyLimit: time.Minute, heard: make(chan dhcp.Event, maxHeard), published: make(chan string, 100)}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	for _, d := range []string{"", "tls", "stateless", "loaders", "profiles", "nfs/postscripts"} {
		if err := os.MkdirAll(filepath.Join(cfg.State, d), 0o755); err != nil {
			return nil, fmt.Errorf("state folder: %w", err)
		}
	}
	if err := os.Chmod(cfg.State, 0o700); err != nil {
		return nil, fmt.Errorf("state folder: %w", err)
	}
	if s.db, err = inventory.Open(ctx, cfg.State); err != nil {
		return nil, err
	}
	seed, err := loadSecret(filepath.Join(cfg.State, "tls", "certificate-key"))
	if err != nil {
		return nil, err
	}
	s.key = ed25519.NewKeyFromSeed(seed)
	s.trust = trusted(s.key, cfg.Trust)
	if s.store, err = s.openStore(ctx); err != nil {
		return nil, err
	}
	if s.secret, err = loadSecret(filepath.Join(cfg.State, "tls", "token-key")); err != nil {
		return nil, err
	}
	if s.cert, s.pin, err = loadCert(filepath.Join(cfg.State, "tls")); err != nil {
		return nil, err
	}
	s.power = newPower(cfg)
	l := cfg.Limits
	near, err := s.nearStore()
	if err != nil {
		return nil, err
	}
	s.chunks = httpstore.Handler(near, httpstore.Limits{})
	s.counts = metrics.New(version, s.started, s.lookNow)
	s.hooks = newHooks(cfg, s.db, log)
	s.jobs, err = job.New(ctx, job.Options{Prove: s.prove, Turns: s.turns, Turned: s.turned, DB: s.db, Store: jobStore{s.store, s.published}, Power: s.withPower, Log: log, Quota: job.Quota{Jobs: cfg.Jobs.MaxActive, Captures: cfg.Jobs.MaxCaptures, Deploys: cfg.Jobs.MaxDeploys}, Limits: job.Limits{
		Netboot: time.Duration(l.Netboot), AgentSilence: time.Duration(l.AgentSilence), Reboot: time.Duration(l.Reboot), Power: time.Duration(l.Power), SoftOff: time.Duration(l.SoftOff), Stall: time.Duration(l.Stall)}})
	if err != nil {
		return nil, err
	}
	s.schedules = s.newSchedules()
	s.consoles = s.newConsoles()
	for _, f := range cfg.Interfaces {
		out, err := newIface(f)
		if err != nil {
			return nil, err
		}
		s.ifaces = append(s.ifaces, out)
	}
	if err := s.listen(ctx); err != nil {
		return nil, err
	}
	if err := s.signOld(ctx); err != nil {
		return nil, err
	}
	if err := s.firstStart(ctx, out); err != nil {
		return nil, err
	}
	s.banner(out)
	return s, nil
}

func (s *Server) listen(ctx context.Context) (err error) {
	if s.https, err = net.Listen("tcp", s.cfg.HTTPS); err != nil {
		return fmt.Errorf("API port: %w", err)
	}
	if s.http, err = net.Listen("tcp", s.cfg.HTTP); err != nil {
		return fmt.Errorf("boot file port: %w", err)
	}
	if len(s.ifaces) == 0 {
		return nil
	}
	s.nfs = &nfs.Server{Addr: s.cfg.NFS, Exports: map[string]string{"/postscripts": filepath.Join(s.cfg.State, "nfs", "postscripts")}, Log: s.log}
	if err := s.nfs.Listen(); err != nil {
		return fmt.Errorf("NFS: %w", err)
	}
	s.tftp = s.newTFTP()
	if err := s.tftp.Listen(); err != nil {
		return fmt.Errorf("TFTP: %w", err)
	}
	for _, f := range s.ifaces {
		if f.DHCP == "off" {
			continue
		}
		d := s.newDHCP(f)
		if err := d.Listen(); err != nil {
			return fmt.Errorf("DHCP on %s: %w", f.Name, err)
		}
		s.dhcp = append(s.dhcp, d)
	}
	return s.forgetLeases(ctx)
}

// Serve answers until ctx is done, and returns when all has stopped.
func (s *Server) Serve(ctx context.Context) error {
	defer s.close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.jobs.Run(ctx) })
	g.Go(func() error { return s.schedules.Run(ctx) })
	g.Go(func() error { return s.hooks.Run(ctx) })
	g.Go(func() error { return s.tidy(ctx) })
	g.Go(func() error { return s.repackIdle(ctx) })
	g.Go(func() error { return s.copyStore(ctx) })
	g.Go(func() error { return s.forget(ctx) })
	g.Go(func() error { return s.consoles.Run(ctx) })
	api := &http.Server{Handler: s.apiHandler(), ReadHeaderTimeout: 20 * time.Second, IdleTimeout: 2 * time.Minute, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{s.cert}, MinVersion: tls.VersionTLS12}}
	boot := &http.Server{Handler: forgetGRUB(s.bootHandler()), ReadHeaderTimeout: 20 * time.Second, IdleTimeout: 2 * time.Minute, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, bootConnKey{}, c) }}
	serve := func(srv *http.Server, f func() error) {
		g.Go(func() error {
			if err := f(); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
		g.Go(func() error {
			<-ctx.Done()
			// Streams to watchers never end by themselves: they are cut. Agents repeat what was cut.
			stop, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			if srv.Shutdown(stop) != nil {
				srv.Close()
			}
			return nil
		})
	}
	serve(api, func() error { return api.ServeTLS(s.https, "", "") })
	serve(boot, func() error { return boot.Serve(newBootListener(ctx, s.http)) })
	if s.nfs != nil {
		g.Go(func() error { return s.nfs.Serve(ctx) })
	}
	if s.tftp != nil {
		g.Go(func() error { return s.tftp.Serve(ctx) })
	}
	var answering sync.WaitGroup
	for _, d := range s.dhcp {
		answering.Add(1)
		g.Go(func() error {
			defer answering.Done()
			return d.Serve(ctx)
		})
	}
	g.Go(func() error {
		answering.Wait()
		close(s.heard)
		return nil
	})
	g.Go(func() error {
		s.keepHeard()
		return nil
	})
	return g.Wait()
}

func (s *Server) close() {
	for _, l := range []net.Listener{s.https, s.http} {
		if l != nil {
			l.Close()
		}
	}
	if s.power != nil {
		s.power.Close()
	}
	if s.cache != nil {
		_ = s.cache.Close() // it holds nothing but copies
	}
	if s.store != nil {
		if err := s.store.Close(); err != nil {
			s.log.Error("close the store", "err", err)
		}
	}
	if s.db != nil {
		s.db.Close()
	}
}

// access is the file that tells the command line of root how to reach this server.
type access struct {
	Server string `json:"server"`
	Pin    string `json:"pin"`
	Token  string `json:"token"`
}

// reserve returns how much of the store's disk chunks must leave free: where the inventory lies on the same disk, jobs
// must still be able to say that it is full.
func reserve(state, storePath string) int64 {
	var a, b unix.Stat_t
	for unix.Stat(storePath, &b) != nil && storePath != "/" && storePath != "." {
		storePath = filepath.Dir(storePath) // made later
	}
	if unix.Stat(state, &a) != nil || unix.Stat(storePath, &b) != nil || a.Dev != b.Dev {
		return 0
	}
	return 256 << 20
}

func (s *Server) writeAccess(a access) error {
	b, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return err
	}
	file := filepath.Join(s.cfg.State, "admin.json")
	return writeSecret(file, append(b, '\n'))
}

// firstStart makes the admin's token and prints it once. The command line of root finds it in the state folder, where
// later starts keep the address right.
func (s *Server) firstStart(ctx context.Context, out io.Writer) error {
	have, err := s.db.HasTokens(ctx)
	if err != nil {
		return err
	}
	host, port, _ := net.SplitHostPort(s.https.Addr().String())
	if ip, err := netip.ParseAddr(host); err != nil || ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	a := access{Server: "https://" + net.JoinHostPort(host, port), Pin: s.pin}
	file := filepath.Join(s.cfg.State, "admin.json")
	if have {
		var old access
		b, err := os.ReadFile(file)
		if err != nil || json.Unmarshal(b, &old) != nil || old.Token == "" {
			return nil // an admin took it away: that is their right
		}
		a.Token = old.Token
		if a == old {
			return nil
		}
		return s.writeAccess(a)
	}
	var b [32]byte
	rand.Read(b[:])
	a.Token = hex.EncodeToString(b[:])
	// The file goes first: a token that nobody was told would lock everybody out.
	if err := s.writeAccess(a); err != nil {
		return err
	}
	if err := s.db.PutToken(ctx, a.Token, inventory.Token{Name: "admin", Role: "admin"}); err != nil {
		return err
	}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprintf(out, "First start: the admin's token is\n\n    %s\n\nIt is not shown again. The command line of root finds it in %s.\n\n", a.Token, file)
	} else {
		fmt.Fprintf(out, "First start: the admin's token is in %s, where the command line of root finds it.\n", file) // a log is read by many
	}
	return nil
}

func (s *Server) banner(out io.Writer) {
	fmt.Fprintf(out, "mimeod %s\n", s.version)
	row := func(k, format string, args ...any) { fmt.Fprintf(out, "  %-11s %s\n", k, fmt.Sprintf(format, args...)) }
	row("state", "%s", s.cfg.State)
	row("store", "%s", s.cfg.Store)
	row("API", "https://%s, key pin %s", s.https.Addr(), s.pin)
	row("boot files", "http://%s", s.http.Addr())
	for _, f := range s.ifaces {
		row("interface", "%s %s, DHCP %s", f.Name, f.prefix, f.DHCP)
		for _, n := range f.subnets[1:] {
			where := "behind relays"
			if n.Server.IsValid() {
				where = "on its wire"
			}
			row("", "  %s, %s", n.Prefix, where)
		}
	}
	if len(s.ifaces) == 0 {
		row("interface", "none named: no node is answered (--interface NAME)")
	} else {
		row("TFTP, NFS", "%s, %s", s.tftp.LocalAddr(), s.nfs.LocalAddr())
	}
}

// addressesOf are the IPv4 addresses of an interface, at least one.
func addressesOf(name string) (all []netip.Prefix, err error) {
	f, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", name, err)
	}
	addrs, err := f.Addrs()
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", name, err)
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
			all = append(all, p)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("interface %s has no IPv4 address: give it one first", name)
	}
	return all, nil
}

// addrFor is our address as a node sees it: on the interface whose network it is in, else the one it reached us at.
func (s *Server) addrFor(remote netip.Addr, local netip.Addr) netip.Addr {
	for _, f := range s.ifaces {
		if n, ok := f.subnet(remote); ok {
			if n.Server.IsValid() {
				return n.Server
			}
			return f.prefix.Addr() // behind a relay
		}
	}
	return local.Unmap()
}

func portOf(l net.Listener) string {
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// bootBase is the boot server's URL as reached at addr.
func (s *Server) bootBase(addr netip.Addr) string {
	return "http://" + net.JoinHostPort(addr.String(), portOf(s.http))
}

func (s *Server) apiBase(addr netip.Addr) string {
	return "https://" + net.JoinHostPort(addr.String(), portOf(s.https))
}
