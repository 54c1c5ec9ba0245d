package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/manage/inventory"
	"mimeo/internal/manage/schedule"
)

// newSchedules makes what starts jobs at other times.
func (s *Server) newSchedules() *schedule.Runner {
	return schedule.New(schedule.Options{DB: s.db, Log: s.log, Start: s.runSchedule, Busy: s.scheduleBusy})
}

// runSchedule makes a schedule's jobs. Nodes that cannot take it fail by themselves, unless it stops with the first that
// fails.
func (s *Server) runSchedule(ctx context.Context, sch api.Schedule, key string, planned time.Time) ([]api.Job, error) {
	req := sch.Job
	req.Key, req.Skip = "schedule-"+key, true
	jobs, err := s.makeWork(ctx, req, sch.ID, planned)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	return jobs, s.db.Audit(ctx, "schedule "+sch.ID, "", "POST /v1/jobs", string(b))
}

// scheduleBusy is the newest batch of a schedule, where it has not ended.
func (s *Server) scheduleBusy(ctx context.Context, id string) (string, error) {
	batches, err := s.db.BatchesOf(ctx, id, 1)
	if err != nil || len(batches) == 0 {
		return "", err
	}
	on, err := s.jobs.Publics(ctx, inventory.JobFilter{Batch: batches[0], Active: true, Limit: 1})
	if err != nil || len(on) == 0 {
		return "", err
	}
	return batches[0], nil
}

func noSchedule(id string, err error) error {
	if errors.Is(err, inventory.ErrNotFound) {
		return &api.Error{Code: "not_found", Message: fmt.Sprintf("no schedule %q", id), Hint: `"mimeo schedule list" shows all`}
	}
	return err
}

func (s *Server) listSchedules(r *http.Request) (any, error) { return s.schedules.List(r.Context()) }

func (s *Server) addSchedule(r *http.Request) (any, error) {
	req, err := read[api.ScheduleNew](r)
	if err != nil {
		return nil, err
	}
	if req.Key == "" || len(req.Key) > 200 {
		return nil, &api.Error{Code: "bad_request", Message: "a schedule needs a key of at most 200 characters, so that a request sent twice makes one"}
	}
	if req.GraceMS != nil && *req.GraceMS > maxWithin.Milliseconds() {
		return nil, &api.Error{Code: "bad_request", Message: "grace_ms: want at most 30 days"}
	}
	// What is wrong shows now, and not at night.
	if _, err := s.plan(r.Context(), req.Job); err != nil {
		return nil, err
	}
	return s.schedules.Add(r.Context(), req)
}

// scheduleBatches is how many batches are shown of a schedule.
const scheduleBatches = 20

func (s *Server) showSchedule(r *http.Request) (any, error) {
	id := r.PathValue("id")
	out, err := s.schedules.Get(r.Context(), id)
	if err != nil {
		return nil, noSchedule(id, err)
	}
	out.Batches, err = s.db.BatchesOf(r.Context(), id, scheduleBatches)
	return out, err
}

func (s *Server) removeSchedule(r *http.Request) (any, error) {
	id := r.PathValue("id")
	if err := s.schedules.Remove(r.Context(), id); err != nil {
		return nil, noSchedule(id, err)
	}
	return api.Affected{Names: []string{id}}, nil
}

func (s *Server) runScheduleNow(r *http.Request) (any, error) {
	req, err := read[api.ScheduleRun](r)
	if err != nil {
		return nil, err
	}
	if req.Key == "" || len(req.Key) > 150 {
		return nil, &api.Error{Code: "bad_request", Message: "a run needs a key of at most 150 characters"}
	}
	id := r.PathValue("id")
	jobs, err := s.schedules.Now(r.Context(), id, req.Key)
	return jobs, noSchedule(id, err)
}

func (s *Server) pauseSchedule(r *http.Request) (any, error) {
	req, err := read[api.SchedulePause](r)
	if err != nil {
		return nil, err
	}
	id := r.PathValue("id")
	out, err := s.schedules.Pause(r.Context(), id, req.Paused)
	return out, noSchedule(id, err)
}
