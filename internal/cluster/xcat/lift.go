package xcat

import (
	"maps"
	"slices"
	"strings"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

// lift says of groups what all nodes that have it from a group's row have in common, and of nodes the rest. It takes
// back from a group what would give a node something that it had not with xCAT.
func (im *importer) lift() api.Inventory {
	groups := map[string]map[string]string{}
	refused := map[[2]string]bool{}
	for _, d := range im.drafts {
		for _, g := range d.groups {
			if groups[g] == nil {
				groups[g] = map[string]string{}
			}
		}
		for k, v := range d.values {
			if v.group == "" || !slices.Contains(d.groups, v.group) || refused[[2]string{v.group, k}] {
				continue
			}
			have, there := groups[v.group][k]
			if _, err := node.CheckGroup(k, v.text); err != nil || strings.Contains(v.text, "{n") || there && have != v.text {
				refused[[2]string{v.group, k}] = true
				delete(groups[v.group], k)
				continue
			}
			if groups[v.group] == nil {
				groups[v.group] = map[string]string{}
			}
			groups[v.group][k] = v.text
		}
	}
	for changed := true; changed; {
		changed = false
		for _, d := range im.drafts {
			for _, g := range d.groups {
				for k := range groups[g] {
					if _, has := d.values[k]; !has {
						delete(groups[g], k)
						changed = true
					}
				}
			}
		}
	}
	var out api.Inventory
	for _, d := range im.drafts {
		own := map[string]string{}
		for k, v := range d.values {
			if inherited(groups, d.groups, k) != v.text {
				own[k] = v.text
			}
		}
		if len(d.groups) > 0 {
			own["groups"] = strings.Join(d.groups, ",")
		}
		out.Nodes = append(out.Nodes, api.InventoryItem{Name: string(d.name), Set: own})
	}
	for _, g := range slices.Sorted(maps.Keys(groups)) {
		out.Groups = append(out.Groups, api.InventoryItem{Name: g, Set: groups[g]})
	}
	return out
}

// inherited is what a node has from the first of its groups that says anything of a key.
func inherited(groups map[string]map[string]string, order []string, key string) string {
	for _, g := range order {
		if v := groups[g][key]; v != "" {
			return v
		}
	}
	return ""
}
