// Package cache keeps chunks of a store that is far away in a local folder, and forgets those that were not asked for longest.
package cache

import (
	"container/list"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/sys/unix"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/keys"
)

// MinSize is the least room, in bytes, that a cache is of use with: some chunks of the greatest length.
const MinSize = 64 << 20

// Store is a store.Writer before another. Chunks that are read go to the folder; all else goes to the other store. The
// folder may be deleted when no process uses it.
type Store struct {
	store.Writer
	folder string
	size   int64       // bytes that may be used
	seal   *keys.Cache // nil: chunks lie there as they are
	lock   *os.File

	mu   sync.Mutex
	at   map[chunk.ID]*list.Element // by the names of their files
	used *list.List                 // of *kept, what was asked for last in front
	sum  int64                      // bytes of all
	told Stats
}

// kept is a chunk in the folder.
type kept struct {
	id      chunk.ID  // name of its file
	size    int64     // bytes that its file takes
	touched time.Time // of the file's own time, by which it is sorted after a restart
}

// Stats says how much the cache has saved since it was opened.
type Stats struct {
	Chunks int   // in the folder
	Bytes  int64 // that they take
	Hits   int64 // chunks that came from the folder
	Misses int64 // chunks that did not
	Bad    int64 // files that were damaged, and removed
}

// Each chunk is a file: a head, then the bytes as the store has them. All numbers are little-endian.
//
//	0   4  "MCC1"
//	4   4  codec
//	8   4  raw length
//	12  4  CRC-32C of bytes 0 to 11 and of the data
//
// A cache of an encrypted store has instead
//
//	0   4   "MCS1"
//	4   24  nonce
//	28      the above, sealed with the chunk's ID as associated data
//
// under a name that does not tell the ID. Another program's keys do not open it: then it is fetched again.
const (
	headLen   = 16
	sealStart = 4 + chacha20poly1305.NonceSizeX
	sealOver  = sealStart + chacha20poly1305.Overhead
)

var (
	magic       = []byte("MCC1")
	sealedMagic = []byte("MCS1")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Open puts a cache of size bytes, at least MinSize, before a store, sealed where seal is not nil. store.ErrLocked says that another process uses the
// folder. Close it before the store.
func Open(w store.Writer, folder string, size int64, seal *keys.Cache) (_ *Store, err error) {
	if size < MinSize {
		return nil, fmt.Errorf("cache in %s: %d bytes are too few, at least %d", folder, size, MinSize)
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	s := &Store{Writer: w, folder: folder, size: size, seal: seal, at: make(map[chunk.ID]*list.Element), used: list.New()}
	if s.lock, err = os.OpenFile(filepath.Join(folder, "lock"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	if err = unix.Flock(int(s.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		err = store.ErrLocked
	}
	if err == nil {
		err = s.load()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cache in %s: %w", folder, err), s.lock.Close())
	}
	return s, nil
}

// load finds out what an earlier process left.
func (s *Store) load() error {
	var all []*kept
	for i := range 256 {
		sub := filepath.Join(s.folder, fmt.Sprintf("%02x", i))
		if err := os.MkdirAll(sub, 0o700); err != nil {
			return err
		}
		entries, err := os.ReadDir(sub)
		if err != nil {
			return err
		}
		for _, e := range entries {
			id, err := chunk.ParseID(e.Name())
			info, ierr := e.Info()
			if err != nil || ierr != nil || !info.Mode().IsRegular() || id[0] != byte(i) {
				_ = os.Remove(filepath.Join(sub, e.Name())) // half written
				continue
			}
			all = append(all, &kept{id, onDisk(info.Size()), info.ModTime()})
		}
	}
	slices.SortFunc(all, func(a, b *kept) int { return b.touched.Compare(a.touched) })
	for _, k := range all {
		s.at[k.id] = s.used.PushBack(k)
		s.sum += k.size
	}
	s.evict()
	return nil
}

// onDisk is what a file of n bytes takes on most filesystems.
func onDisk(n int64) int64 { return (n + 4095) &^ 4095 }

// name returns what a chunk's file is called.
func (s *Store) name(id chunk.ID) chunk.ID {
	if s.seal == nil {
		return id
	}
	return s.seal.Name(id)
}

// path returns the file of that name.
func (s *Store) path(id chunk.ID) string {
	name := id.String()
	return filepath.Join(s.folder, name[:2], name)
}

// Close gives the folder back. The store behind stays open.
func (s *Store) Close() error { return s.lock.Close() }

// Stats returns what the cache holds and has saved.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.told
	st.Chunks, st.Bytes = len(s.at), s.sum
	return st
}

// Get implements store.Reader: first with what is in the folder, then with the rest.
func (s *Store) Get(ctx context.Context, ids []chunk.ID, fn func(chunk.Encoded) error) error {
	var rest []chunk.ID
	var buf []byte
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return err
		}
		var c chunk.Encoded
		var ok bool
		if c, buf, ok = s.read(id, buf); !ok {
			rest = append(rest, id)
			continue
		}
		if err := fn(c); err != nil {
			return err
		}
	}
	if len(rest) == 0 {
		return nil
	}
	var raw []byte
	return s.Writer.Get(ctx, rest, func(c chunk.Encoded) error {
		// What is damaged is the caller's to find, and never kept.
		if out, err := chunk.Decode(c, raw); err == nil {
			raw = out
			s.keep(c)
		}
		return fn(c)
	})
}

// read returns a chunk from the folder. It uses and returns buf, in which the chunk's data is.
func (s *Store) read(id chunk.ID, buf []byte) (chunk.Encoded, []byte, bool) {
	name := s.name(id)
	s.mu.Lock()
	e := s.at[name]
	touch := false
	if e == nil {
		s.told.Misses++
		s.mu.Unlock()
		return chunk.Encoded{}, buf, false
	}
	s.used.MoveToFront(e)
	if k := e.Value.(*kept); time.Since(k.touched) > time.Hour {
		k.touched, touch = time.Now(), true
	}
	s.mu.Unlock()
	c, buf, err := s.readFile(s.path(name), id, buf)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.told.Misses++
		if s.at[name] == e {
			s.drop(e)
			if !errors.Is(err, fs.ErrNotExist) {
				s.told.Bad++
			}
		}
		return chunk.Encoded{}, buf, false
	}
	s.told.Hits++
	if touch {
		_ = os.Chtimes(s.path(name), time.Time{}, time.Now()) // only for the order after a restart
	}
	return c, buf, true
}

func (s *Store) readFile(path string, id chunk.ID, buf []byte) (chunk.Encoded, []byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return chunk.Encoded{}, buf, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return chunk.Encoded{}, buf, err
	}
	n := info.Size()
	if n <= headLen || n > sealOver+headLen+chunk.MaxLen {
		return chunk.Encoded{}, buf, errors.New("no chunk has this length")
	}
	buf = slices.Grow(buf[:0], int(n))[:n]
	if _, err := f.ReadAt(buf, 0); err != nil {
		return chunk.Encoded{}, buf, err
	}
	b := buf
	if s.seal != nil {
		if n <= sealOver || string(b[:4]) != string(sealedMagic) {
			return chunk.Encoded{}, buf, errors.New("not sealed")
		}
		if b, err = s.seal.Open(b[sealStart:sealStart], b[4:sealStart], b[sealStart:], id[:]); err != nil {
			return chunk.Encoded{}, buf, err
		}
	}
	c, err := parse(id, b)
	return c, buf, err
}

