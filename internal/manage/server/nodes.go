package server

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/hook"
	"mimeo/internal/manage/inventory"
)

// nodeStatuses adds what is known of nodes just now.
func (s *Server) nodeStatuses(ctx context.Context, nodes []node.Node) ([]api.NodeStatus, error) {
	out := []api.NodeStatus{}
	for _, n := range nodes {
		f, err := s.db.Facts(ctx, n.Name)
		if err != nil {
			return nil, err
		}
		st := api.NodeStatus{Node: n, Hardware: f.Hardware, SeenAt: f.SeenAt, LastEvent: f.LastEvent}
		if r, ok := s.jobs.OfNode(n.Name); ok {
			st.Job, st.JobPhase = r.ID, r.Phase
		}
		out = append(out, st)
	}
	return out, nil
}

// again reads nodes anew after a change.
func (s *Server) again(ctx context.Context, nodes []node.Node) (any, error) {
	for i := range nodes {
		n, err := s.db.Node(ctx, nodes[i].Name)
		if err != nil {
			return nil, err
		}
		nodes[i] = n
	}
	return s.nodeStatuses(ctx, nodes)
}

func (s *Server) listNodes(r *http.Request) (any, error) {
	nodes, err := s.expand(r.Context(), r.FormValue("range"), true)
	if err != nil {
		return nil, err
	}
	return s.nodeStatuses(r.Context(), nodes)
}

func (s *Server) removeNodes(r *http.Request) (any, error) {
	nodes, err := s.expand(r.Context(), r.FormValue("range"), false)
	if err != nil {
		return nil, err
	}
	out := api.Affected{Names: []string{}}
	err = s.db.Update(r.Context(), func(t *inventory.Tx) error {
		for _, n := range nodes {
			if id, err := t.ActiveJob(n.Name); err != nil {
				return err
			} else if id != "" {
				return &api.Error{Code: "conflict", Message: fmt.Sprintf("%s has an active job, %s", n.Name, id), Hint: "cancel it first: mimeo job cancel " + id}
			}
			if err := t.DeleteNode(n.Name); err != nil {
				return err
			}
			if err := s.hooks.Keep(t, hook.Message{Event: "node.removed", Text: "removed", Node: &hook.Node{Name: n.Name}}); err != nil {
				return err
			}
			out.Names = append(out.Names, string(n.Name))
		}
		return nil
	})
	s.hooks.Wake()
	return out, err
}

func (s *Server) nodeEvents(r *http.Request) (any, error) {
	name := node.Name(r.PathValue("name"))
	if _, err := s.node(r.Context(), name); err != nil {
		return nil, err
	}
	limit := 100
	if l, err := strconv.Atoi(r.FormValue("limit")); err == nil && l > 0 {
		limit = min(l, 10000)
	}
	return s.db.Events(r.Context(), name, "", limit)
}

func (s *Server) node(ctx context.Context, name node.Name) (node.Node, error) {
	n, err := s.db.Node(ctx, name)
	if err != nil {
		return n, &api.Error{Code: "not_found", Message: fmt.Sprintf("no node %q", name), Hint: `"mimeo node list" shows all`}
	}
	return n, nil
}

func (s *Server) setBoot(r *http.Request) (any, error) {
	ctx := r.Context()
	req, err := read[api.BootSet](r)
	if err != nil {
		return nil, err
	}
	switch req.State {
	case node.BootDisk, node.BootShell, node.BootStateless, node.BootMemtest, node.BootDiscover:
	case node.BootCapture, node.BootDeploy, node.BootWipe:
		return nil, &api.Error{Code: "bad_request", Message: fmt.Sprintf("boot state %s comes with a job", req.State), Hint: fmt.Sprintf(`use "mimeo %s"`, req.State)}
	default:
		return nil, &api.Error{Code: "bad_request", Message: fmt.Sprintf("boot state %q is none of disk, shell, stateless, memtest, discover", req.State)}
	}
	nodes, err := s.expand(ctx, req.Range, false)
	if err != nil {
		return nil, err
	}
	if err := s.canBoot(nodes, req); err != nil {
		return nil, err
	}
	for _, n := range nodes {
		s.once.Delete(n.Name)
	}
	err = s.db.Update(ctx, func(t *inventory.Tx) error {
		for _, n := range nodes {
			if id, err := t.ActiveJob(n.Name); err != nil {
				return err
			} else if id != "" {
				return &api.Error{Code: "conflict", Message: fmt.Sprintf("%s has an active job, %s, which decides what it boots", n.Name, id), Hint: "cancel it first: mimeo job cancel " + id}
			}
			if err := t.SetBoot(n.Name, req.State, req.Profile, req.Once); err != nil {
				return err
			}
			if req.State != node.BootDisk {
				if err := t.SetBootNonce(n.Name, req.SSHKeys); err != nil {
					return err
				}
			}
			e := api.Event{Node: n.Name, Kind: "boot-state", Text: strings.TrimSpace(fmt.Sprintf("set to %s %s", req.State, req.Profile))}
			if err := t.AddEvent(&e); err != nil {
				return err
			}
			if err := s.hooks.Keep(t, hook.Message{Event: "node.boot-state", Text: e.Text, Node: &hook.Node{Name: n.Name}}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	s.hooks.Wake()
	if req.Cycle {
		if err := notCycled(s.powerAll(ctx, nodes, powerAsk{action: "cycle", network: req.State != node.BootDisk}, nil)); err != nil {
			return nil, err
		}
	}
	return s.again(ctx, nodes)
}

// notCycled is the error for nodes whose boot state was set and whose power could not be switched.
func notCycled(results []api.PowerResult) error {
	var out *api.Error
	for _, res := range results {
		switch {
		case res.Error == nil:
		case out == nil:
			out = &api.Error{Code: res.Error.Code, Message: "the boot state is set, but " + res.Error.Message, Hint: res.Error.Hint}
		default:
			out.Message += "; " + res.Error.Message
		}
	}
	if out == nil {
		return nil
	}
	return out
}

func orDefault(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// asError makes any error one that crosses the wire.
func asError(err error) *api.Error {
	return toAPIError(err)
}
