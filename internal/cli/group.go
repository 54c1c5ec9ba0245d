package cli

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/cluster/noderange"
)

func groupCmd(t *terminal) *cobra.Command {
	c := &cobra.Command{
		Use: "group", Short: "Add, list, show and change groups, from which nodes inherit",
		Long: `Groups of nodes. What is said of a group holds for each of its nodes that says
nothing else itself; of several groups, the first in the node's own order that
has the key counts. The group "all" has every node in it, and comes last.

A node is put into a group with "mimeo node set RANGE groups+=NAME", and taken out
of it with groups-=NAME. "mimeo node show NODE --explain" shows what comes from
where. Postscripts add up instead (label.postscripts.root and its like): see
"mimeo postscript explain NODE".`,
	}
	c.AddCommand(groupChangeCmd(t, true), groupListCmd(t), groupShowCmd(t), groupChangeCmd(t, false), groupRmCmd(t))
	return c
}

// groupChangeCmd is "group add" and "group set".
func groupChangeCmd(t *terminal, fresh bool) *cobra.Command {
	var passwordStdin bool
	var f consent
	long := `The keys are those of nodes, but for mac, ip, groups, disk.serial and disk.wwn,
which belong to one node. In bmc, hostname, knobs.cmdline and labels, {name}
stands for the name of the node that inherits and {n} for the number at its end.

` + keysHelp
	c := &cobra.Command{Use: "set NAME... KEY=VALUE...", Short: "Change groups", Args: cobra.MinimumNArgs(1),
		Long: "Change groups. What changes on which node is shown first, and where it is more\nthan one, it asks. An empty value unsets.\n\n" + long,
		Example: `  mimeo group set rack3 bmc=redfish://10.0.9.{n} bmc.user=ops
  mimeo group set rack3 --password-stdin < bmc.pw
  mimeo group set all knobs.console=ttyS0,115200 --dry-run`}
	if fresh {
		c.Use, c.Short, c.Long = "add NAME... [KEY=VALUE...]", "Make groups", "Make groups.\n\n"+long
		c.Example = "  mimeo group add rack3 bmc=redfish://10.0.9.{n} bmc.user=ops\n  mimeo node set \"n[01-16]\" groups+=rack3"
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		req := api.GroupChange{New: fresh, Set: map[string]string{}}
		i := slices.IndexFunc(args, func(a string) bool { return strings.Contains(a, "=") })
		if i < 0 {
			i = len(args)
		}
		req.Names = args[:i]
		if err := t.settings(args[i:], passwordStdin, req.Set); err != nil {
			return err
		}
		switch {
		case len(req.Names) == 0:
			return usagef("which group?")
		case len(req.Set) == 0 && !fresh:
			return usagef("nothing to set")
		}
		return t.plan(cmd, f, http.MethodPost, "/v1/groups", func(dry bool, expect string) any {
			req.DryRun, req.Expect = dry, expect
			return req
		})
	}
	c.Flags().BoolVar(&passwordStdin, "password-stdin", false, "read the BMC password from standard input")
	f.flags(c)
	return c
}

// plan changes something by a request that answers with a Plan.
func (t *terminal) plan(cmd *cobra.Command, f consent, method, path string, body func(dry bool, expect string) any) error {
	c, err := connect()
	if err != nil {
		return err
	}
	p, err := t.change(f, func(dry bool, expect string) (p api.Plan, err error) {
		err = c.Do(cmd.Context(), method, path, body(dry, expect), &p)
		return p, err
	})
	if err == nil && t.json && !f.dry {
		err = t.printJSON(p)
	}
	return err
}

func (t *terminal) groups(cmd *cobra.Command) ([]api.Group, error) {
	c, err := connect()
	if err != nil {
		return nil, err
	}
	var out []api.Group
	err = c.Do(cmd.Context(), http.MethodGet, "/v1/groups", nil, &out)
	return out, err
}

func groupListCmd(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List groups", Aliases: []string{"ls"},
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			groups, err := t.groups(cmd)
			if err != nil {
				return err
			}
			if t.json {
				return t.printJSON(groups)
			}
			rows := [][]string{{"GROUP", "NODES", "WHICH", "SAYS"}}
			for _, g := range groups {
				rows = append(rows, []string{g.Name, fmt.Sprint(len(g.Nodes)), dash(noderange.Fold(g.Nodes)), dash(strings.Join(groupSays(g), " "))})
			}
			table(t.out, rows)
			return nil
		},
	}
}

// groupSays are a group's keys and values.
func groupSays(g api.Group) []string {
	var out []string
	for _, k := range slices.SortedFunc(maps.Keys(g.Set), node.CompareKeys) {
		out = append(out, k+"="+shown(g.Set[k]))
	}
	if g.HasPassword {
		out = append(out, node.KeyPassword+"="+node.Hidden)
	}
	return out
}

func groupShowCmd(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "Show a group: its nodes, and what they inherit from it",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			groups, err := t.groups(cmd)
			if err != nil {
				return err
			}
			i := slices.IndexFunc(groups, func(g api.Group) bool { return g.Name == strings.TrimPrefix(args[0], "@") })
			if i < 0 {
				return &api.Error{Code: "not_found", Message: fmt.Sprintf("no group %q", args[0]), Hint: `"mimeo group list" shows all`}
			}
			g := groups[i]
			if t.json {
				return t.printJSON(g)
			}
			rows := [][]string{{"group", g.Name}, {"nodes", fmt.Sprintf("%d", len(g.Nodes))}}
			if len(g.Nodes) > 0 {
				rows = append(rows, []string{"which", noderange.Fold(g.Nodes)})
			}
			for _, s := range groupSays(g) {
				k, v, _ := strings.Cut(s, "=")
				rows = append(rows, []string{k, v})
			}
			table(t.out, rows)
			return nil
		},
	}
}

func groupRmCmd(t *terminal) *cobra.Command {
	var f consent
	c := &cobra.Command{
		Use: "rm NAME", Short: "Take a group away", Long: "Take a group away. Its nodes stay, leave it, and inherit nothing from it any more.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			p, err := t.change(f, func(dry bool, expect string) (p api.Plan, err error) {
				q := url.Values{"expect": {expect}}
				if dry {
					q.Set("dry_run", "1")
				}
				err = c.Do(cmd.Context(), http.MethodDelete, "/v1/groups/"+url.PathEscape(strings.TrimPrefix(args[0], "@"))+"?"+q.Encode(), nil, &p)
				return p, err
			})
			if err == nil && t.json && !f.dry {
				err = t.printJSON(p)
			}
			return err
		},
	}
	f.flags(c)
	return c
}
