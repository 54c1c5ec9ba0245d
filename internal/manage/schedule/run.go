package schedule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/manage/inventory"
)

// DefaultGrace is how late a run that was missed is still begun, where nobody said otherwise.
const DefaultGrace = time.Hour

// onTime is how late a run may be that nobody would call late.
const onTime = time.Minute

// look is how often at least the schedules are looked at: the clock may be set, which no timer sees.
const look = time.Minute

// Runner starts what is due. Make one with New; Run drives it, all other methods may be called from any goroutine.
type Runner struct {
	db    *inventory.DB
	start Start
	busy  func(ctx context.Context, schedule string) (string, error)
	log   *slog.Logger
	now   func() time.Time

	mu   sync.Mutex // held while a schedule is looked at or changed
	wake chan struct{}
}

// Start makes a schedule's jobs. The same key twice must give the same jobs.
type Start func(ctx context.Context, s api.Schedule, key string, planned time.Time) ([]api.Job, error)

// Options of a Runner.
type Options struct {
	DB    *inventory.DB
	Start Start
	Busy  func(ctx context.Context, schedule string) (batch string, err error) // that it started and that has not ended; "" for none
	Log   *slog.Logger                                                         // nil means silent
	Now   func() time.Time                                                     // nil means the real clock
}

// New makes a runner. Nothing is started before Run.
func New(o Options) *Runner {
	r := &Runner{db: o.DB, start: o.Start, busy: o.Busy, log: o.Log, now: o.Now, wake: make(chan struct{}, 1)}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if r.now == nil {
		r.now = time.Now
	}
	return r
}

