package schedule

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/manage/inventory"
)

func TestDue(t *testing.T) {
	day := func(d, h, m int) time.Time { return time.Date(2026, 3, d, h, m, 0, 0, time.UTC) } // 2 March is a Monday
	next := day(2, 2, 0)
	nightly := api.Schedule{Every: "Mon-Fri 02:00", Zone: "UTC", GraceMS: time.Hour.Milliseconds(), Next: &next}
	with := func(f func(*api.Schedule)) api.Schedule { s := nightly; f(&s); return s }
	once := with(func(s *api.Schedule) { s.Every, s.At = "", &next })
	for _, c := range []struct {
		name    string
		s       api.Schedule
		now     time.Time
		planned time.Time
		v       verdict
	}{
		{"before", nightly, day(2, 1, 59), time.Time{}, notYet},
		{"at once", nightly, next, next, runNow},
		{"late, within its grace", nightly, day(2, 3, 0), next, runNow},
		{"too late", nightly, day(2, 3, 1), next, missed},
		{"down for days: the newest", nightly, day(4, 2, 30), day(4, 2, 0), runNow},
		{"down for days: all missed", nightly, day(4, 5, 0), day(4, 2, 0), missed},
		{"down over the week's end", nightly, day(8, 2, 30), day(6, 2, 0), missed},
		{"no grace: still a minute", with(func(s *api.Schedule) { s.GraceMS = 0 }), day(2, 2, 1), next, runNow},
		{"no grace", with(func(s *api.Schedule) { s.GraceMS = 0 }), day(2, 2, 2), next, missed},
		{"the window is over", with(func(s *api.Schedule) { s.Job.WithinMS = (30 * time.Minute).Milliseconds() }), day(2, 2, 30), next, missed},
		{"within the window", with(func(s *api.Schedule) { s.Job.WithinMS = (30 * time.Minute).Milliseconds() }), day(2, 2, 29), next, runNow},
		{"paused", with(func(s *api.Schedule) { s.Paused = true }), day(2, 2, 0), time.Time{}, notYet},
		{"over", with(func(s *api.Schedule) { s.Next = nil }), day(2, 2, 0), time.Time{}, notYet},
		{"once", once, day(2, 2, 5), next, runNow},
		{"once, too late", once, day(3, 2, 0), next, missed},
	} {
		t.Run(c.name, func(t *testing.T) {
			planned, v, err := due(c.s, c.now)
			if err != nil || v != c.v || !planned.Equal(c.planned) {
				t.Errorf("verdict %d for %v, %v; want %d for %v", v, planned, err, c.v, c.planned)
			}
		})
	}
}

// rig is a runner on a real inventory, with a clock that is moved and a start that writes down.
type rig struct {
	*Runner
	t     *testing.T
	dir   string
	clock time.Time
	mu    sync.Mutex
	began []string // schedule, and when it was planned for
	made  map[string]string
	err   error
	on    string // batch
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, dir: t.TempDir(), clock: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), made: map[string]string{}}
	r.open()
	t.Cleanup(func() { r.db.Close() })
	return r
}

func (r *rig) open() {
	r.t.Helper()
	db, err := inventory.Open(r.t.Context(), r.dir)
	if err != nil {
		r.t.Fatal(err)
	}
	r.Runner = New(Options{DB: db, Now: func() time.Time { return r.clock },
		Busy: func(context.Context, string) (string, error) { return r.on, nil },
		Start: func(_ context.Context, s api.Schedule, key string, planned time.Time) ([]api.Job, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.err != nil {
				return nil, r.err
			}
			if r.made[key] == "" {
				r.made[key] = fmt.Sprint("b", len(r.made)+1)
				r.began = append(r.began, s.ID+" "+planned.UTC().Format("2 15:04"))
			}
			return []api.Job{{ID: "j1", Batch: r.made[key]}}, nil
		}})
}

func (r *rig) restart() {
	r.t.Helper()
	if err := r.db.Close(); err != nil {
		r.t.Fatal(err)
	}
	r.open()
}

// at moves the clock and looks.
func (r *rig) at(d, h, m int) time.Time {
	r.t.Helper()
	r.clock = time.Date(2026, 3, d, h, m, 0, 0, time.UTC)
	next, err := r.Step(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	return next
}

func (r *rig) want(began ...string) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.began, began) {
		r.t.Fatalf("began %q, want %q", r.began, began)
	}
}

