package job

import (
	"context"
	"encoding/json"
	"maps"
	"slices"

	"mimeo/internal/cluster/api"
	"mimeo/internal/manage/inventory"
)

// tell hands a job's news to who watches it. A slow watcher misses numbers, never the last word: it reads the job
// again when its channel is closed.
func (e *Engine) tell(r *Record, ev *api.Event) {
	for f := range e.follows[r.ID] {
		f.changed(r.ID)
	}
	if !r.Active {
		delete(e.follows, r.ID)
	}
	if len(e.watchers[r.ID]) == 0 {
		return
	}
	w := api.Watch{Job: clone(r).Job, Event: ev}
	for ch := range e.watchers[r.ID] {
		select {
		case ch <- w:
		default:
		}
	}
	if !r.Active {
		for ch := range e.watchers[r.ID] {
			close(ch)
		}
		delete(e.watchers, r.ID)
	}
}

// Watch returns a channel of a job's news, which is closed when the job has ended (at once where it has), and a
// function that ends the watching.
func (e *Engine) Watch(id string) (<-chan api.Watch, func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	ch := make(chan api.Watch, 64)
	if e.live[id] == nil {
		close(ch)
		return ch, func() {}
	}
	if e.watchers[id] == nil {
		e.watchers[id] = map[chan api.Watch]bool{}
	}
	e.watchers[id][ch] = true
	return ch, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.watchers[id], ch)
	}
}

// Follower gathers which of many jobs have changed, so that who follows them reads each once, however often it changed
// meanwhile.
type Follower struct {
	News <-chan struct{} // has something when Take has

	e    *Engine
	news chan struct{}
	ids  []string
	some map[string]bool // changed since the last Take
}

// Follow begins to gather the changes of jobs. Stop must be called in the end.
func (e *Engine) Follow(ids []string) *Follower {
	f := &Follower{e: e, news: make(chan struct{}, 1), ids: ids, some: map[string]bool{}}
	f.News = f.news
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, id := range ids {
		if e.live[id] == nil {
			continue // it has ended: there will be no news
		}
		if e.follows[id] == nil {
			e.follows[id] = map[*Follower]bool{}
		}
		e.follows[id][f] = true
	}
	return f
}

// changed takes note; the caller holds the engine's lock.
func (f *Follower) changed(id string) {
	f.some[id] = true
	select {
	case f.news <- struct{}{}:
	default:
	}
}

// Take are the jobs that have changed since it was called last, as they are now.
func (f *Follower) Take(ctx context.Context) ([]api.Job, error) {
	f.e.mu.Lock()
	defer f.e.mu.Unlock()
	ids := slices.Sorted(maps.Keys(f.some))
	clear(f.some)
	return f.e.some(ctx, ids)
}

// Stop ends the gathering.
func (f *Follower) Stop() {
	f.e.mu.Lock()
	defer f.e.mu.Unlock()
	for _, id := range f.ids {
		delete(f.e.follows[id], f)
		if len(f.e.follows[id]) == 0 {
			delete(f.e.follows, id)
		}
	}
}

// Some are jobs by their IDs, in that order. Those that have not ended come without the outputs of their postscripts;
// those that there are not are left out.
func (e *Engine) Some(ctx context.Context, ids []string) ([]api.Job, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.some(ctx, ids)
}

func (e *Engine) some(ctx context.Context, ids []string) ([]api.Job, error) {
	have := map[string]api.Job{}
	var ended []string
	for _, id := range ids {
		if l := e.live[id]; l != nil {
			j := clone(l).Job
			j.Outputs = nil
			have[id] = j
		} else {
			ended = append(ended, id)
		}
	}
	if len(ended) > 0 {
		err := e.db.Jobs(ctx, inventory.JobFilter{IDs: ended}, func(data []byte) error {
			var r Record
			if err := json.Unmarshal(data, &r); err != nil {
				return err
			}
			have[r.ID] = r.Job
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	out := []api.Job{}
	for _, id := range ids {
		if j, ok := have[id]; ok {
			out = append(out, j)
		}
	}
	return out, nil
}
