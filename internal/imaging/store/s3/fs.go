package s3

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"

	"mimeo/internal/imaging/store/dir"
)

// lag is how long a list may be behind what was written or deleted.
const lag = time.Hour

// maxWhole is the length up to which an object is read whole when it is opened.
const maxWhole = 1 << 20

// files is a dir.FS in a bucket. Files that are being written lie in a local folder until they are synced or renamed.
type files struct {
	core      *minio.Core
	transport *http.Transport
	ctx       context.Context // of all requests; done when the store is closed
	cancel    context.CancelFunc
	bucket    string
	prefix    string
	state     string
	term      time.Duration
	wait      time.Duration
	skew      atomic.Int64 // nanoseconds that the service's clock is ahead
	lock      atomic.Pointer[lease]

	mu      sync.Mutex
	writing map[string]*spool // by name
	begun   map[string]bool   // packs that this process began: their names are not used again
	recent  map[string]change // what lists may not show yet
	etags   map[string]string // of index files, as they were listed last
}

// change is something that was written or deleted, by name.
type change struct {
	entry   dir.Entry
	deleted bool
	at      time.Time
}

func (f *files) key(name string) string {
	if f.prefix == "" {
		return name
	}
	return f.prefix + "/" + name
}

// place names an object for people.
func (f *files) place(name string) string { return "s3://" + f.bucket + "/" + f.key(name) }

// now returns the service's time.
func (f *files) now() time.Time { return time.Now().Add(time.Duration(f.skew.Load())) }

// heard takes a time that the service told.
func (f *files) heard(t time.Time) { f.skew.Store(int64(time.Until(t))) }

// mayWrite returns an error where the lock is not ours, unless it is about the lock.
func (f *files) mayWrite(name string) error {
	if name == lockName || strings.HasPrefix(name, probePrefix) {
		return nil
	}
	l := f.lock.Load()
	if l == nil {
		return errors.New("the store is not locked")
	}
	return l.holds()
}

const (
	lockName    = "lock"
	probePrefix = "probe-"
)

// changed notes what lists may not show yet.
func (f *files) changed(name string, size int64, deleted bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.recent) > 1000 {
		for n, c := range f.recent {
			if time.Since(c.at) > lag {
				delete(f.recent, n)
			}
		}
	}
	f.recent[name] = change{dir.Entry{Name: path.Base(name), Size: size, Time: time.Now()}, deleted, time.Now()}
	delete(f.etags, name)
}

// Open implements dir.FS.
func (f *files) Open(name string, write bool) (dir.File, error) {
	f.mu.Lock()
	w, gone := f.writing[name], f.recent[name].deleted
	f.mu.Unlock()
	switch {
	case w != nil:
		h, err := os.Open(w.Name())
		if err != nil {
			return nil, err
		}
		return local{h}, nil
	case gone:
		return nil, &fs.PathError{Op: "open", Path: f.place(name), Err: fs.ErrNotExist}
	case strings.HasPrefix(name, indexPrefix):
		b, err := f.index(name)
		if err != nil {
			return nil, err
		}
		return whole{object{f: f, name: name, size: int64(len(b))}, b}, nil
	case strings.HasPrefix(name, packPrefix):
		info, err := f.stat(name)
		if err != nil {
			return nil, err
		}
		o := object{f: f, name: name, size: info.Size}
		if write {
			return &changing{object: o}, nil
		}
		return o, nil
	}
	b, _, err := f.get(name, maxWhole)
	if err != nil {
		return nil, err
	}
	if b != nil {
		return whole{object{f: f, name: name, size: int64(len(b))}, b}, nil
	}
	info, err := f.stat(name)
	return object{f: f, name: name, size: info.Size}, err
}

const (
	indexPrefix = "index/"
	packPrefix  = "packs/"
	tmpPrefix   = "tmp/"
)

