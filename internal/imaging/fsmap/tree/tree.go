// Package tree reads the files of a filesystem by their names.
package tree

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"mimeo/internal/imaging/fsmap/fact"
)

// Types of files, the high bits of File.Mode, as stat(2) has them.
const (
	TypeMask = 0xf000
	Pipe     = 0x1000
	Char     = 0x2000
	Dir      = 0x4000
	Block    = 0x6000
	Regular  = 0x8000
	Link     = 0xa000
	Socket   = 0xc000
)

// File is what a filesystem keeps of a file.
type File struct {
	Inode    uint64
	Mode     uint32 // type and permissions, as stat(2) has them
	UID, GID uint32
	Links    uint32
	Size     int64 // bytes
	Modified time.Time
	Target   string // of a symbolic link
	Holes    int64  // bytes of Size that take no room on the disk, where that is known; negative where it takes more than Size
	Device   uint32 // of a device file, as Linux encodes it: bits 8 to 19 are the major number, the others the minor one
}

// Type returns the type bits.
func (f File) Type() uint32 { return f.Mode & TypeMask }

// IsDir tells whether f is a directory.
func (f File) IsDir() bool { return f.Type() == Dir }

// Entry is a name in a directory.
type Entry struct {
	Name  string
	Inode uint64
}

// FS is a filesystem. What it reads may be damaged: an error tells so, and the rest can still be read.
type FS interface {
	Root() uint64
	File(inode uint64) (File, error)
	// Dir calls fn with the names in a directory, in any order, without "." and "..".
	Dir(inode uint64, fn func(Entry) error) error
	// Open returns the content of a regular file. It ends at File.Size.
	Open(inode uint64) (io.ReaderAt, error)
}

// Attributed is a filesystem that tells the extended attributes of its files, too: their whole names and their values.
type Attributed interface {
	Attributes(inode uint64) (map[string][]byte, error)
}

// Summed is a filesystem that has checksums of what files hold, and may have several roots in it, as btrfs has.
type Summed interface {
	// Bare returns where a regular file lies, by its offsets in the file, so far as nothing would notice if zeros lay there
	// instead; with ErrSummed nothing of a file that has checksums.
	Bare(inode uint64) ([]fact.Piece, error)
	// Roots returns the directories that a system may have as its root, or mount by themselves.
	Roots() []uint64
}

// ErrSummed says that zeros in place of a file would be damage.
var ErrSummed = errors.New("it has checksums, with which zeros would not agree")

// ErrNotFound says that there is no such file.
var ErrNotFound = errors.New("no such file")

// Errors of paths.
var (
	errNotDir = errors.New("not a directory")
	errLoop   = errors.New("too many symbolic links")
)

// PathError says which path an error is about.
type PathError struct {
	Path string
	Err  error
}

// Error tells path and error.
func (e *PathError) Error() string { return e.Path + ": " + e.Err.Error() }

// Unwrap returns the error.
func (e *PathError) Unwrap() error { return e.Err }

const (
	maxLinks = 40  // symbolic links on one path, as Linux has it
	maxDepth = 512 // directories in each other, deeper than any system of sound mind has
)

// Lookup finds a file by its path, from the root on. It follows symbolic links, the last one too where follow says so;
// none leads out of the filesystem.
func Lookup(fs FS, name string, follow bool) (File, error) {
	f, err := lookup(fs, name, follow)
	if err != nil {
		return f, &PathError{path.Clean("/" + name), err}
	}
	return f, nil
}

func lookup(fs FS, name string, follow bool) (File, error) {
	root, err := fs.File(fs.Root())
	if err != nil {
		return File{}, err
	}
	at := []File{root} // the directories on the way
	rest := strings.Split(name, "/")
	for links := 0; len(rest) > 0; {
		word := rest[0]
		rest = rest[1:]
		if word == "" {
			continue
		}
		dir := at[len(at)-1]
		switch {
		case !dir.IsDir():
			return File{}, errNotDir
		case word == ".":
			continue
		case word == "..":
			at = at[:max(1, len(at)-1)]
			continue
		}
		f, err := child(fs, dir.Inode, word)
		if err != nil {
			return f, err
		}
		if f.Type() == Link && (follow || len(rest) > 0) {
			if links++; links > maxLinks {
				return f, errLoop
			}
			if strings.HasPrefix(f.Target, "/") {
				at = at[:1]
			}
			rest = append(strings.Split(f.Target, "/"), rest...)
			continue
		}
		at = append(at, f)
	}
	return at[len(at)-1], nil
}

// child finds a name in a directory.
func child(fs FS, dir uint64, name string) (File, error) {
	found := errors.New("found")
	var inode uint64
	switch err := fs.Dir(dir, func(e Entry) error {
		if e.Name != name {
			return nil
		}
		inode = e.Inode
		return found
	}); {
	case err == nil:
		return File{}, ErrNotFound
	case !errors.Is(err, found):
		return File{}, err
	}
	return fs.File(inode)
}

// List returns what a directory holds, by name.
func List(fs FS, dir uint64) ([]Entry, error) {
	var list []Entry
	err := fs.Dir(dir, func(e Entry) error {
		list = append(list, e)
		return nil
	})
	slices.SortFunc(list, func(a, b Entry) int { return cmp.Compare(a.Name, b.Name) })
	return list, err
}

// SkipDir is what fn of Walk returns to leave a directory out.
var SkipDir = errors.New("skip this directory")

// Walk calls fn with f, which is called name, and with all below it, each directory before what it holds and that by
// name. Where something cannot be read, fn is called with the error, and decides whether to go on; a File that comes
// with an error has its Inode alone. A directory that lies in itself is an error.
func Walk(fs FS, name string, f File, fn func(name string, f File, err error) error) error {
	w := &walk{fs: fs, fn: fn, above: map[uint64]bool{}}
	return w.visit(name, f)
}

type walk struct {
	fs    FS
	fn    func(string, File, error) error
	above map[uint64]bool // directories on the way from the root
}

func (w *walk) visit(name string, f File) error {
	if err := w.fn(name, f, nil); err != nil {
		if errors.Is(err, SkipDir) {
			return nil
		}
		return err
	}
	if !f.IsDir() {
		return nil
	}
	if w.above[f.Inode] || len(w.above) >= maxDepth {
		return w.failed(name, f.Inode, fmt.Errorf("directory %d lies in itself, or too deep", f.Inode))
	}
	w.above[f.Inode] = true
	defer delete(w.above, f.Inode)
	list, err := List(w.fs, f.Inode)
	if err != nil {
		if err := w.failed(name, f.Inode, err); err != nil {
			return err
		}
	}
	for _, e := range list {
		below := path.Join(name, e.Name)
		g, err := w.fs.File(e.Inode)
		if err != nil {
			if err := w.failed(below, e.Inode, err); err != nil {
				return err
			}
			continue
		}
		if err := w.visit(below, g); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) failed(name string, inode uint64, err error) error {
	if err := w.fn(name, File{Inode: inode}, &PathError{name, err}); err != nil && !errors.Is(err, SkipDir) {
		return err
	}
	return nil
}
