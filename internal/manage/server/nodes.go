package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"mimeo/internal/boot/netboot"
	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/cluster/noderange"
	"mimeo/internal/manage/inventory"
	"mimeo/internal/manage/power"
)

// nodeStatuses adds what is known of nodes just now.
func (s *Server) nodeStatuses(ctx context.Context, nodes []node.Node) ([]api.NodeStatus, error) {
	out := []api.NodeStatus{}
	for _, n := range nodes {
		f, err := s.db.Facts(ctx, n.Name)
		if err != nil {
			return nil, err
		}
		st := api.NodeStatus{Node: n, Hardware: f.Hardware, SeenAt: f.SeenAt, LastEvent: f.LastEvent}
		if r, ok := s.jobs.OfNode(n.Name); ok {
			st.Job, st.JobPhase = r.ID, r.Phase
		}
		out = append(out, st)
	}
	return out, nil
}

// again reads nodes anew after a change.
func (s *Server) again(ctx context.Context, nodes []node.Node) (any, error) {
	for i := range nodes {
		n, err := s.db.Node(ctx, nodes[i].Name)
		if err != nil {
			return nil, err
		}
		nodes[i] = n
	}
	return s.nodeStatuses(ctx, nodes)
}

func (s *Server) listNodes(r *http.Request) (any, error) {
	nodes, err := s.expand(r.Context(), r.FormValue("range"), true)
	if err != nil {
		return nil, err
	}
	return s.nodeStatuses(r.Context(), nodes)
}

