package capture

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
)

// askers and senders wait for the store and not for the processor: four of each keep a line of some milliseconds full
// and do not crowd a store on a disk.
const (
	askers  = 4
	senders = 4
)

// run is a capture under way. The channels can hold every block there is, so a send never blocks: the number of free
// blocks alone holds back the reader, and there is nothing to deadlock on.
type run struct {
	src  Source
	plan Plan
	dst  store.Writer
	opts Options

	free  chan *block // to the reader
	hashq chan *block // read; to the workers
	askq  chan *block // hashed; to the askers
	encq  chan *block // with missing chunks; to the workers again
	putq  chan *batch // compressed; to the senders
	order chan *block // as read; to the entry writer, which waits for each one's entries
	spare chan *batch // to the workers, for compressed chunks

	hashing atomic.Int64 // blocks between reader and askers, and one for the reader
	asking  atomic.Int64 // askers at work
	working atomic.Int64 // workers at work

	seen    *idSet
	content manifest.Content // the entry writer's, until all have stopped

	phase                           atomic.Value // string
	read, zero, fresh, sent, stored atomic.Int64
}

func newRun(src Source, plan Plan, dst store.Writer, opts Options) *run {
	const mib = 1 << 20
	size := min(opts.Memory/int64(3*(opts.Workers+4)), 4*mib)
	size = max(size/mib*mib, mib, int64(opts.ChunkSize))
	n := int(opts.Memory / size)
	blocks, batches := max(n*2/3, 3), max(n/3, 2)

	r := &run{
		src: src, plan: plan, dst: dst, opts: opts,
		free: make(chan *block, blocks), hashq: make(chan *block, blocks), askq: make(chan *block, blocks),
		encq: make(chan *block, blocks), putq: make(chan *batch, batches), order: make(chan *block, blocks),
		spare: make(chan *batch, batches),
		seen:  newIDSet(),
	}
	r.phase.Store(PhaseCapturing)
	for range blocks {
		r.free <- &block{buf: make([]byte, size), entries: make(chan []manifest.Entry, 1)}
	}
	slack := chunk.MaxEncodedLen(opts.ChunkSize) - opts.ChunkSize // so that the last chunk finds room to grow and shrink
	for range batches {
		r.spare <- &batch{arena: make([]byte, 0, int(size)+slack)}
	}
	return r
}

func (r *run) start(ctx context.Context, g *errgroup.Group) {
	r.hashing.Store(1)
	r.asking.Store(askers)
	r.working.Store(int64(r.opts.Workers))
	g.Go(func() error { return r.reader(ctx) })
	g.Go(func() error { return r.writeEntries(ctx) })
	for range r.opts.Workers {
		g.Go(func() error { return r.worker(ctx) })
	}
	for range askers {
		g.Go(func() error { return r.asker(ctx) })
	}
	for range senders {
		g.Go(func() error { return r.sender(ctx) })
	}
}

// recv takes the next of q; it returns no value and no error when q is closed and empty.
func recv[T any](ctx context.Context, q <-chan T) (v T, ok bool, err error) {
	select {
	case v, ok = <-q:
		return v, ok, ctx.Err()
	case <-ctx.Done():
		return v, false, ctx.Err()
	}
}

