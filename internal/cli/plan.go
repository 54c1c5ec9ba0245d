package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/cluster/noderange"
)

// consent are the flags of a command that changes nodes.
type consent struct{ yes, dry bool }

func (f *consent) flags(c *cobra.Command) {
	c.Flags().BoolVarP(&f.yes, "yes", "y", false, "do not ask, however many nodes change")
	c.Flags().BoolVarP(&f.dry, "dry-run", "n", false, "show what would change, and change nothing")
}

// change shows what a change changes, asks where it is more than one node, and makes it. do plans it where dry is set,
// and else makes it if it still is what was shown.
func (t *terminal) change(f consent, do func(dry bool, expect string) (api.Plan, error)) (api.Plan, error) {
	p, err := do(true, "")
	if err != nil {
		return p, err
	}
	if f.dry {
		if t.json {
			return p, t.printJSON(p)
		}
		fmt.Fprint(t.out, planText(p))
		return p, nil
	}
	if !t.json {
		fmt.Fprint(t.err, planText(p))
	}
	if len(p.Groups)+len(p.Nodes) == 0 {
		return p, nil
	}
	if nodes := touched(p); len(nodes) > 1 && !f.yes {
		if err := t.ask(fmt.Sprintf("change %s (%s)?", count(len(nodes), "node"), noderange.Fold(nodes))); err != nil {
			return p, err
		}
	}
	p, err = do(false, p.ID)
	if err == nil && !t.json {
		fmt.Fprintln(t.err, "done:", planCount(p))
	}
	return p, err
}

