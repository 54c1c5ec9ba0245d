package dir

import (
	"sort"
	"sync"
	"sync/atomic"
	"time"
)

// epochLen is how long an epoch lasts at most. A clean-up keeps what was told up to so much too early, and no more.
const epochLen = time.Minute

// epochs counts stretches of time since the store was opened, from 1. docs/design/gc.md says what for.
type epochs struct {
	current atomic.Uint32
	next    atomic.Int64 // when the current one is over, in Unix nanoseconds

	mu     sync.Mutex
	begins []time.Time // of epoch 1 and those after it
}

// begin starts a new epoch and returns it.
func (e *epochs) begin() uint32 {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	e.begins = append(e.begins, now)
	e.next.Store(now.Add(epochLen).UnixNano())
	e.current.Store(uint32(len(e.begins)))
	return uint32(len(e.begins))
}

// now returns the current epoch.
func (e *epochs) now() uint32 {
	if time.Now().UnixNano() >= e.next.Load() {
		return e.begin()
	}
	return e.current.Load()
}

// at returns the epoch of a moment, 0 where that is before the first.
func (e *epochs) at(t time.Time) uint32 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return uint32(sort.Search(len(e.begins), func(i int) bool { return e.begins[i].After(t) }))
}

// opened returns when the first epoch began.
func (e *epochs) opened() time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.begins[0]
}