// Run starts what is due until ctx is done.
func (r *Runner) Run(ctx context.Context) error {
	for {
		next, err := r.Step(ctx)
		if ctx.Err() != nil {
			return nil
		}
		wait := look
		if err != nil {
			r.log.Error("schedules cannot be looked at just now", "err", err)
		} else if !next.IsZero() {
			wait = max(0, min(wait, next.Sub(r.now().Round(0))))
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-r.wake:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

func (r *Runner) changed() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// keepOver is how long a schedule is kept that is over.
const keepOver = 30 * 24 * time.Hour

// Step starts what is due, writes down what was missed, and tells when the next is due (zero: none is).
func (r *Runner) Step(ctx context.Context) (next time.Time, err error) {
	all, err := r.List(ctx)
	if err != nil {
		return next, err
	}
	for _, s := range all {
		if s.Next == nil && s.Last != nil && r.now().Sub(s.Last.Planned) > keepOver {
			if err := r.Remove(ctx, s.ID); err != nil && !errors.Is(err, inventory.ErrNotFound) {
				return next, err
			}
			continue
		}
		at, err := r.one(ctx, s.ID)
		if err != nil && !errors.Is(err, inventory.ErrNotFound) {
			return next, fmt.Errorf("schedule %s: %w", s.ID, err)
		}
		if !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return next, nil
}

// one looks at one schedule, and tells when it is due next.
func (r *Runner) one(ctx context.Context, id string) (next time.Time, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, err := r.Get(ctx, id)
	if err != nil || s.Paused || s.Next == nil {
		return next, err
	}
	now := r.now().Round(0)
	planned, verdict, err := due(s, now)
	if err != nil || verdict == notYet {
		return *s.Next, err
	}
	run := api.LastRun{Planned: planned}
	if verdict == missed {
		run.Error = &api.Error{Code: "missed", Message: fmt.Sprintf("it was due at %s, and mimeod could not begin it until %s", stamp(planned), stamp(now)),
			Hint: fmt.Sprintf(`"mimeo schedule run %s" starts it now; --grace says how late it may begin`, id)}
	} else {
		r.begin(ctx, s, fmt.Sprintf("%s-%d", id, planned.Unix()), &run)
	}
	if ctx.Err() != nil {
		return next, ctx.Err() // the server stops: the next one does it again, with the same key
	}
	if run.Error != nil {
		r.log.Error("schedule did not run", "schedule", id, "planned", planned, "err", run.Error.Message)
	} else {
		r.log.Info("schedule has begun", "schedule", id, "planned", planned, "batch", run.Batch)
	}
	err = r.db.ChangeSchedule(ctx, id, &s, func() error {
		s.Last, s.Next = &run, nil
		return follow(&s, now)
	})
	if err != nil || s.Next == nil {
		return next, err
	}
	return *s.Next, nil
}

// begin starts the jobs and writes down what came of it.
func (r *Runner) begin(ctx context.Context, s api.Schedule, key string, run *api.LastRun) {
	fail := func(err error) {
		var e *api.Error
		if !errors.As(err, &e) {
			e = &api.Error{Code: "internal", Message: err.Error()}
		}
		run.Error = e
	}
	if on, err := r.busy(ctx, s.ID); err != nil {
		fail(err)
		return
	} else if on != "" {
		fail(&api.Error{Code: "conflict", Message: fmt.Sprintf("%s, which it started before, is still on", on), Hint: fmt.Sprintf(`"mimeo job list --batch %s" shows it, "mimeo job cancel %s" ends it`, on, on)})
		return
	}
	jobs, err := r.start(ctx, s, key, run.Planned)
	if err != nil {
		fail(err)
		return
	}
	now := r.now().Round(0)
	run.Began, run.Jobs = &now, len(jobs)
	if len(jobs) > 0 {
		run.Batch = jobs[0].Batch
	}
}

func stamp(t time.Time) string { return t.Local().Format("2006-01-02 15:04") }

// verdict is what is to be done about a schedule.
type verdict int

const (
	notYet verdict = iota
	runNow
	missed
)

// due says whether a schedule is to be run at a moment, and for which of its times: where several have passed, for the
// newest. One that comes later than its grace, or after the window in which its jobs must have begun, is missed.
func due(s api.Schedule, now time.Time) (planned time.Time, v verdict, err error) {
	if s.Paused || s.Next == nil || now.Before(*s.Next) {
		return planned, notYet, nil
	}
	planned = *s.Next
	if s.Every != "" {
		spec, err := spec(s)
		if err != nil {
			return planned, notYet, err
		}
		if last := spec.Last(planned, now); !last.IsZero() {
			planned = last
		}
	}
	late := now.Sub(planned)
	within := time.Duration(s.Job.WithinMS) * time.Millisecond
	if late > max(onTime, time.Duration(s.GraceMS)*time.Millisecond) || within > 0 && late >= within {
		return planned, missed, nil
	}
	return planned, runNow, nil
}

func spec(s api.Schedule) (Spec, error) {
	zone, err := Zone(s.Zone)
	if err != nil {
		return Spec{}, err
	}
	return Parse(s.Every, zone)
}

// follow sets when a schedule is due next after now; one for a single time is over.
func follow(s *api.Schedule, now time.Time) error {
	s.Next = nil
	if s.Every == "" {
		return nil
	}
	sp, err := spec(*s)
	if err != nil {
		return err
	}
	next := sp.Next(now)
	s.Next = &next
	return nil
}

// Add keeps a new schedule. The same key twice gives the same.
func (r *Runner) Add(ctx context.Context, n api.ScheduleNew) (s api.Schedule, err error) {
	now := r.now().Round(0)
	s = api.Schedule{Job: n.Job, Every: n.Every, GraceMS: DefaultGrace.Milliseconds(), Created: now, Zone: time.Local.String()}
	s.Job.Key = ""
	if n.GraceMS != nil {
		s.GraceMS = *n.GraceMS
	}
	bad := func(err error) (api.Schedule, error) {
		return api.Schedule{}, &api.Error{Code: "bad_request", Message: err.Error()}
	}
	switch {
	case (n.At == "") == (n.Every == ""):
		return bad(errors.New("a schedule is for one time (at) or for times that come again (every)"))
	case s.GraceMS < 0:
		return bad(errors.New("grace: want 0 or more"))
	case n.At != "":
		at, err := ParseAt(n.At, now, time.Local)
		if err != nil {
			return bad(err)
		}
		if at.Before(now) {
			return bad(fmt.Errorf("at: %s is past", stamp(at)))
		}
		s.At, s.Next = &at, &at
	default:
		sp, err := Parse(n.Every, time.Local)
		if err != nil {
			return bad(fmt.Errorf("every: %w", err))
		}
		s.Zone = sp.ZoneName()
		next := sp.Next(now)
		s.Next = &next
	}
	var kept api.Schedule
	err = r.db.AddSchedule(ctx, n.Key, func(id string) any { s.ID = id; return s }, &kept)
	r.changed()
	return kept, err
}

// List are all schedules, oldest first.
func (r *Runner) List(ctx context.Context) ([]api.Schedule, error) {
	out := []api.Schedule{}
	err := r.db.Schedules(ctx, func(data []byte) error {
		var s api.Schedule
		err := json.Unmarshal(data, &s)
		out = append(out, s)
		return err
	})
	return out, err
}

// Get reads one schedule.
func (r *Runner) Get(ctx context.Context, id string) (s api.Schedule, err error) {
	err = r.db.Schedule(ctx, id, &s)
	return s, err
}

// Remove forgets a schedule. What it started goes on.
func (r *Runner) Remove(ctx context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.db.DeleteSchedule(ctx, id)
}

// Pause has a schedule rest, or go on with its next time: those that passed meanwhile are not made up for.
func (r *Runner) Pause(ctx context.Context, id string, paused bool) (s api.Schedule, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now().Round(0)
	err = r.db.ChangeSchedule(ctx, id, &s, func() error {
		was := s.Paused
		s.Paused = paused
		if !was || paused || s.Next == nil || s.Next.After(now) {
			return nil
		}
		if s.Every == "" {
			s.Last = &api.LastRun{Planned: *s.Next, Error: &api.Error{Code: "missed", Message: "it was paused when it was due", Hint: fmt.Sprintf(`"mimeo schedule run %s" starts it now`, id)}}
		}
		return follow(&s, now)
	})
	r.changed()
	return s, err
}

// Now starts a schedule's jobs beside its times. The same key twice gives the same jobs.
func (r *Runner) Now(ctx context.Context, id, key string) ([]api.Job, error) {
	s, err := r.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	return r.start(ctx, s, key, r.now().Round(0))
}
