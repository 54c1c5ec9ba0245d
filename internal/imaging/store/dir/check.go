package dir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
)

// Report is what Check found.
type Report struct {
	Packs     int              `json:"packs"`
	Chunks    int64            `json:"chunks"`
	Bytes     int64            `json:"bytes"`    // of all packs
	Read      int64            `json:"read"`     // bytes of packs that were read and checked
	Dead      int64            `json:"dead"`     // bytes of packs that belong to no chunk of the index
	Damaged   int64            `json:"damaged"`  // chunks
	Problems  []string         `json:"problems"` // one line each, the first maxProblems
	Notes     []string         `json:"notes"`    // what is not as it should be and costs nothing but time, the first maxProblems
	Revisions []RevisionReport `json:"revisions"`
}

// RevisionReport says whether a revision is whole.
type RevisionReport struct {
	store.Revision
	Missing int64           `json:"missing"`          // entries and segments whose chunk is not there
	Damaged int64           `json:"damaged"`          // entries whose chunk is damaged, as far as chunks were read
	Lost    int64           `json:"lost"`             // bytes of the disk that cannot be read back
	Losses  []manifest.Loss `json:"losses,omitempty"` // places on the disk, the first maxLosses
	Error   string          `json:"error,omitempty"`  // why its chunk list or its manifest cannot be read
}

// OK tells whether the revision can be deployed.
func (r RevisionReport) OK() bool { return r.Missing == 0 && r.Damaged == 0 && r.Error == "" }

// OK tells whether nothing was found to be wrong.
func (r *Report) OK() bool {
	return len(r.Problems) == 0 && !slices.ContainsFunc(r.Revisions, func(v RevisionReport) bool { return !v.OK() })
}

const (
	maxProblems = 1000 // bounds Report.Problems and Report.Notes
	maxLosses   = 20   // bounds RevisionReport.Losses
)

// ErrBusy says that the store is being checked, counted, cleaned or repaired already.
var ErrBusy = errors.New("the store is being checked, counted, cleaned up or repaired already")

// begin lets one at a time go over the whole store. Captures and deploys are none of these.
func (s *Store) begin() (end func(), err error) {
	if !s.work.TryLock() {
		return nil, ErrBusy
	}
	return s.work.Unlock, nil
}

// checking is a Check under way.
type checking struct {
	s        *Store
	readData bool
	progress func(done, total int64)
	there    map[uint32]bool // packs, as listed at the start
	last     uint32          // greatest number of a pack

	mu      sync.Mutex // guards what follows: packs are looked at side by side
	r       *Report
	bad     map[chunk.ID]uint32 // damaged chunks, and their packs
	why     map[chunk.ID]string // of the first maxProblems in bad
	hurt    map[uint32]bool     // packs with damage
	bare    []uint32            // packs without an index file that fits
	intact  map[chunk.ID]bool   // segments of which no chunk is lost
	records []string            // files of revisions that cannot be read
	done    int64
	total   int64
}

// Check looks whether packs, index, manifests and revisions fit together and, where readData is set, reads every chunk
// and checks it against its name. It may run beside captures and deploys. progress, if not nil, is told how many
// bytes of the packs are done. What is wrong with the store is in the report; an error says that the check itself
// could not go on.
func (s *Store) Check(ctx context.Context, readData bool, progress func(done, total int64)) (*Report, error) {
	end, err := s.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	c := s.newChecking(readData, progress)
	return c.r, c.run(ctx)
}

func (s *Store) newChecking(readData bool, progress func(done, total int64)) *checking {
	return &checking{s: s, readData: readData, progress: progress, r: &Report{Problems: []string{}, Notes: []string{}, Revisions: []RevisionReport{}},
		bad: make(map[chunk.ID]uint32), why: make(map[chunk.ID]string), hurt: make(map[uint32]bool), there: make(map[uint32]bool), intact: make(map[chunk.ID]bool)}
}

func (c *checking) run(ctx context.Context) error {
	sizes, err := c.list()
	if err != nil {
		return err
	}
	if err := c.bounds(ctx, sizes); err != nil {
		return err
	}
	if err := c.packs(ctx, sizes); err != nil {
		return err
	}
	if err := c.heads(ctx); err != nil {
		return err
	}
	c.r.Damaged = int64(len(c.bad))
	return c.revisions(ctx)
}

