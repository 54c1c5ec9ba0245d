package inventory

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

// setAnew stands for a password that goes over another.
const setAnew = "(set anew)"

// plan says what differs.
func (b *book) plan() api.Plan {
	var p api.Plan
	for _, name := range slices.Sorted(maps.Keys(b.groups)) {
		g := b.groups[name]
		it := api.PlanItem{Name: name, New: g.was == nil && !g.removed, Removed: g.was != nil && g.removed}
		var was group
		if g.was != nil {
			was = *g.was
		}
		it.Keys = differences(was.Set, g.Set, was.HasPassword, g.HasPassword, g.password)
		switch {
		case it.New || it.Removed || len(it.Keys) > 0:
			p.Groups = append(p.Groups, it)
		case g.named:
			p.Same++
		}
	}
	effects := map[api.PlanKey][]node.Name{}
	for _, name := range b.names() {
		n := b.nodes[name]
		if !n.touched {
			continue
		}
		it := api.PlanItem{Name: string(name), New: n.was == nil}
		var was record
		if n.was != nil {
			was = *n.was
		}
		it.Keys = differences(was.Own, n.Own, was.HasPassword, n.HasPassword, n.password)
		switch {
		case it.New || len(it.Keys) > 0:
			p.Nodes = append(p.Nodes, it)
		case n.named:
			p.Same++
		}
		if n.was == nil {
			continue // all of it is new
		}
		for _, k := range b.effect(n) {
			n.effect = append(n.effect, k.Key)
			effects[k] = append(effects[k], name)
		}
	}
	for k, nodes := range effects {
		p.Affected = append(p.Affected, api.PlanEffect{PlanKey: k, Nodes: nodes})
	}
	slices.SortFunc(p.Affected, func(x, y api.PlanEffect) int {
		if c := node.CompareKeys(x.Key, y.Key); c != 0 {
			return c
		}
		if c := strings.Compare(string(x.Nodes[0]), string(y.Nodes[0])); c != 0 {
			return c
		}
		return strings.Compare(x.Old+"\x00"+x.New, y.Old+"\x00"+y.New)
	})
	p.Warnings = b.warnings()
	return p
}

// differences are the keys whose values differ.
func differences(was, now node.Values, hadPassword, hasPassword bool, password *string) []api.PlanKey {
	var out []api.PlanKey
	all := maps.Clone(was)
	if all == nil {
		all = node.Values{}
	}
	maps.Copy(all, now)
	for k := range all {
		if was[k] != now[k] {
			out = append(out, api.PlanKey{Key: k, Old: was[k], New: now[k]})
		}
	}
	if hadPassword != hasPassword || hadPassword && password != nil {
		out = append(out, passwordKey(hadPassword, hasPassword))
	}
	slices.SortFunc(out, func(x, y api.PlanKey) int { return node.CompareKeys(x.Key, y.Key) })
	return out
}

func passwordKey(had, has bool) api.PlanKey {
	k := api.PlanKey{Key: node.KeyPassword}
	if had {
		k.Old = node.Hidden
	}
	if has {
		if k.New = node.Hidden; had {
			k.New = setAnew
		}
	}
	return k
}

// effect are the keys whose value in effect changes on a node that there was.
func (b *book) effect(n *nodeDraft) []api.PlanKey {
	was, now := n.was.InEffect(n.node.Name), n.InEffect(n.node.Name)
	delete(was, node.KeyPassword)
	delete(now, node.KeyPassword)
	addUp(was, n.was.Sources, n.node.Name)
	addUp(now, n.Sources, n.node.Name)
	out := differences(was, now, false, false, nil)
	// Which password counts may change while one is set before and after.
	source := func(s node.Sources, own bool, anew func(group string) bool) string {
		said := s.Look(n.node.Name, node.KeyPassword)
		switch {
		case len(said) == 0:
			return ""
		case said[0].From == node.FromOwn && own, said[0].From == node.FromGroup && anew(said[0].Group):
			return "new"
		}
		return said[0].From + " " + said[0].Group
	}
	before := source(n.was.Sources, false, func(string) bool { return false })
	after := source(n.Sources, n.password != nil, func(g string) bool { return b.groups[g].password != nil })
	if before != after {
		out = append(out, passwordKey(before != "", after != ""))
	}
	return out
}

// addUp puts in the place of a label that names postscripts all that counts of it: what groups say and what the node says, the farthest
// first, with " + " between them.
func addUp(in node.Values, s node.Sources, n node.Name) {
	for _, key := range node.ScriptKeys() {
		key = node.LabelPrefix + node.LabelScripts + key
		if in[key] == "" {
			continue
		}
		var all []string
		for _, said := range slices.Backward(s.Look(n, key)) {
			all = append(all, said.Value)
		}
		in[key] = strings.Join(all, " + ")
	}
}

// Apply makes a change that was planned in the same transaction.
func (t *Tx) Apply(p *Planned) error {
	for _, it := range p.Groups {
		if err := t.putGroup(p.b.groups[it.Name]); err != nil {
			return err
		}
	}
	// All cards are free before any is given, so that nodes may swap them.
	for _, it := range p.Nodes {
		if err := t.dropNICs(node.Name(it.Name)); err != nil {
			return err
		}
	}
	for _, it := range p.Nodes {
		n := p.b.nodes[node.Name(it.Name)]
		if err := t.putRecord(n.record); err != nil {
			return err
		}
		if n.password != nil {
			if err := t.SetBMCPassword(n.node.Name, *n.password); err != nil {
				return err
			}
		}
		if err := t.putNICs(n.node); err != nil {
			return err
		}
	}
	p.Applied = true
	return nil
}

func (t *Tx) putGroup(g *groupDraft) error {
	if g.removed {
		_, err := t.tx.ExecContext(t.ctx, `DELETE FROM groups WHERE name = ?`, g.Name)
		return explain(err)
	}
	own, err := json.Marshal(g.Set)
	if err != nil {
		return err
	}
	if _, err := t.tx.ExecContext(t.ctx, `INSERT INTO groups(name, own) VALUES(?, ?) ON CONFLICT(name) DO UPDATE SET own = excluded.own`, g.Name, string(own)); err != nil {
		return explain(err)
	}
	if g.password != nil {
		_, err = t.tx.ExecContext(t.ctx, `UPDATE groups SET bmc_sealed = ? WHERE name = ?`, t.db.sealed(*g.password, groupOwner(g.Name)), g.Name)
	}
	return explain(err)
}