// Create implements dir.FS.
func (f *files) Create(name string) (dir.File, error) {
	taken := &fs.PathError{Op: "create", Path: f.place(name), Err: fs.ErrExist}
	if !strings.HasPrefix(name, tmpPrefix) {
		f.mu.Lock()
		begun := f.begun[name]
		f.begun[name] = true
		f.mu.Unlock()
		if begun {
			return nil, taken
		}
		if _, err := f.stat(name); err == nil {
			return nil, taken
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return f.spool(name)
}

// Rename implements dir.FS.
func (f *files) Rename(from, to string, replace bool) error {
	f.mu.Lock()
	w := f.writing[from]
	f.mu.Unlock()
	if w != nil {
		size, err := w.Size()
		if err != nil {
			return err
		}
		etag, err := f.put(to, w, size, condition{free: !replace})
		if err != nil {
			return err
		}
		f.changed(to, size, false)
		if strings.HasPrefix(to, indexPrefix) {
			f.keep(to, etag, w, size)
		}
		return w.drop()
	}
	info, err := f.stat(from)
	if err != nil {
		return err
	}
	if !replace {
		return fmt.Errorf("rename %s: only a new file may be renamed so that it replaces nothing", f.place(from))
	}
	err = f.try("copy", from, info.Size, func(ctx context.Context) error {
		if err := f.mayWrite(to); err != nil {
			return err
		}
		_, err := f.core.CopyObject(ctx, f.bucket, f.key(from), f.bucket, f.key(to), nil, minio.CopySrcOptions{}, minio.PutObjectOptions{})
		return err
	})
	if err != nil {
		return err
	}
	f.changed(to, info.Size, false)
	return f.Remove(from)
}

// Remove implements dir.FS.
func (f *files) Remove(name string) error {
	f.mu.Lock()
	w := f.writing[name]
	f.mu.Unlock()
	if w != nil {
		if err := w.drop(); err != nil {
			return err
		}
		if !w.sent {
			return nil
		}
	}
	if err := f.remove(name); err != nil {
		return err
	}
	f.changed(name, 0, true)
	return nil
}

// Mkdir implements dir.FS: a bucket has names, and no folders.
func (f *files) Mkdir(string) error { return nil }

// SyncDir implements dir.FS: what a service has acknowledged is durable.
func (f *files) SyncDir(string) error { return nil }

// Free implements dir.FS.
func (f *files) Free() (int64, error) { return math.MaxInt64, nil }

// ReadDir implements dir.FS.
func (f *files) ReadDir(name string) ([]dir.Entry, error) {
	list, err := f.list(name)
	if err != nil {
		return nil, err
	}
	below := name + "/"
	if name == "." {
		below = ""
	}
	skew := time.Duration(f.skew.Load())
	found := make(map[string]dir.Entry, len(list))
	etags := make(map[string]string)
	for _, o := range list {
		base, folder := strings.CutSuffix(o.Key, "/")
		if base == "" || strings.Contains(base, "/") || name == "." && strings.HasPrefix(base, probePrefix) {
			continue
		}
		e := dir.Entry{Name: base, Size: o.Size, Dir: folder}
		if !folder {
			e.Time = o.LastModified.Add(-skew) // by this machine's clock, as all others
		}
		found[base] = e
		etags[below+base] = o.ETag
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if below == indexPrefix {
		if f.etags == nil {
			f.sweep(etags)
		}
		f.etags = etags
	}
	for n, c := range f.recent {
		rest, ok := strings.CutPrefix(n, below)
		if !ok {
			continue
		}
		base, _, deeper := strings.Cut(rest, "/")
		switch {
		case deeper && !c.deleted:
			found[base] = dir.Entry{Name: base, Dir: true}
		case deeper:
		case c.deleted:
			delete(found, base)
		default:
			found[base] = c.entry
		}
	}
	for n, w := range f.writing { // a pack that is not sent yet is there for who writes it
		if base, ok := strings.CutPrefix(n, below); ok && !strings.Contains(base, "/") {
			size, err := w.Size()
			if err != nil {
				return nil, err
			}
			found[base] = dir.Entry{Name: base, Size: size, Time: time.Now()}
		}
	}
	out := make([]dir.Entry, 0, len(found))
	for _, e := range found {
		out = append(out, e)
	}
	return out, nil
}

// Lock implements dir.FS.
func (f *files) Lock(name string) (io.Closer, error) {
	if err := f.probe(); err != nil {
		return nil, err
	}
	l, err := f.acquire(name)
	if err != nil {
		return nil, err
	}
	f.lock.Store(l)
	// What an earlier process had not sent counts as never written.
	if err := os.RemoveAll(filepath.Join(f.state, "spool")); err == nil {
		err = os.MkdirAll(filepath.Join(f.state, "spool"), 0o700)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// probe tries out whether the service knows the conditions that everything here rests on.
func (f *files) probe() error {
	var r [8]byte
	if _, err := rand.Read(r[:]); err != nil {
		return err
	}
	name := probePrefix + hex.EncodeToString(r[:])
	write := func(text string, must condition) (string, error) {
		return f.put(name, bytes.NewReader([]byte(text)), int64(len(text)), must)
	}
	etag, err := write("1", condition{free: true})
	if err == nil {
		_, again := write("2", condition{free: true})
		_, other := write("3", condition{etag: "00000000000000000000000000000000"})
		_, right := write("4", condition{etag: etag})
		switch {
		case again == nil || other == nil:
			err = ErrNoConditions
		case !errors.Is(again, fs.ErrExist):
			err = again
		case !errors.Is(other, fs.ErrExist):
			err = other
		case errors.Is(right, fs.ErrExist):
			err = ErrNoConditions
		default:
			err = right
		}
	} else if c, status := code(err); c == "NotImplemented" || status == http.StatusNotImplemented {
		err = fmt.Errorf("%w: %w", ErrNoConditions, err)
	}
	if rerr := f.remove(name); err == nil {
		err = rerr
	}
	if err != nil {
		return fmt.Errorf("try out writing: %w", err)
	}
	return nil
}

// Close implements io.Closer: nothing is asked of the service after it.
func (f *files) Close() error {
	f.cancel()
	f.transport.CloseIdleConnections()
	return nil
}
