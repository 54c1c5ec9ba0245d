package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"mimeo/internal/boot/netboot"
	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/job"
	"mimeo/internal/manage/stateless"
)

// pathStateless is where the files of stateless images are: pathStateless + BUILD + "/" + file.
const pathStateless = "/boot/stateless/"

// bootHandler serves what a node fetches without TLS: scripts, loaders, and files that are checked by their hash.
func (s *Server) bootHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+netboot.PathScripts+"{kind}/{mac}", s.serveScript)
	mux.HandleFunc("GET "+netboot.PathLoaders+"{file...}", s.serveLoader)
	mux.HandleFunc("GET /"+netboot.FileGRUBConfig, func(w http.ResponseWriter, r *http.Request) {
		s.serveCommon(w, r, netboot.GRUBConfig) // GRUB takes the root of the server that it came from for its own
	})
	mux.HandleFunc("GET "+pathStateless+"{build}/{file}", s.serveStateless)
	// shim asks for //grubx64.efi beside itself, and does not follow the redirect that the mux would answer with.
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for strings.Contains(r.URL.Path, "//") {
			r.URL.Path = strings.ReplaceAll(r.URL.Path, "//", "/")
		}
		mux.ServeHTTP(w, r)
	})
}

func remoteAddr(r *http.Request) netip.Addr {
	a, _ := netip.ParseAddrPort(r.RemoteAddr)
	return a.Addr().Unmap()
}

func localAddr(r *http.Request) netip.Addr {
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(interface{ String() string }); ok {
		if p, err := netip.ParseAddrPort(a.String()); err == nil {
			return p.Addr().Unmap()
		}
	}
	return netip.Addr{}
}

