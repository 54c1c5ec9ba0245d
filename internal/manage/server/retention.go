package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/dir"
	"mimeo/internal/manage/inventory"
	"mimeo/internal/manage/retain"
	"mimeo/internal/manage/schedule"
)

// maxKeep bounds the numbers of a retention rule.
const maxKeep = 100_000

// retention says what a rule comes to.
func (s *Server) retention(ctx context.Context, image string, rule api.RetentionRule) (api.Retention, error) {
	out := api.Retention{Image: image, Rule: rule, Removed: []int{}}
	for key, n := range map[string]int{"last": rule.Last, "daily": rule.Daily, "weekly": rule.Weekly} {
		if n < 0 || n > maxKeep {
			return out, &api.Error{Code: "bad_request", Message: fmt.Sprintf("%s: want 0 to %d", key, maxKeep)}
		}
	}
	if manifest.ValidName(image) != nil {
		return out, noImage(image)
	}
	revs, err := s.store.Revisions(ctx, image)
	if err != nil {
		return out, err
	}
	pins, err := s.db.Pins(ctx, image)
	if err != nil {
		return out, err
	}
	used := make(map[int]bool)
	for _, j := range s.jobs.Active() {
		if j.Kind == api.TaskDeploy && j.Image == image {
			used[j.Rev] = true
		}
	}
	list := make([]retain.Revision, 0, len(revs))
	for _, r := range revs {
		// The clock of a node that was captured may be wrong.
		at := r.Published
		if at.IsZero() {
			at = r.Created
		}
		list = append(list, retain.Revision{Rev: r.Rev, Created: at, Pinned: pins[r.Rev], InUse: used[r.Rev]})
	}
	out.Revisions = retain.Apply(rule, list, time.Local)
	return out, nil
}

// showRetention answers with an image's rule, or with what another would keep.
func (s *Server) showRetention(r *http.Request) (any, error) {
	image := r.PathValue("name")
	rule, err := s.db.Retention(r.Context(), image)
	if err == nil && r.Method != http.MethodGet {
		rule, err = read[api.RetentionRule](r)
	}
	if err != nil {
		return nil, err
	}
	return s.retention(r.Context(), image, rule)
}

// setRetention makes a rule an image's, and removes what it does not keep.
func (s *Server) setRetention(r *http.Request) (any, error) {
	image := r.PathValue("name")
	rule, err := read[api.RetentionRule](r)
	if err != nil {
		return nil, err
	}
	if _, err := s.retention(r.Context(), image, rule); err != nil {
		return nil, err
	}
	if err := s.db.PutRetention(r.Context(), image, rule); err != nil {
		return nil, err
	}
	return s.retain(r.Context(), image)
}

// retain removes what an image's rule does not keep.
func (s *Server) retain(ctx context.Context, image string) (api.Retention, error) {
	rule, err := s.db.Retention(ctx, image)
	if err != nil {
		return api.Retention{}, err
	}
	out, err := s.retention(ctx, image, rule)
	if err != nil {
		return out, err
	}
	for _, v := range out.Revisions {
		if v.Keep {
			continue
		}
		var e *api.Error
		err := s.remove(ctx, image, v.Rev)
		if errors.As(err, &e) && (e.Code == "conflict" || e.Code == "not_found") {
			continue // a job began, or somebody pinned or removed it, since we looked
		} else if err != nil {
			return out, err
		}
		out.Removed = append(out.Removed, v.Rev)
		s.log.Info("a retention rule removed a revision", "image", image, "rev", v.Rev)
		if err := s.db.Audit(ctx, "retention rule", "", fmt.Sprintf("DELETE /v1/images/%s/%d", image, v.Rev), ""); err != nil {
			return out, err
		}
	}
	return out, nil
}

