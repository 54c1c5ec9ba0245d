package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
	"mimeo/internal/manage/inventory"
	"mimeo/internal/manage/job"
	"mimeo/internal/manage/power"
	"mimeo/internal/manage/stateless"
)

// toAPIError keeps an *api.Error with what was said around it, and gives others a code.
func toAPIError(err error) *api.Error {
	var e *api.Error
	if errors.As(err, &e) {
		return &api.Error{Code: e.Code, Message: err.Error(), Hint: e.Hint}
	}
	if errors.Is(err, power.ErrByHand) {
		return &api.Error{Code: "by_hand", Message: err.Error(), Hint: `give it one: mimeo node set NODE bmc=ipmi://ADDRESS bmc.user=USER`}
	}
	out := &api.Error{Code: "internal", Message: err.Error()}
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		out.Hint = h.Hint()
	}
	return out
}

// badRequest is for errors in what an admin wrote, be it a request or a file.
func badRequest(err error) *api.Error {
	e := toAPIError(err)
	if e.Code == "internal" {
		e.Code = "bad_request"
	}
	return e
}

func (s *Server) newJobs(r *http.Request) (any, error) {
	req, err := read[api.JobNew](r)
	if err != nil {
		return nil, err
	}
	return s.makeJobs(r.Context(), req)
}

// makeJobs checks what a job needs before it touches any node: the image, the stateless image, the names.
func (s *Server) makeJobs(ctx context.Context, req api.JobNew) ([]api.Job, error) {
	if req.Key == "" || len(req.Key) > 200 {
		return nil, &api.Error{Code: "bad_request", Message: "a job needs a key of at most 200 characters, so that a request sent twice makes one job"}
	}
	if req.Tries < 0 || req.Tries > 100 {
		return nil, &api.Error{Code: "bad_request", Message: "tries: want 1 to 100"}
	}
	name, revText, hasRev := strings.Cut(req.Image, "@")
	if err := manifest.ValidName(name); err != nil {
		return nil, &api.Error{Code: "bad_request", Message: err.Error()}
	}
	nodes, err := s.expand(ctx, req.Range, false)
	if err != nil {
		return nil, err
	}
	if len(nodes) == 0 {
		return nil, &api.Error{Code: "not_found", Message: fmt.Sprintf("%q names no node", req.Range)}
	}
	rev := store.Revision{}
	switch req.Kind {
	case api.TaskCapture:
		if hasRev {
			return nil, &api.Error{Code: "bad_request", Message: "a capture makes the next revision: name the image without @"}
		}
		if len(nodes) != 1 {
			return nil, &api.Error{Code: "bad_request", Message: fmt.Sprintf("%q names %d nodes: an image is captured of one", req.Range, len(nodes))}
		}
	case api.TaskDeploy:
		n := 0
		if hasRev {
			if n, err = strconv.Atoi(revText); err != nil || n < 1 {
				return nil, &api.Error{Code: "bad_request", Message: fmt.Sprintf("%q: want NAME or NAME@REV", req.Image)}
			}
		}
		if rev, err = store.Find(ctx, s.store, name, n); err != nil {
			if errors.Is(err, store.ErrNotFound) {
				return nil, &api.Error{Code: "not_found", Message: fmt.Sprintf("no image %q", req.Image), Hint: `"mimeo image list" shows all`}
			}
			return nil, err
		}
		if req.Grow != "" && req.Grow != "last" && req.Grow != "none" {
			return nil, &api.Error{Code: "bad_request", Message: fmt.Sprintf("grow %q: want last or none", req.Grow)}
		}
	default:
		return nil, &api.Error{Code: "bad_request", Message: fmt.Sprintf("job kind %q: want capture or deploy", req.Kind)}
	}
	req.Image = name
	var names []node.Name
	for _, n := range nodes {
		if err := s.canNetboot(n); err != nil {
			return nil, err
		}
		// The profile and the postscripts are looked at before any node is touched.
		if err := s.furnish(&api.Task{Kind: req.Kind}, n, netip.IPv4Unspecified()); err != nil {
			return nil, badRequest(err)
		}
		names = append(names, n.Name)
	}
	return s.jobs.New(ctx, job.Work{Request: req, Nodes: names, Rev: rev.Rev, Manifest: rev.ID})
}

