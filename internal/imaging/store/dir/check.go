package dir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

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
	Revisions []RevisionReport `json:"revisions"`
}

// RevisionReport says whether a revision is whole.
type RevisionReport struct {
	store.Revision
	Missing int64  `json:"missing"`         // entries and segments whose chunk is not there
	Damaged int64  `json:"damaged"`         // entries whose chunk is damaged, as far as chunks were read
	Error   string `json:"error,omitempty"` // why its chunk list or its manifest cannot be read
}

// OK tells whether the revision can be deployed.
func (r RevisionReport) OK() bool { return r.Missing == 0 && r.Damaged == 0 && r.Error == "" }

// OK tells whether nothing was found to be wrong.
func (r *Report) OK() bool {
	return len(r.Problems) == 0 && !slices.ContainsFunc(r.Revisions, func(v RevisionReport) bool { return !v.OK() })
}

// maxProblems bounds Report.Problems.
const maxProblems = 1000

func (r *Report) problem(format string, args ...any) {
	if len(r.Problems) < maxProblems {
		r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
	}
}

// Check looks whether packs, index, manifests and revisions fit together and, where readData is set, reads every chunk
// and checks it against its name. It may run beside captures and deploys. progress, if not nil, is told how many
// bytes of the packs are done. What is wrong with the store is in the report; an error says that the check itself
// could not go on.
func (s *Store) Check(ctx context.Context, readData bool, progress func(done, total int64)) (*Report, error) {
	r := new(Report)
	places := s.places()
	r.Chunks = int64(len(places))
	bad := make(map[chunk.ID]bool)
	if err := s.checkPacks(ctx, r, places, bad); err != nil {
		return r, err
	}
	if readData {
		if err := s.checkData(ctx, r, places, bad, progress); err != nil {
			return r, err
		}
	}
	r.Damaged = int64(len(bad))
	revs, err := s.all(ctx, func(err error) { r.problem("%v", err) })
	if err != nil {
		return r, err
	}
	for _, rev := range revs {
		v := RevisionReport{Revision: rev}
		if err := s.checkRevision(ctx, &v, bad); err != nil {
			return r, err
		}
		r.Revisions = append(r.Revisions, v)
	}
	return r, nil
}

// places returns all chunks in the order of the packs.
func (s *Store) places() []indexed {
	s.imu.RLock()
	defer s.imu.RUnlock()
	all := make([]indexed, 0, s.index.count)
	s.index.each(func(id chunk.ID, l loc) bool {
		all = append(all, indexed{id, l})
		return true
	})
	slices.SortFunc(all, byPlace)
	return all
}

// checkPacks looks at the length and head of every pack.
func (s *Store) checkPacks(ctx context.Context, r *Report, places []indexed, bad map[chunk.ID]bool) error {
	list, err := s.fs.ReadDir(packsDir)
	if err != nil {
		return fmt.Errorf("list packs: %w", err)
	}
	sizes := make(map[uint32]int64)
	for _, e := range list {
		if err := ctx.Err(); err != nil {
			return err
		}
		number, ok := packNumber(e.name, ".pack")
		if !ok {
			r.problem("%s: not a pack of this store", s.path(packsDir+"/"+e.name))
			continue
		}
		sizes[number] = e.size
		r.Packs++
		r.Bytes += e.size
		r.Dead += max(0, e.size-packHead)
		head := make([]byte, packHead)
		h, err := s.files.get(number)
		if err == nil {
			var n int
			n, err = h.ReadAt(head, 0)
			s.files.put(h)
			if _, perr := parsePackHead(head[:n], number); perr != nil && (err == nil || err == io.EOF) {
				err = perr
			}
		}
		if err != nil {
			r.problem("%s: %v", s.path(packName(number)), err)
		}
	}
	var last indexed
	for _, it := range places {
		size, ok := sizes[it.pack]
		switch {
		case !ok:
			r.problem("chunk %s: its pack %s is not there", it.id, s.path(packName(it.pack)))
		case it.end() > size && !s.grew(it):
			r.problem("chunk %s: %s ends at %d, before the chunk's end at %d", it.id, s.path(packName(it.pack)), size, it.end())
		case it.pack == last.pack && int64(it.off) < last.end():
			r.problem("chunk %s: overlaps chunk %s in %s", it.id, last.id, s.path(packName(it.pack)))
		default:
			r.Dead -= it.end() - int64(it.off)
			last = it
			continue
		}
		bad[it.id] = true
		last = it
	}
	r.Dead = max(0, r.Dead)
	return nil
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

// checkData reads every chunk.
func (s *Store) checkData(ctx context.Context, r *Report, places []indexed, bad map[chunk.ID]bool, progress func(done, total int64)) error {
	var buf, raw []byte
	for len(places) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := run(places)
		if bad[places[0].id] {
			places = places[1:]
			continue
		}
		var err error
		buf, err = s.read(places[:n], buf, func(it indexed, c chunk.Encoded, err error) error {
			if err == nil {
				if raw2, derr := chunk.Decode(c, raw); derr == nil {
					raw = raw2
				} else {
					err = &store.DamagedError{ID: it.id, Where: fmt.Sprintf("%s, offset %d", s.path(packName(it.pack)), it.off), Err: derr}
				}
			}
			if err != nil && !bad[it.id] {
				bad[it.id] = true
				s.markBad(it)
				r.problem("%v", err)
			}
			r.Read += it.end() - int64(it.off)
			return nil
		})
		if err != nil {
			return err
		}
		if progress != nil {
			progress(r.Read, max(r.Read, r.Bytes))
		}
		places = places[n:]
	}
	return nil
}

// checkRevision reads a revision's entries and looks each chunk up.
func (s *Store) checkRevision(ctx context.Context, v *RevisionReport, bad map[chunk.ID]bool) error {
	m, err := s.Manifest(ctx, v.ID)
	if err != nil {
		v.Error = err.Error()
		return ctx.Err()
	}
	for e, err := range manifest.Entries(ctx, s, m) {
		var missing *store.MissingError
		switch {
		case errors.As(err, &missing):
			v.Missing++
			v.Error = err.Error()
		case err != nil:
			v.Error = err.Error()
		case e.Zero:
		case bad[e.ID]:
			v.Damaged++
		case !s.there(e.ID):
			v.Missing++
		}
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
