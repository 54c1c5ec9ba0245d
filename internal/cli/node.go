package cli

import (
	"bufio"
	"encoding/csv"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/cluster/noderange"
)

func nodeCmd(t *terminal) *cobra.Command {
	c := &cobra.Command{Use: "node", Short: "Add, list, show and change nodes; see what happened to them"}
	c.AddCommand(nodeAddCmd(t), nodeListCmd(t), nodeShowCmd(t), nodeSetCmd(t), nodeRmCmd(t), nodeEventsCmd(t), nodeDiscoveredCmd(t), nodeAcceptCmd(t))
	return c
}

func nodeAddCmd(t *terminal) *cobra.Command {
	var mac, macFrom, ip, bmc, user, passwordFile, arch, groups string
	var passwordStdin bool
	var set []string
	c := &cobra.Command{
		Use:   "add RANGE",
		Short: "Make nodes known",
		Long: `Make nodes known. Only known nodes are answered when they netboot.

A value for several nodes may hold a row in brackets, which is dealt out in
order: n[01-40] with --bmc "redfish://10.0.9.[1-40]".

--mac-from reads a CSV file with the columns node,mac (others are passed over);
its first line may name the columns.`,
		Example: `  mimeo node add n01 --mac 52:54:00:00:00:01 --bmc ipmi://10.0.9.1 --user ops --password-stdin
  mimeo node add "n[01-40]" --mac-from switch.csv --bmc "redfish://10.0.9.[1-40]" --user ops --password-file bmc.pw
  mimeo node add n50 --mac 52:54:00:00:00:50          # no BMC: a person switches it`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			names, err := noderange.Expand(args[0], nil)
			if err != nil {
				return err
			}
			if len(names) == 0 {
				return usagef("%q names no node", args[0])
			}
			req := api.NodeAdd{Range: args[0], Set: map[string]string{}, PerNode: map[node.Name]map[string]string{}}
			put := func(n node.Name, key, value string) {
				if req.PerNode[n] == nil {
					req.PerNode[n] = map[string]string{}
				}
				req.PerNode[n][key] = value
			}
			for _, f := range []struct{ key, value string }{{"mac", mac}, {"ip", ip}, {"bmc", bmc}} {
				if f.value == "" {
					continue
				}
				if f.key == "bmc" && !node.OwnBMC(f.value) { // commands, magic packets and people are for any number
					for _, n := range names {
						put(n, f.key, f.value)
					}
					continue
				}
				values, err := deal(f.value, len(names))
				if err != nil {
					return usagef("--%s: %w", f.key, err)
				}
				for i, n := range names {
					put(n, f.key, values[i])
				}
			}
			if macFrom != "" {
				macs, err := readMACs(macFrom)
				if err != nil {
					return err
				}
				for _, n := range names {
					m, ok := macs[n]
					if !ok {
						return fmt.Errorf("%s has no line for %s", macFrom, n)
					}
					put(n, "mac", strings.Join(m, ","))
				}
			}
			for key, value := range map[string]string{"bmc.user": user, "arch": arch, "groups": groups} {
				if value != "" {
					req.Set[key] = value
				}
			}
			pw, err := t.password(passwordStdin, passwordFile)
			if err != nil {
				return err
			}
			if pw != "" {
				req.Set["bmc.password"] = pw
			}
			if err := parseSet(set, req.Set); err != nil {
				return err
			}
			return t.nodes(cmd, http.MethodPost, "/v1/nodes", req)
		},
	}
	f := c.Flags()
	f.StringVar(&mac, "mac", "", "MAC address of the card it boots from; several with commas")
	f.StringVar(&macFrom, "mac-from", "", "CSV `file` with node,mac")
	f.StringVar(&ip, "ip", "", "fixed IPv4 address; without one it gets one from the pool")
	f.StringVar(&bmc, "bmc", "", "`URL` of the BMC: ipmi://ADDRESS, redfish://ADDRESS, exec:NAME, wol:, manual: (the default)")
	f.StringVar(&user, "user", "", "BMC user")
	f.BoolVar(&passwordStdin, "password-stdin", false, "read the BMC password from standard input")
	f.StringVar(&passwordFile, "password-file", "", "read the BMC password from a `file`")
	f.StringVar(&groups, "groups", "", "groups, with commas")
	f.StringVar(&arch, "arch", "", "amd64, arm64 or ppc64el; learnt from its first netboot otherwise")
	f.StringArrayVar(&set, "set", nil, "any other `KEY=VALUE` of \"mimeo node set\"")
	return c
}