// send waits only where q is full.
func send[T any](ctx context.Context, q chan<- T, v T) error {
	select {
	case q <- v:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *run) reader(ctx context.Context) error {
	pack := packer{next: chunk.NewCutter(r.plan.Used, r.plan.grids(int64(r.opts.ChunkSize))).Next}
	next := newAhead(r.src.ReaderAt, r.plan.Used)
	var reads []extent.Extent
	for {
		b, _, err := recv(ctx, r.free)
		if err != nil {
			return err
		}
		if reads = pack.fill(b, reads); len(reads) == 0 {
			break
		}
		next.from(reads[0].Off)
		if err := readAll(r.src, reads, b.buf); err != nil {
			return err
		}
		r.hashing.Add(1)
		if err := send(ctx, r.order, b); err != nil {
			return err
		}
		r.hashq <- b
	}
	close(r.order)
	close(r.hashq)
	r.hashed()
	return nil
}

// hashed says that one fewer will send to the askers.
func (r *run) hashed() {
	if r.hashing.Add(-1) == 0 {
		close(r.askq)
	}
}

// worker hashes and compresses. Compression comes first, since it sets a block free.
func (r *run) worker(ctx context.Context) error {
	enc := chunk.NewEncoder()
	var names chunk.Summer
	var load load
	hashq := r.hashq
	for {
		var b *block
		var ok bool
		idle := time.Now()
		select {
		case b, ok = <-r.encq:
		default:
			select {
			case b, ok = <-r.encq:
			case b, ok = <-hashq:
				load.idle(time.Since(idle))
				if !ok {
					hashq = nil
					continue
				}
				if err := r.hash(ctx, b, &names); err != nil {
					return err
				}
				r.askq <- b
				r.hashed()
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if !ok {
			break
		}
		out, _, err := recv(ctx, r.spare)
		if err != nil {
			return err
		}
		load.idle(time.Since(idle))
		r.encode(enc, b, out, r.codec(&load))
		r.free <- b
		r.putq <- out
	}
	if r.working.Add(-1) == 0 {
		close(r.putq)
	}
	return nil
}

// hash names the pieces of b.
func (r *run) hash(ctx context.Context, b *block, names *chunk.Summer) error {
	var read, zero int64
	for i := range b.pieces {
		p := &b.pieces[i]
		raw := b.bytes(p)
		p.want = false
		if p.zero = chunk.IsZero(raw); p.zero {
			zero += int64(p.n)
		} else {
			names.Add(raw, &p.id)
		}
		read += int64(p.n)
	}
	names.Sum()
	r.read.Add(read)
	r.zero.Add(zero)
	return send(ctx, b.entries, b.toEntries())
}

// asker asks the store for what it lacks.
func (r *run) asker(ctx context.Context) error {
	var ids []chunk.ID
	for {
		b, ok, err := recv(ctx, r.askq)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		ids = r.seen.claim(b.pieces, ids[:0])
		if len(ids) > 0 {
			missing, err := r.dst.Missing(ctx, ids)
			if err != nil {
				return fmt.Errorf("ask the store which of %d chunks it lacks: %w", len(ids), err)
			}
			if ok = mark(b.pieces, missing); !ok {
				return fmt.Errorf("the store lacks chunks that it was not asked for")
			}
			if len(missing) > 0 {
				r.encq <- b
				continue
			}
		}
		r.free <- b
	}
	if r.asking.Add(-1) == 0 {
		close(r.encq)
	}
	return nil
}

// mark sets want on the pieces that bring the missing chunks, which are in the order of the pieces.
func mark(pieces []piece, missing []chunk.ID) bool {
	k := 0
	for i := range pieces {
		p := &pieces[i]
		claimed := p.want
		p.want = claimed && k < len(missing) && p.id == missing[k]
		if p.want {
			k++
		}
	}
	return k == len(missing)
}

// encode compresses the wanted pieces of b into out.
func (r *run) encode(enc *chunk.Encoder, b *block, out *batch, codec chunk.Codec) {
	out.chunks, out.arena = out.chunks[:0], out.arena[:0]
	for i := range b.pieces {
		p := &b.pieces[i]
		if !p.want {
			continue
		}
		if len(out.chunks) == 0 {
			out.off = p.off
		}
		e := enc.Encode(p.id, b.bytes(p), out.arena[len(out.arena):], codec)
		out.arena = out.arena[:len(out.arena)+len(e.Data)] // it lies there, as the capacity was enough
		out.chunks = append(out.chunks, e)
	}
}

// codec chooses by what a worker waits for. One that hardly waits is what holds the capture up, and s2 makes it faster.
// One that waits a lot, for a slow disk or for a store behind a slow line, has the time for zstd.
func (r *run) codec(l *load) chunk.Codec {
	if r.opts.Codec == S2 || r.opts.Codec == Auto && !l.idles() {
		return chunk.S2
	}
	return chunk.Zstd
}

// sender puts compressed blocks into the store and sets their memory free.
func (r *run) sender(ctx context.Context) error {
	for {
		out, ok, err := recv(ctx, r.putq)
		if err != nil || !ok {
			return err
		}
		res, err := r.dst.Put(ctx, out.chunks)
		if err != nil {
			return fmt.Errorf("store %d chunks of the disk from offset %d on: %w", len(out.chunks), out.off, err)
		}
		r.fresh.Add(res.NewRaw)
		r.stored.Add(res.NewStored)
		r.sent.Add(int64(len(out.arena)))
		r.spare <- out
	}
}

// writeEntries gathers the entries in ascending order into segments, which go to the store as chunks do.
func (r *run) writeEntries(ctx context.Context) error {
	enc, buf := chunk.NewEncoder(), []byte(nil)
	w := manifest.NewSegmentWriter(func(id chunk.ID, raw []byte) error {
		buf = slices.Grow(buf[:0], chunk.MaxEncodedLen(len(raw)))
		e := enc.Encode(id, raw, buf, chunk.Zstd)
		res, err := r.dst.Put(ctx, []chunk.Encoded{e})
		if err != nil {
			return fmt.Errorf("store a segment of the manifest: %w", err)
		}
		r.sent.Add(int64(len(e.Data)))
		r.stored.Add(res.NewStored)
		return nil
	})
	var pending []manifest.Entry // the last entry, which the next block's first may lengthen
	for {
		b, ok, err := recv(ctx, r.order)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		list, _, err := recv(ctx, b.entries)
		if err != nil {
			return err
		}
		for _, e := range list {
			if pending = appendEntry(pending, e); len(pending) > 1 {
				if err := w.Add(pending[0]); err != nil {
					return err
				}
				pending = append(pending[:0], pending[1])
			}
		}
	}
	for _, e := range pending {
		if err := w.Add(e); err != nil {
			return err
		}
	}
	content, err := w.Close()
	if err != nil {
		return err
	}
	r.content = content
	return nil
}
