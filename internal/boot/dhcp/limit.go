package dhcp

import (
	"sync"
	"time"
)

// Bounds of what one network card may ask for. A firmware and the loaders after it ask some ten times in a boot, an
// operating system twice; a card that asks more often is broken or hostile, and shall not keep others waiting.
const (
	floodWindow = 10 * time.Second
	floodMost   = 40
	floodCards  = 1 << 14 // that are counted at once; more in one window are made up, and the lookup is cheap
	sayEvery    = time.Minute
)

// floods counts the packets of each network card.
type floods struct {
	mu    sync.Mutex
	since time.Time
	count map[[6]byte]int
}

// add counts a packet. It gives false where it is one too many, and first where it is the first of those.
func (f *floods) add(mac [6]byte, now time.Time) (ok, first bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.count == nil || now.Sub(f.since) >= floodWindow || now.Before(f.since) {
		f.since, f.count = now, make(map[[6]byte]int, min(len(f.count), floodCards))
	}
	n, known := f.count[mac]
	if !known && len(f.count) >= floodCards {
		return true, false
	}
	f.count[mac] = n + 1
	return n < floodMost, n == floodMost
}

// seldom says a thing about a subject once in a while.
type seldom struct {
	mu   sync.Mutex
	said map[string]time.Time
}

// now tells whether it is time to say it again.
func (s *seldom) now(subject string, t time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if last, ok := s.said[subject]; ok && t.Sub(last) < sayEvery {
		return false
	}
	if s.said == nil || len(s.said) >= floodCards {
		s.said = map[string]time.Time{}
	}
	s.said[subject] = t
	return true
}
