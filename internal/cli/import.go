package cli

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/cluster/noderange"
	"mimeo/internal/cluster/xcat"
)

func importCmd(t *terminal) *cobra.Command {
	c := &cobra.Command{Use: "import", Short: "Take over the nodes of another program's management node"}
	c.AddCommand(importXCATCmd(t))
	return c
}

func importXCATCmd(t *terminal) *cobra.Command {
	var f consent
	var full bool
	c := &cobra.Command{
		Use: "xcat DIR", Short: "Take over nodes and groups from xCAT's tables",
		Long: `Take over nodes and groups from xCAT's tables, all of them or nothing. Nothing of
xCAT is needed but files that one of its commands wrote:

  dumpxCATdb -p DIR                           all tables, a CSV file each
  tabdump nodelist > DIR/nodelist.csv         the same for one table
  lsdef -t node,group -l -z > nodes.stanza    or a stanza file in place of DIR

It reads nodelist, nodegroup, hosts, mac, noderes, nodetype, nodehm, ipmi, openbmc,
passwd, networks, chain, bootparams, postscripts, osimage, linuximage, vpd, switch
and site; other files are passed over. Rows of groups, expressions in cells
(|n(\d+)|10.0.0.($1+32)|) and the column "disable" count as they do with xCAT.

It shows what would be made, what differs from what is known already, what to look
at, and what cannot be carried over, each with its file, line and reason; then it
asks. With --dry-run it ends there. Nodes that are known already keep what the
import does not say. No disk is touched, and every new node goes on booting its own
disk until it is told otherwise. docs/coming-from-xcat.md goes through it step by
step.

BMC passwords are in these files: remove them when you are done.`,
		Example: `  mimeo import xcat /root/xcat-tables --dry-run
  mimeo import xcat /root/xcat-tables --dry-run --full | less
  mimeo import xcat nodes.stanza --yes
  mimeo import xcat /root/xcat-tables --dry-run --json | jq '.notes[] | select(.kind == "left")'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			res, err := readXCAT(args[0])
			if err != nil {
				return err
			}
			return t.importXCAT(cmd, res, args[0], f, full)
		},
	}
	c.Flags().BoolVar(&full, "full", false, "show every line of the differences, and every node of a note")
	f.flags(c)
	return c
}

func readXCAT(path string) (*xcat.Result, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, &api.Error{Code: "not_found", Message: err.Error(), Hint: `on xCAT's management node: dumpxCATdb -p DIR; see "mimeo import xcat --help"`}
	}
	var db *xcat.Database
	if info.IsDir() {
		db, err = xcat.Read(os.DirFS(path))
	} else {
		if info.Size() > maxFile {
			return nil, fmt.Errorf("%s: it has more than %d bytes", path, maxFile)
		}
		var text []byte
		if text, err = os.ReadFile(path); err == nil {
			db, err = xcat.ReadStanzas(filepath.Base(path), text)
		}
	}
	if err != nil {
		return nil, &api.Error{Code: "bad_request", Message: fmt.Sprintf("%s: %v", path, err), Hint: "nothing was changed; dump the table anew, or mend that line"}
	}
	return db.Import(), nil
}

// xcatReport is what the command gives as JSON.
type xcatReport struct {
	*xcat.Result
	Plan      *api.Plan  `json:"plan,omitempty"`       // against what is known already
	PlanError *api.Error `json:"plan_error,omitempty"` // a dry run goes on without the management node
}

// importXCAT shows an import, asks, and makes it, if the inventory still is as it was shown.
func (t *terminal) importXCAT(cmd *cobra.Command, res *xcat.Result, path string, f consent, full bool) error {
	plan, err := t.putInventory(cmd, api.InventoryPut{Inventory: res.Inventory, DryRun: true})
	var e *api.Error
	offline := f.dry && errors.As(err, &e) && (e.Code == "unreachable" || e.Code == "no_access")
	if err != nil && !offline {
		return err
	}
	if t.json && f.dry {
		r := xcatReport{Result: res, Plan: &plan}
		if offline {
			r.Plan, r.PlanError = nil, e
		}
		r.Inventory = withoutPasswords(r.Inventory)
		return t.printJSON(r)
	}
	if !t.json {
		out := t.err
		if f.dry {
			out = t.out
		}
		xcatSummary(out, res, path)
		switch {
		case offline:
			fmt.Fprintf(out, "\nNot compared with what Mimeo knows already: %v\n", e)
		default:
			fmt.Fprintf(out, "\nWhat would change: %s\n", planCount(plan))
			firstLines(out, planText(plan), full)
		}
		xcatNotes(out, res.Notes, full)
	}
	if f.dry {
		return nil
	}
	if len(plan.Groups)+len(plan.Nodes) > 0 {
		if !f.yes {
			if err := t.ask(fmt.Sprintf("make %s?", planCount(plan))); err != nil {
				return err
			}
		}
		if plan, err = t.putInventory(cmd, api.InventoryPut{Inventory: res.Inventory, Expect: plan.ID}); err != nil {
			return err
		}
	}
	if t.json {
		r := xcatReport{Result: res, Plan: &plan}
		r.Inventory = withoutPasswords(r.Inventory)
		return t.printJSON(r)
	}
	fmt.Fprintln(t.err, "done:", planCount(plan))
	return nil
}

