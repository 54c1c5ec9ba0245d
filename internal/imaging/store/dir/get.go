package dir

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/store"
)

// Chunks that lie near each other in a pack are read at once: up to readLen bytes, over gaps of up to readGap, which
// a disk passes as quickly as it seeks.
const (
	readLen = 4 << 20
	readGap = 64 << 10
)

// maxMoves bounds how often a Get begins again because chunks were moved while it read. Each time some clean-up has to
// remove the very pack that it is about to read.
const maxMoves = 10

// errMoved says that a pack is gone, and that its chunks may lie elsewhere by now.
var errMoved = errors.New("the chunks were moved while they were read")

// Get implements store.Reader. It hands the chunks out in the order of the packs, so that a deploy reads them forwards.
func (s *Store) Get(ctx context.Context, ids []chunk.ID, fn func(chunk.Encoded) error) error {
	var buf []byte
	for moves := 0; ; moves++ {
		want, err := s.locate(ids)
		if err != nil {
			return err
		}
		for len(want) > 0 && err == nil {
			if err = ctx.Err(); err != nil {
				return err
			}
			n := run(want)
			if buf, err = s.read(want[:n], buf, func(it indexed, c chunk.Encoded, err error) error {
				if err != nil {
					return err
				}
				return fn(c)
			}); err == nil {
				want = want[n:]
			}
		}
		if err != errMoved || moves == maxMoves {
			return err
		}
		if s.readOnly {
			if err := s.reloadAll(); err != nil {
				return err
			}
		}
		ids = make([]chunk.ID, len(want))
		for i, it := range want {
			ids[i] = it.id
		}
	}
}

// locate returns the places of ids, sorted.
func (s *Store) locate(ids []chunk.ID) ([]indexed, error) {
	want := make([]indexed, 0, len(ids))
	again := false
	for {
		want = want[:0]
		var missing error
		s.imu.RLock()
		for _, id := range ids {
			l, ok := s.index.get(id)
			if !ok {
				missing = &store.MissingError{ID: id}
				break
			}
			want = append(want, indexed{id, l})
		}
		s.imu.RUnlock()
		if missing == nil {
			break
		}
		if !s.readOnly || again {
			return nil, missing
		}
		// Another process may have written it since we looked.
		again = true
		s.reload.Lock()
		err := s.load()
		s.reload.Unlock()
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(want, byPlace)
	return want, nil
}

func byPlace(a, b indexed) int {
	return cmp.Or(cmp.Compare(a.pack, b.pack), cmp.Compare(a.off, b.off))
}

// run returns how many of want, which are sorted and not none, are read at once.
func run(want []indexed) int {
	first := want[0]
	n := 1
	for end := first.end(); n < len(want); n++ {
		next := want[n]
		if next.pack != first.pack || int64(next.off) > end+readGap || next.end()-int64(first.off) > readLen {
			break
		}
		end = max(end, next.end())
	}
	return n
}

// read reads a run of chunks in one go and calls fn with each, or with a *store.DamagedError. It uses and returns buf.
func (s *Store) read(want []indexed, buf []byte, fn func(indexed, chunk.Encoded, error) error) ([]byte, error) {
	first := want[0]
	off, end := int64(first.off), want[len(want)-1].end()
	size := int(end - off)
	var plain []byte // what is sealed is opened elsewhere: the same chunk may be wanted twice
	if s.key != nil {
		buf = slices.Grow(buf[:0], 2*size)
		plain = buf[size : 2*size]
	}
	buf = slices.Grow(buf[:0], size)[:size]
	h, err := s.files.get(first.pack)
	if errors.Is(err, fs.ErrNotExist) {
		return buf, s.gone(want, err, fn)
	} else if err != nil {
		return buf, fmt.Errorf("read chunk %s: %w", first.id, err)
	}
	n, err := h.ReadAt(buf, off)
	s.files.put(h)
	switch {
	case errors.Is(err, store.ErrUnreachable):
		return buf, fmt.Errorf("read chunk %s: %w", first.id, err)
	case errors.Is(err, fs.ErrNotExist):
		s.files.drop(first.pack)
		return buf, s.gone(want, err, fn)
	}
	if n < len(buf) && err == nil {
		err = io.ErrUnexpectedEOF
	}
	for _, it := range want {
		at := int64(it.off) - off
		rec := buf[at : it.end()-off]
		c, bad := chunk.Encoded{}, err
		if it.end()-off <= int64(n) {
			if c, bad = it.parse(s.form, rec, part(plain, at, len(rec))); bad != nil {
				s.markBad(it)
			}
		} else if bad == nil || bad == io.EOF {
			bad = fmt.Errorf("the pack ends at %d: %w", off+int64(n), io.ErrUnexpectedEOF)
		}
		if bad != nil {
			bad = &store.DamagedError{ID: it.id, Where: fmt.Sprintf("%s, offset %d, %d bytes", s.path(packName(it.pack)), it.off, len(rec)), Err: bad}
		}
		if err := fn(it, c, bad); err != nil {
			return buf, err
		}
	}
	return buf, nil
}

// part returns n bytes of b at off, and none of nil.
func part(b []byte, off int64, n int) []byte {
	if b == nil {
		return nil
	}
	return b[off:][:n:n]
}

// gone is read where the pack is not there. An errMoved says that the index has, or may have, another place.
func (s *Store) gone(want []indexed, cause error, fn func(indexed, chunk.Encoded, error) error) error {
	if s.readOnly || slices.ContainsFunc(want, s.moved) {
		return errMoved
	}
	for _, it := range want {
		s.markBad(it)
		if err := fn(it, chunk.Encoded{}, &store.DamagedError{ID: it.id, Where: s.path(packName(it.pack)), Err: cause}); err != nil {
			return err
		}
	}
	return nil
}

// markBad remembers that a chunk is damaged, if it still lies where it was read.
func (s *Store) markBad(it indexed) {
	s.imu.Lock()
	defer s.imu.Unlock()
	if l, ok := s.index.get(it.id); ok && l == it.loc {
		s.bad[it.id] = true
	}
}

// parse reads a record that should be it. The data of a sealed one lie in to, which has room for len(b) bytes.
func (it indexed) parse(f form, b, to []byte) (chunk.Encoded, error) {
	c, err := f.parse(b, to)
	if err == nil && (c.ID != it.id || c.RawLen != it.raw || uint32(len(c.Data))+f.more() != it.stored || c.Codec != it.codec) {
		return chunk.Encoded{}, fmt.Errorf("another record lies there, of chunk %s", c.ID)
	}
	return c, err
}

// same looks whether what lies at it is the head of its record; a sealed record has to be there whole.
func (it indexed) same(f form, b, to []byte) error {
	if f.box != nil {
		_, err := it.parse(f, b, to)
		return err
	}
	rec, err := parseRecord(b)
	if err == nil && rec.id != it.id {
		err = fmt.Errorf("chunk %s lies there", rec.id)
	}
	return err
}