// parse reads a chunk's file.
func parse(id chunk.ID, b []byte) (chunk.Encoded, error) {
	if len(b) <= headLen || string(b[:4]) != string(magic) {
		return chunk.Encoded{}, errors.New("no chunk")
	}
	if sum(b) != binary.LittleEndian.Uint32(b[12:]) {
		return chunk.Encoded{}, errors.New("the checksum does not match")
	}
	if b[5]|b[6]|b[7] != 0 {
		return chunk.Encoded{}, errors.New("unknown codec")
	}
	c := chunk.Encoded{ID: id, Codec: chunk.Codec(b[4]), RawLen: binary.LittleEndian.Uint32(b[8:]), Data: b[headLen:]}
	return c, c.Check()
}

func sum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:12], castagnoli), castagnoli, b[headLen:])
}

// keep puts a chunk into the folder. Where that fails, it is fetched again the next time.
func (s *Store) keep(c chunk.Encoded) {
	name := s.name(c.ID)
	s.mu.Lock()
	there := s.at[name] != nil
	s.mu.Unlock()
	if there {
		return
	}
	all := make([]byte, sealStart+headLen, sealOver+headLen+len(c.Data))
	b := all[sealStart:]
	copy(b, magic)
	b[4] = byte(c.Codec)
	binary.LittleEndian.PutUint32(b[8:], c.RawLen)
	b = append(b, c.Data...)
	binary.LittleEndian.PutUint32(b[12:], sum(b))
	if s.seal != nil {
		copy(all, sealedMagic)
		if _, err := rand.Read(all[4:sealStart]); err != nil {
			return
		}
		b = s.seal.Seal(all[:sealStart], all[4:sealStart], b, c.ID[:])
	}
	path := s.path(name)
	f, err := os.CreateTemp(filepath.Dir(path), "new-*")
	if err != nil {
		return
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(f.Name())
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at[name] != nil || os.Rename(f.Name(), path) != nil {
		_ = os.Remove(f.Name())
		return
	}
	k := &kept{name, onDisk(int64(len(b))), time.Now()}
	s.at[name] = s.used.PushFront(k)
	s.sum += k.size
	s.evict()
}

// evict makes room. The caller holds mu.
func (s *Store) evict() {
	for s.sum > s.size {
		s.drop(s.used.Back())
	}
}

// drop forgets a chunk. The caller holds mu.
func (s *Store) drop(e *list.Element) {
	k := s.used.Remove(e).(*kept)
	delete(s.at, k.id)
	s.sum -= k.size
	_ = os.Remove(s.path(k.id)) // what cannot be removed now is found at the next start
}
