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
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	"mimeo/internal/imaging/store"
)

var errFixed = errors.New("an object is written whole, and not changed")

// object is a file that lies in the bucket, for reading.
type object struct {
	f    *files
	name string
	size int64
}

// partLen is how much is asked for at once: a long read is several requests side by side, as each waits for its answer
// longer than for the bytes. The longest that the store makes, of 8 MiB, are eight.
const partLen = 1 << 20

// ReadAt implements io.ReaderAt.
func (o object) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= o.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), o.size-off))
	parts := make([]int, (n+partLen-1)/partLen)
	var g errgroup.Group
	g.SetLimit(8)
	for i := range parts {
		at := i * partLen
		g.Go(func() (err error) {
			parts[i], err = o.part(p[at:min(at+partLen, n)], off+int64(at))
			return err
		})
	}
	err := g.Wait()
	got := 0
	for i, m := range parts {
		if got += m; m < min(partLen, n-i*partLen) {
			break
		}
	}
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return got, err
}

// part asks for a range within the object, and again for the rest where the answer ends early.
func (o object) part(p []byte, off int64) (int, error) {
	n, got := len(p), 0
	err := o.f.try("read", o.name, int64(n), func(ctx context.Context) error {
		if got == n {
			return nil
		}
		from := off + int64(got)
		var g minio.GetObjectOptions
		if err := g.SetRange(from, off+int64(n)-1); err != nil {
			return err
		}
		body, info, _, err := o.f.core.GetObject(ctx, o.f.bucket, o.f.key(o.name), g)
		if err != nil {
			return err
		}
		defer body.Close()
		if want := int64(n - got); info.Size != want {
			return fmt.Errorf("asked for %d bytes at %d, the service announces %d", want, from, info.Size)
		}
		m, err := io.ReadFull(body, p[got:n])
		got += m
		if err != nil {
			return fmt.Errorf("the answer ends early, at %d: %w", off+int64(got), err)
		}
		return nil
	})
	if err != nil && !errors.Is(err, store.ErrUnreachable) && !errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %w", store.ErrUnreachable, err)
	}
	return got, err
}

func (o object) Size() (int64, error)               { return o.size, nil }
func (o object) Close() error                       { return nil }
func (o object) Sync() error                        { return nil }
func (o object) Truncate(int64) error               { return errFixed }
func (o object) WriteAt([]byte, int64) (int, error) { return 0, errFixed }
func (o object) WriteBehind(int64, int64)           {}

// whole is an object that was read.
type whole struct {
	object
	b []byte
}

