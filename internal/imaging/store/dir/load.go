package dir

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"

	"mimeo/internal/imaging/chunk"
)

// damagedExt is put after the name of a file that is set aside.
const damagedExt = ".damaged"

func packName(number uint32) string  { return fmt.Sprintf("%s/%08x.pack", packsDir, number) }
func indexName(number uint32) string { return fmt.Sprintf("%s/%08x.idx", indexDir, number) }

// packNumber reads the number in the name of a pack or an index file.
func packNumber(name, ext string) (uint32, bool) {
	hexa, ok := strings.CutSuffix(name, ext)
	if !ok || len(hexa) != 8 || strings.ToLower(hexa) != hexa {
		return 0, false
	}
	n, err := strconv.ParseUint(hexa, 16, 32)
	return uint32(n), err == nil && n > 0
}

// load fills the index from all packs that it does not know yet.
func (s *Store) load() error {
	list, err := s.fs.ReadDir(packsDir)
	if err != nil {
		return err
	}
	for _, e := range list {
		number, ok := packNumber(e.Name, ".pack")
		if !ok {
			continue
		}
		s.imu.RLock()
		known := s.packs[number]
		s.imu.RUnlock()
		if known != nil && known.size == e.Size {
			continue
		}
		items, size, effort, err := s.loadPack(number, e.Size)
		if s.readOnly && errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		} else if err != nil {
			return fmt.Errorf("%s: %w", packName(number), err)
		}
		if size == 0 {
			continue
		}
		s.imu.Lock()
		s.packs[number] = &pack{number: number, size: size, written: e.Time, effort: effort}
		for _, it := range items {
			s.index.put(it.id, it.loc, 0)
		}
		s.imu.Unlock()
	}
	return nil
}

// reloadAll makes the index anew, for a reader that met a pack which another process has removed.
func (s *Store) reloadAll() error {
	s.reload.Lock()
	defer s.reload.Unlock()
	fresh := &Store{root: s.root, fs: s.fs, readOnly: true, key: s.key, form: s.form, index: newIndex(), packs: make(map[uint32]*pack)}
	if err := fresh.load(); err != nil {
		return err
	}
	s.imu.Lock()
	defer s.imu.Unlock()
	s.index, s.packs, s.bad = fresh.index, fresh.packs, make(map[chunk.ID]bool)
	return nil
}

// sweepIndex removes index files without a pack: a later pack may get the number.
func (s *Store) sweepIndex() error {
	list, err := s.fs.ReadDir(indexDir)
	if err != nil {
		return err
	}
	swept := false
	for _, e := range list {
		number, ok := packNumber(e.Name, ".idx")
		if !ok || s.packs[number] != nil {
			continue
		}
		swept = true
		if err := s.fs.Remove(indexName(number)); err != nil {
			return err
		}
	}
	if !swept {
		return nil
	}
	return s.fs.SyncDir(indexDir)
}

// loadPack returns the items of a pack and its length, from its index file or, where that is missing or of another
// state of the pack, from the pack itself; then it brings pack and index file in order, unless the store is read-only.
// A length of 0 says that there is no pack any more.
func (s *Store) loadPack(number uint32, size int64) (_ []indexed, length int64, effort uint8, err error) {
	if size <= maxPack {
		if b, err := s.readSealed(indexName(number), size+indexHead+indexSum); err == nil {
			if _, items, err := s.form.parseIndex(b, number, size); err == nil {
				return items, size, indexEffort(b), nil
			}
		}
	}
	f, err := s.fs.Open(packName(number), !s.readOnly)
	if err != nil {
		return nil, 0, 0, err
	}
	defer f.Close()
	sc, err := s.form.scan(f, number, size)
	if err != nil {
		return nil, 0, 0, err
	}
	if s.readOnly {
		return sc.items, sc.end, sc.effort, nil
	}
	if len(sc.items) == 0 {
		return nil, 0, 0, s.setAside(f, number, size)
	}
	if sc.end < size {
		if err := f.Truncate(sc.end); err != nil {
			return nil, 0, 0, err
		}
	}
	if err := f.Sync(); err != nil {
		return nil, 0, 0, err
	}
	if err := s.fs.SyncDir(packsDir); err != nil {
		return nil, 0, 0, err
	}
	s.writeIndex(number, sc.uid, sc.end, sc.effort, sc.items)
	return sc.items, sc.end, sc.effort, nil
}

// setAside removes a pack in which no chunk ever became durable. One that holds something else than zeros is kept
// under another name, for whoever wants to look into it.
func (s *Store) setAside(f File, number uint32, size int64) error {
	if err := s.fs.Remove(indexName(number)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if size > packHead {
		head := make([]byte, min(size, 1<<20))
		if _, err := f.ReadAt(head, 0); err != nil && err != io.EOF {
			return err
		}
		if len(bytes.Trim(head[packHead:], "\x00")) > 0 {
			return s.fs.Rename(packName(number), packName(number)+damagedExt, true)
		}
	}
	return s.fs.Remove(packName(number))
}

// writeIndex writes the index file of a pack. It is only a help for the next start, which reads the pack itself where
// the index file is missing: so a failure is none of the caller's.
func (s *Store) writeIndex(number uint32, id uid, size int64, effort uint8, items []indexed) {
	_ = s.writeSealed(indexName(number), encodeIndex(number, id, size, effort, items), true)
}
