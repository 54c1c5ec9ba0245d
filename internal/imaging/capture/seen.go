package capture

import (
	"sync"

	"mimeo/internal/imaging/chunk"
)

// seenSlots bounds the memory of idSet at 4 MiB. Copies of a file on a disk lie near each other more often than not.
const seenSlots = 1 << 17

// idSet remembers chunks that this run has asked for already. It may forget, then the store is asked again; it never
// mistakes one for another.
type idSet struct {
	mu    sync.Mutex
	slots []chunk.ID
}

func newIDSet() *idSet { return &idSet{slots: make([]chunk.ID, seenSlots)} }

// claim sets want on the pieces that hold a chunk not seen before, and appends their IDs to ids. Whoever claims a
// chunk must bring it to the store or fail the run.
func (s *idSet) claim(pieces []piece, ids []chunk.ID) []chunk.ID {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range pieces {
		p := &pieces[i]
		if p.zero {
			continue
		}
		// IDs are hashes: any of their bytes make a good slot number. The zero ID is no chunk's.
		slot := &s.slots[(uint32(p.id[0])|uint32(p.id[1])<<8|uint32(p.id[2])<<16)%seenSlots]
		if *slot != p.id {
			*slot, p.want = p.id, true
			ids = append(ids, p.id)
		}
	}
	return ids
}
