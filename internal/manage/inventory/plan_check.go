package inventory

import (
	"fmt"
	"maps"
	"slices"

	"mimeo/internal/cluster/node"
	"mimeo/internal/cluster/noderange"
)

// check looks at nodes as they will be: what they inherit fits them, and no card or address belongs to two.
func (b *book) check() {
	cards := map[string]node.Name{}
	for _, touched := range []bool{false, true} { // what stays goes before what comes
		for _, name := range b.names() {
			n := b.nodes[name]
			if n.touched != touched {
				continue
			}
			if touched && !n.wrong { // what follows from an error is no help
				b.checkAddresses(n)
				b.checkInherited(n)
			}
			for _, c := range n.node.NICs {
				for _, what := range []string{c.MAC, c.IP} {
					if owner, ok := cards[what]; ok && what != "" {
						b.wrong("", "", belongs(string(name), what, string(owner)))
						continue
					}
					cards[what] = name
				}
			}
		}
	}
}

func (b *book) checkAddresses(n *nodeDraft) {
	macs, ips := len(node.List(n.Own["mac"])), len(node.List(n.Own["ip"]))
	switch {
	case ips > 0 && macs == 0:
		b.wrong(string(n.node.Name), "ip", fmt.Errorf("the node has no network card yet: set mac first"))
	case ips > macs:
		b.wrong(string(n.node.Name), "ip", fmt.Errorf("there are %d addresses for %d network cards", ips, macs))
	}
}

// checkInherited looks at patterns of groups, which are good or not for the one node that inherits them.
func (b *book) checkInherited(n *nodeDraft) {
	decided := map[string]bool{}
	for k := range n.Own {
		decided[k] = true
	}
	for _, g := range n.Groups {
		for _, k := range slices.SortedFunc(maps.Keys(g.Set), node.CompareKeys) {
			v := g.Set[k]
			if decided[k] {
				continue
			}
			decided[k] = true
			filled, err := node.Inherit(k, v, n.node.Name)
			if err == nil && filled != v {
				_, err = node.Check(k, filled)
			}
			if err != nil {
				b.wrong(string(n.node.Name), k, fmt.Errorf("from group %s: %w", g.Name, err))
			}
		}
	}
}

// warnings are things that may be meant so, and seldom are: nodes that share a BMC, a host name, or a name with a group.
func (b *book) warnings() []string {
	var out []string
	look := func(what string, of func(node.Node) string) {
		owners := map[string][]node.Name{}
		touched := map[string]bool{}
		for _, name := range b.names() {
			n := b.nodes[name]
			if v := of(n.node); v != "" {
				owners[v] = append(owners[v], name)
				touched[v] = touched[v] || slices.Contains(n.effect, what) || n.was == nil
			}
		}
		for _, v := range slices.Sorted(maps.Keys(owners)) {
			if o := owners[v]; len(o) > 1 && touched[v] {
				text := fmt.Sprintf("%s and %s", o[0], o[1])
				if len(o) > 2 {
					text = fmt.Sprintf("%s and %d others", o[0], len(o)-1)
				}
				out = append(out, fmt.Sprintf("%s have the same %s, %s", text, what, v))
			}
		}
	}
	look("bmc", func(n node.Node) string {
		if !node.OwnBMC(n.BMC.URL) {
			return ""
		}
		return n.BMC.URL
	})
	look("hostname", func(n node.Node) string { return n.Hostname })
	for _, g := range slices.Sorted(maps.Keys(b.groups)) {
		out = append(out, b.overruled(b.groups[g])...)
		n := b.nodes[node.Name(g)]
		if d := b.groups[g]; n != nil && !d.removed && (n.was == nil || d.was == nil) {
			out = append(out, fmt.Sprintf("there is a node %s and a group %s: the name alone means the node, @%s the group", g, g, g))
		}
	}
	return out
}

// overruled are the keys that a change gives to a group, and that do not count on some of its nodes.
func (b *book) overruled(g *groupDraft) (out []string) {
	var was group
	if g.was != nil {
		was = *g.was
	}
	if !g.named || g.removed {
		return nil
	}
	for _, k := range differences(was.Set, g.Set, was.HasPassword, g.HasPassword, g.password) {
		var nodes []node.Name
		for _, name := range b.names() {
			n := b.nodes[name]
			if k.New == "" || !slices.Contains(n.Own.Order(), g.Name) {
				continue
			}
			if said := n.Look(name, k.Key); len(said) == 0 || said[0].From != node.FromGroup || said[0].Group != g.Name {
				nodes = append(nodes, name)
			}
		}
		switch len(nodes) {
		case 0:
		case 1:
			out = append(out, fmt.Sprintf("%s of group %s does not count on %s, which has its own or another group's", k.Key, g.Name, nodes[0]))
		default:
			out = append(out, fmt.Sprintf("%s of group %s does not count on %d nodes (%s), which have their own or another group's", k.Key, g.Name, len(nodes), noderange.Fold(nodes)))
		}
	}
	return out
}
