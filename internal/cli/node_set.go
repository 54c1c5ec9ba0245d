package cli

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

// keysHelp lists the keys of nodes and groups.
const keysHelp = `Keys: mac (several with commas), ip (one a card, in their order), bmc, bmc.user,
bmc.password, bmc.insecure, bmc.cipher_suite, arch, firmware, groups, profile,
hostname, disk.serial, disk.wwn, disk.bus, disk.by_path, disk.min_size,
disk.max_size (bytes, or 200G), knobs.disk_boot (sanboot, exit), knobs.loader,
knobs.nvram (on, off), knobs.console, knobs.cmdline, label.ANYTHING.`

func nodeSetCmd(t *terminal) *cobra.Command {
	var passwordStdin bool
	var f consent
	c := &cobra.Command{
		Use:   "set RANGE KEY=VALUE...",
		Short: "Change nodes",
		Long: `Change nodes. What changes is shown first, and where more than one node changes,
it asks. An empty value unsets; then what the node's groups say counts again.
groups+=NAME adds a group, groups-=NAME takes one away.

` + keysHelp + `

The disk.* keys are the rule that chooses the disk of a job: exactly one disk of
the node must match.`,
		Example: `  mimeo node set n07 disk.serial=S3Z2NB0K
  mimeo node set "n[01-16]" groups+=rack3
  mimeo node set @rack3 profile=          # as its groups say
  mimeo node set @rack3 label.room=b12 --dry-run
  mimeo node set n07 --password-stdin < bmc.pw`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := api.NodeSet{Range: args[0], Set: map[string]string{}}
			if err := t.settings(args[1:], passwordStdin, req.Set); err != nil {
				return err
			}
			if len(req.Set) == 0 {
				return usagef("nothing to set")
			}
			c, err := connect()
			if err != nil {
				return err
			}
			var plan api.Plan
			var nodes []api.NodeStatus
			_, err = t.change(f, func(dry bool, expect string) (api.Plan, error) {
				if dry {
					err := c.Do(cmd.Context(), http.MethodPost, "/v1/nodes/plan", req, &plan)
					return plan, err
				}
				req.Expect = expect
				return plan, c.Do(cmd.Context(), http.MethodPatch, "/v1/nodes", req, &nodes)
			})
			if err != nil || !t.json || f.dry {
				return err
			}
			if nodes == nil { // nothing changed
				if nodes, err = t.hit(cmd, args[0]); err != nil {
					return err
				}
			}
			return t.printJSON(nodes)
		},
	}
	c.Flags().BoolVar(&passwordStdin, "password-stdin", false, "read the BMC password from standard input")
	f.flags(c)
	return c
}

// settings reads KEY=VALUE arguments, and the password where it was asked for.
func (t *terminal) settings(args []string, passwordStdin bool, into map[string]string) error {
	if err := parseSet(args, into); err != nil {
		return err
	}
	pw, err := t.password(passwordStdin, "")
	if pw != "" {
		into[node.KeyPassword] = pw
	}
	return err
}

// explainNodes shows each key of nodes, its value and where that comes from.
func (t *terminal) explainNodes(cmd *cobra.Command, expr string) error {
	nodes, err := t.hit(cmd, expr)
	if err != nil {
		return err
	}
	c, err := connect()
	if err != nil {
		return err
	}
	type explained struct {
		Node       node.Name       `json:"node"`
		Attributes []api.Attribute `json:"attributes"`
	}
	var out []explained
	for _, n := range nodes {
		e := explained{Node: n.Name}
		if err := c.Do(cmd.Context(), http.MethodGet, "/v1/nodes/"+url.PathEscape(string(n.Name))+"/attributes", nil, &e.Attributes); err != nil {
			return err
		}
		out = append(out, e)
	}
	if t.json {
		return t.printJSON(out)
	}
	for i, e := range out {
		if i > 0 {
			fmt.Fprintln(t.out)
		}
		rows := [][]string{{"KEY OF " + string(e.Node), "VALUE", "FROM", "ALSO SAID"}}
		for _, a := range e.Attributes {
			var also []string
			for _, s := range a.Also {
				also = append(also, shown(s.Value)+" ("+from(s)+")")
			}
			value := shown(a.Value)
			if a.From == node.FromDefault && value != "" {
				value = "(" + value + ")"
			}
			if len(also) > 0 && strings.HasPrefix(a.Key, node.LabelPrefix+node.LabelScripts) {
				also = append(also, "these count too: mimeo postscript explain "+string(e.Node))
			}
			rows = append(rows, []string{a.Key, dash(value), from(a.Said), strings.Join(also, ", ")})
		}
		table(t.out, rows)
	}
	return nil
}

// from says where a value comes from.
func from(s node.Said) string {
	switch s.From {
	case node.FromGroup:
		return "group " + s.Group
	case node.FromLearnt:
		return "learnt when it netbooted"
	}
	return s.From
}