func (w whole) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= w.size {
		return 0, io.EOF
	}
	n := copy(p, w.b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// changing is a pack whose end may be cut off: then a shorter one replaces it.
type changing struct {
	object
	cut *int64
}

func (c *changing) Truncate(size int64) error {
	if size < 0 || size > c.size {
		return errFixed
	}
	c.cut = &size
	return nil
}

func (c *changing) Sync() error {
	if c.cut == nil {
		return nil
	}
	// Nothing is read from the bucket while it is sent there.
	w, err := c.f.spool(tmpPrefix + c.name)
	if err != nil {
		return err
	}
	if _, err = io.Copy(w.File, io.NewSectionReader(c.object, 0, *c.cut)); err == nil {
		_, err = c.f.put(c.name, w, *c.cut, condition{})
	}
	if err = errors.Join(err, w.drop()); err != nil {
		return err
	}
	c.size, c.cut = *c.cut, nil
	c.f.changed(c.name, c.size, false)
	return nil
}

// local is a file that is being written, opened for reading.
type local struct{ *os.File }

func (l local) Size() (int64, error) {
	info, err := l.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
func (l local) Sync() error                        { return nil }
func (l local) Truncate(int64) error               { return errFixed }
func (l local) WriteAt([]byte, int64) (int, error) { return 0, errFixed }
func (l local) WriteBehind(int64, int64)           {}

// spool is a file that is being written, in the local folder.
type spool struct {
	*os.File
	f      *files
	name   string
	dirty  bool // since it was sent
	sent   bool // it lies in the bucket, or may
	closed bool
}

func (f *files) spool(name string) (*spool, error) {
	var r [8]byte
	if _, err := rand.Read(r[:]); err != nil {
		return nil, err
	}
	h, err := os.OpenFile(filepath.Join(f.state, "spool", hex.EncodeToString(r[:])), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	w := &spool{File: h, f: f, name: name}
	f.mu.Lock()
	f.writing[name] = w
	f.mu.Unlock()
	return w, nil
}

func (w *spool) WriteAt(p []byte, off int64) (int, error) {
	w.dirty = true
	return w.File.WriteAt(p, off)
}

func (w *spool) Truncate(n int64) error {
	w.dirty = true
	return w.File.Truncate(n)
}

func (w *spool) Size() (int64, error) { return local{w.File}.Size() }

// WriteBehind does nothing: what lies here need not survive a crash.
func (w *spool) WriteBehind(int64, int64) {}

// Sync sends a pack. What is renamed later is sent then.
func (w *spool) Sync() error {
	if strings.HasPrefix(w.name, tmpPrefix) || !w.dirty {
		return nil
	}
	size, err := w.Size()
	if err != nil {
		return err
	}
	first := !w.sent
	w.sent = true
	if _, err := w.f.put(w.name, w, size, condition{free: first}); err != nil {
		return err
	}
	w.dirty = false
	w.f.changed(w.name, size, false)
	return nil
}

// Close forgets a pack's local file; one that is to be renamed stays until it is.
func (w *spool) Close() error {
	if w.closed || strings.HasPrefix(w.name, tmpPrefix) {
		return nil
	}
	return w.drop()
}

// drop removes the local file.
func (w *spool) drop() error {
	if w.closed {
		return nil
	}
	w.closed = true
	w.f.mu.Lock()
	if w.f.writing[w.name] == w {
		delete(w.f.writing, w.name)
	}
	w.f.mu.Unlock()
	return errors.Join(os.Remove(w.Name()), w.File.Close())
}

// cached is where an index file with an ETag is kept.
func (f *files) cached(name, etag string) string {
	clean := strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '-'
	}, etag)
	return filepath.Join(f.state, "index", path.Base(name)+"."+clean)
}

// index returns an index file: from the local folder, where the bucket still has the one that lies there.
func (f *files) index(name string) ([]byte, error) {
	f.mu.Lock()
	listed := f.etags != nil
	f.mu.Unlock()
	if !listed {
		if _, err := f.ReadDir("index"); err != nil {
			return nil, err
		}
	}
	f.mu.Lock()
	etag := f.etags[name]
	f.mu.Unlock()
	if etag != "" {
		if b, err := os.ReadFile(f.cached(name, etag)); err == nil {
			return b, nil
		}
	}
	b, etag, err := f.get(name, maxIndex)
	if err != nil {
		return nil, err
	}
	f.keep(name, etag, bytes.NewReader(b), int64(len(b)))
	return b, nil
}

// maxIndex is more than any index file has: that of a pack of 2^32 bytes in chunks of a byte.
const maxIndex = 1<<31 - 1

// keep writes a copy of an index file. It only saves a request, so a failure is none of the caller's.
func (f *files) keep(name, etag string, r io.ReaderAt, size int64) {
	if etag == "" {
		return
	}
	to := f.cached(name, etag)
	h, err := os.CreateTemp(filepath.Dir(to), "new-*")
	if err != nil {
		return
	}
	_, err = io.Copy(h, io.NewSectionReader(r, 0, size))
	if err = errors.Join(err, h.Close()); err == nil {
		err = os.Rename(h.Name(), to)
	}
	if err != nil {
		_ = os.Remove(h.Name())
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.etags != nil {
		f.etags[name] = etag
	}
}

// sweep removes copies of index files that are not the ones in the bucket.
func (f *files) sweep(etags map[string]string) {
	want := make(map[string]bool, len(etags))
	for name, etag := range etags {
		want[filepath.Base(f.cached(name, etag))] = true
	}
	list, err := os.ReadDir(filepath.Join(f.state, "index"))
	if err != nil {
		return
	}
	for _, e := range list {
		if info, err := e.Info(); err == nil && !want[e.Name()] && time.Since(info.ModTime()) > lag {
			_ = os.Remove(filepath.Join(f.state, "index", e.Name()))
		}
	}
}
