package deploy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/manifest"
)

// jobLen is how much of the disk a job covers where chunks fill it: large enough for any disk to be at its best with
// one write, and for a question to the store to be worth it.
const jobLen = 4 << 20

// maxPieces bounds the entries of a job.
const maxPieces = 1024

// zeroStep bounds how long a cancel waits for zeros to be written.
const zeroStep = 64 << 20

// piece is an entry in a job. Zero ones have no bytes in the buffer.
type piece struct {
	manifest.Entry
	pos  int
	keep bool            // a part of it is kept back: it is not compared, as the wipe took what the disk had there
	skip bool            // the disk holds it already
	last bool            // as the last deploy wrote it: with skip, and not in the buffer
	read bool            // the buffer has what the disk holds
	now  chunk.ID        // the name of that; none where it is zeros
	same []extent.Extent // in bytes of the disk: what of the piece the disk holds already
}

// job is a stretch of the image on its way to the disk.
type job struct {
	buf    []byte
	pieces []piece
	used   int
	filled chan struct{} // takes a value when the bytes are there; holds one
	index  map[chunk.ID]int
	ids    []chunk.ID
}

func (j *job) bytes(p *piece) []byte { return j.buf[p.pos : p.pos+int(p.Len)] }

// write carries all entries from the store to the disk.
func (r *run) write(ctx context.Context) error {
	jobs := max(int(r.opts.Memory/jobLen), 2)
	r.free, r.fetch, r.order = make(chan *job, jobs), make(chan *job, jobs), make(chan *job, jobs)
	for range jobs {
		r.free <- &job{buf: make([]byte, jobLen), filled: make(chan struct{}, 1), index: make(map[chunk.ID]int)}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.plan(ctx) })
	for range min(r.opts.Workers, jobs) {
		g.Go(func() error { return r.worker(ctx) })
	}
	g.Go(func() error { return r.writer(ctx) })
	err := g.Wait()
	r.free, r.fetch, r.order = nil, nil, nil // the memory is needed for what follows
	return err
}

// recv takes the next of q; it returns false and no error when q is closed and empty.
func recv[T any](ctx context.Context, q <-chan T) (v T, ok bool, err error) {
	select {
	case v, ok = <-q:
		return v, ok, ctx.Err()
	case <-ctx.Done():
		return v, false, ctx.Err()
	}
}

// plan reads the entries and packs them into jobs.
func (r *run) plan(ctx context.Context) error {
	entries, trusted := r.entries(), r.trusted()
	var j *job
	pass := func() {
		if j != nil && len(j.pieces) > 0 {
			r.order <- j // both hold every job there is: no send waits
			r.fetch <- j
			j = nil
		}
	}
	for {
		e, err := entries.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read the image's contents: %w", err)
		}
		if r.anew(e) {
			r.done.Add(e.Len)
			continue
		}
		last := trusted.has(ctx, e)
		n := 0
		if !e.Zero && !last {
			n = int(e.Len)
		}
		if j != nil && (j.used+n > len(j.buf) || len(j.pieces) == maxPieces) {
			pass()
		}
		if j == nil {
			if j, _, err = recv(ctx, r.free); err != nil {
				return err
			}
			j.pieces, j.used = j.pieces[:0], 0
		}
		j.pieces = append(j.pieces, piece{Entry: e, pos: j.used, keep: r.keeps(e), skip: last, last: last})
		j.used += n
	}
	pass()
	close(r.order)
	close(r.fetch)
	return nil
}

func (r *run) worker(ctx context.Context) error {
	var scratch []byte
	var names chunk.Summer
	for {
		j, ok, err := recv(ctx, r.fetch)
		if err != nil || !ok {
			return err
		}
		if r.compare() {
			if err := r.match(j, &names); err != nil {
				return err
			}
		}
		if err := r.load(ctx, j, &scratch); err != nil {
			return err
		}
		j.filled <- struct{}{}
	}
}

