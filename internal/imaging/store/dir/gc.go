package dir

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
)

// GCOptions say what a GC must leave alone. docs/design/gc.md has the reasons.
type GCOptions struct {
	DryRun bool
	Grace  time.Duration // how long chunks stay that no revision ever named; less than 0 means DefaultGrace
	// InUse says what running jobs need: manifests, and since when the oldest of the captures runs (zero: there is none).
	// It is asked once, after the GC has begun. Nil means that there are no jobs.
	InUse    func() (manifests []manifest.ID, since time.Time)
	Progress func(done, total int64) // bytes of packs that are gone through; may be nil
}

// DefaultGrace lets a capture that was cut off in the evening go on the next day.
const DefaultGrace = 24 * time.Hour

// GCReport says what a GC has done, or would do.
type GCReport struct {
	DryRun    bool     `json:"dry_run"`
	Bytes     int64    `json:"bytes"`     // of all packs, before
	Live      int64    `json:"live"`      // bytes that revisions and running jobs need
	Young     int64    `json:"young"`     // bytes that no revision needs, and a running or broken-off capture may
	Garbage   int64    `json:"garbage"`   // bytes that nobody needs, before
	Removed   int      `json:"removed"`   // packs without any live chunk
	Rewritten int      `json:"rewritten"` // packs whose live chunks were copied
	Copied    int64    `json:"copied"`    // bytes of these
	Freed     int64    `json:"freed"`     // bytes: what the packs were, without what was copied
	Left      int64    `json:"left"`      // bytes of garbage in packs that are not worth rewriting
	Manifests int      `json:"manifests"` // that were removed
	Problems  []string `json:"problems"`
}

// UnreadableError says that what a revision names is not known, so that nothing may be removed.
type UnreadableError struct {
	What string // NAME@REV, or a file
	Err  error
}

// Error says which revision it is, and why.
func (e *UnreadableError) Error() string {
	return fmt.Sprintf("%s cannot be read, so what it needs is not known: %v", e.What, e.Err)
}

// Unwrap returns why it cannot be read.
func (e *UnreadableError) Unwrap() error { return e.Err }

// PromisedError says that a capture runs which began before the store was opened: what it was promised is not known.
type PromisedError struct{ Since time.Time }

// Error says since when the capture runs.
func (e *PromisedError) Error() string {
	return fmt.Sprintf("a capture runs since %s, from before the store was opened: which chunks it was told to be there is not known", e.Since.Format(time.DateTime))
}

// collecting is a GC under way.
type collecting struct {
	s *Store
	o GCOptions
	r *GCReport

	cut   uint32 // chunks that somebody was told of in this epoch, or later, stay
	young uint32 // likewise, unless a removed revision names them
	start time.Time

	roots  map[manifest.ID]bool
	live   bits // items that a root names
	doomed bits // items that a removed revision names

	pending []packPlan // packs that hold nothing live any more, to be removed
	copied  int64      // bytes copied since the last group was removed
	forgot  int        // Store.forgot at the start
}

// packPlan is a pack and what lies in it.
type packPlan struct {
	number uint32
	size   int64
	live   int64 // bytes that stay
	young  int64 // of live: those that no root names
}

// rewriteAt is the share of garbage, in hundredths, from which on a pack is rewritten.
const rewriteAt = 25

// Packs shorter than half of the usual length are gathered where there are so many.
const manySmall = 16

// groupLen is how much is copied before the packs it came from are removed: the room that a GC needs for itself.
const groupLen = 256 << 20

// GC removes what no revision, job or young capture needs, beside captures and deploys.
func (s *Store) GC(ctx context.Context, o GCOptions) (*GCReport, error) {
	if err := s.writable(ctx); err != nil && !o.DryRun {
		return nil, err
	}
	end, err := s.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	if o.Grace < 0 {
		o.Grace = DefaultGrace
	}
	g := &collecting{s: s, o: o, r: &GCReport{DryRun: o.DryRun, Problems: []string{}}, roots: make(map[manifest.ID]bool)}
	g.cut = s.epochs.begin()
	g.start = time.Now()
	if o.InUse != nil {
		ids, since := o.InUse()
		for _, id := range ids {
			g.roots[id] = true
		}
		if !since.IsZero() {
			if since.Before(s.epochs.opened()) {
				return nil, &PromisedError{since}
			}
			g.cut = min(g.cut, s.epochs.at(since))
		}
	}
	g.young = max(1, s.epochs.at(g.start.Add(-o.Grace)))
	if !o.DryRun {
		s.wmu.Lock()
		err := s.seal()
		g.forgot = s.forgot
		s.wmu.Unlock()
		if err != nil {
			return nil, err
		}
	}
	dead, err := g.mark(ctx)
	if err != nil {
		return nil, err
	}
	plans, err := g.plan(ctx)
	if err != nil {
		return nil, err
	}
	if err := g.sweep(ctx, plans); err != nil {
		return g.r, err
	}
	return g.r, g.manifests(dead)
}

