package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"mimeo/internal/imaging/chunk"
)

// RepairReport says what a Repair has found and done, or would do.
type RepairReport struct {
	DryRun     bool             `json:"dry_run"`
	Packs      []string         `json:"packs"`       // files that were set aside
	Copied     int64            `json:"copied"`      // bytes of whole chunks that were copied out of these
	Lost       int64            `json:"lost"`        // chunks that are in the store no more
	Found      int64            `json:"found"`       // damaged chunks of which there was another, whole copy
	IndexFiles int              `json:"index_files"` // that were made again
	Records    []string         `json:"records"`     // files of revisions that were set aside
	Problems   []string         `json:"problems"`    // what was found, one line each
	Revisions  []RevisionReport `json:"revisions"`   // those that are not whole now
}

// Repair reads the whole store. It makes index files again, and sets packs with damage aside under another name, once
// what is whole of them lies elsewhere; damaged chunks are missing then, so that the next capture which has them stores
// them. It deletes nothing but index files, and may run beside captures and deploys. progress, if not nil, is told how
// many bytes of the packs were read.
func (s *Store) Repair(ctx context.Context, dryRun bool, progress func(done, total int64)) (*RepairReport, error) {
	if err := s.writable(ctx); err != nil && !dryRun {
		return nil, err
	}
	end, err := s.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	c := s.newChecking(true, progress)
	if !dryRun {
		s.wmu.Lock()
		err := s.seal()
		s.wmu.Unlock()
		if err != nil {
			return nil, err
		}
	}
	if err := c.run(ctx); err != nil {
		return nil, err
	}
	r := &RepairReport{DryRun: dryRun, Packs: []string{}, Records: []string{}, Problems: c.r.Problems, Lost: int64(len(c.bad)), IndexFiles: len(c.bare), Revisions: []RevisionReport{}}
	hurt := make([]uint32, 0, len(c.hurt))
	for n := range c.hurt {
		hurt = append(hurt, n)
	}
	slices.Sort(hurt)
	if dryRun {
		for _, n := range hurt {
			if c.there[n] {
				r.Packs = append(r.Packs, s.path(packName(n)))
			}
		}
		for _, name := range c.records {
			r.Records = append(r.Records, s.path(name))
		}
		r.Revisions = slices.DeleteFunc(c.r.Revisions, RevisionReport.OK)
		return r, nil
	}
	if err := s.findCopies(ctx, c, r); err != nil {
		return r, err
	}
	for _, n := range hurt {
		if err := s.quarantine(ctx, c, r, n); err != nil {
			return r, fmt.Errorf("set %s aside: %w", s.path(packName(n)), err)
		}
	}
	s.forgetLost(c)
	for _, n := range c.bare {
		if err := s.indexAgain(c, n); err != nil {
			return r, err
		}
	}
	for _, name := range c.records {
		// As a removed one it keeps its number from being given again.
		to := strings.TrimSuffix(name, revExt) + removedExt
		if err := s.fs.Rename(name, to, true); err != nil {
			return r, fmt.Errorf("set %s aside: %w", s.path(name), err)
		}
		if err := s.fs.SyncDir(name[:strings.LastIndexByte(name, '/')]); err != nil {
			return r, err
		}
		r.Records = append(r.Records, s.path(to))
	}
	after := s.newChecking(false, nil)
	if err := after.revisions(ctx); err != nil {
		return r, err
	}
	r.Revisions = slices.DeleteFunc(after.r.Revisions, RevisionReport.OK)
	return r, nil
}

// findCopies looks in all packs for whole copies of chunks that are damaged where the index has them.
func (s *Store) findCopies(ctx context.Context, c *checking, r *RepairReport) error {
	if len(c.bad) == 0 {
		return nil
	}
	list, err := s.fs.ReadDir(packsDir)
	if err != nil {
		return err
	}
	var buf, raw []byte
	for _, e := range list {
		number, ok := packNumber(e.Name, ".pack")
		if !ok {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		items, err := s.packItems(number, e.Size)
		var bare *indexFileError
		if err != nil && !errors.As(err, &bare) {
			continue // it is set aside itself
		}
		for _, it := range items {
			if c.bad[it.id] == 0 || !s.moved(it) {
				continue
			}
			if buf, err = s.read([]indexed{it}, buf, func(it indexed, e chunk.Encoded, err error) error {
				if err == nil {
					raw, err = chunk.Decode(e, raw)
				}
				if err != nil {
					return nil // this one is no better
				}
				s.imu.Lock()
				defer s.imu.Unlock()
				if l, ok := s.index.get(it.id); !ok || l.pack == c.bad[it.id] {
					s.index.put(it.id, it.loc, 0)
				}
				delete(s.bad, it.id)
				delete(c.bad, it.id)
				r.Found++
				r.Lost--
				return nil
			}); err != nil && err != errMoved {
				return err
			}
		}
	}
	return nil
}

// quarantine gives a pack another name, once what is whole of it lies elsewhere.
func (s *Store) quarantine(ctx context.Context, c *checking, r *RepairReport, number uint32) error {
	f, err := s.fs.Open(packName(number), false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // lost altogether
	} else if err != nil {
		return err
	}
	size, err := f.Size()
	err = errors.Join(err, f.Close())
	if err != nil {
		return err
	}
	items, err := s.packItems(number, size)
	var bare *indexFileError
	if err != nil && !errors.As(err, &bare) {
		return err
	}
	good := slices.DeleteFunc(s.current(items), func(it indexed) bool { return c.bad[it.id] != 0 })
	s.wmu.Lock()
	forgot := s.forgot
	s.wmu.Unlock()
	if all, err := s.move(ctx, good); err != nil {
		return err
	} else if !all {
		return errors.New("more of it is damaged by now; repair again")
	}
	s.wmu.Lock()
	err = s.settle()
	if err == nil && s.forgot != forgot {
		err = errors.New("what was copied could not be made durable")
	}
	s.wmu.Unlock()
	if err != nil {
		return err
	}
	for _, it := range good {
		r.Copied += it.end() - int64(it.off)
	}
	if err := s.fs.Remove(indexName(number)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := s.fs.SyncDir(indexDir); err != nil {
		return err
	}
	to := fmt.Sprintf("%s.%d%s", packName(number), time.Now().Unix(), damagedExt)
	if err := s.fs.Rename(packName(number), to, true); err != nil {
		return err
	}
	s.files.drop(number)
	r.Packs = append(r.Packs, s.path(to))
	return s.fs.SyncDir(packsDir)
}

// forgetLost takes what is damaged out of the index, and the packs that are set aside or lost.
func (s *Store) forgetLost(c *checking) {
	s.imu.Lock()
	defer s.imu.Unlock()
	for id, pack := range c.bad {
		if l, ok := s.index.get(id); ok && l.pack == pack {
			s.index.remove(id)
		}
		delete(s.bad, id)
	}
	for n := range c.hurt {
		delete(s.packs, n)
	}
}

// indexAgain makes the index file of a closed pack again.
func (s *Store) indexAgain(c *checking, number uint32) error {
	if c.hurt[number] {
		return nil
	}
	f, err := s.fs.Open(packName(number), false)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return err
	}
	sc, err := s.form.scan(f, number, size)
	if err != nil || sc.end != size {
		return err // what follows its last record is cut off when the store is opened next
	}
	return s.writeSealed(indexName(number), encodeIndex(number, sc.uid, size, sc.effort, sc.items), true)
}