// deal makes n values of one that may hold a row in brackets.
func deal(value string, n int) ([]string, error) {
	if !strings.Contains(value, "[") {
		if n > 1 {
			return nil, fmt.Errorf("%d nodes cannot all have %q: give a row in brackets", n, value)
		}
		return []string{value}, nil
	}
	values, err := brackets(value)
	if err != nil {
		return nil, err
	}
	if len(values) != n {
		return nil, fmt.Errorf("%q makes %d values for %d nodes", value, len(values), n)
	}
	return values, nil
}

// brackets deals out the one row of numbers in a text: a[08-10,12]b makes a08b, a09b, a10b, a12b.
func brackets(text string) ([]string, error) {
	head, rest, _ := strings.Cut(text, "[")
	row, tail, ok := strings.Cut(rest, "]")
	if !ok || strings.Contains(tail, "[") {
		return nil, fmt.Errorf("%q: want one row in brackets, as 10.0.9.[1-40]", text)
	}
	var out []string
	for _, part := range strings.Split(row, ",") {
		lo, hi, isRow := strings.Cut(part, "-")
		if !isRow {
			hi = lo
		}
		from, err1 := strconv.Atoi(lo)
		to, err2 := strconv.Atoi(hi)
		if err1 != nil || err2 != nil || from > to || to-from >= 100000 {
			return nil, fmt.Errorf("%q: %q is no row of numbers", text, part)
		}
		for i := from; i <= to; i++ {
			out = append(out, fmt.Sprintf("%s%0*d%s", head, width(lo), i, tail))
		}
	}
	return out, nil
}

// width is how many digits a row keeps: only leading zeros ask for it.
func width(first string) int {
	if strings.HasPrefix(first, "0") {
		return len(first)
	}
	return 1
}

func readMACs(path string) (map[node.Name][]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r := csv.NewReader(f)
	r.FieldsPerRecord = -1
	r.TrimLeadingSpace = true
	nodeCol, macCol := 0, 1
	out := map[node.Name][]string{}
	for line := 1; ; line++ {
		rec, err := r.Read()
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if i := slices.Index(rec, "mac"); line == 1 && i >= 0 {
			macCol = i
			nodeCol = max(0, slices.Index(rec, "node"))
			continue
		}
		if len(rec) <= max(nodeCol, macCol) {
			return nil, fmt.Errorf("%s:%d: want node and mac", path, line)
		}
		n := node.Name(strings.TrimSpace(rec[nodeCol]))
		out[n] = append(out[n], strings.TrimSpace(rec[macCol]))
	}
}

func (t *terminal) password(stdin bool, file string) (string, error) {
	switch {
	case file != "":
		b, err := os.ReadFile(file)
		return strings.TrimRight(string(b), "\r\n"), err
	case stdin && isTTY(t.in):
		fmt.Fprint(t.err, "BMC password: ")
		b, err := term.ReadPassword(int(t.in.(*os.File).Fd()))
		fmt.Fprintln(t.err)
		return string(b), err
	case stdin:
		s, err := bufio.NewReader(t.in).ReadString('\n')
		if err == io.EOF {
			err = nil
		}
		return strings.TrimRight(s, "\r\n"), err
	}
	return "", nil
}

func parseSet(args []string, into map[string]string) error {
	for _, a := range args {
		k, v, ok := strings.Cut(a, "=")
		if !ok || k == "" {
			return usagef("%q: want KEY=VALUE", a)
		}
		into[k] = v
	}
	return nil
}

// nodes sends a change and lists the nodes that it touched.
func (t *terminal) nodes(cmd *cobra.Command, method, path string, req any) error {
	c, err := connect()
	if err != nil {
		return err
	}
	var nodes []api.NodeStatus
	if err := c.Do(cmd.Context(), method, path, req, &nodes); err != nil {
		return err
	}
	if t.json {
		return t.printJSON(nodes)
	}
	t.listNodes(nodes)
	return nil
}

