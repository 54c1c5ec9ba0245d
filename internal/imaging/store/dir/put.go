package dir

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/store"
)

// writeLen is how much is gathered before a write, and after how much the system is asked to start writing to the
// disk, so that a Flush has little left to do.
const writeLen = 8 << 20

// Missing implements store.Writer.
func (s *Store) Missing(ctx context.Context, ids []chunk.ID) ([]chunk.ID, error) {
	var missing []chunk.ID
	s.imu.RLock()
	epoch := s.epochs.now() // under the lock, so that a clean-up sees either the promise or the lock
	for _, id := range ids {
		if !s.index.tell(&id, epoch) || s.bad[id] {
			missing = append(missing, id)
		}
	}
	s.imu.RUnlock()
	return missing, ctx.Err()
}

// Put implements store.Writer. It does not check the chunks against their names: that is for whoever takes them from
// elsewhere.
func (s *Store) Put(ctx context.Context, chunks []chunk.Encoded) (store.PutResult, error) {
	var res store.PutResult
	if err := s.writable(ctx); err != nil {
		return res, err
	}
	for _, c := range chunks {
		if err := c.Check(); err != nil {
			return res, fmt.Errorf("put: %w", err)
		}
	}
	sealed, done, err := s.sealAll(chunks)
	if err != nil {
		return res, err
	}
	defer done()
	s.wmu.Lock()
	defer s.wmu.Unlock()
	batch := batch{inside: make(map[chunk.ID]bool, len(chunks))}
	for i, c := range chunks {
		if s.has(c.ID) || batch.inside[c.ID] {
			continue
		}
		var record []byte
		if sealed != nil {
			record = sealed[i]
		}
		if err := s.append(&batch, &res, c, record); err != nil {
			return res, err
		}
		batch.inside[c.ID] = true
	}
	return res, s.write(&batch, &res)
}

// sealAll seals the records of chunks that are not there, before the lock is taken: it takes time, which others need not
// wait for. It returns nil where the store is not encrypted, and nil for chunks that are there. Call done when the records
// are copied.
func (s *Store) sealAll(chunks []chunk.Encoded) (records [][]byte, done func(), err error) {
	if s.key == nil {
		return nil, func() {}, nil
	}
	size := 0
	records = make([][]byte, len(chunks))
	for i, c := range chunks {
		if !s.has(c.ID) {
			records[i] = []byte{}
			size += recordHead + sealedMore + len(c.Data)
		}
	}
	buf, _ := s.sealing.Get().(*[]byte)
	if buf == nil || cap(*buf) < size {
		buf = new([]byte)
		*buf = make([]byte, 0, size)
	}
	all := (*buf)[:0]
	for i, c := range chunks {
		if records[i] == nil {
			continue
		}
		from := len(all)
		if all, err = s.form.appendRecord(all, c); err != nil {
			return nil, nil, err
		}
		records[i] = all[from:]
	}
	return records, func() { s.sealing.Put(buf) }, nil
}

// append puts a chunk's record into s.buf: the one that is given, or nil.
func (s *Store) append(b *batch, res *store.PutResult, c chunk.Encoded, record []byte) error {
	l := loc{stored: uint32(len(c.Data)) + s.form.more(), raw: c.RawLen, codec: c.Codec}
	if err := s.room(b, res, l.end()); err != nil {
		return err
	}
	l.pack, l.off = s.cur.number, uint32(s.cur.size+int64(len(s.buf)))
	if record != nil {
		s.buf = append(s.buf, record...)
	} else if buf, err := s.form.appendRecord(s.buf, c); err != nil {
		return err
	} else {
		s.buf = buf
	}
	b.items = append(b.items, indexed{c.ID, l})
	return nil
}

// batch is what lies in Store.buf and is not written yet.
type batch struct {
	items  []indexed
	inside map[chunk.ID]bool
	from   map[chunk.ID]loc // of chunks that are moved: where they lie; nobody is told of them
}

func (s *Store) has(id chunk.ID) bool {
	s.imu.RLock()
	defer s.imu.RUnlock()
	return s.index.tell(&id, s.epochs.now()) && !s.bad[id]
}

// room sees to it that a record of n bytes can be appended to s.buf for s.cur.
func (s *Store) room(b *batch, res *store.PutResult, n int64) error {
	if s.cur != nil && s.cur.size+int64(len(s.buf))+n > s.packSize && s.cur.size+int64(len(s.buf)) > packHead {
		if err := s.write(b, res); err != nil {
			return err
		}
		if err := s.seal(); err != nil {
			return err
		}
	}
	if s.cur == nil {
		if err := s.newPack(); err != nil {
			return fmt.Errorf("start a new pack: %w", full(err))
		}
	}
	if len(s.buf) > 0 && int64(len(s.buf))+n > writeLen {
		return s.write(b, res)
	}
	return nil
}

