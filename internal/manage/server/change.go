package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/cluster/noderange"
	"mimeo/internal/manage/hook"
	"mimeo/internal/manage/inventory"
)

// errDry ends the transaction of a dry run.
var errDry = errors.New("dry run")

// change plans a change of the inventory and makes it, unless it is a dry run. expect is the ID of the plan that the
// admin saw, or "".
func (s *Server) change(ctx context.Context, e inventory.Edits, dry bool, expect string) (api.Plan, error) {
	var out api.Plan
	err := s.db.Update(ctx, func(t *inventory.Tx) error {
		p, err := t.Plan(e)
		if err != nil {
			return err
		}
		if expect != "" && p.ID != expect {
			return &api.Error{Code: "conflict", Message: "the inventory has changed meanwhile, and this would change it otherwise than was shown; nothing was changed", Hint: "look at it again"}
		}
		if out = p.Plan; dry {
			return errDry
		}
		if err := t.Apply(p); err != nil {
			return err
		}
		out.Applied = true
		for _, n := range out.Nodes {
			if !n.New {
				continue
			}
			if err := s.hooks.Keep(t, hook.Message{Event: "node.added", Text: "added", Node: &hook.Node{Name: node.Name(n.Name)}}); err != nil {
				return err
			}
		}
		return nil
	})
	s.hooks.Wake()
	if errors.Is(err, errDry) {
		err = nil
	}
	return out, err
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
	var e inventory.Edits
	nodes := make([]node.Node, len(names))
	for i, name := range names {
		set := maps.Clone(req.PerNode[name])
		if set == nil {
			set = map[string]string{}
		}
		for k, v := range req.Set {
			if _, ok := set[k]; !ok {
				set[k] = v
			}
		}
		e.Nodes = append(e.Nodes, inventory.Edit{Name: string(name), Set: set, Make: inventory.MustMake})
		nodes[i].Name = name
	}
	if _, err := s.change(r.Context(), e, false, ""); err != nil {
		return nil, err
	}
	return s.again(r.Context(), nodes)
}

// editsOf are the edits that a NodeSet asks for, and the nodes that it names.
func (s *Server) editsOf(ctx context.Context, req api.NodeSet) (e inventory.Edits, nodes []node.Node, err error) {
	if nodes, err = s.expand(ctx, req.Range, false); err != nil {
		return e, nil, err
	}
	for _, n := range nodes {
		e.Nodes = append(e.Nodes, inventory.Edit{Name: string(n.Name), Set: req.Set, Make: inventory.MustBeThere})
	}
	return e, nodes, nil
}

func (s *Server) setNodes(r *http.Request) (any, error) {
	req, err := read[api.NodeSet](r)
	if err != nil {
		return nil, err
	}
	e, nodes, err := s.editsOf(r.Context(), req)
	if err != nil {
		return nil, err
	}
	if _, err := s.change(r.Context(), e, false, req.Expect); err != nil {
		return nil, err
	}
	return s.again(r.Context(), nodes)
}

func (s *Server) planNodes(r *http.Request) (any, error) {
	req, err := read[api.NodeSet](r)
	if err != nil {
		return nil, err
	}
	e, _, err := s.editsOf(r.Context(), req)
	if err != nil {
		return nil, err
	}
	return s.change(r.Context(), e, true, "")
}

func (s *Server) nodeAttributes(r *http.Request) (any, error) {
	name := node.Name(r.PathValue("name"))
	if _, err := s.node(r.Context(), name); err != nil {
		return nil, err
	}
	from, err := s.db.Sources(r.Context(), name)
	return from.Explain(name), err
}

func (s *Server) listGroups(r *http.Request) (any, error) {
	groups, err := s.db.Groups(r.Context())
	if err != nil {
		return nil, err
	}
	out := []api.Group{}
	for _, g := range groups {
		out = append(out, api.Group{Name: g.Name, Set: g.Set, HasPassword: g.HasPassword, Nodes: g.Nodes})
	}
	return out, nil
}

func (s *Server) changeGroups(r *http.Request) (any, error) {
	req, err := read[api.GroupChange](r)
	if err != nil {
		return nil, err
	}
	if len(req.Names) == 0 {
		return nil, &api.Error{Code: "bad_request", Message: "no group is named"}
	}
	var e inventory.Edits
	for _, name := range req.Names {
		edit := inventory.Edit{Name: strings.TrimPrefix(name, "@"), Set: req.Set, Make: inventory.MustBeThere}
		if req.New {
			edit.Make = inventory.MustMake
		}
		e.Groups = append(e.Groups, edit)
	}
	return s.change(r.Context(), e, req.DryRun, req.Expect)
}

func (s *Server) removeGroup(r *http.Request) (any, error) {
	e := inventory.Edits{Groups: []inventory.Edit{{Name: r.PathValue("name"), Make: inventory.MustBeThere, Remove: true}}}
	return s.change(r.Context(), e, r.FormValue("dry_run") == "1", r.FormValue("expect"))
}

func (s *Server) exportInventory(r *http.Request) (any, error) {
	ctx, expr := r.Context(), r.FormValue("range")
	nodes, err := s.expand(ctx, expr, true)
	if err != nil {
		return nil, err
	}
	own, groups, err := s.db.Said(ctx)
	if err != nil {
		return nil, err
	}
	out := api.Inventory{Groups: []api.InventoryItem{}, Nodes: []api.InventoryItem{}}
	slices.SortFunc(nodes, func(a, b node.Node) int { return strings.Compare(string(a.Name), string(b.Name)) })
	needed := map[string]bool{}
	for _, n := range nodes {
		out.Nodes = append(out.Nodes, api.InventoryItem{Name: string(n.Name), Set: own[n.Name]})
		for _, g := range own[n.Name].Order() {
			needed[g] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		if expr == "" || needed[name] {
			out.Groups = append(out.Groups, api.InventoryItem{Name: name, Set: groups[name]})
		}
	}
	return out, nil
}

func (s *Server) importInventory(r *http.Request) (any, error) {
	req, err := read[api.InventoryPut](r)
	if err != nil {
		return nil, err
	}
	var e inventory.Edits
	edits := func(what string, items []api.InventoryItem) (out []inventory.Edit, err error) {
		seen := map[string]bool{}
		for _, it := range items {
			if seen[it.Name] {
				return nil, &api.Error{Code: "bad_request", Message: fmt.Sprintf("%s %s is there twice", what, it.Name)}
			}
			seen[it.Name] = true
			out = append(out, inventory.Edit{Name: it.Name, Set: it.Set, Replace: req.Replace})
		}
		return out, nil
	}
	if e.Groups, err = edits("group", req.Groups); err != nil {
		return nil, err
	}
	if e.Nodes, err = edits("node", req.Nodes); err != nil {
		return nil, err
	}
	return s.change(r.Context(), e, req.DryRun, req.Expect)
}
