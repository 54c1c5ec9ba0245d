package dir

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/store"
)

// RepackOptions say how hard a Repack tries.
type RepackOptions struct {
	DryRun  bool
	Level   int // of Zstandard, 1 to 22; 0 means DefaultLevel
	Workers int // processors that are kept busy; 0 means half of them

	Most  int    // packs that are gone through; 0 means all
	After uint32 // only packs with greater numbers: those up to here were gone through before

	// Pause returns when the machine has nothing better to do, or with an error that ends the Repack. It is called every
	// few MiB, and may be nil.
	Pause    func(ctx context.Context) error
	Progress func(done, total int64) // bytes of packs that are gone through; may be nil
}

// DefaultLevel is the strongest that the encoder tells apart.
const DefaultLevel = 19

// RepackReport says what a Repack has done, or would do.
type RepackReport struct {
	DryRun   bool     `json:"dry_run"`
	Level    int      `json:"level"`
	Packs    int      `json:"packs"`    // that are worth it
	Bytes    int64    `json:"bytes"`    // of these, before
	Left     int      `json:"left"`     // packs that are worth it, beyond RepackOptions.Most
	Last     uint32   `json:"last"`     // number of the last that was gone through
	Chunks   int64    `json:"chunks"`   // that are smaller now; of a dry run: that were tried
	After    int64    `json:"after"`    // bytes of the packs that were made of them; of a dry run an estimate
	Freed    int64    `json:"freed"`    // bytes: what packs were that are gone, less what was made of them; of a dry run an estimate
	Problems []string `json:"problems"` // packs that stay as they are, and why
}

// repacking is a Repack under way.
type repacking struct {
	s *Store
	o RepackOptions
	r *RepackReport

	encoders sync.Pool
	out      *pack // that is being written; nil: none
	buf      []byte
	from     []indexed // where the chunks in out lie until it is durable
	read     []packPlan
}

// Repack writes packs anew, full ones of short ones and of those that are half empty, with their chunks compressed as well
// as the level can. Packs that were done with it before are left alone. It goes on beside captures and deploys, and can be
// ended at any time: what is done stays done.
func (s *Store) Repack(ctx context.Context, o RepackOptions) (*RepackReport, error) {
	if err := s.writable(ctx); err != nil && !o.DryRun {
		return nil, err
	}
	end, err := s.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	o.Level = cmp.Or(o.Level, DefaultLevel)
	if o.Level < 1 || o.Level > 22 {
		return nil, fmt.Errorf("level %d: want 1 to 22", o.Level)
	}
	o.Workers = cmp.Or(o.Workers, max(1, runtime.NumCPU()/2))
	g := &repacking{s: s, o: o, r: &RepackReport{DryRun: o.DryRun, Level: o.Level, Problems: []string{}}}
	g.encoders.New = func() any { return chunk.NewPacker(o.Level) }
	if !o.DryRun {
		s.wmu.Lock()
		err := s.seal()
		s.wmu.Unlock()
		if err != nil {
			return nil, err
		}
	}
	plans, err := g.plan(ctx)
	if err != nil {
		return nil, err
	}
	if o.DryRun {
		return g.r, g.estimate(ctx, plans)
	}
	return g.r, g.run(ctx, plans)
}

// plan returns the packs that are worth it, in the order of their numbers.
func (g *repacking) plan(ctx context.Context) ([]packPlan, error) {
	s := g.s
	all := make(map[uint32]*packPlan)
	effort := make(map[uint32]uint8)
	s.wmu.Lock()
	s.imu.RLock()
	for n, p := range s.packs {
		if s.cur == nil || s.cur.number != n {
			all[n], effort[n] = &packPlan{number: n, size: p.size}, p.effort
		}
	}
	s.imu.RUnlock()
	s.wmu.Unlock()
	if err := s.eachItem(ctx, func(_ uint32, it indexed) {
		if p := all[it.pack]; p != nil {
			p.live += it.end() - int64(it.off)
		}
	}); err != nil {
		return nil, err
	}
	var plans, short []packPlan
	for n, p := range all {
		switch {
		case int(effort[n]) < g.o.Level, 2*p.live < p.size-packHead:
			plans = append(plans, *p)
		case p.size < s.packSize/2:
			short = append(short, *p)
		}
	}
	if len(short) > 1 || len(plans) > 0 {
		plans = append(plans, short...)
	}
	slices.SortFunc(plans, func(a, b packPlan) int { return cmp.Compare(a.number, b.number) })
	plans = slices.DeleteFunc(plans, func(p packPlan) bool { return p.number <= g.o.After })
	if n := g.o.Most; n > 0 && len(plans) > n {
		g.r.Left = len(plans) - n
		plans = plans[:n]
	}
	for _, p := range plans {
		g.r.Last = p.number
		g.r.Packs++
		g.r.Bytes += p.size
	}
	return plans, nil
}

