package node

import (
	"maps"
	"slices"
	"strings"
)

// Where a value of a node comes from. They count in this order, and of its groups the first that has the key; the group
// of all nodes is the last.
const (
	FromOwn     = "own"     // said of the node itself
	FromGroup   = "group"   // said of a group
	FromLearnt  = "learnt"  // seen in its requests when it netbooted
	FromDefault = "default" // nothing was said
)

// Said is a value and where it comes from.
type Said struct {
	Value string `json:"value"` // of a password "(set)"
	From  string `json:"from"`
	Group string `json:"group,omitempty"` // where it comes from one
}

// Hidden stands for a password.
const Hidden = "(set)"

// Group is what was said of a group of nodes.
type Group struct {
	Name        string
	Set         Values
	HasPassword bool
}

// Sources are what was said of a node, and of its groups in their order.
type Sources struct {
	Own         Values
	HasPassword bool
	Groups      []Group
	Learnt      Values
}

// Order are the groups from which a node inherits, in their order.
func (v Values) Order() []string { return append(List(v["groups"]), GroupAll) }

// Look gives all that was said of a node's key, the one that counts first.
func (s Sources) Look(n Name, key string) []Said {
	var out []Said
	add := func(set Values, has bool, said Said) {
		if key == KeyPassword {
			if has {
				said.Value = Hidden
				out = append(out, said)
			}
			return
		}
		v, ok := set[key]
		if said.From == FromGroup {
			// What cannot be filled in for this node was refused when it was said.
			filled, err := Inherit(key, v, n)
			ok, v = ok && err == nil, filled
		}
		if ok && v != "" {
			said.Value = v
			out = append(out, said)
		}
	}
	add(s.Own, s.HasPassword, Said{From: FromOwn})
	for _, g := range s.Groups {
		add(g.Set, g.HasPassword, Said{From: FromGroup, Group: g.Name})
	}
	add(s.Learnt, false, Said{From: FromLearnt})
	return out
}

// Labels are the keys of all labels that were said, in order.
func (s Sources) Labels() []string {
	all := map[string]bool{}
	note := func(set Values) {
		for k := range set {
			if strings.HasPrefix(k, LabelPrefix) {
				all[k] = true
			}
		}
	}
	note(s.Own)
	for _, g := range s.Groups {
		note(g.Set)
	}
	return slices.Sorted(maps.Keys(all))
}

// Explain gives every key in the order of Keys, then labels, with all that was said of it; what holds where nothing was
// said is the default.
func (s Sources) Explain(n Name) []Explained {
	var out []Explained
	for _, name := range append(Keys(), s.Labels()...) {
		said := s.Look(n, name)
		if len(said) == 0 {
			d := Said{From: FromDefault}
			if k, ok := find(name); ok {
				d.Value = k.none
			}
			said = []Said{d}
		}
		out = append(out, Explained{Key: name, Said: said[0], Also: said[1:]})
	}
	return out
}

// Explained is a key of a node, what counts, and what was said as well and does not.
type Explained struct {
	Key string `json:"key"`
	Said
	Also []Said `json:"also,omitempty"`
}

// Fill gives a node the values that count; the parts of it that are no keys stay as they are.
func (s Sources) Fill(n *Node) {
	put := func(k key) {
		v := ""
		if said := s.Look(n.Name, k.name); len(said) > 0 {
			v = said[0].Value
		}
		k.put(n, v)
	}
	for _, k := range keys {
		put(k)
	}
	n.Labels = nil
	for _, name := range s.Labels() {
		put(labelKey(strings.TrimPrefix(name, LabelPrefix)))
	}
	n.BMC.HasPassword = len(s.Look(n.Name, KeyPassword)) > 0
}

// Blank takes away from a node all that is said by keys, and leaves the rest.
func (n *Node) Blank() { Sources{}.Fill(n) }

// Said are the values of a node's keys that are set.
func (n *Node) Said() Values {
	out := Values{}
	for _, k := range keys {
		if v := k.get(n); v != "" {
			out[k.name] = v
		}
	}
	for l, v := range n.Labels {
		out[LabelPrefix+l] = v
	}
	return out
}

// InEffect are the values that count for a node, by key.
func (s Sources) InEffect(n Name) Values {
	out := Values{}
	for _, name := range append(Keys(), s.Labels()...) {
		if said := s.Look(n, name); len(said) > 0 {
			out[name] = said[0].Value
		}
	}
	return out
}
