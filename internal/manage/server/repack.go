package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/store/dir"
	"mimeo/internal/manage/schedule"
)

// repackStore compresses again when an admin says so, or says what that would bring.
func (s *Server) repackStore(ctx context.Context, r *http.Request, progress func(done, total int64)) (any, error) {
	o := dir.RepackOptions{DryRun: r.Method == http.MethodGet, Progress: progress}
	if text := r.FormValue("level"); text != "" {
		var err error
		if o.Level, err = strconv.Atoi(text); err != nil || o.Level < 1 || o.Level > 22 {
			return nil, &api.Error{Code: "bad_request", Message: "level: want 1 to 22"}
		}
	}
	return s.store.Repack(ctx, o)
}

// How much is repacked before others may go over the store, and after how long a machine that had to do is looked at again.
const (
	repackSlice = 4 // packs
	repackAgain = time.Minute
)

// errJobs ends a repack, to go on later.
var errJobs = errors.New("a job runs")

// repackIdle repacks at the times that the configuration says, while no job runs.
func (s *Server) repackIdle(ctx context.Context) error {
	if s.cfg.Repack == "off" {
		return nil
	}
	times, err := schedule.Parse(s.cfg.Repack, time.Local)
	if err != nil {
		return fmt.Errorf("repack: %w", err) // the configuration was checked
	}
	next := times.Next(time.Now())
	for {
		// The clock may be set, which no timer sees.
		if !sleep(ctx, max(0, min(time.Hour, time.Until(next.Round(0))))) {
			return nil
		}
		if time.Now().Round(0).Before(next) {
			continue
		}
		next = times.Next(time.Now())
		if err := s.repackAll(ctx, repackAgain); err != nil && ctx.Err() == nil {
			s.log.Warn("the store is not repacked", "err", err)
		}
	}
}

// repackAll goes through the whole store, in slices, and waits while jobs run or others go over it.
func (s *Server) repackAll(ctx context.Context, again time.Duration) error {
	began := time.Now()
	var all dir.RepackReport
	for {
		r, err := s.store.Repack(ctx, dir.RepackOptions{Most: repackSlice, After: all.Last, Pause: func(context.Context) error {
			if len(s.jobs.Active()) > 0 {
				return errJobs
			}
			return nil
		}})
		if r != nil {
			all.Freed += r.Freed
			all.Packs += r.Packs
		}
		if errors.Is(err, errJobs) || errors.Is(err, dir.ErrBusy) {
			if !sleep(ctx, again) {
				return nil
			}
			continue
		} else if err != nil {
			return err
		}
		for _, p := range r.Problems {
			s.log.Warn("the store is not repacked in full", "problem", p)
		}
		all.Last = r.Last
		if r.Left == 0 || len(r.Problems) > 0 && r.Packs == 0 {
			s.log.Info("the store is repacked", "packs", all.Packs, "freed", all.Freed, "took", time.Since(began).Round(time.Second))
			return nil
		}
	}
}

// sleep waits, and returns false where ctx is done before.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