// sampleSize is how many chunks a dry run tries.
const sampleSize = 256

// estimate tries some chunks from all over the packs.
func (g *repacking) estimate(ctx context.Context, plans []packPlan) error {
	var live, before, after int64
	for _, p := range plans {
		live += p.live
	}
	each := max(1, sampleSize/max(1, len(plans)))
	step := max(1, len(plans)/sampleSize)
	for i := 0; i < len(plans); i += step {
		items, err := g.items(plans[i])
		if err != nil {
			return err
		}
		for k := 0; k < len(items); k += max(1, len(items)/each) {
			done, _, err := g.encode(ctx, items[k:k+1])
			if err != nil {
				return err
			}
			for _, c := range done {
				before += int64(items[k].stored)
				after += int64(len(c.Data)) + int64(g.s.form.more())
				g.r.Chunks++
			}
		}
	}
	g.r.After = live
	if before > 0 {
		g.r.After = int64(float64(live) * float64(after) / float64(before))
	}
	g.r.Freed = max(0, g.r.Bytes-g.r.After)
	return nil
}

// items returns what lies in a pack and nowhere else.
func (g *repacking) items(p packPlan) ([]indexed, error) {
	items, err := g.s.packItems(p.number, p.size)
	var noIndex *indexFileError
	if err != nil && !errors.As(err, &noIndex) {
		return nil, err
	}
	return g.s.current(items), nil
}

// run goes through the packs.
func (g *repacking) run(ctx context.Context, plans []packPlan) (err error) {
	var done int64
	for _, p := range plans {
		if err = g.pack(ctx, p); err != nil {
			break
		}
		g.read = append(g.read, p)
		if done += p.size; g.o.Progress != nil {
			g.o.Progress(done, g.r.Bytes)
		}
	}
	if err == nil {
		err = g.finish()
	}
	if err != nil {
		g.abandon()
	}
	if errors.Is(err, store.ErrFull) {
		g.problem("no room to write packs anew: %v", err)
		err = nil
	}
	return err
}

func (g *repacking) problem(format string, args ...any) {
	if len(g.r.Problems) < maxProblems {
		g.r.Problems = append(g.r.Problems, fmt.Sprintf(format, args...))
	}
}

// pack copies what a pack holds to the one that is being written.
func (g *repacking) pack(ctx context.Context, p packPlan) error {
	items, err := g.items(p)
	if errors.Is(err, fs.ErrNotExist) && p.live == 0 {
		return nil // it was removed before, and nobody was told
	} else if errors.Is(err, fs.ErrNotExist) {
		g.problem("%s is not there", g.s.path(packName(p.number)))
		return nil
	} else if err != nil {
		return err
	}
	damaged := false
	for len(items) > 0 {
		if g.o.Pause != nil {
			if err := g.o.Pause(ctx); err != nil {
				return err
			}
		}
		n := run(items)
		done, bad, err := g.encode(ctx, items[:n])
		if err != nil {
			return err
		}
		damaged = damaged || bad
		for _, c := range done {
			if err := g.add(c); err != nil {
				return err
			}
		}
		items = items[n:]
	}
	if damaged {
		g.problem("%s holds chunks that are damaged: it stays, with these", g.s.path(packName(p.number)))
	}
	return nil
}

// encode reads a run of chunks and compresses each. Those that are damaged are left out, and so are those that were moved
// meanwhile.
func (g *repacking) encode(ctx context.Context, items []indexed) (done []moving, damaged bool, err error) {
	if err := ctx.Err(); err != nil {
		return nil, false, err
	}
	_, err = g.s.read(items, nil, func(it indexed, c chunk.Encoded, err error) error {
		if err == nil {
			done = append(done, moving{it, c})
		} else {
			damaged = true
		}
		return nil
	})
	if err == errMoved {
		return nil, false, nil
	} else if err != nil {
		return nil, false, err
	}
	bad := make([]bool, len(done))
	work := new(errgroup.Group)
	work.SetLimit(g.o.Workers)
	for i := range done {
		work.Go(func() error {
			defer background()()
			e := g.encoders.Get().(*chunk.Encoder)
			defer g.encoders.Put(e)
			old := done[i].Encoded
			raw, err := chunk.Decode(old, nil)
			if err != nil {
				g.s.markBad(done[i].from)
				bad[i] = true
				return nil
			}
			fresh := e.Encode(old.ID, raw, nil, chunk.Zstd)
			if len(fresh.Data) >= len(old.Data) {
				return nil
			}
			// What is taken away soon must not hang on the encoder.
			if _, err := chunk.Decode(fresh, nil); err != nil {
				return fmt.Errorf("encode anew: %w", err)
			}
			done[i].Encoded = fresh
			return nil
		})
	}
	if err := work.Wait(); err != nil {
		return nil, false, err
	}
	good := done[:0]
	for i, c := range done {
		if bad[i] {
			damaged = true
			continue
		}
		good = append(good, c)
	}
	return good, damaged, nil
}

