package nfs

import (
	"fmt"
	"io/fs"
	"os"
	"path"

	billy "github.com/go-git/go-billy/v5"
	"golang.org/x/sys/unix"
)

// export is a folder as the library wants it. os.Root keeps every path inside, whatever symbolic links it holds; the
// links themselves are shown to the nodes, which follow them in their own tree.
type export struct {
	name string
	root *os.Root
}

// Capabilities implements billy.Capable: no writing, which makes the library answer NFS3ERR_ROFS.
func (e *export) Capabilities() billy.Capability { return billy.ReadCapability | billy.SeekCapability }

// Join implements billy.Basic.
func (e *export) Join(parts ...string) string {
	if name := path.Join(parts...); name != "" {
		return name
	}
	return "."
}

// Open implements billy.Basic for regular files. A pipe or a device of the export is never opened: a read could block
// for ever or have effects.
func (e *export) Open(name string) (billy.File, error) {
	info, err := e.root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("open %s: not a regular file: %w", name, fs.ErrPermission)
	}
	f, err := e.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return file{f}, nil
}

// OpenFile implements billy.Basic, for reading.
func (e *export) OpenFile(name string, flag int, _ os.FileMode) (billy.File, error) {
	if flag != os.O_RDONLY {
		return nil, billy.ErrReadOnly
	}
	return e.Open(name)
}

// Stat implements billy.Basic. Links are not followed here either.
func (e *export) Stat(name string) (os.FileInfo, error) { return e.root.Lstat(name) }

// Lstat implements billy.Symlink.
func (e *export) Lstat(name string) (os.FileInfo, error) { return e.root.Lstat(name) }

// Readlink implements billy.Symlink.
func (e *export) Readlink(name string) (string, error) { return e.root.Readlink(name) }

// ReadDir implements billy.Dir. What vanishes meanwhile is left out.
func (e *export) ReadDir(name string) ([]os.FileInfo, error) {
	info, err := e.root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("read %s: not a folder", name)
	}
	d, err := e.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	entries, err := d.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	infos := make([]os.FileInfo, 0, len(entries))
	for _, entry := range entries {
		if i, err := entry.Info(); err == nil {
			infos = append(infos, i)
		}
	}
	return infos, nil
}

// Root implements billy.Chroot.
func (e *export) Root() string { return e.name }

// The rest of billy.Filesystem would write.

func (e *export) Create(string) (billy.File, error)           { return nil, billy.ErrReadOnly }
func (e *export) Rename(string, string) error                 { return billy.ErrReadOnly }
func (e *export) Remove(string) error                         { return billy.ErrReadOnly }
func (e *export) TempFile(string, string) (billy.File, error) { return nil, billy.ErrReadOnly }
func (e *export) MkdirAll(string, os.FileMode) error          { return billy.ErrReadOnly }
func (e *export) Symlink(string, string) error                { return billy.ErrReadOnly }
func (e *export) Chroot(string) (billy.Filesystem, error)     { return nil, billy.ErrNotSupported }

// file is an open file that cannot be written.
type file struct{ *os.File }

func (file) Write([]byte) (int, error) { return 0, billy.ErrReadOnly }
func (file) Truncate(int64) error      { return billy.ErrReadOnly }
func (file) Lock() error               { return billy.ErrNotSupported }
func (file) Unlock() error             { return billy.ErrNotSupported }