func (t *terminal) listNodes(nodes []api.NodeStatus) {
	rows := [][]string{{"NODE", "BOOTS", "JOB", "ARCH", "FIRMWARE", "MAC", "BMC", "SEEN"}}
	for _, n := range nodes {
		mac, seen, job := "-", "never", "-"
		if len(n.NICs) > 0 {
			mac = n.NICs[0].MAC
		}
		if n.SeenAt != nil {
			seen = ago(*n.SeenAt)
		}
		if n.Job != "" {
			job = n.Job + " " + string(n.JobPhase)
		}
		rows = append(rows, []string{string(n.Name), string(n.Boot), job, dash(string(n.Arch)), dash(string(n.Firmware)), mac, dash(n.BMC.URL), seen})
	}
	table(t.out, rows)
}

func nodeListCmd(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use: "list [RANGE]", Short: "List nodes", Aliases: []string{"ls"},
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := "/v1/nodes"
			if len(args) > 0 {
				path += "?range=" + url.QueryEscape(args[0])
			}
			return t.nodes(cmd, http.MethodGet, path, nil)
		},
	}
}

func nodeShowCmd(t *terminal) *cobra.Command {
	var explain bool
	c := &cobra.Command{
		Use: "show RANGE", Short: "Show all that is known of a node",
		Long: `Show all that is known of a node, with what it inherits from its groups.
--explain shows each key instead, its value, and where that comes from: said of
the node itself, of a group, learnt from its requests, or the default.`,
		Example: "  mimeo node show n07\n  mimeo node show n07 --explain",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if explain {
				return t.explainNodes(cmd, args[0])
			}
			nodes, err := t.hit(cmd, args[0])
			if err != nil {
				return err
			}
			if t.json {
				return t.printJSON(nodes)
			}
			for i, n := range nodes {
				if i > 0 {
					fmt.Fprintln(t.out)
				}
				t.showNode(n)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&explain, "explain", false, "show where each value comes from")
	return c
}

func (t *terminal) showNode(n api.NodeStatus) {
	var rows [][]string
	add := func(key, value string) {
		if value != "" {
			rows = append(rows, []string{key, value})
		}
	}
	add("node", string(n.Name))
	boot := string(n.Boot)
	if n.BootOnce {
		boot += " (once)"
	}
	add("boots", boot)
	if n.Job != "" {
		add("job", n.Job+" "+string(n.JobPhase))
	}
	add("groups", strings.Join(n.Groups, ","))
	for _, nic := range n.NICs {
		add("mac", strings.TrimSpace(nic.MAC+" "+nic.IP))
	}
	add("bmc", n.BMC.URL)
	add("bmc.user", n.BMC.User)
	if n.BMC.HasPassword {
		add("bmc.password", "(set)")
	}
	add("arch", string(n.Arch))
	add("firmware", string(n.Firmware))
	add("profile", n.Profile)
	add("hostname", n.Hostname)
	add("disk.serial", n.Disk.Serial)
	add("disk.wwn", n.Disk.WWN)
	add("disk.bus", n.Disk.Bus)
	add("disk.by_path", n.Disk.ByPath)
	if n.Disk.MinSize > 0 {
		add("disk.min_size", size(n.Disk.MinSize))
	}
	if n.Disk.MaxSize > 0 {
		add("disk.max_size", size(n.Disk.MaxSize))
	}
	add("knobs.disk_boot", n.Knobs.DiskBoot)
	add("knobs.loader", n.Knobs.Loader)
	add("knobs.nvram", n.Knobs.NVRAM)
	add("knobs.console", n.Knobs.Console)
	add("knobs.cmdline", n.Knobs.Cmdline)
	keys := make([]string, 0, len(n.Labels))
	for k := range n.Labels {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		add("label."+k, n.Labels[k])
	}
	add("last image", n.LastImage)
	if n.SeenAt != nil {
		add("seen", ago(*n.SeenAt)+" ("+n.LastEvent+")")
	}
	if h := n.Hardware; h != nil {
		add("machine", strings.TrimSpace(h.Vendor+" "+h.Product+", serial "+dash(h.Serial)))
		if h.UEFI {
			add("secure boot", map[bool]string{true: "on", false: "off"}[h.SecureBoot])
		}
		if h.Boot != nil {
			for _, e := range h.Boot.Entries {
				add("boot entry", bootEntryText(e))
			}
		}
		add("cpu", fmt.Sprintf("%s, %d of them", h.CPU, h.CPUs))
		add("memory", size(h.Memory))
		for _, d := range h.Disks {
			add("disk", strings.TrimSpace(fmt.Sprintf("%s, %s, %s, serial %s, wwn %s, %s", d.Name, size(d.Size), dash(d.Bus), dash(d.Serial), dash(d.WWN), d.Model)))
		}
		for _, nic := range h.NICs {
			link := "no link"
			if nic.Link {
				link = "link"
			}
			add("nic", strings.TrimSpace(fmt.Sprintf("%s, %s, %s, %s", nic.Name, nic.MAC, nic.Driver, link)))
		}
	}
	table(t.out, rows)
}

// bootEntryText is an entry of a node's firmware in words.
func bootEntryText(e api.BootEntry) string {
	s := fmt.Sprintf("%s %s, %s", e.Number, e.Name, e.Kind)
	if e.Path != "" {
		s += ", " + e.Path
	}
	if !e.Active {
		s += ", not active"
	}
	return s
}

func nodeRmCmd(t *terminal) *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "rm RANGE", Short: "Forget nodes", Long: "Forget nodes, with their events. Their disks and images stay as they are.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			nodes, err := t.hit(cmd, args[0])
			if err != nil {
				return err
			}
			if !yes {
				if err := t.ask(fmt.Sprintf("forget %s (%s)?", count(len(nodes), "node"), fold(nodes))); err != nil {
					return err
				}
			}
			c, err := connect()
			if err != nil {
				return err
			}
			var a api.Affected
			if err := c.Do(cmd.Context(), http.MethodDelete, "/v1/nodes?range="+url.QueryEscape(args[0]), nil, &a); err != nil {
				return err
			}
			if t.json {
				return t.printJSON(a)
			}
			fmt.Fprintf(t.err, "forgot %s\n", count(len(a.Names), "node"))
			return nil
		},
	}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

