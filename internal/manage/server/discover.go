package server

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"mimeo/internal/boot/dhcp"
	"mimeo/internal/boot/netboot"
	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/hook"
	"mimeo/internal/manage/inventory"
	"mimeo/internal/manage/stateless"
)

// Bounds of what machines that nobody knows can make this server keep. A MAC costs nothing to make up.
const (
	maxDiscovered = 256
	foundFor      = 15 * time.Minute // how long one that was not heard of since keeps its place when there is no other
	maxReport     = 64 << 10         // bytes of a machine's hardware
	unknownEvery  = 20 * time.Second // how often its agent asks
)

// discovered are machines that belong to no node. They are in memory alone: after a restart they report anew.
type discovered struct {
	mu  sync.Mutex
	all map[string]*api.Discovered // by MAC
}

// ask takes note of a firmware that asks, if there is room; most bounds how many an interface may have.
func (d *discovered) ask(mac, iface string, most int, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f := d.all[mac]; f != nil {
		f.Seen, f.Interface = now, iface
		return true
	}
	here := 0
	var oldest *api.Discovered
	for _, f := range d.all {
		if f.Interface == iface {
			here++
			if oldest == nil || f.Seen.Before(oldest.Seen) {
				oldest = f
			}
		}
	}
	if here >= most || len(d.all) >= maxDiscovered {
		if oldest == nil || now.Sub(oldest.Seen) < foundFor {
			return false
		}
		delete(d.all, oldest.MAC)
	}
	if d.all == nil {
		d.all = map[string]*api.Discovered{}
	}
	d.all[mac] = &api.Discovered{ID: macID(mac), MAC: mac, Interface: iface, First: now, Seen: now}
	return true
}

func (d *discovered) has(mac string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.all[mac] != nil
}

// learn keeps what a machine's requests tell. An iPXE, as in the ROM of a card, knows less of the firmware than that
// itself.
func (d *discovered) learn(mac string, addr netip.Addr, fw node.Firmware, arch node.Arch, ipxe bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.all[mac]
	if f == nil {
		return
	}
	if addr.IsValid() {
		f.Addr = addr.String()
	}
	if fw != "" && (!ipxe || f.Firmware == "") {
		f.Firmware = fw
	}
	if arch != "" {
		f.Arch = arch
	}
}

// discoveredText says in a line what a machine is.
func discoveredText(f api.Discovered) string {
	h := *f.Hardware
	return fmt.Sprintf("a machine that is no node netbooted on %s: %s, %s, %d MiB of memory, %s", f.Interface, orDefault(strings.TrimSpace(h.Vendor+" "+h.Product), "unknown make"), h.Arch, h.Memory>>20, disksText(h.Disks))
}

// report keeps the hardware of a machine. first says whether it is the first report of one that was asked for.
func (d *discovered) report(mac string, addr netip.Addr, h api.Hardware, now time.Time) (_ api.Discovered, first bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.all[mac]
	if f != nil {
		first = f.Hardware == nil
		f.Seen, f.Addr, f.Hardware = now, addr.String(), &h
		if h.Arch != "" {
			f.Arch = h.Arch
		}
		return *f, first
	}
	return api.Discovered{}, false
}

// note keeps why a machine is no node.
func (d *discovered) note(mac, text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f := d.all[mac]; f != nil {
		f.Note = text
	}
}

func (d *discovered) list() []api.Discovered {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := []api.Discovered{}
	for _, f := range d.all {
		out = append(out, *f)
	}
	slices.SortFunc(out, func(a, b api.Discovered) int {
		if c := b.First.Compare(a.First); c != 0 {
			return c
		}
		return strings.Compare(a.MAC, b.MAC)
	})
	return out
}

func (d *discovered) get(id string) (api.Discovered, bool) {
	mac, err := netboot.ParseMAC(id)
	if err != nil {
		return api.Discovered{}, false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.all[mac]
	if f == nil {
		return api.Discovered{}, false
	}
	return *f, true
}

func (d *discovered) forget(mac string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.all, mac)
}

func macID(mac string) string { return strings.ReplaceAll(mac, ":", "-") }

