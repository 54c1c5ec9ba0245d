package capture

import "time"

// loadTurns is how many turns of a worker its load is judged by, and how many it takes before there is a judgement: some
// 100 ms of work.
const loadTurns = 8

// load measures how much of its time a worker waits.
type load struct {
	last         time.Time // end of the last wait
	turns        int
	waits, works float64 // seconds, older ones counting less
	spare        bool    // the last judgement
}

// idle notes a wait that has just ended; the time between two waits is work.
func (l *load) idle(waited time.Duration) {
	now := time.Now()
	work := 0.0
	if !l.last.IsZero() {
		work = max(now.Sub(l.last)-waited, 0).Seconds()
	}
	const keep = 1 - 1.0/loadTurns
	l.last, l.turns = now, l.turns+1
	l.waits = l.waits*keep + waited.Seconds()
	l.works = l.works*keep + work
}

// idles tells whether the worker has the time for zstd, which takes more than twice that of s2: with s2 it has where it waits
// for half of its time, and with zstd until it hardly ever waits, less than a tenth of its time.
func (l *load) idles() bool {
	switch {
	case l.turns <= loadTurns:
	case l.waits > l.works:
		l.spare = true
	case l.waits*9 <= l.works:
		l.spare = false
	}
	return l.spare
}