// hit tells which nodes a range names.
func (t *terminal) hit(cmd *cobra.Command, expr string) ([]api.NodeStatus, error) {
	c, err := connect()
	if err != nil {
		return nil, err
	}
	var nodes []api.NodeStatus
	err = c.Do(cmd.Context(), http.MethodGet, "/v1/nodes?range="+url.QueryEscape(expr), nil, &nodes)
	if err == nil && len(nodes) == 0 {
		err = &api.Error{Code: "not_found", Message: fmt.Sprintf("%q names no node", expr), Hint: `"mimeo node list" shows all`}
	}
	return nodes, err
}

func fold(nodes []api.NodeStatus) string {
	names := make([]node.Name, len(nodes))
	for i, n := range nodes {
		names[i] = n.Name
	}
	return noderange.Fold(names)
}

// exactly is a range of just these nodes, in this order: what was shown and agreed to, whatever groups and attributes become meanwhile.
func exactly(nodes []api.NodeStatus) string {
	names := make([]string, len(nodes))
	for i, n := range nodes {
		names[i] = string(n.Name)
	}
	if all := strings.Join(names, ","); len(all) <= 32<<10 { // a range is 64 KiB at most
		return all
	}
	return fold(nodes) // in another order
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func nodeEventsCmd(t *terminal) *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use:   "events NODE",
		Short: "Show what happened to a node: each step of its boots and jobs",
		Long:  `Show what happened to a node, oldest first: each offer, loader, script, kernel, initrd and rootimg, each step of its jobs, each power command. It answers "why did n07 boot that?".`,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			var events []api.Event
			if err := c.Do(cmd.Context(), http.MethodGet, fmt.Sprintf("/v1/nodes/%s/events?limit=%d", url.PathEscape(args[0]), limit), nil, &events); err != nil {
				return err
			}
			if t.json {
				return t.printJSON(events)
			}
			t.listEvents(events)
			return nil
		},
	}
	c.Flags().IntVarP(&limit, "limit", "n", 100, "the newest `N`")
	return c
}

func (t *terminal) listEvents(events []api.Event) {
	rows := [][]string{{"TIME", "EVENT", "JOB", "FROM", "WHAT"}}
	for _, e := range events {
		rows = append(rows, []string{moment(e.Time), e.Kind, dash(e.Job), dash(e.Addr), e.Text})
	}
	table(t.out, rows)
}
