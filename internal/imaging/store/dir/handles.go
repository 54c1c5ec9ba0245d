package dir

import (
	"errors"
	"strings"
	"sync"
)

// maxHandles is the number of packs that are kept open for reading: well below the usual limit of 1,024 files.
const maxHandles = 128

// handles keeps packs open for reading, those used last.
type handles struct {
	fs   FS
	mu   sync.Mutex
	open map[uint32]*handle
	tick uint64
}

type handle struct {
	File
	number uint32
	users  int
	used   uint64 // tick of its last use
	stale  bool   // to be closed by its last user
}

func newHandles(f FS) *handles { return &handles{fs: f, open: make(map[uint32]*handle)} }

// get returns an open pack; give it back with put.
func (h *handles) get(number uint32) (*handle, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tick++
	o := h.open[number]
	if o == nil {
		f, err := h.fs.Open(packName(number), false)
		if err != nil {
			return nil, err
		}
		h.makeRoom()
		o = &handle{File: f, number: number}
		h.open[number] = o
	}
	o.users++
	o.used = h.tick
	return o, nil
}

// makeRoom closes the pack that was not used for longest, where there are too many.
func (h *handles) makeRoom() {
	if len(h.open) < maxHandles {
		return
	}
	var oldest *handle
	for _, o := range h.open {
		if o.users == 0 && (oldest == nil || o.used < oldest.used) {
			oldest = o
		}
	}
	if oldest != nil {
		delete(h.open, oldest.number)
		_ = oldest.Close() // it was only read
	}
}

func (h *handles) put(o *handle) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if o.users--; o.users == 0 && o.stale {
		_ = o.Close()
	}
}

// drop forgets a pack that is not the same any more.
func (h *handles) drop(number uint32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	o := h.open[number]
	if o == nil {
		return
	}
	delete(h.open, number)
	if o.stale = true; o.users == 0 {
		_ = o.Close()
	}
}

func (h *handles) close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var err error
	for n, o := range h.open {
		err = errors.Join(err, o.Close())
		delete(h.open, n)
	}
	return err
}

// path returns the place of a file of the store for people.
func (s *Store) path(name string) string { return strings.TrimSuffix(s.root, "/") + "/" + name }