// serveScript gives a node its boot script. Only the address that the node's own network card has gets it: the script
// holds the node's token.
func (s *Server) serveScript(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	mac, err := netboot.ParseMAC(r.PathValue("mac"))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	n, ok, err := s.db.NodeByMAC(ctx, mac)
	if err != nil {
		http.Error(w, "the inventory cannot be read", http.StatusServiceUnavailable)
		return
	}
	remote := remoteAddr(r)
	if !ok && s.found.has(mac) && s.onDiscovery(remote) && s.mayHave(ctx, n, mac, remote) {
		s.serveUnknown(w, r, mac)
		return
	}
	if !ok || !s.mayHave(ctx, n, mac, remote) {
		s.log.Info("boot script refused", "mac", mac, "addr", remote, "known", ok)
		http.NotFound(w, r)
		return
	}
	ask := netboot.AskFromQuery(r.URL.Query())
	ask.MAC = mac
	kind := netboot.Kind(r.PathValue("kind"))
	ask.IPXE = kind == netboot.KindIPXE
	addr := s.addrFor(remote, localAddr(r))
	ask.Base = s.bootBase(addr)
	text, event, err := s.script(ctx, n, kind, ask, addr, true)
	if err != nil {
		s.noScript(ctx, n, remote, err)
		http.Error(w, "no script: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if _, err := io.WriteString(w, text); err != nil {
		return // the node did not get it, and asks again
	}
	s.scriptSent(ctx, n, remote, event)
}

// noScript keeps why a node got no script.
func (s *Server) noScript(ctx context.Context, n node.Node, remote netip.Addr, err error) {
	s.log.Error("boot script", "node", n.Name, "err", err)
	s.event(ctx, api.Event{Node: n.Name, Job: s.jobOf(n.Name), Kind: "script", Addr: remote.String(), Text: "no script: " + err.Error()})
}

// scriptSent keeps what a node was told. One that was told to boot its disk has ended its job.
func (s *Server) scriptSent(ctx context.Context, n node.Node, remote netip.Addr, event api.Event) {
	event.Node, event.Addr = n.Name, remote.String()
	if event.Job == "" {
		event.Job = s.jobOf(n.Name)
	}
	s.event(ctx, event)
	if event.Kind == "told-disk" {
		if err := s.jobs.ToldDisk(ctx, n.Name); err != nil {
			s.log.Error("job cannot be ended", "node", n.Name, "err", err)
		}
	}
}

// mayHave tells whether a script may go to an address: the fixed or leased one of the card that asks, where we lease;
// any of an interface's network, where somebody else does.
func (s *Server) mayHave(ctx context.Context, n node.Node, mac string, remote netip.Addr) bool {
	for _, nic := range n.NICs {
		if nic.MAC == mac && nic.IP != "" {
			return nic.IP == remote.String()
		}
	}
	for _, f := range s.ifaces {
		if _, ok := f.subnet(remote); !ok {
			continue
		}
		if f.DHCP != "full" {
			return true
		}
		leases, err := s.db.DHCPLeases(ctx)
		if err != nil {
			return false
		}
		for _, l := range leases {
			if l.Addr == remote && l.MAC == mac && !l.Declined {
				return true
			}
		}
	}
	return false
}

// script makes a node's script for now. With take, facts follow from it: the node has netbooted.
func (s *Server) script(ctx context.Context, n node.Node, kind netboot.Kind, ask netboot.Ask, addr netip.Addr, take bool) (string, api.Event, error) {
	sc, _, ev, err := s.bootPlan(ctx, n, kind, ask, addr, take)
	if err != nil {
		return "", ev, err
	}
	var b strings.Builder
	err = netboot.Render(&b, sc)
	return b.String(), ev, err
}

// bootPlan decides what a node's script for now says, and of which stateless image where it boots one.
func (s *Server) bootPlan(ctx context.Context, n node.Node, kind netboot.Kind, ask netboot.Ask, addr netip.Addr, take bool) (sc netboot.Script, im stateless.Stateless, ev api.Event, err error) {
	// The job is asked first: it may find that the node has used up its tries, which changes the boot state.
	var rec job.Record
	var active bool
	if rec, active = s.jobs.OfNode(n.Name); active && take && ofJob(n.Boot) {
		ok, err := s.jobs.Netbooted(ctx, rec.ID)
		if err != nil {
			return sc, im, ev, err
		}
		if n, err = s.db.Node(ctx, n.Name); err != nil {
			return sc, im, ev, err
		}
		if !ok && n.Boot != node.BootDisk {
			sc, ev = s.wait(n, kind, ask)
			return sc, im, ev, nil
		}
		ev.Job = rec.ID
	}
	if ofJob(n.Boot) && !active {
		// Cannot be, as both are written together; the disk is the answer that harms nothing.
		n.Boot = node.BootDisk
	}
	if take && !active && s.onceOver(n) {
		if err := s.endOnce(ctx, n); err != nil {
			return sc, im, ev, err
		}
		n.Boot = node.BootDisk
	}
	o := netboot.Decide(n, ask)
	sc = netboot.Script{Kind: kind, Decision: o.Decision, Node: n.Name, Why: o.Why, Firmware: o.Firmware, Arch: o.Arch, Knobs: n.Knobs, MAC: ask.MAC}
	switch o.Decision {
	case netboot.Ignore:
		return sc, im, ev, fmt.Errorf("%s", o.Why)
	case netboot.Disk:
		facts, err := s.db.Facts(ctx, n.Name)
		if err != nil {
			return sc, im, ev, err
		}
		if h := facts.Hardware; h != nil && h.Boot != nil && netboot.CheckDiskLoader(h.Boot.Loader) == nil {
			sc.DiskLoader = h.Boot.Loader
		}
		ev.Kind, ev.Text = "told-disk", "boots its disk: "+o.Why
	case netboot.Memtest:
		sc.Kernel = s.bootBase(addr) + netboot.PathLoaders + netboot.MemtestFile(o.Firmware)
		ev.Kind, ev.Text = "script", "boots memtest86+: "+o.Why+"; what it finds is on the node's screen alone"
	case netboot.Stateless:
		if im, err = stateless.Current(s.cfg.State, o.Profile, o.Arch); err != nil {
			return sc, im, ev, err
		}
		facts, err := s.db.Facts(ctx, n.Name)
		if err != nil {
			return sc, im, ev, err
		}
		s.bootImage(&sc, im, addr)
		if active {
			sc.Token = s.token(tokenJob, rec.ID, string(n.Name))
		} else {
			sc.Token = s.token(tokenBoot, string(n.Name), facts.BootNonce+"-"+string(n.Boot))
		}
		if n.Hostname != string(n.Name) {
			sc.Host = n.Hostname
		}
		if n.Boot == node.BootStateless && !active {
			sc.Init = im.Init // jobs and shells have the agent in its place
		}
		ev.Kind, ev.Text = "script", fmt.Sprintf("boots stateless image %s %s, build %.12s: %s", o.Profile, o.Arch, im.Build, o.Why)
	}
	return sc, im, ev, nil
}

// bootImage fills in where a node finds a stateless image and this server.
func (s *Server) bootImage(sc *netboot.Script, im stateless.Stateless, addr netip.Addr) {
	files := s.bootBase(addr) + pathStateless + im.Build + "/"
	sc.Kernel, sc.Initrd, sc.RootImg = files+stateless.FileKernel, files+stateless.FileInitrd, files+stateless.FileRoot
	sc.RootSum, sc.Build = im.Files[stateless.FileRoot].SHA256, im.Build
	sc.Server, sc.Pin, sc.Time = s.apiBase(addr), s.pin, time.Now()
	sc.Knobs.Cmdline = strings.TrimSpace(strings.Join(im.Cmdline, " ") + " " + sc.Knobs.Cmdline)
}

// wait is the script for a node whose job is between its agent's last word and its boot state: it asks again.
func (s *Server) wait(n node.Node, kind netboot.Kind, ask netboot.Ask) (netboot.Script, api.Event) {
	return netboot.Script{Kind: kind, Decision: netboot.Wait, Node: n.Name, Why: "its job is being finished", Firmware: ask.Firmware, Arch: ask.Arch,
			Again: netboot.ScriptURL(ask.Base, kind, ask.MAC, ask.Firmware, ask.Arch)},
		api.Event{Kind: "script", Text: "told to wait: its job is being finished"}
}

// serveLoader gives the first loader to firmwares that boot by HTTP.
func (s *Server) serveLoader(w http.ResponseWriter, r *http.Request) {
	remote := remoteAddr(r)
	name := r.PathValue("file")
	switch name {
	case netboot.FileAutoexec:
		s.serveCommon(w, r, netboot.Autoexec)
		return
	case netboot.FileGRUBConfig:
		s.serveCommon(w, r, netboot.GRUBConfig)
		return
	}
	root, err := os.OpenRoot(filepath.Join(s.cfg.State, "loaders"))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer root.Close()
	f, err := root.Open(name)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || !fi.Mode().IsRegular() {
		http.NotFound(w, r)
		return
	}
	if n, ok := s.nodeAt(r.Context(), remote); ok {
		s.event(r.Context(), api.Event{Node: n.Name, Job: s.jobOf(n.Name), Kind: "loader", Addr: remote.String(), Text: name + " by HTTP"})
	}
	http.ServeContent(w, r, name, fi.ModTime(), f)
	if name == netboot.FileMemtestBIOS || name == netboot.FileMemtestUEFI {
		if n, ok := s.nodeAt(r.Context(), remote); ok && n.Boot == node.BootMemtest {
			s.booted(r.Context(), n)
		}
	}
}

// serveCommon gives a text that is the same for every node; render makes it for the address that was asked.
func (s *Server) serveCommon(w http.ResponseWriter, r *http.Request, render func(base string) (string, error)) {
	text, err := render(s.bootBase(s.addrFor(remoteAddr(r), localAddr(r))))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	io.WriteString(w, text)
}

// serveStateless gives a file of a stateless image, once its bytes are what the build recorded.
func (s *Server) serveStateless(w http.ResponseWriter, r *http.Request) {
	ctx, remote := r.Context(), remoteAddr(r)
	name := r.PathValue("file")
	im, err := s.byBuild(r.PathValue("build"))
	want, ok := im.Files[name]
	if err != nil || !ok {
		http.NotFound(w, r)
		return
	}
	n, known := s.nodeAt(ctx, remote)
	note := func(text string) {
		if known {
			kind := map[string]string{stateless.FileKernel: "kernel", stateless.FileInitrd: "initrd", stateless.FileRoot: "rootimg"}[name]
			s.event(context.WithoutCancel(ctx), api.Event{Node: n.Name, Job: s.jobOf(n.Name), Kind: kind, Addr: remote.String(), Text: text})
		}
	}
	f, err := os.Open(im.Path(name))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer f.Close()
	sum, err := s.files.sum(f)
	if err == nil && sum != want.SHA256 {
		err = damaged(name, im, sum)
	}
	if err != nil {
		s.log.Error("stateless image", "err", err)
		note(err.Error())
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	if r.Header.Get("Range") == "" {
		note(fmt.Sprintf("%s: begins, %d bytes", name, want.Size))
	}
	start := time.Now()
	c := &patientWriter{ResponseWriter: w, alive: func() { s.jobOf(n.Name) }}
	defer c.done()
	http.ServeContent(c, r, name, im.Created, f)
	note(fmt.Sprintf("%s: %d of %d bytes in %d ms", name, c.n, want.Size, time.Since(start).Milliseconds()))
	if known && name == stateless.FileKernel && n.Boot != node.BootMemtest {
		s.booted(ctx, n)
	}
}

// byBuild finds a stateless image by its build's ID.
func (s *Server) byBuild(id string) (stateless.Stateless, error) {
	all, err := stateless.List(s.cfg.State)
	if err != nil {
		return stateless.Stateless{}, err
	}
	for _, im := range all {
		if im.Build == id {
			return im, nil
		}
	}
	return stateless.Stateless{}, fs.ErrNotExist
}

// A node must take partSize bytes within partLimit: 8 KiB/s, which the slowest line of a site does.
const (
	partSize  = 1 << 20
	partLimit = 2 * time.Minute
	partAlive = 2 * time.Second // how often a transfer that goes on is a sign of life
)

// patientWriter sends a large file part by part. Each part that goes through is a sign of life of the node; a node that
// is gone does not hold the connection for ever.
type patientWriter struct {
	http.ResponseWriter
	alive func()
	told  time.Time
	n     int64 // bytes sent
}

func (p *patientWriter) before() {
	http.NewResponseController(p.ResponseWriter).SetWriteDeadline(time.Now().Add(partLimit)) // a connection without deadlines is patient, too
}

func (p *patientWriter) after(n int64) {
	p.n += n
	if n > 0 && time.Since(p.told) > partAlive {
		p.told = time.Now()
		p.alive()
	}
}

// done takes the limit off the connection, which may serve another request.
func (p *patientWriter) done() {
	http.NewResponseController(p.ResponseWriter).SetWriteDeadline(time.Time{})
}

// Unwrap lets http.ResponseController find the connection.
func (p *patientWriter) Unwrap() http.ResponseWriter { return p.ResponseWriter }

func (p *patientWriter) Write(b []byte) (int, error) {
	p.before()
	n, err := p.ResponseWriter.Write(b)
	p.after(int64(n))
	return n, err
}

// ReadFrom keeps sendfile(2), which net/http uses for a file behind at most one io.LimitedReader.
func (p *patientWriter) ReadFrom(r io.Reader) (total int64, err error) {
	whole, ok := r.(*io.LimitedReader)
	if !ok {
		whole = &io.LimitedReader{R: r, N: 1<<63 - 1}
	}
	for whole.N > 0 {
		part := &io.LimitedReader{R: whole.R, N: min(whole.N, partSize)}
		p.before()
		n, err := io.Copy(p.ResponseWriter, part)
		p.after(n)
		total += n
		whole.N -= n
		if err != nil || n == 0 {
			return total, err
		}
	}
	return total, nil
}

// fileHashes remembers hashes of files for as long as the files are the same.
type fileHashes struct {
	mu sync.Mutex
	m  map[fileKey]string
}

type fileKey struct {
	dev, ino    uint64
	size, mtime int64
}

func (h *fileHashes) sum(f *os.File) (string, error) {
	fi, err := f.Stat()
	if err != nil {
		return "", err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || !fi.Mode().IsRegular() {
		return "", fs.ErrInvalid
	}
	key := fileKey{uint64(st.Dev), st.Ino, st.Size, st.Mtim.Nano()}
	h.mu.Lock()
	defer h.mu.Unlock() // a second node waits rather than read the same file, too
	if s, ok := h.m[key]; ok {
		return s, nil
	}
	d := sha256.New()
	if _, err := io.Copy(d, f); err != nil {
		return "", err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	if h.m == nil || len(h.m) > 100 {
		h.m = map[fileKey]string{}
	}
	h.m[key] = hex.EncodeToString(d.Sum(nil))
	return h.m[key], nil
}