func (s *Server) addNodes(r *http.Request) (any, error) {
	req, err := read[api.NodeAdd](r)
	if err != nil {
		return nil, err
	}
	names, err := noderange.Expand(req.Range, nil)
	if err != nil {
		return nil, &api.Error{Code: "bad_request", Message: err.Error()}
	}
	for name := range req.PerNode {
		if !slices.Contains(names, name) {
			return nil, &api.Error{Code: "bad_request", Message: fmt.Sprintf("per_node names %s, which %q does not", name, req.Range)}
		}
	}
	var nodes []node.Node
	err = s.db.Update(r.Context(), func(t *inventory.Tx) error {
		for _, name := range names {
			if _, err := t.Node(name); err == nil {
				return &api.Error{Code: "conflict", Message: fmt.Sprintf("node %s is there already", name), Hint: fmt.Sprintf(`change it with "mimeo node set %s KEY=VALUE"`, name)}
			}
			n := node.Node{Name: name, Boot: node.BootDisk, Created: time.Now()}
			password, set := "", false
			for _, m := range []map[string]string{req.Set, req.PerNode[name]} {
				p, ok, err := apply(&n, m)
				if err != nil {
					return err
				}
				if ok {
					password, set = p, true
				}
			}
			if err := t.PutNode(n); err != nil {
				return err
			}
			if set {
				if err := t.SetBMCPassword(name, password); err != nil {
					return err
				}
			}
			nodes = append(nodes, n)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s.again(r.Context(), nodes)
}

func (s *Server) setNodes(r *http.Request) (any, error) {
	req, err := read[api.NodeSet](r)
	if err != nil {
		return nil, err
	}
	nodes, err := s.expand(r.Context(), req.Range, false)
	if err != nil {
		return nil, err
	}
	err = s.db.Update(r.Context(), func(t *inventory.Tx) error {
		for _, old := range nodes {
			n, err := t.Node(old.Name)
			if err != nil {
				return err
			}
			password, set, err := apply(&n, req.Set)
			if err != nil {
				return err
			}
			if err := t.PutNode(n); err != nil {
				return err
			}
			if set {
				if err := t.SetBMCPassword(n.Name, password); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s.again(r.Context(), nodes)
}

func (s *Server) removeNodes(r *http.Request) (any, error) {
	nodes, err := s.expand(r.Context(), r.FormValue("range"), false)
	if err != nil {
		return nil, err
	}
	out := api.Affected{Names: []string{}}
	err = s.db.Update(r.Context(), func(t *inventory.Tx) error {
		for _, n := range nodes {
			if id, err := t.ActiveJob(n.Name); err != nil {
				return err
			} else if id != "" {
				return &api.Error{Code: "conflict", Message: fmt.Sprintf("%s has an active job, %s", n.Name, id), Hint: "cancel it first: mimeo job cancel " + id}
			}
			if err := t.DeleteNode(n.Name); err != nil {
				return err
			}
			out.Names = append(out.Names, string(n.Name))
		}
		return nil
	})
	return out, err
}

func (s *Server) nodeEvents(r *http.Request) (any, error) {
	name := node.Name(r.PathValue("name"))
	if _, err := s.node(r.Context(), name); err != nil {
		return nil, err
	}
	limit := 100
	if l, err := strconv.Atoi(r.FormValue("limit")); err == nil && l > 0 {
		limit = min(l, 10000)
	}
	return s.db.Events(r.Context(), name, "", limit)
}

func (s *Server) node(ctx context.Context, name node.Name) (node.Node, error) {
	n, err := s.db.Node(ctx, name)
	if err != nil {
		return n, &api.Error{Code: "not_found", Message: fmt.Sprintf("no node %q", name), Hint: `"mimeo node list" shows all`}
	}
	return n, nil
}

func (s *Server) explainBoot(r *http.Request) (any, error) {
	ctx := r.Context()
	n, err := s.node(ctx, node.Name(r.PathValue("name")))
	if err != nil {
		return nil, err
	}
	out := api.BootExplain{Node: n.Name, Arch: n.Arch, Firmware: n.Firmware}
	ask := netboot.Ask{Firmware: n.Firmware, Arch: n.Arch, IPXE: true}
	if len(n.NICs) > 0 {
		ask.MAC = n.NICs[0].MAC
	}
	first := ask
	first.IPXE = false
	loader := netboot.Decide(n, first)
	o := netboot.Decide(n, ask)
	out.Decision, out.Why, out.Loader = string(o.Decision), o.Why, loader.File()
	if n.Firmware == node.FirmwareUnknown {
		// The boot state decides alike for every firmware; only loader and script wait for the first netboot.
		o = netboot.Decide(n, netboot.Ask{Firmware: node.BIOS, Arch: node.AMD64, IPXE: true, MAC: ask.MAC})
		out.Decision, out.Loader = string(o.Decision), ""
		if o.Decision == netboot.Stateless {
			out.Decision += " " + o.Profile
		}
		out.Why = o.Why + "; it has not netbooted yet, so its firmware, and with it loader and script, is not known"
		return out, nil
	}
	if o.Decision == netboot.Ignore {
		return out, nil
	}
	if o.Decision == netboot.Stateless {
		out.Decision += " " + o.Profile
	}
	addr := netip.MustParseAddr("127.0.0.1")
	if len(s.ifaces) > 0 {
		addr = s.ifaces[0].prefix.Addr()
	}
	ask.Base = s.bootBase(addr)
	kind := o.Script
	text, _, err := s.script(ctx, n, kind, ask, addr, false)
	if err != nil {
		out.Script = "(no script just now: " + err.Error() + ")"
		return out, nil
	}
	for _, w := range strings.Fields(text) {
		if v, ok := strings.CutPrefix(w, api.ParamToken+"="); ok {
			text = strings.ReplaceAll(text, v, "***")
		}
	}
	out.Script = text
	return out, nil
}

func (s *Server) setBoot(r *http.Request) (any, error) {
	ctx := r.Context()
	req, err := read[api.BootSet](r)
	if err != nil {
		return nil, err
	}
	switch req.State {
	case node.BootDisk, node.BootShell, node.BootStateless:
	case node.BootCapture, node.BootDeploy:
		return nil, &api.Error{Code: "bad_request", Message: fmt.Sprintf("boot state %s comes with a job", req.State), Hint: fmt.Sprintf(`use "mimeo %s"`, req.State)}
	default:
		return nil, &api.Error{Code: "bad_request", Message: fmt.Sprintf("boot state %q is none of disk, shell, stateless", req.State)}
	}
	nodes, err := s.expand(ctx, req.Range, false)
	if err != nil {
		return nil, err
	}
	err = s.db.Update(ctx, func(t *inventory.Tx) error {
		for _, n := range nodes {
			if id, err := t.ActiveJob(n.Name); err != nil {
				return err
			} else if id != "" {
				return &api.Error{Code: "conflict", Message: fmt.Sprintf("%s has an active job, %s, which decides what it boots", n.Name, id), Hint: "cancel it first: mimeo job cancel " + id}
			}
			if err := t.SetBoot(n.Name, req.State, req.Profile, req.Once); err != nil {
				return err
			}
			if req.State != node.BootDisk {
				if err := t.SetBootNonce(n.Name, req.SSHKeys); err != nil {
					return err
				}
			}
			if err := t.AddEvent(&api.Event{Node: n.Name, Kind: "boot-state", Text: strings.TrimSpace(fmt.Sprintf("set to %s %s", req.State, req.Profile))}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if req.Cycle {
		if err := notCycled(s.powerAll(ctx, nodes, "cycle", req.State != node.BootDisk)); err != nil {
			return nil, err
		}
	}
	return s.again(ctx, nodes)
}

// notCycled is the error for nodes whose boot state was set and whose power could not be switched.
func notCycled(results []api.PowerResult) error {
	var out *api.Error
	for _, res := range results {
		switch {
		case res.Error == nil:
		case out == nil:
			out = &api.Error{Code: res.Error.Code, Message: "the boot state is set, but " + res.Error.Message, Hint: res.Error.Hint}
		default:
			out.Message += "; " + res.Error.Message
		}
	}
	if out == nil {
		return nil
	}
	return out
}

func (s *Server) switchPower(r *http.Request) (any, error) {
	req, err := read[api.PowerDo](r)
	if err != nil {
		return nil, err
	}
	if !slices.Contains([]string{"on", "off", "soft", "cycle", "reset", "status", "pxe", "disk"}, req.Action) {
		return nil, &api.Error{Code: "bad_request", Message: fmt.Sprintf("power action %q is none of on, off, soft, cycle, reset, status, pxe, disk", req.Action)}
	}
	nodes, err := s.expand(r.Context(), req.Range, false)
	if err != nil {
		return nil, err
	}
	return s.powerAll(r.Context(), nodes, req.Action, false), nil
}

// powerAll does a power command on nodes, as many at once as the pool lets through. With pxe, the next boot is set to
// the network before.
func (s *Server) powerAll(ctx context.Context, nodes []node.Node, action string, pxe bool) []api.PowerResult {
	out := make([]api.PowerResult, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() {
			res := api.PowerResult{Node: n.Name}
			err := s.withPower(ctx, n, func(c power.Controller) error {
				ctx, cancel := context.WithTimeout(ctx, s.powerLimit())
				defer cancel()
				uefi := n.Firmware == node.UEFI || n.Firmware == node.UEFIHTTP
				if pxe {
					// Many nodes boot the network first anyhow, and some BMCs cannot choose.
					if err := c.SetNextBoot(ctx, power.NextBoot{Device: power.DevicePXE, UEFI: uefi}); err != nil && !errors.Is(err, power.ErrByHand) {
						s.event(context.WithoutCancel(ctx), api.Event{Node: n.Name, Kind: "power", Text: "next boot could not be set: " + err.Error()})
					}
				}
				if err := doPower(ctx, c, action, uefi); err != nil {
					return err
				}
				st, err := c.Status(ctx)
				res.State = string(st)
				return err
			})
			if err != nil {
				res.Error = asError(err)
			}
			if action != "status" {
				text := action + ": " + res.State
				if res.Error != nil {
					text = action + ": " + res.Error.Message
				}
				s.event(context.WithoutCancel(ctx), api.Event{Node: n.Name, Kind: "power", Text: text})
			}
			out[i] = res
		})
	}
	wg.Wait()
	return out
}

// powerLimit is how long a power command may take, once it is its turn.
func (s *Server) powerLimit() time.Duration {
	if d := time.Duration(s.cfg.Limits.Power); d > 0 {
		return d
	}
	return 2 * time.Minute
}

func doPower(ctx context.Context, c power.Controller, action string, uefi bool) error {
	switch action {
	case "on":
		return c.On(ctx)
	case "off":
		return c.Off(ctx)
	case "soft":
		return c.SoftOff(ctx)
	case "cycle":
		return c.Cycle(ctx)
	case "reset":
		return c.Reset(ctx)
	case "pxe":
		return c.SetNextBoot(ctx, power.NextBoot{Device: power.DevicePXE, UEFI: uefi})
	case "disk":
		return c.SetNextBoot(ctx, power.NextBoot{Device: power.DeviceDisk, UEFI: uefi})
	}
	return nil
}

// apply sets keys of a node; the BMC's password is handed back, as it is kept apart.
func apply(n *node.Node, set map[string]string) (password string, hasPassword bool, err error) {
	keys := make([]string, 0, len(set))
	for k := range set {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	slices.SortStableFunc(keys, func(a, b string) int { // ip needs mac before it
		return boolInt(a == "ip") - boolInt(b == "ip")
	})
	for _, k := range keys {
		if k == "bmc.password" {
			password, hasPassword = set[k], true
			continue
		}
		if err := setKey(n, k, strings.TrimSpace(set[k])); err != nil {
			return "", false, &api.Error{Code: "bad_request", Message: fmt.Sprintf("%s: %s: %v", n.Name, k, err), Hint: `"mimeo node set --help" lists the keys`}
		}
	}
	return password, hasPassword, nil
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

func setKey(n *node.Node, key, v string) error {
	oneOf := func(p *string, allowed ...string) error {
		if v != "" && !slices.Contains(allowed, v) {
			return fmt.Errorf("%q is none of %s", v, strings.Join(allowed, ", "))
		}
		*p = v
		return nil
	}
	switch key {
	case "mac":
		old := n.NICs
		n.NICs = nil
		for _, m := range splitList(v) {
			hw, err := net.ParseMAC(m)
			if err != nil || len(hw) != 6 {
				return fmt.Errorf("%q is no MAC address", m)
			}
			nic := node.NIC{MAC: hw.String()}
			for _, o := range old {
				if o.MAC == nic.MAC {
					nic.IP = o.IP
				}
			}
			n.NICs = append(n.NICs, nic)
		}
	case "ip":
		if len(n.NICs) == 0 {
			return fmt.Errorf("the node has no network card yet: set mac first")
		}
		if v != "" {
			a, err := netip.ParseAddr(v)
			if err != nil || !a.Is4() {
				return fmt.Errorf("%q is no IPv4 address", v)
			}
			v = a.String()
		}
		n.NICs[0].IP = v
	case "bmc":
		if v != "" && v != "manual:" {
			u, err := url.Parse(v)
			if err != nil || u.Host == "" || !slices.Contains([]string{"ipmi", "redfish", "redfish+http"}, u.Scheme) {
				return fmt.Errorf("%q: want ipmi://ADDRESS, redfish://ADDRESS or manual:", v)
			}
			if u.User != nil {
				return fmt.Errorf("put the user into bmc.user and the password into bmc.password, not into the URL")
			}
		}
		n.BMC.URL = v
	case "bmc.user":
		n.BMC.User = v
	case "bmc.insecure":
		b, err := strconv.ParseBool(orDefault(v, "false"))
		n.BMC.Insecure = b
		return err
	case "bmc.cipher_suite":
		c, err := strconv.Atoi(orDefault(v, "0"))
		if err != nil || c != 0 && c != 3 && c != 17 {
			return fmt.Errorf("%q: want 3 or 17", v)
		}
		n.BMC.CipherSuite = c
	case "arch":
		return oneOf((*string)(&n.Arch), string(node.AMD64), string(node.ARM64), string(node.PPC64EL))
	case "firmware":
		return oneOf((*string)(&n.Firmware), string(node.BIOS), string(node.UEFI), string(node.UEFIHTTP), string(node.OpenFirmware), string(node.OPAL))
	case "groups":
		n.Groups = splitList(v)
		for _, g := range n.Groups {
			if strings.ContainsAny(g, "[]()@,/ =!^") || g == "all" {
				return fmt.Errorf("%q is no name for a group", g)
			}
		}
	case "profile":
		n.Profile = v
	case "hostname":
		if len(v) > 253 || strings.ContainsAny(v, " \t\n/") {
			return fmt.Errorf("%q is no host name", v)
		}
		n.Hostname = v
	case "disk.serial":
		n.Disk.Serial = v
	case "disk.wwn":
		n.Disk.WWN = v
	case "disk.by_path":
		n.Disk.ByPath = v
	case "disk.bus":
		return oneOf(&n.Disk.Bus, "nvme", "sata", "scsi", "virtio", "usb", "mmc")
	case "disk.min_size", "disk.max_size":
		b, err := parseSize(v)
		if err != nil {
			return err
		}
		if key == "disk.min_size" {
			n.Disk.MinSize = b
		} else {
			n.Disk.MaxSize = b
		}
	case "knobs.disk_boot":
		return oneOf(&n.Knobs.DiskBoot, "sanboot", "exit")
	case "knobs.loader":
		return oneOf(&n.Knobs.Loader, netboot.KnobLoaderOwn, netboot.KnobLoaderSecure)
	case "knobs.console":
		if strings.ContainsAny(v, " \t\n$") {
			return fmt.Errorf("%q is no console", v)
		}
		n.Knobs.Console = v
	case "knobs.cmdline":
		n.Knobs.Cmdline = v
	default:
		label, ok := strings.CutPrefix(key, "label.")
		if !ok || label == "" {
			return fmt.Errorf("no such key")
		}
		if err := checkScriptLabel(label, v); err != nil {
			return err
		}
		if v == "" {
			delete(n.Labels, label)
			return nil
		}
		if n.Labels == nil {
			n.Labels = map[string]string{}
		}
		n.Labels[label] = v
	}
	return nil
}

// attributes are a node's keys and values, as noderanges select by them.
func attributes(n node.Node) map[string]string {
	m := map[string]string{"name": string(n.Name), "arch": string(n.Arch), "firmware": string(n.Firmware), "groups": strings.Join(n.Groups, ","), "profile": n.Profile, "boot": string(n.Boot),
		"bmc": n.BMC.URL, "bmc.user": n.BMC.User, "hostname": n.Hostname, "disk.serial": n.Disk.Serial, "disk.wwn": n.Disk.WWN, "disk.bus": n.Disk.Bus, "disk.by_path": n.Disk.ByPath, "image": n.LastImage}
	if len(n.NICs) > 0 {
		m["mac"], m["ip"] = n.NICs[0].MAC, n.NICs[0].IP
	}
	for k, v := range n.Labels {
		m["label."+k] = v
	}
	return m
}

func splitList(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}

func orDefault(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// parseSize reads bytes, or a number with K, M, G or T: powers of 1024 with an i (GiB), of 1000 as disks are sold.
func parseSize(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	num := strings.TrimRight(s, "KMGTiB")
	f, err := strconv.ParseFloat(strings.TrimSpace(num), 64)
	if err != nil || f < 0 || f > 1e15 {
		return 0, fmt.Errorf("%q: want bytes, or a number with K, M, G or T", s)
	}
	unit := strings.TrimSuffix(strings.TrimSpace(s[len(num):]), "B")
	base := 1000.0
	if strings.HasSuffix(unit, "i") {
		base, unit = 1024, strings.TrimSuffix(unit, "i")
	}
	i := strings.Index("KMGT", unit)
	if len(unit) > 1 || i < 0 {
		return 0, fmt.Errorf("%q: want bytes, or a number with K, M, G or T", s)
	}
	if unit != "" {
		for range i + 1 {
			f *= base
		}
	}
	if f > 1<<62 {
		return 0, fmt.Errorf("%q is too large", s)
	}
	return int64(f), nil
}

// asError makes any error one that crosses the wire.
func asError(err error) *api.Error {
	return toAPIError(err)
}
