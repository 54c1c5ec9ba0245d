package job

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"mimeo/internal/cluster/api"
)

// Quota bounds how many jobs are at work at once, whatever batches ask for. Zero means no bound.
type Quota struct {
	Jobs     int // of all kinds
	Captures int
	Deploys  int
}

func (q Quota) of(k api.TaskKind) int {
	switch k {
	case api.TaskDeploy:
		return q.Deploys
	case api.TaskCapture:
		return q.Captures
	}
	return 0 // a wipe needs nothing of the management node
}

// waiter is a queued job, as admission sees it.
type waiter struct {
	id    string
	kind  api.TaskKind
	batch string
	max   int       // of its batch at a time; 0 means no bound
	by    time.Time // it must have begun by then; zero means no limit
}

// load is how many jobs are at work.
type load struct {
	all     int
	kinds   map[api.TaskKind]int
	batches map[string]int
}

func (l *load) add(kind api.TaskKind, batch string) {
	if l.kinds == nil {
		l.kinds, l.batches = map[api.TaskKind]int{}, map[string]int{}
	}
	l.all++
	l.kinds[kind]++
	l.batches[batch]++
}

// admit says which of the jobs that wait begin now, and which have waited too long. They come in the order in which
// they were asked for, and begin in that order; one whose batch or kind has no room lets those of others go first.
func admit(waiting []waiter, busy load, q Quota, now time.Time) (begin, late []string) {
	room := func(bound, have int) bool { return bound <= 0 || have < bound }
	for _, w := range waiting {
		switch {
		case !w.by.IsZero() && now.After(w.by):
			late = append(late, w.id)
		case room(q.Jobs, busy.all) && room(q.of(w.kind), busy.kinds[w.kind]) && (w.batch == "" || room(w.max, busy.batches[w.batch])):
			begin = append(begin, w.id)
			busy.add(w.kind, w.batch)
		}
	}
	return begin, late
}

func (r *Record) waiter() waiter {
	w := waiter{id: r.ID, kind: r.Kind, batch: r.Batch, max: r.Request.Max}
	if r.StartBy != nil {
		w.by = *r.StartBy
	}
	return w
}

// number is the place of a job among all that ever were.
func number(id string) int {
	n, _ := strconv.Atoi(strings.TrimPrefix(id, "j"))
	return n
}

// queue is what admission looks at: the jobs that are held, in order, and how many others are on. The caller holds the
// lock.
func (e *Engine) queue() (held []waiter, busy load) {
	for _, r := range e.live {
		if r.Held {
			held = append(held, r.waiter())
		} else {
			busy.add(r.Kind, r.Batch)
		}
	}
	slices.SortFunc(held, func(a, b waiter) int { return number(a.id) - number(b.id) })
	return held, busy
}

// start lets queued jobs begin whose turn has come, all in one transaction, and ends those that have waited too long.
func (e *Engine) start(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.now()
	if now.Before(e.startPause) {
		return nil
	}
	held, busy := e.queue()
	begin, late := admit(held, busy, e.quota, now)
	var edits []edit
	add := func(r *Record, f func(*Record) (string, error)) {
		if ed, err := e.edit(r, f); err == nil { // f never fails here
			edits = append(edits, ed)
		}
	}
	for _, r := range e.live {
		if r.Phase == api.PhaseQueued && !r.Held {
			begin = append(begin, r.ID)
		}
	}
	slices.SortFunc(begin, func(a, b string) int { return number(a) - number(b) })
	for _, id := range begin {
		add(e.live[id], func(r *Record) (string, error) {
			text := ""
			if r.Held {
				text = "its turn has come"
			}
			r.setPhase(api.PhasePowering, now)
			r.Started, r.Held = &now, false
			return text, nil
		})
	}
	for _, id := range late {
		add(e.live[id], func(r *Record) (string, error) {
			return e.fail(r, &api.Error{Code: "not_started", Message: fmt.Sprintf("%s was not started in time: its turn had not come by %s", r.Node, r.StartBy.Local().Format("2006-01-02 15:04:05")),
				Hint: retryHint(r)}), nil
		})
	}
	err := e.write(ctx, edits, nil)
	if err != nil {
		e.startPause = now.Add(retryWrite)
	}
	return err
}

// retryHint says how a job, or all of its batch that failed, is started again.
func retryHint(r *Record) string {
	if r.Batch != "" {
		return fmt.Sprintf(`"mimeo job retry --failed %s" starts those that failed again`, r.Batch)
	}
	return fmt.Sprintf(`start it again with "mimeo job retry %s"`, r.ID)
}

// stopBatch ends the jobs of a batch that have not begun, as one of it has failed and it was asked to stop then. The
// caller holds the lock, and writes what it returns together with that failure.
func (e *Engine) stopBatch(failed *Record) (edits []edit) {
	var rest []*Record
	for _, r := range e.live {
		if r.Batch == failed.Batch && r.Phase == api.PhaseQueued && r.ID != failed.ID {
			rest = append(rest, r)
		}
	}
	slices.SortFunc(rest, func(a, b *Record) int { return number(a.ID) - number(b.ID) })
	for _, r := range rest {
		ed, err := e.edit(r, func(r *Record) (string, error) {
			return e.fail(r, &api.Error{Code: "not_started", Message: fmt.Sprintf("%s was not started: %s failed, and the batch stops with the first that fails", r.Node, failed.Node), Hint: retryHint(r)}), nil
		})
		if err == nil {
			edits = append(edits, ed)
		}
	}
	return edits
}

// CancelBatch ends all of a batch: at once what waits for its turn, in one transaction, and the others as Cancel does.
// What is past the point where it can be cancelled goes on.
func (e *Engine) CancelBatch(ctx context.Context, batch string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	var edits []edit
	var others []*Record
	for _, r := range e.live {
		switch {
		case r.Batch != batch:
		case r.Phase == api.PhaseQueued:
			ed, err := e.edit(r, func(r *Record) (string, error) { return e.endCancelled(r), nil })
			if err != nil {
				return err
			}
			edits = append(edits, ed)
		default:
			others = append(others, r)
		}
	}
	if err := e.write(ctx, edits, nil); err != nil {
		return err
	}
	for _, r := range others {
		if r.cancellable() == nil {
			if err := e.cancel(ctx, r); err != nil {
				return err
			}
		}
	}
	return nil
}
