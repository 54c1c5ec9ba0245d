// Package dir keeps a store in a folder, on a local disk or on NFS. docs/formats/store.md is its format.
package dir

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"sync"
	"time"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/keys"
)

// Versions of the store format that this package knows.
const (
	Version       = 1 // of a plain store
	SealedVersion = 2 // of an encrypted one
)

// Names in the store's folder.
const (
	formatFile   = "format.json"
	lockFile     = "lock"
	packsDir     = "packs"
	indexDir     = "index"
	manifestsDir = "manifests"
	imagesDir    = "images"
	keysDir      = "keys"
	tmpDir       = "tmp"
)

// Options say how to open a store. The zero value opens one that is there for reading and writing.
type Options struct {
	Create   bool  // make the store where there is none: the folder is made, or is empty
	ReadOnly bool  // take no lock and change nothing; what another process publishes meanwhile is seen
	PackSize int64 // bytes after which a pack is closed; 0 means DefaultPackSize
	Reserve  int64 // bytes of the disk that chunks leave free, for others who write to it

	// Key is what an encrypted store is opened with, or made. With one, a plain store is not opened.
	Key keys.Secret

	Sign func(store.Revision) store.Signature // signs what is published; nil: nobody does

	FS FS // where the files lie; nil: in the folder
	// Whole is for an FS whose files are stored when they are closed, all at once: packs are closed at each Flush.
	Whole bool
}

// DefaultPackSize makes a store of 10 TB some 80,000 files, and the loss of one pack, or of the time to write one
// again, small.
const DefaultPackSize = 128 << 20

// Store is a store.Publisher in a folder. Its methods may be called from several goroutines, Close after all others.
type Store struct {
	root     string // for people
	fs       steadyFS
	id       uid
	key      *keys.Key // nil: the store is not encrypted
	form     form
	readOnly bool
	whole    bool // Options.Whole
	packSize int64
	reserve  int64
	signer   func(store.Revision) store.Signature
	lock     io.Closer

	imu   sync.RWMutex // index, packs, bad
	index *index
	packs map[uint32]*pack
	// Chunks that were found damaged: there for those who read, missing for those who write, so that the next capture
	// which has them heals the store. The later pack holds then.
	bad    map[chunk.ID]bool
	epochs epochs

	wmu    sync.Mutex // writing packs; taken before imu
	cur    *pack      // the one that takes new chunks; nil before the first
	buf    []byte     // records on their way to cur
	forgot int        // how often what was written could not be made durable

	pmu     sync.Mutex             // publishing
	smu     sync.Mutex             // staged
	staged  map[manifest.ID]uint32 // manifests that this process staged, and in which epoch last
	work    sync.Mutex             // going over the whole store: one at a time
	closing sync.Once
	files   *handles
	reload  sync.Mutex // reading what another process wrote
	sealing sync.Pool  // *[]byte: records on their way into an encrypted store
}

// pack is one pack file.
type pack struct {
	number  uint32
	size    int64     // bytes, without a torn end
	written time.Time // last, by an earlier process; zero where this one began it
	effort  uint8     // level with which all records were tried by Repack; 0: none

	// Of the pack that takes new chunks; under wmu.
	uid    uid
	file   File
	synced int64 // bytes that are durable
	named  bool  // its name is durable
	items  []indexed
	moved  map[chunk.ID]loc // chunks that are not durable yet and lie elsewhere, too
	behind int64            // bytes that the system was asked to write
}

// format is the content of formatFile.
type format struct {
	Format  string    `json:"format"` // "mimeo-store"
	Version int       `json:"version"`
	Cipher  string    `json:"cipher,omitempty"` // keys.Cipher, of an encrypted store
	ID      string    `json:"id"`               // 32 hexadecimal digits
	Hash    string    `json:"hash"`             // "blake3"
	Created time.Time `json:"created"`
}