// pinRevision pins a revision, or takes its pin away.
func (s *Server) pinRevision(r *http.Request) (any, error) {
	name, text := r.PathValue("name"), r.PathValue("rev")
	rev, err := strconv.Atoi(text)
	if err != nil || rev < 1 || manifest.ValidName(name) != nil {
		return nil, noImage(name + "@" + text)
	}
	s.retire.Lock() // nobody removes it from finding it to having it pinned
	defer s.retire.Unlock()
	if _, err := store.Find(r.Context(), s.store, name, rev); errors.Is(err, store.ErrNotFound) {
		return nil, noImage(fmt.Sprintf("%s@%d", name, rev))
	} else if err != nil {
		return nil, err
	}
	if err := s.db.SetPin(r.Context(), name, rev, r.Method == http.MethodPut); err != nil {
		return nil, err
	}
	return api.Affected{Names: []string{fmt.Sprintf("%s@%d", name, rev)}}, nil
}

// jobStore is the store of the jobs: it tells of each revision that is published.
type jobStore struct {
	*dir.Store
	published chan<- string
}

// Publish implements store.Publisher.
func (j jobStore) Publish(ctx context.Context, image string, id manifest.ID) (store.Revision, error) {
	r, err := j.Store.Publish(ctx, image, id)
	if err == nil {
		select {
		case j.published <- image:
		default: // a hundred wait already; what is not told now goes with the next clean-up
		}
	}
	return r, err
}

// gcAgain is how long a clean-up waits that could not be done: for a capture from before the start, or for a check.
const gcAgain = 10 * time.Minute

// tidy applies an image's rule whenever it has a new revision, and cleans up at the times that the configuration says.
func (s *Server) tidy(ctx context.Context) error {
	var times schedule.Spec
	var next time.Time
	if s.cfg.GC != "off" {
		var err error
		if times, err = schedule.Parse(s.cfg.GC, time.Local); err != nil {
			return fmt.Errorf("gc: %w", err) // the configuration was checked
		}
		next = times.Next(time.Now())
	}
	for {
		wait := time.Hour // the clock may be set, which no timer sees
		if !next.IsZero() {
			wait = max(0, min(wait, time.Until(next.Round(0))))
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case image := <-s.published:
			timer.Stop()
			if _, err := s.retain(ctx, image); err != nil && ctx.Err() == nil {
				s.log.Error("a retention rule cannot be applied", "image", image, "err", err)
			}
			continue
		case <-timer.C:
		}
		if next.IsZero() || time.Now().Round(0).Before(next) {
			continue
		}
		next = times.Next(time.Now())
		if err := s.cleanUp(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("the store is not cleaned up", "err", err)
			var promised *dir.PromisedError
			if again := time.Now().Add(gcAgain); (errors.Is(err, dir.ErrBusy) || errors.As(err, &promised)) && again.Before(next) {
				next = again
			}
		}
	}
}

// forget forgets old jobs, batches and events, now and once a day.
func (s *Server) forget(ctx context.Context) error {
	if s.cfg.History.Keep < 0 {
		return nil
	}
	day := time.NewTicker(24 * time.Hour)
	defer day.Stop()
	for {
		f, err := s.db.Forget(ctx, time.Now().Add(-time.Duration(s.cfg.History.Keep)), s.cfg.History.Jobs)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			s.log.Error("old jobs and events cannot be forgotten", "err", err)
		case f != inventory.Forgotten{}:
			s.log.Info("old jobs and events are forgotten", "jobs", f.Jobs, "batches", f.Batches, "events", f.Events)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-day.C:
		}
	}
}

// cleanUp applies all rules and removes garbage.
func (s *Server) cleanUp(ctx context.Context) error {
	images, err := s.db.Retained(ctx)
	if err != nil {
		return err
	}
	for _, image := range images {
		if _, err := s.retain(ctx, image); err != nil {
			return fmt.Errorf("retention rule of %s: %w", image, err)
		}
	}
	began := time.Now()
	r, err := s.store.GC(ctx, dir.GCOptions{Grace: -1, InUse: s.jobs.Needs})
	if err != nil {
		return err
	}
	for _, p := range r.Problems {
		s.log.Warn("the store is not cleaned up in full", "problem", p)
	}
	s.log.Info("the store is cleaned up", "freed", r.Freed, "live", r.Live, "removed", r.Removed, "rewritten", r.Rewritten, "took", time.Since(began).Round(time.Millisecond))
	return nil
}