// mark finds out what every root names, and what removed revisions name. It returns the manifests that do not count.
func (g *collecting) mark(ctx context.Context) (dead []manifest.ID, err error) {
	var bad *UnreadableError
	revs, err := g.s.all(ctx, func(name string, err error) { bad = &UnreadableError{g.s.path(name), err} })
	if err != nil {
		return nil, err
	}
	if bad != nil {
		return nil, bad
	}
	seen := &met{segments: make(map[chunk.ID]bool)}
	name := func(id manifest.ID, what string, set *bits) error {
		m, err := g.s.Manifest(ctx, id)
		if err == nil {
			err = g.s.named(ctx, m, seen, func(n uint32, _ loc) { set.add(n) })
		}
		if err != nil && ctx.Err() == nil {
			err = &UnreadableError{what, err}
		}
		return err
	}
	published := make(map[manifest.ID]bool, len(revs))
	for _, r := range revs {
		published[r.ID] = true
		if err := name(r.ID, r.String(), &g.live); err != nil {
			return nil, err
		}
	}
	list, err := g.s.fs.ReadDir(manifestsDir)
	if err != nil {
		return nil, fmt.Errorf("list manifests: %w", err)
	}
	removed, err := g.removed()
	if err != nil {
		return nil, err
	}
	var doomed []manifest.ID
	for _, e := range list {
		id, ok := manifestID(e.Name)
		switch {
		case !ok || published[id]:
		case g.roots[id], !removed[id] && e.Time.After(g.start.Add(-g.o.Grace)), g.s.stagedIn(id) >= g.cut:
			if err := name(id, "staged manifest "+id.String(), &g.live); err != nil {
				return nil, err
			}
		default:
			dead = append(dead, id)
			if removed[id] {
				doomed = append(doomed, id)
			}
		}
	}
	for _, id := range doomed { // what was met is live, or doomed already
		// What of it cannot be read has to wait for the grace time, like all else.
		if err := name(id, "", &g.doomed); err != nil && ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	return dead, nil
}

// manifestID reads the name of a manifest's file.
func manifestID(name string) (manifest.ID, bool) {
	hexa, ok := strings.CutSuffix(name, revExt)
	if !ok {
		return manifest.ID{}, false
	}
	id, err := chunk.ParseID(hexa)
	return id, err == nil && manifestsDir+"/"+name == manifestName(id)
}

// removed returns the manifests that removed revisions named.
func (g *collecting) removed() (map[manifest.ID]bool, error) {
	out := make(map[manifest.ID]bool)
	images, err := g.s.fs.ReadDir(imagesDir)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	for _, im := range images {
		if !im.Dir || manifest.ValidName(im.Name) != nil {
			continue
		}
		list, err := g.s.fs.ReadDir(imagesDir + "/" + im.Name)
		if err != nil {
			return nil, fmt.Errorf("list revisions of %s: %w", im.Name, err)
		}
		for _, e := range list {
			text, ok := strings.CutSuffix(e.Name, removedExt)
			if rev, err := manifest.ParseRev(text); ok && err == nil {
				// A record that is damaged only makes its chunks wait for the grace time.
				if r, err := g.s.record(im.Name, rev, removedExt); err == nil {
					out[r.ID] = true
				}
			}
		}
	}
	return out, nil
}

// keeps tells whether an item stays, and whether only because it is young. It is called under imu.
func (g *collecting) keeps(n uint32, it *item) (keep, young bool) {
	told := atomic.LoadUint32(&it.told)
	switch {
	case g.live.has(n):
		return true, false
	case told >= g.cut:
		return true, true
	case g.doomed.has(n):
		return false, false
	case told >= g.young:
		return true, true
	}
	p := g.s.packs[it.pack]
	young = p != nil && p.written.After(g.start.Add(-g.o.Grace))
	return young, young
}

// plan returns the packs that are to go, those without anything live first.
func (g *collecting) plan(ctx context.Context) ([]packPlan, error) {
	s := g.s
	all := make(map[uint32]*packPlan)
	s.wmu.Lock()
	s.imu.RLock()
	for n, p := range s.packs {
		if g.o.DryRun || s.cur == nil || s.cur.number != n {
			all[n] = &packPlan{number: n, size: p.size}
			g.r.Bytes += p.size
		}
	}
	s.imu.RUnlock()
	s.wmu.Unlock()
	for k := 0; ; k++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		s.imu.RLock()
		if k == len(s.index.slabs) {
			s.imu.RUnlock()
			break
		}
		for i := range s.index.slabs[k] {
			it := &s.index.slabs[k][i]
			p := all[it.pack]
			if it.rawCodec == 0 || p == nil {
				continue
			}
			size := recordHead + int64(it.stored)
			if keep, young := g.keeps(uint32(k<<slabBits+i), it); keep {
				p.live += size
				if young {
					p.young += size
				}
			}
		}
		s.imu.RUnlock()
	}
	var plans, small []packPlan
	for _, p := range all {
		waste := p.size - packHead - p.live
		g.r.Live += p.live - p.young
		g.r.Young += p.young
		g.r.Garbage += waste
		switch {
		case p.live == 0 || waste*100 >= p.size*rewriteAt:
			plans = append(plans, *p)
			continue
		case p.size < s.packSize/2:
			small = append(small, *p)
		}
		g.r.Left += waste
	}
	if len(small) >= manySmall {
		for _, p := range small {
			g.r.Left -= p.size - packHead - p.live
		}
		plans = append(plans, small...)
	}
	slices.SortFunc(plans, func(a, b packPlan) int {
		return cmp.Or(cmp.Compare(min(a.live, 1), min(b.live, 1)), cmp.Compare(a.number, b.number))
	})
	return plans, nil
}

