package dir

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// crashFS is a filesystem in memory that keeps apart what a power cut would leave: of a file, what was synced; of a
// directory, the names that were synced.
type crashFS struct {
	mu      sync.Mutex
	names   map[string]*inode // as programs see them; a directory has a nil data
	durable map[string]*inode
	ops     int // changes so far
	crashAt int // the change that does not come to its end; 0 means none
	crashed bool
	room    int64 // bytes that all files may have; 0 means any number
	syncs   int
	badSync int // the sync of a file that fails; 0 means none
}

type inode struct {
	dir    bool
	data   []byte
	synced []byte
	frozen bool // a sync failed: later ones say yes and do nothing, as Linux may do
}

var errCrashed = errors.New("the power is cut")

func newCrashFS() *crashFS {
	root := map[string]*inode{".": {dir: true}}
	return &crashFS{names: root, durable: map[string]*inode{".": root["."]}}
}

// step counts a change. It returns false where this is the one that is cut off, and an error after it.
func (f *crashFS) step() (bool, error) {
	if f.crashed {
		return false, errCrashed
	}
	f.ops++
	f.crashed = f.ops == f.crashAt
	return !f.crashed, nil
}

func (f *crashFS) Open(name string, write bool) (File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.crashed {
		return nil, errCrashed
	}
	n := f.names[path.Clean(name)]
	if n == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &crashFile{f, n}, nil
}

// change runs fn as one change.
func (f *crashFS) change(fn func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	whole, err := f.step()
	if err != nil {
		return err
	}
	if !whole {
		return errCrashed
	}
	return fn()
}

func (f *crashFS) Create(name string) (File, error) {
	var n *inode
	err := f.change(func() error {
		if f.names[name] != nil {
			return &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
		}
		if f.names[path.Dir(name)] == nil {
			return &fs.PathError{Op: "create", Path: name, Err: fs.ErrNotExist}
		}
		n = new(inode)
		f.names[name] = n
		return nil
	})
	return &crashFile{f, n}, err
}

func (f *crashFS) Rename(from, to string, replace bool) error {
	return f.change(func() error {
		if f.names[from] == nil {
			return &fs.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
		}
		if f.names[to] != nil && !replace {
			return &fs.PathError{Op: "rename", Path: to, Err: fs.ErrExist}
		}
		f.names[to] = f.names[from]
		delete(f.names, from)
		return nil
	})
}

func (f *crashFS) Remove(name string) error {
	return f.change(func() error {
		if f.names[name] == nil {
			return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
		}
		delete(f.names, name)
		return nil
	})
}

func (f *crashFS) Mkdir(name string) error {
	return f.change(func() error {
		if f.names[name] == nil {
			f.names[name] = &inode{dir: true}
		}
		return nil
	})
}

