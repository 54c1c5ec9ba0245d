package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/manifest"
)

// verify reads back what the image holds and compares it with the names of its chunks, but for what was trusted and not
// read before either. What is kept back is not there yet; finish looks at it.
func (r *run) verify(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	queue := make(chan manifest.Entry, 256)
	g.Go(func() error {
		defer close(queue)
		entries, trusted := r.entries(), r.trusted()
		for {
			e, err := entries.Next(ctx)
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("read the image's contents: %w", err)
			}
			if r.anew(e) || trusted.has(ctx, e) {
				r.done.Add(e.Len)
				continue
			}
			select {
			case queue <- e:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	for range r.opts.Workers {
		g.Go(func() error {
			buf := make([]byte, 1<<20)
			for {
				e, ok, err := recv(ctx, queue)
				if err != nil || !ok {
					return err
				}
				if buf, err = r.verifyEntry(ctx, e, buf); err != nil {
					return err
				}
				r.done.Add(e.Len)
			}
		})
	}
	return g.Wait()
}

func (r *run) verifyEntry(ctx context.Context, e manifest.Entry, buf []byte) ([]byte, error) {
	if e.Zero {
		left := extent.Subtract(extent.List{{Off: e.Off, Len: e.Len}}, r.logs)
		left = extent.Subtract(extent.Subtract(left, set(r.head.Extent)), set(r.tail.Extent))
		for _, part := range left {
			for part.Len > 0 {
				if err := ctx.Err(); err != nil {
					return buf, err
				}
				b := buf[:min(part.Len, int64(len(buf)))]
				if err := r.readBack(b, part.Off); err != nil {
					return buf, err
				}
				if !chunk.IsZero(b) {
					return buf, &VerifyError{Off: part.Off, Len: int64(len(b))}
				}
				part.Off, part.Len = part.Off+int64(len(b)), part.Len-int64(len(b))
			}
		}
		return buf, nil
	}
	if int64(len(buf)) < e.Len {
		buf = make([]byte, e.Len) // at most chunk.MaxLen, as the reader of entries checks
	}
	b := buf[:e.Len]
	if e.Off+e.Len <= r.t.Size() {
		if err := r.readBack(b, e.Off); err != nil {
			return buf, err
		}
	}
	r.head.give(b, e.Off)
	r.tail.give(b, e.Off)
	if err := r.giveLogs(ctx, e, b); err != nil {
		return buf, err
	}
	if chunk.Sum(b) != e.ID {
		return buf, &VerifyError{Off: e.Off, Len: e.Len}
	}
	return buf, nil
}

// giveLogs puts into b, which was read back, what the image has in logs that begin anew: it is not there. Only few chunks lie
// across the end of one.
func (r *run) giveLogs(ctx context.Context, e manifest.Entry, b []byte) error {
	inside := r.logs.Clip(extent.Extent{Off: e.Off, Len: e.Len})
	if len(inside) == 0 {
		return nil
	}
	return r.from.Get(ctx, []chunk.ID{e.ID}, func(c chunk.Encoded) error {
		raw, err := chunk.Decode(c, nil)
		if err != nil {
			return err
		}
		if int64(len(raw)) != e.Len {
			return &VerifyError{Off: e.Off, Len: e.Len}
		}
		for _, part := range inside {
			copy(b[part.Off-e.Off:], raw[part.Off-e.Off:part.End()-e.Off])
		}
		return nil
	})
}

func (r *run) readBack(b []byte, off int64) error {
	if err := readFull(r.t, b, off); err != nil {
		return fmt.Errorf("read back %d bytes at offset %d of the disk: %w", len(b), off, err)
	}
	return nil
}

// set returns e as a List, which has no empty extents.
func set(e extent.Extent) extent.List {
	if e.Len == 0 {
		return nil
	}
	return extent.List{e}
}
