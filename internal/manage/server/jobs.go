package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
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

// makeJobs makes the jobs that an admin asks for.
func (s *Server) makeJobs(ctx context.Context, req api.JobNew) ([]api.Job, error) {
	return s.makeWork(ctx, req, "", time.Time{})
}

// makeWork checks what jobs need before any node is touched, and makes them. schedule asks for them, or "", and planned
// is when they were to begin; zero means now.
func (s *Server) makeWork(ctx context.Context, req api.JobNew, schedule string, planned time.Time) ([]api.Job, error) {
	if req.Key == "" || len(req.Key) > 200 {
		return nil, &api.Error{Code: "bad_request", Message: "a job needs a key of at most 200 characters, so that a request sent twice makes one job"}
	}
	// What was made already is not checked again: its nodes are at work by now.
	if known, err := s.jobs.OfKey(ctx, req.Key); err != nil || len(known) > 0 {
		return known, err
	}
	// From finding the revision to having a job of it, nobody may remove it.
	s.retire.RLock()
	defer s.retire.RUnlock()
	p, err := s.plan(ctx, req)
	if err != nil {
		return nil, err
	}
	looks, err := s.look(ctx, p)
	if err != nil {
		return nil, err
	}
	req.Image = p.image
	w := job.Work{Request: req, Rev: p.rev.Rev, Manifest: p.rev.ID, Schedule: schedule, From: planned, Unfit: map[node.Name]*api.Error{}}
	var first *api.Error
	for _, l := range looks {
		w.Nodes = append(w.Nodes, l.Node)
		if l.Problem != nil {
			w.Unfit[l.Node] = l.Problem
			if first == nil {
				first = l.Problem
			}
		}
	}
	if first != nil {
		// The same request may have been served meanwhile, and be what keeps the nodes busy.
		if known, err := s.jobs.OfKey(ctx, req.Key); err != nil || len(known) > 0 {
			return known, err
		}
	}
	switch {
	case first == nil:
	case !req.Skip || req.FailFast || len(looks) == 1:
		return nil, first
	case len(w.Unfit) == len(looks):
		return nil, &api.Error{Code: first.Code, Message: fmt.Sprintf("none of the %d nodes can take it; %s", len(looks), first.Message), Hint: first.Hint}
	}
	return s.jobs.New(ctx, w)
}

// plan is what a request comes to: its nodes, and the revision that is deployed.
type plan struct {
	req      api.JobNew
	nodes    []node.Node
	image    string // name
	rev      store.Revision
	manifest *manifest.Manifest // nil for a capture
}

// maxBatch bounds what numbers a request may hold.
const (
	maxBatch  = 100_000
	maxWithin = 30 * 24 * time.Hour
)