// touched are the nodes that change, be it that they say another thing or that they inherit one.
func touched(p api.Plan) []node.Name {
	var out []node.Name
	for _, n := range p.Nodes {
		out = append(out, node.Name(n.Name))
	}
	for _, e := range p.Affected {
		out = append(out, e.Nodes...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func planCount(p api.Plan) string {
	fresh := 0
	for _, n := range p.Nodes {
		if n.New {
			fresh++
		}
	}
	var out []string
	add := func(n int, what string) {
		if n > 0 {
			out = append(out, count(n, what))
		}
	}
	add(len(p.Groups), "group")
	add(fresh, "new node")
	add(len(touched(p))-fresh, "changed node")
	if len(out) == 0 {
		return "nothing changes"
	}
	return strings.Join(out, ", ")
}

// shownPlan is how many lines of one part of a plan are shown where each node has its own.
const shownPlan = 1000

// planText writes a plan for people. A change that is the same on several nodes is one line.
func planText(p api.Plan) string {
	var out strings.Builder
	p.Nodes = slices.Clone(p.Nodes)
	inherited := p
	inherited.Nodes = slices.Clone(p.Nodes)
	for _, g := range p.Groups {
		fmt.Fprintf(&out, "group %s%s\n", g.Name, map[bool]string{g.New: " (new)", g.Removed: " (removed)"}[true])
		for _, k := range g.Keys {
			fmt.Fprintf(&out, "  %s\n", change(k))
		}
	}
	planNodes(&out, p.Nodes)
	planInherited(&out, inherited)
	for _, w := range p.Warnings {
		fmt.Fprintf(&out, "warning: %s\n", w)
	}
	if p.Same > 0 {
		fmt.Fprintf(&out, "%d as they are\n", p.Same)
	}
	if len(p.Groups)+len(p.Nodes)+len(p.Affected) == 0 {
		fmt.Fprintln(&out, "nothing changes")
	}
	return out.String()
}

// joinLeave writes a change of a node's groups by those that it joins and leaves, which may be the same on many nodes.
func joinLeave(k api.PlanKey) api.PlanKey {
	was, now := node.List(k.Old), node.List(k.New)
	if k.Key != "groups" || len(was) == 0 || len(now) == 0 {
		return k
	}
	var marks []string
	kept := slices.DeleteFunc(slices.Clone(was), func(g string) bool { return !slices.Contains(now, g) })
	for _, g := range now {
		if !slices.Contains(was, g) {
			kept = append(kept, g)
			marks = append(marks, "+"+g)
		}
	}
	if !slices.Equal(kept, now) { // their order matters
		return k
	}
	for _, g := range was {
		if !slices.Contains(now, g) {
			marks = append(marks, "-"+g)
		}
	}
	return api.PlanKey{Key: k.Key, New: strings.Join(marks, " ")}
}

func planNodes(out *strings.Builder, items []api.PlanItem) {
	var fresh []node.Name
	where := map[api.PlanKey][]node.Name{}
	var order []api.PlanKey
	for i, n := range items {
		if n.New {
			fresh = append(fresh, node.Name(n.Name))
		}
		n.Keys = slices.Clone(n.Keys)
		items[i] = n
		for j, k := range n.Keys {
			k = joinLeave(k)
			n.Keys[j] = k
			if where[k] == nil {
				order = append(order, k)
			}
			where[k] = append(where[k], node.Name(n.Name))
		}
	}
	if len(fresh) > 0 {
		fmt.Fprintf(out, "new %s: %s\n", plural(len(fresh), "node"), noderange.Fold(fresh))
	}
	slices.SortStableFunc(order, func(a, b api.PlanKey) int { return node.CompareKeys(a.Key, b.Key) })
	for _, k := range order {
		if n := where[k]; len(n) > 1 {
			fmt.Fprintf(out, "%s  (%s)\n  %s\n", noderange.Fold(n), count(len(n), "node"), change(k))
		}
	}
	lines := 0
	for _, n := range items {
		var own []string
		for _, k := range n.Keys {
			if len(where[k]) == 1 {
				own = append(own, change(k))
			}
		}
		if len(own) == 0 {
			continue
		}
		if lines++; lines > shownPlan {
			fmt.Fprintln(out, "... and more nodes, each with its own (--json has all)")
			return
		}
		fmt.Fprintf(out, "%s\n  %s\n", n.Name, strings.Join(own, "; "))
	}
}

// planInherited writes what becomes another value without being said of the node itself. Where it is another on each
// node, as a group's pattern makes it, the first stands for all.
func planInherited(out *strings.Builder, p api.Plan) {
	own := map[string]bool{}
	for _, n := range p.Nodes {
		for _, k := range n.Keys {
			own[n.Name+"\x00"+k.Key+"\x00"+k.New] = true
		}
	}
	type line struct {
		nodes []node.Name
		text  []string
	}
	var lines []*line
	add := func(nodes []node.Name, text string) {
		for _, l := range lines {
			if slices.Equal(l.nodes, nodes) {
				l.text = append(l.text, text)
				return
			}
		}
		lines = append(lines, &line{nodes, []string{text}})
	}
	single := map[string][]api.PlanEffect{} // by key
	for _, e := range p.Affected {
		e.Nodes = slices.DeleteFunc(slices.Clone(e.Nodes), func(n node.Name) bool { return own[string(n)+"\x00"+e.Key+"\x00"+e.New] })
		switch len(e.Nodes) {
		case 0:
		case 1:
			single[e.Key] = append(single[e.Key], e)
		default:
			add(e.Nodes, change(e.PlanKey))
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(single), node.CompareKeys) {
		all := single[k]
		if len(all) < 4 {
			for _, e := range all {
				add(e.Nodes, change(e.PlanKey))
			}
			continue
		}
		var nodes []node.Name
		for _, e := range all {
			nodes = append(nodes, e.Nodes...)
		}
		slices.Sort(nodes)
		add(nodes, change(all[0].PlanKey)+", and so on, each its own")
	}
	for _, l := range lines {
		head := noderange.Fold(l.nodes) + " then inherits"
		if len(l.nodes) > 1 {
			head = fmt.Sprintf("%s  (%s) then inherit", noderange.Fold(l.nodes), count(len(l.nodes), "node"))
		}
		fmt.Fprintf(out, "%s\n  %s\n", head, strings.Join(l.text, "\n  "))
	}
}

func plural(n int, what string) string {
	if n == 1 {
		return what
	}
	return what + "s"
}

// change writes a key and how its value changes.
func change(k api.PlanKey) string {
	switch {
	case k.Old == "":
		return k.Key + ": " + shown(k.New)
	case k.New == "":
		return k.Key + ": " + shown(k.Old) + " → not set"
	}
	return k.Key + ": " + shown(k.Old) + " → " + shown(k.New)
}

// shown writes a value on one line.
func shown(v string) string {
	if strings.ContainsFunc(v, func(r rune) bool { return !unicode.IsPrint(r) }) || v != strings.TrimSpace(v) {
		return fmt.Sprintf("%q", v)
	}
	return v
}