// write appends s.buf to the current pack. Only then the chunks are in the index. After an error the pack is as it was.
func (s *Store) write(b *batch, res *store.PutResult) error {
	if len(s.buf) == 0 {
		return nil
	}
	buf, items := s.buf, b.items
	s.buf, b.items = s.buf[:0], b.items[:0]
	p := s.cur
	if s.reserve > 0 {
		free, err := s.fs.Free()
		if err != nil {
			return fmt.Errorf("look how much room there is: %w", err)
		}
		if free < s.reserve+int64(len(buf)) {
			return fmt.Errorf("%w: %d MiB are free, and %d MiB of it are kept for others", store.ErrFull, free>>20, s.reserve>>20)
		}
	}
	if _, err := p.file.WriteAt(buf, p.size); err != nil {
		// What was written of it lies past the pack's end: the next write goes over it, and so does the scan
		// after a crash. Giving the room back helps others, where the disk is full.
		_ = p.file.Truncate(p.size)
		return fmt.Errorf("write %s: %w", packName(p.number), full(err))
	}
	s.imu.Lock()
	p.size += int64(len(buf))
	epoch := s.epochs.now()
	if b.from != nil {
		epoch = 0
	}
	for _, it := range items {
		if from, ok := b.from[it.id]; ok {
			if p.moved == nil {
				p.moved = make(map[chunk.ID]loc)
			}
			p.moved[it.id] = from
		}
		s.index.put(it.id, it.loc, epoch)
		delete(s.bad, it.id)
	}
	s.imu.Unlock()
	p.items = append(p.items, items...)
	for _, it := range items {
		res.Add(store.PutResult{New: 1, NewRaw: int64(it.raw), NewStored: recordHead + int64(it.stored)})
	}
	if p.size-p.behind >= writeLen {
		p.file.WriteBehind(p.behind, p.size-p.behind)
		p.behind = p.size
	}
	return nil
}

// newPack starts the pack that takes new chunks.
func (s *Store) newPack() (err error) {
	s.cur, err = s.makePack(0)
	return err
}

// makePack begins a pack. Its number is one that no pack and no index file has. The caller holds wmu.
func (s *Store) makePack(effort uint8) (*pack, error) {
	p := &pack{number: 1, effort: effort}
	s.imu.RLock()
	for n := range s.packs {
		p.number = max(p.number, n+1)
	}
	s.imu.RUnlock()
	if _, err := rand.Read(p.uid[:]); err != nil {
		return nil, err
	}
	for {
		f, err := s.fs.Create(packName(p.number))
		if errors.Is(err, fs.ErrExist) && p.number < 1<<32-1 {
			p.number++
			continue
		} else if err != nil {
			return nil, err
		}
		p.file = f
		break
	}
	head := s.form.appendPackHead(nil, p.number, p.uid, s.id, effort)
	if _, err := p.file.WriteAt(head, 0); err != nil {
		return nil, errors.Join(err, p.file.Close(), s.fs.Remove(packName(p.number)))
	}
	p.size = packHead
	s.imu.Lock()
	s.packs[p.number] = p
	s.imu.Unlock()
	return p, nil
}

// Flush implements store.Writer.
func (s *Store) Flush(ctx context.Context) error {
	if err := s.writable(ctx); err != nil {
		return err
	}
	s.wmu.Lock()
	defer s.wmu.Unlock()
	return s.settle()
}

// settle makes durable what was appended.
func (s *Store) settle() error {
	if s.whole {
		return s.seal()
	}
	return s.sync()
}

// sync makes the current pack durable.
func (s *Store) sync() error {
	p := s.cur
	if p == nil || p.size == p.synced {
		return nil
	}
	err := p.file.Sync()
	if err == nil && !p.named {
		err = s.fs.SyncDir(packsDir)
	}
	if err != nil {
		s.forget(p)
		return fmt.Errorf("make %s durable: %w", packName(p.number), full(err))
	}
	p.named, p.synced, p.moved = true, p.size, nil
	return nil
}

// forget gives up a pack that could not be made durable. A second try to sync may succeed without having written
// anything, so nothing after the last good sync can be trusted: these chunks leave the index, and are asked for again; one that was
// moved lies in its old place still.
func (s *Store) forget(p *pack) {
	keep := p.synced
	s.imu.Lock()
	n := len(p.items)
	for ; n > 0 && p.items[n-1].end() > keep; n-- {
		id := p.items[n-1].id
		if from, ok := p.moved[id]; ok {
			s.index.put(id, from, 0)
		} else {
			s.index.remove(id)
		}
	}
	s.forgot++
	p.size = keep
	if n == 0 {
		delete(s.packs, p.number)
	}
	s.imu.Unlock()
	// What fails here is found and put in order at the next start.
	if n == 0 {
		_ = s.fs.Remove(packName(p.number))
	} else {
		_ = p.file.Truncate(keep)
	}
	_ = p.file.Close()
	s.files.drop(p.number)
	p.file, p.items, s.cur = nil, nil, nil
}

// seal closes the current pack and writes its index file.
func (s *Store) seal() error {
	if err := s.sync(); err != nil {
		return err
	}
	p := s.cur
	if p == nil {
		return nil
	}
	s.cur = nil
	if len(p.items) == 0 {
		s.imu.Lock()
		delete(s.packs, p.number)
		s.imu.Unlock()
		return errors.Join(p.file.Close(), s.fs.Remove(packName(p.number)))
	}
	s.writeIndex(p.number, p.uid, p.size, 0, p.items)
	err := p.file.Close()
	p.file, p.items = nil, nil
	if s.whole {
		s.files.drop(p.number) // it lies elsewhere now
	}
	if err != nil {
		return fmt.Errorf("close %s: %w", packName(p.number), full(err))
	}
	return nil
}
