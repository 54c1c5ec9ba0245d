// Package mirror copies revisions from one store to another, whichever way either keeps them.
package mirror

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
)

// Target is a store that takes revisions as they are in another: dir.Store.Adopt tells what Adopt must do.
type Target interface {
	store.Writer
	Adopt(ctx context.Context, r store.Revision) error
}

// Options say what to copy. The zero value copies everything that the target lacks.
type Options struct {
	Only   func(store.Revision) bool // nil: all
	DryRun bool                      // find out what is missing, and send nothing
	// Progress is told how much of a revision's disk has been gone through, in bytes. It may be nil.
	Progress func(r store.Revision, done, total int64)
}

// Report says what was copied, or would be.
type Report struct {
	Copied   []string `json:"copied"` // NAME@REV
	There    int      `json:"there"`  // revisions that the target had
	Chunks   int      `json:"chunks"` // that the target lacked
	Stored   int64    `json:"stored"` // their bytes as they are stored
	Problems []string `json:"problems"`
}

// Lengths of what is asked for, and what is sent, at once.
const (
	askLen  = 1024    // chunks
	getLen  = 128     // chunks: some 16 MiB at chunk.DefaultSize
	sendLen = 8 << 20 // bytes
)

// Run copies what to lacks. A revision is there when all its chunks are: after an interruption the next run sends what
// is missing. Every chunk is checked against its name on the way. A revision that cannot be read, or whose number is
// taken, is a Problem, and the others are copied all the same; an error says that nothing more could be.
func Run(ctx context.Context, from store.Reader, to Target, o Options) (*Report, error) {
	c := &copying{from: from, to: to, o: o, r: &Report{Copied: []string{}, Problems: []string{}}}
	images, err := from.Images(ctx)
	if err != nil {
		return c.r, err
	}
	for _, name := range images {
		revs, err := from.Revisions(ctx, name)
		if err != nil {
			return c.r, err
		}
		have, err := to.Revisions(ctx, name)
		if err != nil {
			return c.r, err
		}
		for _, r := range revs {
			if o.Only != nil && !o.Only(r) {
				continue
			}
			if i := slices.IndexFunc(have, func(h store.Revision) bool { return h.Rev == r.Rev }); i >= 0 && have[i].ID == r.ID {
				c.r.There++
				continue
			} else if i >= 0 {
				c.r.Problems = append(c.r.Problems, fmt.Sprintf("%s is another capture there: %v", r, store.ErrTaken))
				continue
			}
			var bad *sourceError
			switch err := c.revision(ctx, r); {
			case ctx.Err() != nil:
				return c.r, ctx.Err()
			case errors.As(err, &bad), errors.Is(err, store.ErrTaken):
				c.r.Problems = append(c.r.Problems, fmt.Sprintf("%s: %v", r, err))
			case err != nil:
				return c.r, fmt.Errorf("copy %s: %w", r, err)
			default:
				c.r.Copied = append(c.r.Copied, r.String())
			}
		}
	}
	return c.r, nil
}

// sourceError is about what the source holds of one revision.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }

// ofSource tells apart what is wrong with one revision from a source that cannot be read at all.
func ofSource(err error) error {
	if err == nil || errors.Is(err, store.ErrUnreachable) {
		return err
	}
	return &sourceError{err}
}

// copying is a Run under way.
type copying struct {
	from store.Reader
	to   Target
	o    Options
	r    *Report

	raw   []byte
	batch []chunk.Encoded
	bytes int
	seen  map[chunk.ID]bool // in a dry run, of what was counted
}

// revision copies one: segments, chunks, manifest, record.
func (c *copying) revision(ctx context.Context, r store.Revision) error {
	m, err := c.from.Manifest(ctx, r.ID)
	if err != nil {
		return ofSource(err)
	}
	ids := make([]chunk.ID, 0, askLen)
	for _, s := range m.Content.Segments {
		ids = append(ids, s.ID)
	}
	if err := c.send(ctx, ids); err != nil {
		return err
	}
	ids = ids[:0]
	var done int64
	for e, err := range manifest.Entries(ctx, c.from, m) {
		if err != nil {
			return ofSource(err)
		}
		done += e.Len
		if e.Zero {
			continue
		}
		if ids = append(ids, e.ID); len(ids) < askLen {
			continue
		}
		if err := c.send(ctx, ids); err != nil {
			return err
		}
		ids = ids[:0]
		if c.o.Progress != nil {
			c.o.Progress(r, done, m.Content.Used)
		}
	}
	if err := c.send(ctx, ids); err != nil {
		return err
	}
	if c.o.DryRun {
		return nil
	}
	if id, err := c.to.Stage(ctx, m); err != nil {
		return err
	} else if id != r.ID {
		return &sourceError{fmt.Errorf("its manifest would be %s there", id)} // written by a later version
	}
	return c.to.Adopt(ctx, r)
}

// send copies those of ids that the target lacks.
func (c *copying) send(ctx context.Context, ids []chunk.ID) error {
	if len(ids) == 0 {
		return nil
	}
	slices.SortFunc(ids, func(a, b chunk.ID) int { return slices.Compare(a[:], b[:]) })
	missing, err := c.to.Missing(ctx, slices.Compact(ids))
	if err != nil {
		return err
	}
	for part := range slices.Chunk(missing, getLen) {
		var failed error // of the target
		err := c.from.Get(ctx, part, func(e chunk.Encoded) error {
			failed = c.add(ctx, e)
			return failed
		})
		if failed != nil {
			return failed
		}
		if err != nil {
			return ofSource(err)
		}
	}
	return c.flush(ctx)
}

// add takes one chunk to be sent.
func (c *copying) add(ctx context.Context, e chunk.Encoded) (err error) {
	if c.raw, err = chunk.Decode(e, c.raw); err != nil {
		return &sourceError{fmt.Errorf("chunk %s is damaged: %w", e.ID, err)}
	}
	if c.o.DryRun {
		if c.seen == nil {
			c.seen = make(map[chunk.ID]bool)
		}
		if !c.seen[e.ID] {
			c.seen[e.ID] = true
			c.r.Chunks++
			c.r.Stored += int64(len(e.Data))
		}
		return nil
	}
	e.Data = slices.Clone(e.Data)
	c.batch = append(c.batch, e)
	if c.bytes += len(e.Data); c.bytes < sendLen {
		return nil
	}
	return c.flush(ctx)
}

// flush sends what was taken.
func (c *copying) flush(ctx context.Context) error {
	if len(c.batch) == 0 {
		return nil
	}
	res, err := c.to.Put(ctx, c.batch)
	c.r.Chunks += res.New
	c.r.Stored += res.NewStored
	c.batch, c.bytes = c.batch[:0], 0
	return err
}