// Open opens the store in the folder at path. Unless it is ReadOnly it takes the store's lock, store.ErrLocked says
// that another process has it, and repairs what a crash left behind: torn ends of packs, missing index files,
// temporary files. A folder that is no store is store.ErrNotFound. An encrypted one needs Options.Key: ErrNoKey,
// keys.ErrWrong and ErrPlain say what does not fit, before anything is changed.
func Open(path string, o Options) (*Store, error) {
	if o.FS == nil {
		o.FS = osFS{path}
		if o.Create && !o.ReadOnly {
			if err := os.MkdirAll(path, 0o750); err != nil {
				return nil, fmt.Errorf("make store: %w", full(err))
			}
		}
	}
	if o.PackSize <= 0 {
		o.PackSize = DefaultPackSize
	}
	s := &Store{root: path, fs: steadyFS{o.FS}, readOnly: o.ReadOnly, whole: o.Whole, packSize: min(o.PackSize, maxPack/2), reserve: o.Reserve, signer: o.Sign,
		index: newIndex(), packs: make(map[uint32]*pack), bad: make(map[chunk.ID]bool), staged: make(map[manifest.ID]uint32)}
	s.files = newHandles(s.fs)
	s.epochs.begin()
	if err := s.open(o); err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", path, full(err)), s.release())
	}
	return s, nil
}

// Try tells whether there is a store in the folder at path that o.Key opens, without reading what it holds:
// store.ErrNotFound where there is none.
func Try(path string, o Options) error {
	s := &Store{root: path, fs: steadyFS{osFS{path}}}
	there, err := s.readFormat(o.Key)
	if err == nil && !there {
		err = store.ErrNotFound
	}
	return err
}

func (s *Store) open(o Options) error {
	there, err := s.readFormat(o.Key)
	if err != nil {
		return err
	}
	if !there {
		if !o.Create || o.ReadOnly {
			return fmt.Errorf("no store in this folder: %w", store.ErrNotFound)
		}
		if err := s.mayCreate(); err != nil {
			return err
		}
	}
	if !s.readOnly {
		if s.lock, err = s.fs.Lock(lockFile); err != nil {
			return err
		}
		// Another process may have made it before we had the lock.
		if there, err = s.readFormat(o.Key); err != nil {
			return err
		}
		if !there {
			if err := s.create(o.Key); err != nil {
				return err
			}
		}
		// A copy of a store may have come without what holds nothing that cannot be made again.
		for _, d := range []string{indexDir, tmpDir} {
			if err := s.fs.Mkdir(d); err != nil {
				return err
			}
		}
		// Names that an earlier process made and did not live to make durable must not be built upon.
		for _, d := range []string{".", manifestsDir, imagesDir} {
			if err := s.fs.SyncDir(d); err != nil {
				return err
			}
		}
		if err := s.sweepTmp(); err != nil {
			return err
		}
	}
	if err := s.load(); err != nil || s.readOnly {
		return err
	}
	return s.sweepIndex()
}

// readFormat tells whether there is a store, refuses one that this program does not know, and opens its key.
func (s *Store) readFormat(by keys.Secret) (bool, error) {
	b, err := s.readFile(formatFile, 1<<16)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	var f format
	if err := json.Unmarshal(b, &f); err != nil {
		return false, fmt.Errorf("%s: %w", formatFile, err)
	}
	id, err := hex.DecodeString(f.ID)
	switch {
	case f.Format != "mimeo-store" || err != nil || len(id) != len(s.id):
		return false, fmt.Errorf("%s is not that of a store", formatFile)
	case f.Version != Version && f.Version != SealedVersion:
		return false, fmt.Errorf("store format %d is unknown: this program reads formats %d and %d", f.Version, Version, SealedVersion)
	case f.Version == SealedVersion && f.Cipher != keys.Cipher:
		return false, fmt.Errorf("the store is encrypted by %.40q, which is unknown", f.Cipher)
	case f.Hash != "blake3":
		return false, fmt.Errorf("store names chunks by %q, which is unknown", f.Hash)
	}
	s.id = uid(id)
	switch {
	case f.Version == Version && by.IsZero():
		return true, nil
	case f.Version == Version:
		return false, ErrPlain
	}
	return true, s.unlock(by)
}