func (r *rig) add(n api.ScheduleNew) api.Schedule {
	r.t.Helper()
	n.Job.Kind, n.Job.Range, n.Job.Image = api.TaskDeploy, "@lab", "web"
	s, err := r.Add(r.t.Context(), n)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

func (r *rig) get(id string) api.Schedule {
	r.t.Helper()
	s, err := r.Get(r.t.Context(), id)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

func TestRunner(t *testing.T) {
	r := newRig(t)
	s := r.add(api.ScheduleNew{Key: "k", Every: "Mon-Fri 02:00 UTC"})
	if again := r.add(api.ScheduleNew{Key: "k", At: "2026-05-05 01:00"}); again.ID != s.ID || again.At != nil || again.Every != s.Every {
		t.Errorf("the same key gave %+v and %+v", s, again)
	}
	if next := r.at(1, 23, 0); !next.Equal(time.Date(2026, 3, 2, 2, 0, 0, 0, time.UTC)) {
		t.Errorf("next is %v", next)
	}
	r.want()
	r.at(2, 2, 0)
	r.at(2, 2, 0)
	r.want("s1 2 02:00")
	// The server is down; what was missed is made up for once, or never.
	r.restart()
	r.at(4, 2, 59)
	r.at(4, 3, 1)
	r.want("s1 2 02:00", "s1 4 02:00")
	r.at(5, 4, 0)
	r.want("s1 2 02:00", "s1 4 02:00")
	if l := r.get("s1").Last; l == nil || l.Began != nil || l.Error.Code != "missed" || !l.Planned.Equal(time.Date(2026, 3, 5, 2, 0, 0, 0, time.UTC)) {
		t.Errorf("last is %+v", l)
	}
	// What it started last is still on.
	r.at(6, 2, 0)
	r.on = "b3"
	r.at(9, 2, 0)
	if l := r.get("s1").Last; l.Error == nil || l.Error.Code != "conflict" || !strings.Contains(l.Error.Message, "b3") {
		t.Errorf("last is %+v", l)
	}
	r.on = ""
	r.at(10, 2, 0)
	r.want("s1 2 02:00", "s1 4 02:00", "s1 6 02:00", "s1 10 02:00")
	r.err = &api.Error{Code: "not_found", Message: "no image"}
	r.at(11, 2, 0)
	if l := r.get("s1").Last; l.Error == nil || l.Error.Message != "no image" || r.get("s1").Next == nil {
		t.Errorf("last is %+v", l)
	}
}

// mimeod dies after the jobs were made, and before that was written down.
func TestDiesInBetween(t *testing.T) {
	r := newRig(t)
	r.add(api.ScheduleNew{Key: "k", Every: "02:00 UTC"})
	start := r.start
	ctx, cancel := context.WithCancel(t.Context())
	r.start = func(ctx context.Context, s api.Schedule, key string, planned time.Time) ([]api.Job, error) {
		defer cancel()
		return start(ctx, s, key, planned)
	}
	r.clock = time.Date(2026, 3, 2, 2, 0, 0, 0, time.UTC)
	if _, err := r.Step(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	r.restart()
	if l := r.get("s1").Last; l != nil {
		t.Fatalf("it was written down: %+v", l)
	}
	r.at(2, 2, 3)
	r.want("s1 2 02:00")
	if l := r.get("s1").Last; l == nil || l.Batch != "b1" {
		t.Errorf("last is %+v", l)
	}
}

func TestOnce(t *testing.T) {
	r := newRig(t)
	r.add(api.ScheduleNew{Key: "a", At: "2026-03-02T02:00:00Z"})
	none := int64(0)
	r.add(api.ScheduleNew{Key: "b", At: "2026-03-02T03:00:00Z", GraceMS: &none})
	r.at(2, 2, 0)
	r.at(2, 4, 0)
	r.at(3, 2, 0)
	r.want("s1 2 02:00")
	if s := r.get("s2"); s.Next != nil || s.Last.Error == nil {
		t.Errorf("%+v", s)
	}
	r.clock = r.clock.AddDate(0, 0, 31)
	if _, err := r.Step(t.Context()); err != nil {
		t.Fatal(err)
	}
	if all, err := r.List(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("a month later there are %v, %v", all, err)
	}
	for _, bad := range []api.ScheduleNew{{Key: "c"}, {Key: "d", At: "02:00", Every: "02:00"}, {Key: "e", At: "2020-01-01 02:00"}, {Key: "f", Every: "Blue 02:00"}} {
		var e *api.Error
		if _, err := r.Add(t.Context(), bad); !errors.As(err, &e) || e.Code != "bad_request" {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

func TestPause(t *testing.T) {
	r := newRig(t)
	r.add(api.ScheduleNew{Key: "a", Every: "02:00 UTC"})
	r.add(api.ScheduleNew{Key: "b", At: "2026-03-02T02:00:00Z"})
	for _, id := range []string{"s1", "s2"} {
		if _, err := r.Pause(t.Context(), id, true); err != nil {
			t.Fatal(err)
		}
	}
	r.at(2, 2, 0)
	r.clock = r.clock.Add(10 * time.Minute)
	for _, id := range []string{"s1", "s2"} {
		if s, err := r.Pause(t.Context(), id, false); err != nil || s.Paused {
			t.Fatalf("%+v, %v", s, err)
		}
	}
	r.at(2, 2, 11)
	r.want()
	if s := r.get("s2"); s.Next != nil || s.Last == nil || !strings.Contains(s.Last.Error.Message, "paused") {
		t.Errorf("%+v", s)
	}
	if _, err := r.Now(t.Context(), "s1", "by hand"); err != nil {
		t.Fatal(err)
	}
	r.at(3, 2, 0)
	r.want("s1 2 02:11", "s1 3 02:00")
	if err := r.Remove(t.Context(), "s1"); err != nil {
		t.Fatal(err)
	}
	if err := r.Remove(t.Context(), "s1"); !errors.Is(err, inventory.ErrNotFound) {
		t.Errorf("%v", err)
	}
	r.at(4, 2, 0)
	r.want("s1 2 02:11", "s1 3 02:00")
}

// Run waits for the next time, and looks again when there is something new.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.now = time.Now
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- r.Run(ctx) }()
		synctest.Wait()
		at := time.Now().Add(90 * time.Second)
		r.add(api.ScheduleNew{Key: "k", At: at.Format(time.RFC3339)})
		time.Sleep(89 * time.Second)
		synctest.Wait()
		r.want()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		r.want("s1 " + at.UTC().Format("2 15:04"))
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		r.db.Close()
	})
}