// match reads what the disk holds and marks the pieces that are there already.
func (r *run) match(j *job, names *chunk.Summer) error {
	var compared, equal int64
	for first := 0; first < len(j.pieces); {
		n, last := j.stretch(first)
		p := &j.pieces[first]
		if p.Zero || p.keep || p.skip {
			first = last
			continue
		}
		b := j.buf[p.pos : p.pos+n]
		if err := readFull(r.t, b, p.Off); err != nil {
			return fmt.Errorf("read %d bytes at offset %d of the disk to compare them: %w", n, p.Off, err)
		}
		for ; first < last; first++ {
			p := &j.pieces[first]
			b := j.bytes(p)
			// A blank disk is the common case, and its answer is cheap: what is not zero cannot equal zeros.
			if !chunk.IsZero(b) {
				names.Add(b, &p.now)
			}
			p.read = true
			compared += p.Len
		}
	}
	names.Sum()
	for i := range j.pieces {
		if p := &j.pieces[i]; p.now == p.ID && p.ID != (chunk.ID{}) {
			p.skip = true
			equal += p.Len
		}
	}
	r.compared.Add(compared)
	r.equal.Add(equal)
	return nil
}

// stretch returns how many bytes from the piece first on lie together on the disk and in the buffer, and the piece
// after them. A piece that is to be skipped, zeroed or kept back is a stretch of its own.
func (j *job) stretch(first int) (n int, last int) {
	p := j.pieces[first]
	if p.Zero || p.skip || p.keep {
		return int(p.Len), first + 1
	}
	for last = first; last < len(j.pieces); last++ {
		q := j.pieces[last]
		if q.Zero || q.skip || q.keep || q.Off != p.Off+int64(n) {
			break
		}
		n += int(q.Len)
	}
	return n, last
}

// keeps tells whether a part of e is kept back.
func (r *run) keeps(e manifest.Entry) bool {
	return e.Off < r.head.End() || r.tail.Len > 0 && e.Off+e.Len > r.tail.Off
}

// load fetches the chunks of j into its buffer. What is to be compared with the buffer goes through scratch, which grows as
// it must.
func (r *run) load(ctx context.Context, j *job, scratch *[]byte) error {
	clear(j.index)
	j.ids = j.ids[:0]
	for i := range j.pieces {
		p := &j.pieces[i]
		if p.Zero || p.skip {
			continue
		}
		if _, twice := j.index[p.ID]; !twice {
			j.index[p.ID] = i
			j.ids = append(j.ids, p.ID)
		}
	}
	if len(j.ids) == 0 {
		return nil
	}
	got := 0
	err := r.from.Get(ctx, j.ids, func(c chunk.Encoded) error {
		i, asked := j.index[c.ID]
		if !asked {
			return fmt.Errorf("the store gave chunk %s, which was not asked for", c.ID)
		}
		p := &j.pieces[i]
		if int64(c.RawLen) != p.Len {
			return fmt.Errorf("chunk %s has %d bytes, the image's entry at offset %d has %d", c.ID, c.RawLen, p.Off, p.Len)
		}
		dst := j.bytes(p)
		if p.read {
			if int64(len(*scratch)) < p.Len {
				*scratch = make([]byte, p.Len)
			}
			dst = (*scratch)[:p.Len]
		}
		raw, err := chunk.Decode(c, dst[:0:p.Len])
		if err != nil {
			return err
		}
		j.set(p, raw)
		got++
		r.fetched.Add(int64(len(c.Data)))
		return nil
	})
	if err != nil {
		return fmt.Errorf("fetch %d chunks for offset %d of the disk: %w", len(j.ids), j.pieces[0].Off, err)
	}
	if got != len(j.ids) {
		return fmt.Errorf("the store gave %d of %d chunks for offset %d of the disk", got, len(j.ids), j.pieces[0].Off)
	}
	for i := range j.pieces {
		p := &j.pieces[i]
		if p.Zero || p.skip {
			continue
		}
		if src := j.index[p.ID]; src != i {
			if p.Len != j.pieces[src].Len {
				return fmt.Errorf("chunk %s is said to have %d and %d bytes", p.ID, j.pieces[src].Len, p.Len)
			}
			j.set(p, j.bytes(&j.pieces[src]))
		}
	}
	return nil
}

// sameStep is how finely a chunk that differs is compared with what the disk holds: by the blocks that most filesystems
// and disks write as one.
const sameStep = 4 << 10

// set puts the bytes of a piece into the buffer, and notes which of them the disk holds already.
func (j *job) set(p *piece, raw []byte) {
	old := j.bytes(p)
	if p.read {
		for at := 0; at < len(raw); {
			n := min(sameStep-int((p.Off+int64(at))%sameStep), len(raw)-at)
			if bytes.Equal(old[at:at+n], raw[at:at+n]) {
				e := extent.Extent{Off: p.Off + int64(at), Len: int64(n)}
				if k := len(p.same) - 1; k >= 0 && p.same[k].End() == e.Off {
					p.same[k].Len += e.Len
				} else {
					p.same = append(p.same, e)
				}
			}
			at += n
		}
	}
	if &raw[0] != &old[0] {
		copy(old, raw)
	}
}