// mayCreate refuses to make a store among somebody else's files. What a creation that was cut off left is no obstacle.
func (s *Store) mayCreate() error {
	list, err := s.fs.ReadDir(".")
	if err != nil {
		return err
	}
	ours := []string{lockFile, packsDir, indexDir, manifestsDir, imagesDir, keysDir, tmpDir, "lost+found"}
	for _, e := range list {
		if !slices.Contains(ours, e.Name) {
			return fmt.Errorf("the folder is no store and not empty: it holds %s", e.Name)
		}
	}
	return nil
}

func (s *Store) create(by keys.Secret) error {
	for _, d := range []string{packsDir, indexDir, manifestsDir, imagesDir, tmpDir} {
		if err := s.fs.Mkdir(d); err != nil {
			return err
		}
	}
	if _, err := rand.Read(s.id[:]); err != nil {
		return err
	}
	version, cipher := Version, ""
	if !by.IsZero() {
		if err := s.newKey(by); err != nil {
			return fmt.Errorf("make a key: %w", err)
		}
		version, cipher = SealedVersion, keys.Cipher
	}
	b, err := json.MarshalIndent(format{Format: "mimeo-store", Version: version, Cipher: cipher, ID: hex.EncodeToString(s.id[:]),
		Hash: "blake3", Created: time.Now().UTC().Truncate(time.Second)}, "", "  ")
	if err != nil {
		return err
	}
	return s.writeFile(formatFile, append(b, '\n'), false)
}

// sweepTmp removes what was being written when an earlier process ended.
func (s *Store) sweepTmp() error {
	list, err := s.fs.ReadDir(tmpDir)
	if err != nil {
		return err
	}
	for _, e := range list {
		if err := s.fs.Remove(path.Join(tmpDir, e.Name)); err != nil {
			return err
		}
	}
	return nil
}

// Close writes what is left and gives the lock back. It waits for a check or a clean-up, whose context should be done by
// now. After an error, what was Put since the last Flush may be gone.
func (s *Store) Close() error {
	s.closing.Do(s.work.Lock) // waits for who goes over the whole store, and lets nobody begin
	s.wmu.Lock()
	defer s.wmu.Unlock()
	return errors.Join(s.seal(), s.release())
}

func (s *Store) release() error {
	err := s.files.close()
	if s.lock != nil {
		err = errors.Join(err, s.lock.Close())
		s.lock = nil
	}
	err = errors.Join(err, s.fs.Close())
	return err
}

// readFile returns a file of at most limit bytes.
func (s *Store) readFile(name string, limit int64) ([]byte, error) {
	f, err := s.fs.Open(name, false)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, fmt.Errorf("%s: %d bytes, at most %d", name, size, limit)
	}
	b := make([]byte, size)
	if n, err := f.ReadAt(b, 0); int64(n) < size {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return b, nil
}

// writeFile makes a file appear under its name, whole and durable, or not at all. Unless it may replace one that is
// there, that is fs.ErrExist.
func (s *Store) writeFile(name string, b []byte, replace bool) (err error) {
	var r [8]byte
	if _, err := rand.Read(r[:]); err != nil {
		return err
	}
	tmp := path.Join(tmpDir, hex.EncodeToString(r[:]))
	f, err := s.fs.Create(tmp)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, full(err))
	}
	_, err = f.WriteAt(b, 0)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = s.fs.Rename(tmp, name, replace)
	}
	if err != nil {
		_ = s.fs.Remove(tmp) // the next start removes it otherwise
		return fmt.Errorf("write %s: %w", name, full(err))
	}
	if err := s.fs.SyncDir(path.Dir(name)); err != nil {
		return fmt.Errorf("write %s: %w", name, full(err))
	}
	return nil
}

// errReadOnly says that a store was opened without the right to change it.
var errReadOnly = errors.New("the store is open for reading only")

func (s *Store) writable(ctx context.Context) error {
	if s.readOnly {
		return errReadOnly
	}
	return ctx.Err()
}