// unknown says whether a network card that no node has is answered on an interface with discovery: where its firmware
// asks for something to boot, or the stateless image that it was given then asks for an address.
func (s *Server) unknown(f iface, r dhcp.Request) (node.Node, bool) {
	n := node.Node{Boot: node.BootDiscover, NICs: []node.NIC{{MAC: r.MAC}}}
	if !r.Netboot() && !s.found.has(r.MAC) {
		return n, false
	}
	most := maxDiscovered
	if f.DHCP == "full" {
		most = min(most, max(poolSize(f)/2, 1)) // nodes without a fixed address want some, too
	}
	return n, s.found.ask(r.MAC, f.Name, most, time.Now())
}

// poolSize is how many addresses an interface has to give, or as many as anybody asks for.
func poolSize(f iface) int {
	n := 0
	add := func(from, to netip.Addr) {
		for a := from; a.IsValid() && !to.Less(a) && n < 2*maxDiscovered; a = a.Next() {
			n++
		}
	}
	for _, sub := range f.subnets {
		for _, r := range sub.Pool {
			add(r.From, r.To)
		}
	}
	return n
}

// onDiscovery tells whether an address is of an interface that has discovery on.
func (s *Server) onDiscovery(a netip.Addr) bool {
	f, ok := s.ifaceOf(a)
	return ok && f.Discovery == "on"
}