// sweep removes the packs of plans, and copies what is live in them before.
func (g *collecting) sweep(ctx context.Context, plans []packPlan) error {
	var done, total int64
	for _, p := range plans {
		total += p.size
	}
	for _, p := range plans {
		if err := ctx.Err(); err != nil {
			return errors.Join(err, g.drop())
		}
		var err error
		switch {
		case g.o.DryRun && p.live == 0:
			g.r.Removed++
			g.r.Freed += p.size
		case g.o.DryRun:
			g.r.Rewritten++
			g.r.Copied += p.live
			g.r.Freed += p.size - p.live
		default:
			err = g.empty(ctx, p)
		}
		if errors.Is(err, store.ErrFull) {
			g.problem("no room to rewrite packs: %v", err)
			break
		} else if err != nil {
			return errors.Join(err, g.drop())
		}
		if done += p.size; g.o.Progress != nil {
			g.o.Progress(done, total)
		}
		if g.copied >= groupLen || len(g.pending) >= 1024 {
			if err := g.drop(); err != nil {
				return err
			}
		}
	}
	return g.drop()
}

func (g *collecting) problem(format string, args ...any) {
	if len(g.r.Problems) < maxProblems {
		g.r.Problems = append(g.r.Problems, fmt.Sprintf(format, args...))
	}
}

// empty takes what nobody needs of a pack out of the index, and copies the rest to the pack that takes new chunks.
func (g *collecting) empty(ctx context.Context, p packPlan) error {
	s := g.s
	items, err := s.packItems(p.number, p.size)
	var noIndex *indexFileError
	if errors.Is(err, fs.ErrNotExist) {
		g.problem("%s is not there", s.path(packName(p.number)))
		return nil
	} else if err != nil && !errors.As(err, &noIndex) {
		return err
	}
	var stay []indexed
	s.imu.Lock()
	for _, it := range items {
		slot, ok := s.index.find(&it.id)
		if !ok {
			continue
		}
		n := s.index.table[slot] - firstRef
		at := s.index.item(n)
		if at.loc() != it.loc {
			continue
		}
		if keep, _ := g.keeps(n, at); keep {
			stay = append(stay, it)
		} else {
			s.index.remove(it.id)
			delete(s.bad, it.id)
		}
	}
	s.imu.Unlock()
	moved, err := s.move(ctx, stay)
	if err != nil {
		return err
	}
	var copied int64
	for _, it := range stay {
		copied += it.end() - int64(it.off)
	}
	if !moved {
		g.problem("%s holds chunks that are needed and damaged: it stays as it is", s.path(packName(p.number)))
		return nil
	}
	g.r.Copied += copied
	g.copied += copied
	g.r.Freed += p.size - copied
	if len(stay) == 0 {
		g.r.Removed++
	} else {
		g.r.Rewritten++
	}
	g.pending = append(g.pending, p)
	return nil
}

