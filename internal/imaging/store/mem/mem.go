// Package mem keeps a store in memory, for tests and for throw-away work.
package mem

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
)

// Store is a store.Publisher that forgets everything with the process. Its zero value is an empty store.
type Store struct {
	Room int64 // bytes of encoded chunks that it takes before it is full; 0 means any number

	Sign func(store.Revision) store.Signature // signs what is published; nil: nobody does

	mu        sync.RWMutex
	chunks    map[chunk.ID]chunk.Encoded
	stored    int64
	raw       int64
	manifests map[manifest.ID][]byte
	images    map[string]*image
}

type image struct {
	last int // the greatest revision number that was ever given
	revs []store.Revision
}

var _ store.Publisher = (*Store)(nil)

// New returns an empty store.
func New() *Store { return new(Store) }

// Get implements store.Reader.
func (s *Store) Get(ctx context.Context, ids []chunk.ID, fn func(chunk.Encoded) error) error {
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return err
		}
		s.mu.RLock()
		c, ok := s.chunks[id]
		s.mu.RUnlock()
		if !ok {
			return &store.MissingError{ID: id}
		}
		if err := fn(c); err != nil {
			return err
		}
	}
	return nil
}

// Missing implements store.Writer.
func (s *Store) Missing(ctx context.Context, ids []chunk.ID) ([]chunk.ID, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var missing []chunk.ID
	for _, id := range ids {
		if _, ok := s.chunks[id]; !ok {
			missing = append(missing, id)
		}
	}
	return missing, ctx.Err()
}

// Put implements store.Writer.
func (s *Store) Put(ctx context.Context, chunks []chunk.Encoded) (store.PutResult, error) {
	var res store.PutResult
	if err := ctx.Err(); err != nil {
		return res, err
	}
	for _, c := range chunks {
		if err := c.Check(); err != nil {
			return res, fmt.Errorf("put: %w", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.chunks == nil {
		s.chunks = make(map[chunk.ID]chunk.Encoded)
	}
	for _, c := range chunks {
		if _, ok := s.chunks[c.ID]; ok {
			continue
		}
		n := int64(len(c.Data))
		if s.Room > 0 && s.stored+n > s.Room {
			return res, fmt.Errorf("put chunk %s: %w (%d bytes of memory)", c.ID, store.ErrFull, s.Room)
		}
		c.Data = slices.Clone(c.Data)
		s.chunks[c.ID] = c
		s.stored += n
		s.raw += int64(c.RawLen)
		res.Add(store.PutResult{New: 1, NewRaw: int64(c.RawLen), NewStored: n})
	}
	return res, nil
}

// Flush implements store.Writer.
func (s *Store) Flush(ctx context.Context) error { return ctx.Err() }

// Stage implements store.Writer.
func (s *Store) Stage(ctx context.Context, m *manifest.Manifest) (manifest.ID, error) {
	b, err := manifest.Encode(m)
	if err != nil {
		return manifest.ID{}, err
	}
	if err := store.Complete(ctx, s, m); err != nil {
		return manifest.ID{}, fmt.Errorf("stage manifest: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.manifests == nil {
		s.manifests = make(map[manifest.ID][]byte)
	}
	id := manifest.Sum(b)
	s.manifests[id] = b
	return id, nil
}

// Manifest implements store.Reader.
func (s *Store) Manifest(ctx context.Context, id manifest.ID) (*manifest.Manifest, error) {
	s.mu.RLock()
	b, ok := s.manifests[id]
	s.mu.RUnlock()
	if !ok {
		return nil, fmt.Errorf("manifest %s: %w", id, store.ErrNotFound)
	}
	return manifest.Decode(b)
}

// Images implements store.Reader.
func (s *Store) Images(ctx context.Context) ([]string, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var names []string
	for _, name := range slices.Sorted(maps.Keys(s.images)) {
		if len(s.images[name].revs) > 0 {
			names = append(names, name)
		}
	}
	return names, ctx.Err()
}

// Revisions implements store.Reader.
func (s *Store) Revisions(ctx context.Context, name string) ([]store.Revision, error) {
	if err := manifest.ValidName(name); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if im := s.images[name]; im != nil {
		return slices.Clone(im.revs), ctx.Err()
	}
	return nil, ctx.Err()
}

// Publish implements store.Publisher.
func (s *Store) Publish(ctx context.Context, name string, id manifest.ID) (store.Revision, error) {
	if err := manifest.ValidName(name); err != nil {
		return store.Revision{}, err
	}
	m, err := s.Manifest(ctx, id)
	if err != nil {
		return store.Revision{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.images == nil {
		s.images = make(map[string]*image)
	}
	im := s.images[name]
	if im == nil {
		im = new(image)
		s.images[name] = im
	}
	for _, r := range im.revs {
		if r.ID == id {
			return r, nil
		}
	}
	im.last++
	r := store.NewRevision(name, im.last, id, m)
	if s.Sign != nil {
		r.Signatures = []store.Signature{s.Sign(r)}
	}
	im.revs = append(im.revs, r)
	return r, nil
}

// Remove implements store.Publisher.
func (s *Store) Remove(ctx context.Context, name string, rev int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if im := s.images[name]; im != nil {
		if i := slices.IndexFunc(im.revs, func(r store.Revision) bool { return r.Rev == rev }); i >= 0 {
			im.revs = slices.Delete(im.revs, i, i+1)
			return nil
		}
	}
	return fmt.Errorf("%s@%d: %w", name, rev, store.ErrNotFound)
}

// Stats says how much the store holds.
func (s *Store) Stats(ctx context.Context) (store.Stats, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	st := store.Stats{Chunks: int64(len(s.chunks)), Raw: s.raw, PackBytes: s.stored}
	for _, im := range s.images {
		if len(im.revs) > 0 {
			st.Images++
			st.Revisions += len(im.revs)
		}
	}
	return st, ctx.Err()
}