// serveUnknown gives a machine that no node is the script of the stateless image, with a token that is good for
// reporting its hardware alone.
func (s *Server) serveUnknown(w http.ResponseWriter, r *http.Request, mac string) {
	text, err := s.unknownScript(r, mac)
	if err != nil {
		s.log.Error("boot script of an unknown machine", "mac", mac, "err", err)
		http.Error(w, "no script: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	s.log.Info("an unknown machine boots to report itself", "mac", mac, "addr", remoteAddr(r))
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	io.WriteString(w, text) // one that did not get it asks again
}

func (s *Server) unknownScript(r *http.Request, mac string) (string, error) {
	kind := netboot.Kind(r.PathValue("kind"))
	ask := netboot.AskFromQuery(r.URL.Query())
	ask.MAC, ask.IPXE = mac, kind == netboot.KindIPXE
	sc, _, err := s.unknownPlan(kind, ask, s.addrFor(remoteAddr(r), localAddr(r)))
	if err != nil {
		return "", err
	}
	var b strings.Builder
	err = netboot.Render(&b, sc)
	return b.String(), err
}

func (s *Server) unknownPlan(kind netboot.Kind, ask netboot.Ask, addr netip.Addr) (netboot.Script, stateless.Stateless, error) {
	o := netboot.Decide(node.Node{Boot: node.BootDiscover}, ask)
	if o.Decision != netboot.Stateless {
		return netboot.Script{}, stateless.Stateless{}, fmt.Errorf("%s", o.Why)
	}
	im, err := stateless.Current(s.cfg.State, o.Profile, o.Arch)
	if err != nil {
		return netboot.Script{}, im, err
	}
	sc := netboot.Script{Kind: kind, Decision: o.Decision, Node: node.Name("new-" + macID(ask.MAC)), Why: "it is not known, and reports itself", Firmware: o.Firmware, Arch: o.Arch, MAC: ask.MAC,
		Token: s.token(tokenNew, macID(ask.MAC), "report")}
	s.bootImage(&sc, im, addr)
	return sc, im, nil
}

// helloUnknown keeps the report of a machine that no node is. It waits, until it is one: then it boots anew as that.
func (s *Server) helloUnknown(ctx context.Context, id string, from netip.Addr, h api.Hello) (api.Task, error) {
	mac, err := netboot.ParseMAC(id)
	if err != nil {
		return api.Task{}, &api.Error{Code: "denied", Message: err.Error()}
	}
	n, known, err := s.db.NodeByMAC(ctx, mac)
	if err != nil {
		return api.Task{}, err
	}
	if known {
		return api.Task{Kind: api.TaskReboot, Node: n.Name}, nil
	}
	b, err := json.Marshal(h.Hardware)
	if err != nil || len(b) > maxReport {
		return api.Task{}, &api.Error{Code: "bad_request", Message: fmt.Sprintf("a report of %d bytes, over %d", len(b), maxReport)}
	}
	if !s.found.has(mac) { // this server was started anew meanwhile, or had forgotten it
		f, ok := s.ifaceOf(from)
		if !ok || f.Discovery != "on" || !s.found.ask(mac, f.Name, maxDiscovered, time.Now()) {
			return api.Task{Kind: api.TaskReboot}, nil
		}
	}
	if f, first := s.found.report(mac, from, h.Hardware, time.Now()); first {
		s.tell(ctx, hook.Message{Event: "node.discovered", Text: discoveredText(f), Node: &hook.Node{Addr: f.Addr, MAC: f.MAC}})
	}
	if name, ok := s.acceptByRule(ctx, macID(mac)); ok {
		return api.Task{Kind: api.TaskReboot, Node: name}, nil
	}
	return api.Task{Kind: api.TaskNone, RetryMS: unknownEvery.Milliseconds(),
		Say: fmt.Sprintf("this machine is not known; it waits for: mimeo node accept %s NAME", macID(mac))}, nil
}

func (s *Server) ifaceOf(a netip.Addr) (iface, bool) {
	for _, f := range s.ifaces {
		if _, ok := f.subnet(a); ok {
			return f, true
		}
	}
	return iface{}, false
}

func (s *Server) listDiscovered(*http.Request) (any, error) { return s.found.list(), nil }

func (s *Server) forgetDiscovered(r *http.Request) (any, error) {
	f, ok := s.found.get(r.PathValue("id"))
	if !ok {
		return nil, notDiscovered(r.PathValue("id"))
	}
	s.found.forget(f.MAC)
	return api.Affected{Names: []string{f.ID}}, nil
}

func notDiscovered(id string) error {
	return &api.Error{Code: "not_found", Message: fmt.Sprintf("no machine %q was discovered", id), Hint: `"mimeo node discovered" shows all`}
}

// acceptDiscovered makes a machine a node, at a person's word.
func (s *Server) acceptDiscovered(r *http.Request) (any, error) {
	ctx := r.Context()
	req, err := read[api.DiscoveredAccept](r)
	if err != nil {
		return nil, err
	}
	f, ok := s.found.get(req.ID)
	if !ok {
		return nil, notDiscovered(req.ID)
	}
	set := map[string]string{}
	if f.Hardware != nil && f.Hardware.BMC != nil && f.Hardware.BMC.Addr != "" {
		set["bmc"] = "ipmi://" + f.Hardware.BMC.Addr
	}
	maps.Copy(set, req.Set)
	if err := s.accept(ctx, f, req.Name, set, ""); err != nil {
		return nil, err
	}
	return s.again(ctx, []node.Node{{Name: req.Name}})
}

// accept makes a machine a node, with its network cards, the one that it booted from first.
func (s *Server) accept(ctx context.Context, f api.Discovered, name node.Name, set map[string]string, why string) error {
	all := map[string]string{"mac": f.MAC}
	if h := f.Hardware; h != nil {
		for _, n := range h.NICs {
			mac, err := netboot.ParseMAC(n.MAC)
			if err != nil || mac == f.MAC || mac == "00:00:00:00:00:00" {
				continue
			}
			if _, taken, err := s.db.NodeByMAC(ctx, mac); err == nil && !taken && !strings.Contains(all["mac"], mac) {
				all["mac"] += "," + mac
			}
		}
	}
	maps.Copy(all, set)
	e := inventory.Edits{Nodes: []inventory.Edit{{Name: string(name), Set: all, Make: inventory.MustMake}}}
	if _, err := s.change(ctx, e, false, ""); err != nil {
		return err
	}
	if err := s.db.Learn(ctx, name, f.Firmware, f.Arch); err != nil {
		return err
	}
	if f.Hardware != nil {
		if err := s.db.SetHardware(ctx, name, *f.Hardware); err != nil {
			return err
		}
	}
	s.event(ctx, api.Event{Node: name, Kind: "accepted", Addr: f.Addr, Text: fmt.Sprintf("discovered on %s as %s%s; it boots anew within %s, as this node", f.Interface, f.MAC, why, unknownEvery)})
	s.found.forget(f.MAC)
	return nil
}