// move copies chunks to the pack that takes new ones. It returns false where some of them cannot be read, which stay.
func (s *Store) move(ctx context.Context, items []indexed) (all bool, err error) {
	var buf, raw []byte
	var good []moving
	all = true
	for len(items) > 0 {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		n := run(items)
		good = good[:0]
		buf, err = s.read(items[:n], buf, func(it indexed, c chunk.Encoded, err error) error {
			if err == nil {
				var out []byte
				if out, err = chunk.Decode(c, raw); err == nil {
					raw = out
					good = append(good, moving{it, c})
					return nil
				}
				s.markBad(it)
			}
			all = all && s.moved(it) // one that was stored anew meanwhile may go
			return nil
		})
		if err == nil {
			err = s.relocate(good)
		}
		if err != nil && err != errMoved {
			return false, err
		}
		items = items[n:]
	}
	return all, nil
}

// moving is a chunk and its place until now.
type moving struct {
	from indexed
	chunk.Encoded
}

// relocate appends chunks to the pack that takes new ones and makes that their place, unless they have another by now.
func (s *Store) relocate(chunks []moving) error {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	var res store.PutResult
	b := batch{from: make(map[chunk.ID]loc, len(chunks))}
	for _, c := range chunks {
		if s.moved(c.from) {
			continue
		}
		b.from[c.ID] = c.from.loc
		if err := s.append(&b, &res, c.Encoded, nil); err != nil {
			return err
		}
	}
	return s.write(&b, &res)
}

// drop removes the packs that are pending, once what was copied from them is durable.
func (g *collecting) drop() error {
	s := g.s
	if len(g.pending) == 0 {
		return nil
	}
	s.wmu.Lock()
	err := s.settle()
	if err == nil && s.forgot != g.forgot {
		err = errors.New("what was copied could not be made durable, so nothing more is removed")
	}
	s.wmu.Unlock()
	if err != nil {
		g.pending = nil
		return err
	}
	numbers := make([]uint32, len(g.pending))
	for i, p := range g.pending {
		numbers[i] = p.number
	}
	if err := s.removePacks(numbers); err != nil {
		return err
	}
	g.pending, g.copied = nil, 0
	return nil
}

// removePacks removes packs whose chunks lie elsewhere, or are garbage.
func (s *Store) removePacks(numbers []uint32) error {
	for _, n := range numbers {
		if err := s.fs.Remove(indexName(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove %s: %w", indexName(n), err)
		}
	}
	if err := s.fs.SyncDir(indexDir); err != nil {
		return fmt.Errorf("remove packs: %w", err)
	}
	for _, n := range numbers {
		if err := s.fs.Remove(packName(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove %s: %w", packName(n), err)
		}
		s.files.drop(n)
		s.imu.Lock()
		delete(s.packs, n)
		s.imu.Unlock()
	}
	if err := s.fs.SyncDir(packsDir); err != nil {
		return fmt.Errorf("remove packs: %w", err)
	}
	return nil
}

// manifests removes those that do not count, unless somebody has staged one again meanwhile.
func (g *collecting) manifests(dead []manifest.ID) error {
	g.r.Manifests = len(dead)
	if g.o.DryRun || len(dead) == 0 {
		return nil
	}
	for _, id := range dead {
		g.s.smu.Lock()
		var err error
		if g.s.staged[id] >= g.cut {
			g.r.Manifests--
		} else {
			err = g.s.fs.Remove(manifestName(id))
		}
		g.s.smu.Unlock()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove manifest %s: %w", id, err)
		}
	}
	return g.s.fs.SyncDir(manifestsDir)
}