func (f *crashFS) ReadDir(name string) ([]Entry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.crashed {
		return nil, errCrashed
	}
	if name = path.Clean(name); f.names[name] == nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrNotExist}
	}
	var out []Entry
	for p, n := range f.names {
		if p != "." && path.Dir(p) == name {
			out = append(out, Entry{Name: path.Base(p), Size: int64(len(n.data)), Dir: n.dir})
		}
	}
	slices.SortFunc(out, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

func (f *crashFS) SyncDir(name string) error {
	return f.change(func() error {
		f.syncNames(path.Clean(name), f.durable)
		return nil
	})
}

// syncNames makes the names in a directory the same in to as they are now.
func (f *crashFS) syncNames(dir string, to map[string]*inode) {
	for p := range to {
		if p != "." && path.Dir(p) == dir && f.names[p] == nil {
			delete(to, p)
		}
	}
	for p, n := range f.names {
		if path.Dir(p) == dir {
			to[p] = n
		}
	}
}

func (f *crashFS) Lock(string) (io.Closer, error) {
	if f.crashed {
		return nil, errCrashed
	}
	return io.NopCloser(nil), nil
}

func (f *crashFS) Free() (int64, error) {
	free := f.room
	for _, i := range f.names {
		free -= int64(len(i.data))
	}
	return free, nil
}

type crashFile struct {
	fs *crashFS
	n  *inode
}

func (c *crashFile) ReadAt(b []byte, off int64) (int, error) {
	c.fs.mu.Lock()
	defer c.fs.mu.Unlock()
	if c.fs.crashed {
		return 0, errCrashed
	}
	if off >= int64(len(c.n.data)) {
		return 0, io.EOF
	}
	n := copy(b, c.n.data[off:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (c *crashFile) WriteAt(b []byte, off int64) (int, error) {
	c.fs.mu.Lock()
	defer c.fs.mu.Unlock()
	whole, err := c.fs.step()
	if err != nil {
		return 0, err
	}
	want := len(b)
	if !whole {
		b = b[:len(b)/2]
	}
	if c.fs.room > 0 {
		var used int64
		for _, n := range c.fs.names {
			used += int64(len(n.data))
		}
		grow := off + int64(len(b)) - int64(len(c.n.data))
		if over := used + grow - c.fs.room; grow > 0 && over > 0 {
			b = b[:max(0, int64(len(b))-over)]
		}
	}
	if end := off + int64(len(b)); end > int64(len(c.n.data)) {
		c.n.data = append(c.n.data, make([]byte, end-int64(len(c.n.data)))...)
	}
	n := copy(c.n.data[off:], b)
	switch {
	case !whole:
		return n, errCrashed
	case n < want:
		return n, unix.ENOSPC
	}
	return n, nil
}

func (c *crashFile) Truncate(size int64) error {
	return c.fs.change(func() error {
		c.n.data = slices.Grow(c.n.data[:min(size, int64(len(c.n.data)))], int(size))[:size]
		return nil
	})
}

func (c *crashFile) Sync() error {
	return c.fs.change(func() error {
		if c.fs.syncs++; c.fs.syncs == c.fs.badSync {
			c.n.frozen = true
			return unix.EIO
		}
		if !c.n.frozen {
			c.n.synced = slices.Clone(c.n.data)
		}
		return nil
	})
}

func (c *crashFile) Size() (int64, error) {
	c.fs.mu.Lock()
	defer c.fs.mu.Unlock()
	return int64(len(c.n.data)), nil
}

func (c *crashFile) Close() error             { return nil }
func (c *crashFile) WriteBehind(int64, int64) {}

// killed returns the filesystem as it is found after the program died: all is there, and what was not synced still is
// not.
func (f *crashFS) killed() *crashFS {
	g := newCrashFS()
	g.names, g.durable = f.names, f.durable
	return g
}

// cut returns the filesystem as it is found after the power was cut: what was not synced is gone or, where r is not
// nil, there in parts.
func (f *crashFS) cut(r *rand.Rand) *crashFS {
	names := maps.Clone(f.durable)
	if r != nil {
		for _, d := range []string{".", packsDir, indexDir, manifestsDir, imagesDir, imagesDir + "/one", tmpDir} {
			if r.IntN(2) == 0 {
				f.syncNames(d, names)
			}
		}
	}
	g := newCrashFS()
	g.names = make(map[string]*inode)
	for p, n := range names {
		if p != "." && names[path.Dir(p)] == nil {
			continue // its directory never became durable
		}
		c := &inode{dir: n.dir, data: slices.Clone(n.synced)}
		if r != nil && r.IntN(3) > 0 {
			c.data = torn(n, r)
		}
		c.synced = slices.Clone(c.data)
		g.names[p] = c
	}
	g.durable = maps.Clone(g.names)
	return g
}

// torn returns some state between what was synced and what was written: each block old, new, or zero where it is new.
func torn(n *inode, r *rand.Rand) []byte {
	const block = 512
	size := len(n.synced)
	if more := len(n.data) - size; more > 0 {
		size += r.IntN(more + 1)
	}
	out := make([]byte, size)
	copy(out, n.synced)
	for off := 0; off < min(size, len(n.data)); off += block {
		end := min(off+block, size, len(n.data))
		if r.IntN(3) > 0 {
			copy(out[off:end], n.data[off:end])
		}
	}
	return out
}