// revisions looks whether all revisions are whole.
func (c *checking) revisions(ctx context.Context) error {
	c.records = nil
	revs, err := c.s.all(ctx, func(name string, err error) {
		c.records = append(c.records, name)
		c.problem("%v", err)
	})
	if err != nil {
		return err
	}
	for _, rev := range revs {
		v := RevisionReport{Revision: rev}
		if err := c.revision(ctx, &v); err != nil {
			return err
		}
		c.r.Revisions = append(c.r.Revisions, v)
	}
	return nil
}

func (c *checking) problem(format string, args ...any) {
	if len(c.r.Problems) < maxProblems {
		c.r.Problems = append(c.r.Problems, fmt.Sprintf(format, args...))
	}
}

func (c *checking) note(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.r.Notes) < maxProblems {
		c.r.Notes = append(c.r.Notes, fmt.Sprintf(format, args...))
	}
}

// lose counts a chunk that cannot be read.
func (c *checking) lose(it indexed, format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bad[it.id] != 0 {
		return
	}
	c.bad[it.id] = it.pack
	c.hurt[it.pack] = true
	if len(c.why) < maxProblems {
		c.why[it.id] = fmt.Sprintf(format, args...)
		c.problem("chunk %s: %s", it.id, c.why[it.id])
	}
}

// spoilt counts a pack that is damaged elsewhere than in a chunk.
func (c *checking) spoilt(number uint32, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hurt[number] = true
	c.problem("%s: %v", c.s.path(packName(number)), err)
}

// list returns the packs that are there, and their lengths.
func (c *checking) list() (map[uint32]int64, error) {
	list, err := c.s.fs.ReadDir(packsDir)
	if err != nil {
		return nil, fmt.Errorf("list packs: %w", err)
	}
	sizes := make(map[uint32]int64, len(list))
	for _, e := range list {
		number, ok := packNumber(e.Name, ".pack")
		if strings.HasSuffix(e.Name, damagedExt) {
			c.note("%s, %d bytes, was set aside as damaged: where all revisions are whole, it is of no use any more", c.s.path(packsDir+"/"+e.Name), e.Size)
			continue
		}
		if !ok {
			c.problem("%s: not a pack of this store", c.s.path(packsDir+"/"+e.Name))
			continue
		}
		sizes[number], c.there[number] = e.Size, true
		c.last = max(c.last, number)
		c.r.Packs++
		c.r.Bytes += e.Size
		c.r.Dead += max(0, e.Size-packHead)
	}
	c.total = c.r.Bytes
	return sizes, nil
}

// bounds holds the whole index against the lengths of the packs.
func (c *checking) bounds(ctx context.Context, sizes map[uint32]int64) error {
	return c.s.eachItem(ctx, func(_ uint32, it indexed) {
		c.r.Chunks++
		size, ok := sizes[it.pack]
		switch {
		case ok && it.end() <= size, c.s.moved(it), c.s.grew(it):
		case !ok:
			c.lose(it, "its pack %s is not there", c.s.path(packName(it.pack)))
			return
		default:
			c.lose(it, "%s ends at %d, before the chunk's end at %d", c.s.path(packName(it.pack)), size, it.end())
			return
		}
		c.r.Dead -= it.end() - int64(it.off)
	})
}

// heads looks for the records of chunks in packs without an index file: a scan passes over those that are damaged.
func (c *checking) heads(ctx context.Context) error {
	if len(c.bare) == 0 {
		return nil
	}
	slices.Sort(c.bare)
	var buf, plain []byte
	return c.s.eachItem(ctx, func(_ uint32, it indexed) {
		if _, bare := slices.BinarySearch(c.bare, it.pack); !bare || c.bad[it.id] != 0 {
			return
		}
		h, err := c.s.files.get(it.pack)
		if err != nil {
			return // bounds has told of it
		}
		size := recordHead
		if c.s.key != nil { // the head of a sealed record tells nothing
			size += int(it.stored)
		}
		buf, plain = slices.Grow(buf[:0], size)[:size], slices.Grow(plain[:0], size)
		n, err := h.ReadAt(buf, int64(it.off))
		c.s.files.put(h)
		perr := it.same(c.s.form, buf[:n], plain)
		if perr != nil && (err == nil || err == io.EOF) && !c.s.moved(it) {
			c.s.markBad(it)
			c.lose(it, "damaged (%s, offset %d): %v", c.s.path(packName(it.pack)), it.off, perr)
		}
	})
}

