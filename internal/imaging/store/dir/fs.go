package dir

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"mimeo/internal/imaging/store"
)

// FS is what a Store needs of a filesystem. Names are relative to the store, with slashes. A name that is not there is
// fs.ErrNotExist. Tests have one that forgets what was not synced.
type FS interface {
	// Open opens a file that is there, for reading, or for both.
	Open(name string, write bool) (File, error)
	// Create makes a file that must not be there: that is fs.ErrExist.
	Create(name string) (File, error)
	// Rename gives a file another name. Where that is taken and may not be replaced, it is fs.ErrExist.
	Rename(from, to string, replace bool) error
	Remove(name string) error
	Mkdir(name string) error // no error where it is there
	ReadDir(name string) ([]Entry, error)
	SyncDir(name string) error // makes the names in a directory durable
	// Lock is store.ErrLocked where another process has the lock.
	Lock(name string) (io.Closer, error)
	Free() (int64, error) // bytes that may still be written
}

// File is a file of an FS.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Size() (int64, error)
	Truncate(size int64) error
	Sync() error
	// WriteBehind asks the system to start writing a range to the disk, and does not wait for it.
	WriteBehind(off, n int64)
}

// Entry is a name in a directory of an FS.
type Entry struct {
	Name string
	Size int64     // bytes
	Time time.Time // when it was written last
	Dir  bool
}

// full wraps err in store.ErrFull where it says that no room is left.
func full(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", store.ErrFull, err)
	}
	return err
}

type osFS struct{ root string }

func (f osFS) path(name string) string { return filepath.Join(f.root, filepath.FromSlash(name)) }

func (f osFS) Open(name string, write bool) (File, error) {
	flag := os.O_RDONLY
	if write {
		flag = os.O_RDWR
	}
	h, err := os.OpenFile(f.path(name), flag, 0)
	if err != nil {
		return nil, err
	}
	return osFile{h}, nil
}

func (f osFS) Create(name string) (File, error) {
	h, err := os.OpenFile(f.path(name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return nil, err
	}
	return osFile{h}, nil
}

func (f osFS) Rename(from, to string, replace bool) error {
	if !replace {
		// Only who has the lock writes, so nobody takes the name meanwhile.
		if _, err := os.Lstat(f.path(to)); err == nil {
			return &fs.PathError{Op: "rename", Path: f.path(to), Err: fs.ErrExist}
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return os.Rename(f.path(from), f.path(to))
}

func (f osFS) Remove(name string) error { return os.Remove(f.path(name)) }

func (f osFS) Mkdir(name string) error {
	err := os.Mkdir(f.path(name), 0o750)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	return err
}

func (f osFS) ReadDir(name string) ([]Entry, error) {
	list, err := os.ReadDir(f.path(name))
	if err != nil {
		return nil, err
	}
	out := make([]Entry, 0, len(list))
	for _, d := range list {
		info, err := d.Info()
		if errors.Is(err, os.ErrNotExist) {
			continue // went away meanwhile
		} else if err != nil {
			return nil, err
		}
		out = append(out, Entry{Name: d.Name(), Size: info.Size(), Time: info.ModTime(), Dir: d.IsDir()})
	}
	return out, nil
}

func (f osFS) SyncDir(name string) error {
	d, err := os.Open(f.path(name))
	if err != nil {
		return err
	}
	defer d.Close()
	// Some network filesystems cannot sync a directory and say EINVAL; they keep names without being asked.
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}

func (f osFS) Lock(name string) (io.Closer, error) {
	h, err := os.OpenFile(f.path(name), os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(h.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		h.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: %w", h.Name(), store.ErrLocked)
		}
		return nil, fmt.Errorf("lock %s: %w", h.Name(), err)
	}
	return h, nil
}

func (f osFS) Free() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(f.root, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}

type osFile struct{ *os.File }

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (f osFile) WriteBehind(off, n int64) {
	// Only a hint: without it, the next Sync has more to do.
	_ = unix.SyncFileRange(int(f.Fd()), off, n, unix.SYNC_FILE_RANGE_WRITE)
}

// steadyFS asks once more where something could not be read: a line to the disk that stutters is no damage, and nobody
// shall set a pack aside for it.
type steadyFS struct{ FS }

// again tells whether another try may end better.
func again(err error) bool {
	return err != nil && err != io.EOF && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, store.ErrUnreachable)
}

func (f steadyFS) Open(name string, write bool) (File, error) {
	h, err := f.FS.Open(name, write)
	if again(err) {
		h, err = f.FS.Open(name, write)
	}
	return steadyFile{h}, err
}

func (f steadyFS) Create(name string) (File, error) {
	h, err := f.FS.Create(name)
	return steadyFile{h}, err
}

func (f steadyFS) ReadDir(name string) ([]Entry, error) {
	list, err := f.FS.ReadDir(name)
	if again(err) {
		list, err = f.FS.ReadDir(name)
	}
	return list, err
}

func (f steadyFS) Close() error {
	if c, ok := f.FS.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

type steadyFile struct{ File }

func (f steadyFile) ReadAt(b []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(b, off)
	if again(err) {
		n, err = f.File.ReadAt(b, off)
	}
	return n, err
}

func (f steadyFile) Size() (int64, error) {
	n, err := f.File.Size()
	if again(err) {
		n, err = f.File.Size()
	}
	return n, err
}