// plan reads a request, apart from what its nodes say to it.
func (s *Server) plan(ctx context.Context, req api.JobNew) (p plan, err error) {
	bad := func(format string, args ...any) (plan, error) {
		return plan{}, &api.Error{Code: "bad_request", Message: fmt.Sprintf(format, args...)}
	}
	p.req = req
	switch {
	case req.Tries < 0 || req.Tries > 100:
		return bad("tries: want 1 to 100")
	case req.Max < 0 || req.Max > maxBatch:
		return bad("max: want 1 to %d", maxBatch)
	case req.WithinMS < 0 || req.WithinMS > maxWithin.Milliseconds():
		return bad("within_ms: want more than 0, and at most 30 days")
	case req.Trust && (req.Kind != api.TaskDeploy || req.Full):
		return bad("trust_last is for a deploy that reads the disk first: leave out trust_last, or full")
	}
	if req.Kind == api.TaskWipe {
		if err := checkWipe(req); err != nil {
			return p, err
		}
		if p.nodes, err = s.expand(ctx, req.Range, false); err == nil && len(p.nodes) == 0 {
			err = &api.Error{Code: "not_found", Message: fmt.Sprintf("%q names no node", req.Range)}
		}
		return p, err
	}
	if req.Method != "" || req.AllDisks {
		return bad("method and all_disks are for a wipe")
	}
	name, revText, hasRev := strings.Cut(req.Image, "@")
	p.image = name
	if err := manifest.ValidName(name); err != nil {
		return bad("%v", err)
	}
	if p.nodes, err = s.expand(ctx, req.Range, false); err != nil {
		return p, err
	}
	if len(p.nodes) == 0 {
		return p, &api.Error{Code: "not_found", Message: fmt.Sprintf("%q names no node", req.Range)}
	}
	switch req.Kind {
	case api.TaskCapture:
		if hasRev {
			return bad("a capture makes the next revision: name the image without @")
		}
		if len(p.nodes) != 1 {
			return bad("%q names %d nodes: an image is captured of one", req.Range, len(p.nodes))
		}
		for _, l := range req.LeaveOut {
			if !stateless.OKLeaveOut(l) {
				return bad("leave out %q: want a path below / or a name, with * and ? and [...]", l)
			}
		}
	case api.TaskDeploy:
		n := 0
		if hasRev {
			if n, err = strconv.Atoi(revText); err != nil || n < 1 {
				return bad("%q: want NAME or NAME@REV", req.Image)
			}
		}
		if p.rev, err = store.Find(ctx, s.store, name, n); err != nil {
			if errors.Is(err, store.ErrNotFound) {
				return p, &api.Error{Code: "not_found", Message: fmt.Sprintf("no image %q", req.Image), Hint: `"mimeo image list" shows all`}
			}
			return p, err
		}
		if err := s.mustBeSigned(p.rev); err != nil {
			return p, err
		}
		if p.manifest, err = s.store.Manifest(ctx, p.rev.ID); err != nil {
			return p, fmt.Errorf("%s@%d: %w", name, p.rev.Rev, err)
		}
		if _, _, _, err := p.manifest.Grows(req.Grow); err != nil {
			return p, &api.Error{Code: "bad_request", Message: fmt.Sprintf("%s@%d: %v", name, p.rev.Rev, err),
				Hint: fmt.Sprintf("\"mimeo image show %s@%d\" lists the volumes; last and none are good for any image", name, p.rev.Rev)}
		}
	default:
		return bad("job kind %q: want capture, deploy or wipe", req.Kind)
	}
	return p, nil
}

// canNetboot refuses a job that could only fail: no network card, or no stateless image for it. good has what was found
// good for nodes before.
func (s *Server) canNetboot(n node.Node, good map[string]bool) error {
	if len(n.NICs) == 0 {
		return &api.Error{Code: "bad_request", Message: fmt.Sprintf("%s has no network card to boot from", n.Name), Hint: fmt.Sprintf("mimeo node set %s mac=ADDRESS", n.Name)}
	}
	profile := orDefault(n.Profile, "imaging")
	key := profile + "/" + string(n.Arch)
	if good[key] {
		return nil
	}
	if n.Arch == "" {
		// Not known before it has netbooted once: any build of the profile will do for now.
		all, err := stateless.Show(s.cfg.State, profile, "")
		good[key] = err == nil && len(all) > 0
	} else {
		_, err := stateless.Current(s.cfg.State, profile, n.Arch)
		good[key] = err == nil
	}
	if good[key] {
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
	f := inventory.JobFilter{Active: r.FormValue("active") != "", Batch: r.FormValue("batch"), Newest: r.FormValue("failed") != "", Limit: maxJobs}
	if f.Batch != "" {
		if _, err := s.batch(r.Context(), f.Batch); err != nil {
			return nil, err
		}
	}
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
	if f.Newest || f.Batch != "" {
		f.Limit = 0 // not more than there are nodes
	}
	jobs, err := s.jobs.Publics(r.Context(), f)
	if f.Newest {
		jobs = slices.DeleteFunc(jobs, func(j api.Job) bool { return j.Phase != api.PhaseFailed && j.Phase != api.PhaseLost })
	}
	return jobs, err
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
		return nil, stillOn(old)
	}
	jobs, err := s.makeJobs(r.Context(), again([]job.Record{old}, fmt.Sprintf("retry-%s-%d", old.ID, time.Now().UnixNano())))
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