// packs looks at all packs, some side by side: half of the processors are left to captures and deploys.
func (c *checking) packs(ctx context.Context, sizes map[uint32]int64) error {
	numbers := make([]uint32, 0, len(sizes))
	for n := range sizes {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(1, runtime.GOMAXPROCS(0)/2))
	for _, n := range numbers {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			read, err := c.pack(ctx, n, sizes[n])
			if err == nil {
				c.tell(0, sizes[n]-read)
			}
			return err
		})
	}
	err := g.Wait()
	c.r.Dead = max(0, c.r.Dead)
	return err
}

// tell says how far the check is: read bytes were read and checked, other bytes need not be.
func (c *checking) tell(read, other int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.r.Read += read
	c.done = min(c.done+read+other, c.total)
	if c.progress != nil {
		c.progress(c.done, c.total)
	}
}

// pack looks at a pack's head and its index file and, where data is to be read, at every chunk that lies in it. It
// returns how many bytes it told to have read.
func (c *checking) pack(ctx context.Context, number uint32, size int64) (read int64, err error) {
	h, err := c.s.files.get(number)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil // its chunks are told of by bounds, where they lie nowhere else
	}
	if err == nil {
		head := make([]byte, packHead)
		var n int
		n, err = h.ReadAt(head, 0)
		if now, serr := h.Size(); serr == nil {
			size = now // it may have been written to since it was listed
		}
		c.s.files.put(h)
		if _, perr := c.s.form.parsePackHead(head[:n], number); perr != nil && (err == nil || err == io.EOF) {
			err = perr
		}
	}
	if err != nil {
		c.spoilt(number, err)
	}
	items, err := c.s.packItems(number, size)
	var bad *indexFileError
	if errors.As(err, &bad) && !c.open(number, bad) {
		c.note("%v: it is made again from its pack at the next start", bad)
		c.mu.Lock()
		c.bare = append(c.bare, number)
		c.mu.Unlock()
	} else if err != nil && bad == nil {
		c.spoilt(number, err)
	}
	if !c.readData {
		return 0, nil
	}
	items = c.s.current(items)
	var buf, raw []byte
	for len(items) > 0 {
		if err := ctx.Err(); err != nil {
			return read, err
		}
		n := run(items)
		var did int64
		buf, err = c.s.read(items[:n], buf, func(it indexed, e chunk.Encoded, err error) error {
			if err == nil {
				if out, derr := chunk.Decode(e, raw); derr == nil {
					raw = out
				} else {
					err = &store.DamagedError{ID: it.id, Where: fmt.Sprintf("%s, offset %d", c.s.path(packName(it.pack)), it.off), Err: derr}
				}
			}
			var damaged *store.DamagedError
			if errors.As(err, &damaged) && !c.s.moved(it) {
				c.s.markBad(it)
				c.lose(it, "damaged (%s): %v", damaged.Where, damaged.Err)
			}
			did += it.end() - int64(it.off)
			return nil
		})
		if err != nil && err != errMoved {
			return read, err
		}
		read += did
		c.tell(did, 0)
		items = items[n:]
	}
	return read, nil
}

// open tells whether a pack that has no index file is the one that another process writes to just now.
func (c *checking) open(number uint32, err error) bool {
	return c.s.readOnly && number == c.last && errors.Is(err, fs.ErrNotExist)
}

// moved tells whether a chunk lies elsewhere than at it by now, or nowhere: another process may have cleaned up.
func (s *Store) moved(it indexed) bool {
	s.imu.RLock()
	l, ok := s.index.get(it.id)
	s.imu.RUnlock()
	return !ok || l != it.loc
}

// current returns those of items that the index says lie there.
func (s *Store) current(items []indexed) []indexed {
	s.imu.RLock()
	defer s.imu.RUnlock()
	return slices.DeleteFunc(items, func(it indexed) bool {
		l, ok := s.index.get(it.id)
		return !ok || l != it.loc
	})
}

// indexFileError says that a pack has no index file that fits it.
type indexFileError struct{ err error }

func (e *indexFileError) Error() string { return e.err.Error() }
func (e *indexFileError) Unwrap() error { return e.err }

