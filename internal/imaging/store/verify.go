package store

import (
	"context"
	"errors"
	"fmt"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/manifest"
)

// batch is how many chunks are asked for at once: some 16 MiB at chunk.DefaultSize, of which one is in memory.
const batch = 128

// Complete returns a *MissingError where the store does not hold a chunk that m names, and an error where m's entries
// cannot be read. It reads the segments, not the chunks.
func Complete(ctx context.Context, s Writer, m *manifest.Manifest) error {
	ids := make([]chunk.ID, 0, 1024)
	ask := func() error {
		missing, err := s.Missing(ctx, ids)
		if err != nil {
			return err
		}
		if len(missing) > 0 {
			return &MissingError{ID: missing[0]}
		}
		ids = ids[:0]
		return nil
	}
	for e, err := range manifest.Entries(ctx, s, m) {
		if err != nil {
			return err
		}
		if e.Zero {
			continue
		}
		if ids = append(ids, e.ID); len(ids) == cap(ids) {
			if err := ask(); err != nil {
				return err
			}
		}
	}
	if len(ids) > 0 {
		return ask()
	}
	return nil
}

// Verified is what reading a revision back has shown.
type Verified struct {
	Chunks  int64           `json:"chunks"` // entries that name a chunk
	Bytes   int64           `json:"bytes"`  // raw bytes read
	Missing int64           `json:"missing"`
	Damaged int64           `json:"damaged"`
	Lost    int64           `json:"lost"`             // bytes of the disk that cannot be read back
	First   error           `json:"-"`                // the first loss
	Losses  []manifest.Loss `json:"losses,omitempty"` // places on the disk, the first maxLosses
}

// OK tells whether all was there and whole.
func (v *Verified) OK() bool { return v.Missing == 0 && v.Damaged == 0 }

// maxLosses bounds Verified.Losses.
const maxLosses = 1000

// Verify reads every chunk of m back and checks it against its name. A chunk that is missing or damaged is counted
// and the reading goes on; an error says that it could not go on, or that the entries themselves are unreadable.
// progress, if not nil, is told the bytes of the disk that were verified so far.
func Verify(ctx context.Context, s Reader, m *manifest.Manifest, progress func(done, total int64)) (Verified, error) {
	var v Verified
	var done int64
	raw := make([]byte, 0, chunk.DefaultSize)
	entries := make([]manifest.Entry, 0, batch)
	read := func() error {
		where := make(map[chunk.ID][]manifest.Entry, len(entries))
		ids := make([]chunk.ID, 0, len(entries))
		for _, e := range entries {
			if where[e.ID] == nil {
				ids = append(ids, e.ID)
			}
			where[e.ID] = append(where[e.ID], e)
		}
		err := eachChunk(ctx, s, ids, func(id chunk.ID, c chunk.Encoded, err error) {
			if err == nil {
				raw, err = chunk.Decode(c, raw)
			}
			for _, e := range where[id] {
				eerr := err
				if eerr == nil && int64(len(raw)) != e.Len {
					eerr = fmt.Errorf("chunk %s holds %d bytes, the entry at offset %d wants %d", id, len(raw), e.Off, e.Len)
				}
				v.add(e, eerr)
			}
		})
		entries = entries[:0]
		if err == nil && progress != nil {
			progress(done, m.Content.Used)
		}
		return err
	}
	for e, err := range manifest.Entries(ctx, s, m) {
		if err != nil {
			return v, err
		}
		done += e.Len
		if e.Zero {
			continue
		}
		if entries = append(entries, e); len(entries) == batch {
			if err := read(); err != nil {
				return v, err
			}
		}
	}
	return v, read()
}

func (v *Verified) add(e manifest.Entry, err error) {
	v.Chunks++
	if err == nil {
		v.Bytes += e.Len
		return
	}
	var missing *MissingError
	if errors.As(err, &missing) {
		v.Missing++
	} else {
		v.Damaged++
	}
	v.Lost += e.Len
	if v.First == nil {
		v.First = err
	}
	if len(v.Losses) < maxLosses {
		v.Losses = append(v.Losses, manifest.Loss{Off: e.Off, Len: e.Len, ID: e.ID, Why: err.Error()})
	}
}

// eachChunk calls fn once for each of ids, which are all different, with the chunk or with what is wrong with it. It
// returns an error that is about no single chunk.
func eachChunk(ctx context.Context, s Reader, ids []chunk.ID, fn func(chunk.ID, chunk.Encoded, error)) error {
	left := make(map[chunk.ID]bool, len(ids))
	for _, id := range ids {
		left[id] = true
	}
	for len(left) > 0 {
		ask := ids[:0:0]
		for _, id := range ids {
			if left[id] {
				ask = append(ask, id)
			}
		}
		err := s.Get(ctx, ask, func(c chunk.Encoded) error {
			if left[c.ID] {
				delete(left, c.ID)
				fn(c.ID, c, nil)
			}
			return nil
		})
		var missing *MissingError
		var damaged *DamagedError
		var bad chunk.ID
		switch {
		case err == nil && len(left) > 0:
			return fmt.Errorf("the store gave no answer for %d chunks", len(left))
		case err == nil:
			return nil
		case errors.As(err, &missing):
			bad = missing.ID
		case errors.As(err, &damaged):
			bad = damaged.ID
		default:
			return err
		}
		if !left[bad] {
			return err
		}
		delete(left, bad)
		fn(bad, chunk.Encoded{}, err)
	}
	return nil
}