func (t *terminal) putInventory(cmd *cobra.Command, req api.InventoryPut) (p api.Plan, err error) {
	c, err := connect()
	if err != nil {
		return p, err
	}
	return p, c.Do(cmd.Context(), http.MethodPost, "/v1/inventory", req, &p)
}

// withoutPasswords gives an inventory to be shown.
func withoutPasswords(inv api.Inventory) api.Inventory {
	hide := func(items []api.InventoryItem) (out []api.InventoryItem) {
		for _, i := range items {
			if i.Set[node.KeyPassword] != "" {
				i.Set = maps.Clone(i.Set)
				i.Set[node.KeyPassword] = node.Hidden
			}
			out = append(out, i)
		}
		return out
	}
	return api.Inventory{Groups: hide(inv.Groups), Nodes: hide(inv.Nodes)}
}

func xcatSummary(w io.Writer, res *xcat.Result, path string) {
	fmt.Fprintf(w, "%s has %s and %s for Mimeo\n", path, count(len(res.Inventory.Nodes), "node"), count(len(res.Inventory.Groups), "group"))
	if len(res.Missing) > 0 {
		fmt.Fprintf(w, "tables that are not there: %s\n", strings.Join(res.Missing, ", "))
	}
	if len(res.Skipped) > 0 {
		fmt.Fprintf(w, "not read: %s\n", strings.Join(res.Skipped, ", "))
	}
	if res.Off > 0 {
		fmt.Fprintf(w, "%s turned off (disable): passed over\n", count(res.Off, "row"))
	}
	fmt.Fprintln(w, "\nCarried over:")
	rows := [][]string{{"  XCAT", "MIMEO", "NODES"}}
	for _, c := range res.Carried {
		rows = append(rows, []string{"  " + c.Table + "." + c.Column, c.Key, fmt.Sprint(c.Nodes)})
	}
	table(w, rows)
}

// shownDiff is how many lines of the differences are shown without --full.
const shownDiff = 20

func firstLines(w io.Writer, text string, full bool) {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for i, l := range lines {
		if i == shownDiff && !full && len(lines) > shownDiff+5 {
			fmt.Fprintf(w, "  ... and %d more lines (--full shows them)\n", len(lines)-shownDiff)
			return
		}
		fmt.Fprintln(w, "  "+l)
	}
}

func xcatNotes(w io.Writer, notes []xcat.Note, full bool) {
	for _, part := range []struct {
		kind xcat.Kind
		head string
	}{{xcat.Check, "Carried over, but look at"}, {xcat.Left, "Cannot be carried over"}} {
		first := true
		for _, n := range notes {
			if n.Kind != part.kind {
				continue
			}
			if first {
				fmt.Fprintf(w, "\n%s:\n", part.head)
				first = false
			}
			fmt.Fprintf(w, "  %s%s\n      %s\n", n.Where(), noteMeans(n, full), n.Why)
		}
	}
}

// noteMeans says what value a note is about, and which nodes.
func noteMeans(n xcat.Note, full bool) string {
	var out string
	if n.Rows > 1 {
		out += fmt.Sprintf(", %d rows", n.Rows)
	}
	if n.Value != "" && n.Value != n.Row {
		out += fmt.Sprintf(": %s", shown(n.Value))
	}
	if len(n.Nodes) > 0 && (len(n.Nodes) > 1 || string(n.Nodes[0]) != n.Row) {
		names := noderange.Fold(n.Nodes)
		if r := []rune(names); len(r) > 60 && !full {
			names = string(r[:60]) + "…"
		}
		out += fmt.Sprintf("  (%s: %s)", count(len(n.Nodes), "node"), names)
	}
	return out
}