// background lets the goroutine run only where no other thread wants to, until what it returns is called.
func background() (end func()) {
	runtime.LockOSThread()
	tid := unix.Gettid()
	was, err := unix.Getpriority(unix.PRIO_PROCESS, tid)
	if err != nil || unix.Setpriority(unix.PRIO_PROCESS, tid, 19) != nil {
		return runtime.UnlockOSThread
	}
	return func() {
		// The system call tells 20 less the priority. Without the right to raise it again the thread ends with the goroutine.
		if unix.Setpriority(unix.PRIO_PROCESS, tid, 20-was) == nil {
			runtime.UnlockOSThread()
		}
	}
}

// add appends a chunk to the pack that is being written.
func (g *repacking) add(c moving) error {
	s := g.s
	l := loc{stored: uint32(len(c.Data)) + s.form.more(), raw: c.RawLen, codec: c.Codec}
	if g.out != nil && g.out.size+int64(len(g.buf))+l.end() > s.packSize && len(g.from) > 0 {
		if err := g.finish(); err != nil {
			return err
		}
	}
	if g.out == nil {
		if err := g.start(); err != nil {
			return err
		}
	}
	l.pack, l.off = g.out.number, uint32(g.out.size+int64(len(g.buf)))
	buf, err := s.form.appendRecord(g.buf, c.Encoded)
	if err != nil {
		return err
	}
	g.buf = buf
	g.out.items = append(g.out.items, indexed{c.ID, l})
	g.from = append(g.from, c.from)
	if l.stored < c.from.stored {
		g.r.Chunks++
	}
	if len(g.buf) >= writeLen {
		return g.write()
	}
	return nil
}

func (g *repacking) start() error {
	s := g.s
	if free, err := s.fs.Free(); err != nil {
		return fmt.Errorf("look how much room there is: %w", err)
	} else if s.reserve > 0 && free < s.reserve+s.packSize {
		return fmt.Errorf("%w: %d MiB are free, and %d MiB of it are kept for others", store.ErrFull, free>>20, s.reserve>>20)
	}
	s.wmu.Lock()
	defer s.wmu.Unlock()
	var err error
	if g.out, err = s.makePack(uint8(g.o.Level)); err != nil {
		return fmt.Errorf("start a new pack: %w", full(err))
	}
	return nil
}

func (g *repacking) write() error {
	p := g.out
	if _, err := p.file.WriteAt(g.buf, p.size); err != nil {
		return fmt.Errorf("write %s: %w", packName(p.number), full(err))
	}
	p.file.WriteBehind(p.size, int64(len(g.buf)))
	g.s.imu.Lock()
	p.size += int64(len(g.buf))
	g.s.imu.Unlock()
	g.buf = g.buf[:0]
	return nil
}

// finish makes the pack that is being written durable, then the place of its chunks, and removes the packs that hold no
// others.
func (g *repacking) finish() error {
	s, p := g.s, g.out
	if p != nil {
		err := g.write()
		if err == nil {
			err = p.file.Sync()
		}
		if err == nil {
			err = s.fs.SyncDir(packsDir)
		}
		if err == nil {
			err = p.file.Close()
		}
		if err != nil {
			return fmt.Errorf("make %s durable: %w", packName(p.number), full(err))
		}
		s.imu.Lock()
		for i, it := range p.items {
			if l, ok := s.index.get(it.id); ok && l == g.from[i].loc {
				s.index.put(it.id, it.loc, 0)
			}
		}
		s.imu.Unlock()
		s.writeIndex(p.number, p.uid, p.size, p.effort, p.items)
		g.r.After += p.size
		g.r.Freed -= p.size
		p.file, p.items, g.out, g.from = nil, nil, nil, nil
	}
	var gone []uint32
	for _, old := range g.read {
		items, err := g.items(old)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if len(items) == 0 {
			gone = append(gone, old.number)
			g.r.Freed += old.size
		}
	}
	g.read = nil
	if len(gone) == 0 {
		return nil
	}
	return s.removePacks(gone)
}

// abandon removes the pack that is being written: nobody was told of it.
func (g *repacking) abandon() {
	if p := g.out; p != nil {
		_ = p.file.Close()
		_ = g.s.fs.Remove(packName(p.number)) // the next start finds it otherwise: its chunks lie elsewhere, too
		g.s.imu.Lock()
		delete(g.s.packs, p.number)
		g.s.imu.Unlock()
		g.s.files.drop(p.number)
		g.out = nil
	}
}