// packItems returns what lies in a pack: as its index file says or, where that is missing or wrong, as the pack itself
// says; then there is an *indexFileError as well.
func (s *Store) packItems(number uint32, size int64) ([]indexed, error) {
	s.wmu.Lock()
	if p := s.cur; p != nil && p.number == number {
		items := slices.Clone(p.items)
		s.wmu.Unlock()
		return items, nil
	}
	s.wmu.Unlock()
	b, err := s.readSealed(indexName(number), size+indexHead+indexSum)
	if err == nil {
		_, items, perr := s.form.parseIndex(b, number, size)
		if perr == nil {
			return items, nil
		}
		err = fmt.Errorf("%s: %w", s.path(indexName(number)), perr)
	}
	f, ferr := s.fs.Open(packName(number), false)
	if ferr != nil {
		return nil, ferr
	}
	defer f.Close()
	sc, serr := s.form.scan(f, number, size)
	if serr != nil {
		return nil, serr
	}
	return sc.items, &indexFileError{err}
}

// eachItem calls fn with every chunk of the index and the number of its item, in no order. What is added meanwhile may
// be left out.
func (s *Store) eachItem(ctx context.Context, fn func(n uint32, it indexed)) error {
	type numbered struct {
		n uint32
		indexed
	}
	buf := make([]numbered, 0, slabLen)
	for k := 0; ; k++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		buf = buf[:0]
		s.imu.RLock()
		if k == len(s.index.slabs) {
			s.imu.RUnlock()
			return nil
		}
		for i := range s.index.slabs[k] {
			if it := &s.index.slabs[k][i]; it.rawCodec != 0 {
				buf = append(buf, numbered{uint32(k<<slabBits + i), indexed{it.id, it.loc()}})
			}
		}
		s.imu.RUnlock()
		for i := range buf {
			fn(buf[i].n, buf[i].indexed)
		}
	}
}

// grew tells whether a pack reaches to the end of it by now: it may have been written to since it was listed.
func (s *Store) grew(it indexed) bool {
	h, err := s.files.get(it.pack)
	if err != nil {
		return false
	}
	defer s.files.put(h)
	size, err := h.Size()
	return err == nil && size >= it.end()
}

// revision reads a revision's entries and looks each chunk up.
func (c *checking) revision(ctx context.Context, v *RevisionReport) error {
	m, err := c.s.Manifest(ctx, v.ID)
	if err != nil {
		v.Error = err.Error()
		return ctx.Err()
	}
	lose := func(e manifest.Entry, why string) {
		v.Lost += e.Len
		if len(v.Losses) < maxLosses {
			v.Losses = append(v.Losses, manifest.Loss{Off: e.Off, Len: e.Len, ID: e.ID, Why: why})
		}
	}
	entries := manifest.NewEntryReader(c.s, m)
	var last chunk.ID // segment
	lossless, known := false, false
	for {
		e, err := entries.Next(ctx)
		if err == nil && entries.Segment().ID != last || err == io.EOF {
			if lossless {
				c.intact[last] = true
			}
			if err == io.EOF {
				break
			}
			last = entries.Segment().ID
			lossless, known = true, c.intact[last]
		}
		var missing *store.MissingError
		switch {
		case errors.As(err, &missing):
			v.Missing++
			v.Error = err.Error()
		case err != nil:
			v.Error = err.Error()
		case e.Zero, known: // revisions share segments
		case c.bad[e.ID] != 0:
			v.Damaged++
			lossless = false
			lose(e, c.why[e.ID])
		case !c.s.there(e.ID):
			v.Missing++
			lossless = false
			lose(e, "not in the store")
		}
		if err != nil {
			break
		}
	}
	if v.Error != "" {
		v.Lost = m.Content.Used // what of it could be read is not known
	}
	return ctx.Err()
}

// there tells whether a chunk is in the index, damaged or not.
func (s *Store) there(id chunk.ID) bool {
	s.imu.RLock()
	defer s.imu.RUnlock()
	_, ok := s.index.get(id)
	return ok
}

// Stats says how large the store is.
func (s *Store) Stats(ctx context.Context) (store.Stats, error) {
	var st store.Stats
	s.imu.RLock()
	st.Packs, st.Chunks, st.Raw = len(s.packs), s.index.count, s.index.raw
	for _, p := range s.packs {
		st.PackBytes += p.size
	}
	s.imu.RUnlock()
	names, err := s.Images(ctx)
	if err != nil {
		return st, err
	}
	st.Images = len(names)
	for _, name := range names {
		numbers, _, err := s.numbers(name)
		if err != nil {
			return st, err
		}
		st.Revisions += len(numbers)
	}
	return st, ctx.Err()
}

var _ store.Publisher = (*Store)(nil)