// writer writes the jobs in order.
func (r *run) writer(ctx context.Context) error {
	for {
		j, ok, err := recv(ctx, r.order)
		if err != nil || !ok {
			return err
		}
		if _, _, err := recv(ctx, j.filled); err != nil {
			return err
		}
		for first := 0; first < len(j.pieces); {
			n, last := j.stretch(first)
			p := &j.pieces[first]
			switch {
			case p.last:
				r.trustedBytes.Add(p.Len)
			case p.skip:
				r.skipped.Add(p.Len)
			case p.Zero:
				err = r.zeroRange(ctx, p.Off, p.Len)
			default:
				err = r.putAll(j.buf[p.pos:p.pos+n], j.pieces[first:last])
			}
			if err != nil {
				return err
			}
			for ; first < last; first++ {
				r.done.Add(j.pieces[first].Len)
			}
		}
		r.free <- j
	}
}

// putAll writes pieces that lie together, of which b has the bytes, but for what the disk holds already.
func (r *run) putAll(b []byte, pieces []piece) error {
	off := pieces[0].Off
	for i := range pieces {
		for _, e := range pieces[i].same {
			if n := e.Off - off; n > 0 {
				if err := r.putOutside(b[:n], off); err != nil {
					return err
				}
			}
			b, off = b[e.End()-off:], e.End()
			r.skipped.Add(e.Len)
		}
	}
	return r.putOutside(b, off)
}

// putOutside writes b at off, but for what lies in logs that begin anew.
func (r *run) putOutside(b []byte, off int64) error {
	for _, e := range extent.Subtract(extent.List{{Off: off, Len: int64(len(b))}}, r.logs) {
		if err := r.put(b[e.Off-off:e.End()-off], e.Off); err != nil {
			return err
		}
	}
	return nil
}

// put writes b at off, but for what is kept back.
func (r *run) put(b []byte, off int64) error {
	r.head.take(b, off)
	r.tail.take(b, off)
	if skip := min(max(r.head.End()-off, 0), int64(len(b))); skip > 0 {
		b, off = b[skip:], off+skip
	}
	if r.tail.Len > 0 {
		if over := off + int64(len(b)) - r.tail.Off; over > 0 {
			b = b[:max(int64(len(b))-over, 0)]
		}
	}
	if len(b) == 0 {
		return nil
	}
	if _, err := r.t.WriteAt(b, off); err != nil {
		return fmt.Errorf("write %d bytes at offset %d of the disk: %w", len(b), off, err)
	}
	r.written.Add(int64(len(b)))
	return nil
}

// zeroRange makes a range read as zeros, but for what is kept back, and for logs that begin anew.
func (r *run) zeroRange(ctx context.Context, off, n int64) error {
	e := extent.Subtract(extent.List{{Off: off, Len: n}}, r.logs)
	for _, h := range []*held{&r.head, &r.tail} {
		if h.Len == 0 {
			continue
		}
		for _, part := range e.Clip(h.Extent) {
			h.have.Add(part) // its buffer is zero from the start
		}
		e = extent.Subtract(e, set(h.Extent))
	}
	for _, part := range e {
		for part.Len > 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			n := min(part.Len, zeroStep)
			if err := r.t.Zero(part.Off, n); err != nil {
				return fmt.Errorf("zero %d bytes at offset %d of the disk: %w", n, part.Off, err)
			}
			r.zeroed.Add(n)
			part.Off, part.Len = part.Off+n, part.Len-n
		}
	}
	return nil
}

// readFull reads b at off; the end of the disk within it is an error.
func readFull(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// sameBytes is for what is small and kept in memory.
func sameBytes(r io.ReaderAt, want []byte, off int64) error {
	got := make([]byte, len(want))
	if err := readFull(r, got, off); err != nil {
		return fmt.Errorf("read back %d bytes at offset %d of the disk: %w", len(want), off, err)
	}
	if !bytes.Equal(got, want) {
		return &VerifyError{Off: off, Len: int64(len(want))}
	}
	return nil
}
