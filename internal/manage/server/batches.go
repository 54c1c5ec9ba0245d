package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/manage/inventory"
	"mimeo/internal/manage/job"
)

// batch reads what was asked for together.
func (s *Server) batch(ctx context.Context, id string) (b api.Batch, err error) {
	err = s.db.Batch(ctx, id, &b)
	if errors.Is(err, inventory.ErrNotFound) {
		err = &api.Error{Code: "not_found", Message: fmt.Sprintf("no batch %q", id), Hint: `"mimeo job list" shows which batch a job belongs to`}
	}
	return b, err
}

func (s *Server) showBatch(r *http.Request) (any, error) {
	b, err := s.batch(r.Context(), r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	jobs, err := s.jobs.Publics(r.Context(), inventory.JobFilter{Batch: b.ID})
	b.Phases = map[api.Phase]int{}
	for _, j := range jobs {
		b.Phases[j.Phase]++
		if j.Active {
			b.Active++
		}
	}
	return b, err
}

func (s *Server) cancelBatch(r *http.Request) (any, error) {
	b, err := s.batch(r.Context(), r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	if err := s.jobs.CancelBatch(r.Context(), b.ID); err != nil {
		return nil, err
	}
	return s.jobs.Publics(r.Context(), inventory.JobFilter{Batch: b.ID})
}

// again asks for the same as ended jobs of one kind, image and batch did.
func again(old []job.Record, key string) api.JobNew {
	req := old[0].Request
	var names []string
	for _, r := range old {
		names = append(names, string(r.Node))
	}
	req.Key, req.Range, req.Skip = key, strings.Join(names, ","), len(old) > 1
	if len(old) == 1 {
		req.Max, req.WithinMS, req.FailFast = 0, 0, false
	}
	if old[0].Kind == api.TaskDeploy {
		req.Image = fmt.Sprintf("%s@%d", old[0].Image, old[0].Rev)
	}
	return req
}

// retryJobs asks for ended jobs again, those of a batch as a batch. Sent again after half of it was done, it does the
// other half.
func (s *Server) retryJobs(r *http.Request) (any, error) {
	req, err := read[api.JobRetry](r)
	if err != nil {
		return nil, err
	}
	if req.Key == "" || len(req.Key) > 150 {
		return nil, &api.Error{Code: "bad_request", Message: "a retry needs a key of at most 150 characters"}
	}
	if len(req.Jobs) == 0 || len(req.Jobs) > maxBatch || req.Max < 0 || req.Max > maxBatch {
		return nil, &api.Error{Code: "bad_request", Message: "want the IDs of jobs, and a max of 1 or more"}
	}
	groups := map[string][]job.Record{}
	var order []string
	for _, id := range req.Jobs {
		old, err := s.jobs.Get(r.Context(), id)
		if err != nil {
			return nil, err
		}
		if old.Active {
			return nil, stillOn(old)
		}
		same := old.Request
		same.Key, same.Range = "", ""
		b, err := json.Marshal(same)
		if err != nil {
			return nil, err
		}
		g := fmt.Sprintf("%s %d %s", old.Batch, old.Rev, b)
		if old.Kind == api.TaskCapture {
			g = old.ID // one node each
		}
		if len(groups[g]) == 0 {
			order = append(order, g)
		}
		if !slices.ContainsFunc(groups[g], func(r job.Record) bool { return r.Node == old.Node }) {
			groups[g] = append(groups[g], old)
		}
	}
	out := []api.Job{}
	for i, g := range order {
		ask := again(groups[g], fmt.Sprintf("retry-%s-%d", req.Key, i))
		if req.Max > 0 && len(groups[g]) > 1 {
			ask.Max = req.Max
		}
		jobs, err := s.makeJobs(r.Context(), ask)
		if err != nil {
			return nil, err
		}
		out = append(out, jobs...)
	}
	return out, nil
}

func stillOn(r job.Record) error {
	return &api.Error{Code: "conflict", Message: fmt.Sprintf("job %s is still on: %s", r.ID, r.Phase)}
}

// gather is how long the news of several jobs are gathered for one message.
const gather = 300 * time.Millisecond

// watchJobs streams the news of several jobs until all have ended.
func (s *Server) watchJobs(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	ids := r.URL.Query()["job"]
	if b := r.FormValue("batch"); b != "" {
		if _, err := s.batch(ctx, b); err != nil {
			writeError(w, err)
			return
		}
		jobs, err := s.jobs.Publics(ctx, inventory.JobFilter{Batch: b})
		if err != nil {
			writeError(w, err)
			return
		}
		for _, j := range jobs {
			ids = append(ids, j.ID)
		}
	}
	if len(ids) == 0 {
		writeError(w, &api.Error{Code: "bad_request", Message: "name jobs, or a batch"})
		return
	}
	news := s.jobs.Follow(ids)
	defer news.Stop()
	changed, err := s.jobs.Some(ctx, ids)
	if err == nil && len(changed) < len(ids) {
		err = &api.Error{Code: "not_found", Message: "there is no job of one of these names", Hint: `"mimeo job list" shows all`}
	}
	if err != nil {
		writeError(w, err)
		return
	}
	send, on := sse(w), map[string]bool{}
	quiet := time.NewTicker(keepAlive)
	defer quiet.Stop()
	for {
		for _, j := range changed {
			if on[j.ID] = true; !j.Active {
				delete(on, j.ID)
			}
		}
		if send(api.WatchJobs{Jobs: changed, Ended: len(on) == 0}) != nil || len(on) == 0 {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-quiet.C:
			changed = []api.Job{}
			continue
		case <-news.News:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(gather):
		}
		if changed, err = news.Take(ctx); err != nil {
			return // the watcher asks again
		}
	}
}