// canNetboot refuses a job that could only fail: no network card, or no stateless image for it.
func (s *Server) canNetboot(n node.Node) error {
	if len(n.NICs) == 0 {
		return &api.Error{Code: "bad_request", Message: fmt.Sprintf("%s has no network card to boot from", n.Name), Hint: fmt.Sprintf("mimeo node set %s mac=ADDRESS", n.Name)}
	}
	profile := orDefault(n.Profile, "imaging")
	if n.Arch == "" {
		// Not known before it has netbooted once: any build of the profile will do for now.
		all, err := stateless.Show(s.cfg.State, profile, "")
		if err == nil && len(all) > 0 {
			return nil
		}
	} else if _, err := stateless.Current(s.cfg.State, profile, n.Arch); err == nil {
		return nil
	}
	arch := ""
	if n.Arch != "" {
		arch = " --arch " + string(n.Arch)
	}
	return &api.Error{Code: "no_image", Message: strings.TrimSpace(fmt.Sprintf("%s: there is no stateless image of profile %s %s", n.Name, profile, n.Arch)), Hint: "build one first: mimeo stateless build " + profile + arch}
}

// maxJobs bounds one list of jobs.
const maxJobs = 1000

func (s *Server) listJobs(r *http.Request) (any, error) {
	f := inventory.JobFilter{Active: r.FormValue("active") != "", Limit: maxJobs}
	if expr := r.FormValue("range"); expr != "" {
		nodes, err := s.expand(r.Context(), expr, false)
		if err != nil {
			return nil, err
		}
		f.Nodes = []node.Name{}
		for _, n := range nodes {
			f.Nodes = append(f.Nodes, n.Name)
		}
	}
	return s.jobs.Publics(r.Context(), f)
}

func (s *Server) jobEvents(r *http.Request) (any, error) {
	id := r.PathValue("id")
	if _, err := s.jobs.Get(r.Context(), id); err != nil {
		return nil, err
	}
	return s.db.Events(r.Context(), "", id, 10000)
}

func (s *Server) retryJob(r *http.Request) (any, error) {
	old, err := s.jobs.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	if old.Active {
		return nil, &api.Error{Code: "conflict", Message: fmt.Sprintf("job %s is still on: %s", old.ID, old.Phase)}
	}
	req := old.Request
	req.Range = string(old.Node)
	req.Key = fmt.Sprintf("retry-%s-%d", old.ID, time.Now().UnixNano())
	if old.Kind == api.TaskDeploy {
		req.Image = fmt.Sprintf("%s@%d", old.Image, old.Rev)
	}
	jobs, err := s.makeJobs(r.Context(), req)
	if err != nil {
		return nil, err
	}
	return jobs[0], nil
}

// watchJob streams a job's news until it has ended.
func (s *Server) watchJob(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	ch, stop := s.jobs.Watch(id)
	defer stop()
	rec, err := s.jobs.Get(r.Context(), id)
	if err != nil {
		writeError(w, err)
		return
	}
	send := sse(w)
	if send(api.Watch{Job: rec.Job}) != nil {
		return
	}
	quiet := time.NewTicker(keepAlive)
	defer quiet.Stop()
	for {
		select {
		case <-r.Context().Done():
			return
		case m, ok := <-ch:
			if !ok {
				if rec, err = s.jobs.Get(r.Context(), id); err == nil {
					send(api.Watch{Job: rec.Job})
				}
				return
			}
			if send(m) != nil {
				return
			}
		case <-quiet.C:
			if rec, err = s.jobs.Get(r.Context(), id); err != nil || send(api.Watch{Job: rec.Job}) != nil {
				return
			}
		}
	}
}
