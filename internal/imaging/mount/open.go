package mount

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"mimeo/internal/imaging/fsmap/tree"
)

func newFsys(ctx context.Context, o Options) *fsys {
	return &fsys{RawFileSystem: fuse.NewDefaultRawFileSystem(), ctx: ctx, name: o.Name, say: o.Log,
		uid: uint32(os.Geteuid()), gid: uint32(os.Getegid()), begun: time.Now(), dirs: &listings{m: map[uint64]*listing{}},
		slots: make(chan struct{}, slots), handles: map[uint64]any{}, said: map[string]bool{}}
}

// keepOpen remembers what somebody has open, and returns the number of it.
func (s *fsys) keepOpen(v any) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	s.handles[s.next] = v
	return s.next
}

func (s *fsys) handle(n uint64) any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.handles[n]
}

func (s *fsys) forgetOpen(n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.handles, n)
}

// opened is a file or image file that somebody has open: where it is, and how to read it.
type opened struct {
	what    string
	content io.ReaderAt
	size    int64
	extents func(off int64, fn func(off, n int64) bool) error // nil where holes are not known
}

// Open implements fuse.RawFileSystem.
func (s *fsys) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if in.Flags&syscall.O_ACCMODE != syscall.O_RDONLY {
		return fuse.EROFS
	}
	number := in.NodeId
	o, st := ask(s, cancel, func() (*opened, error) { return s.open(number) })
	if st == fuse.OK {
		out.Fh, out.OpenFlags = s.keepOpen(o), fuse.FOPEN_KEEP_CACHE
	}
	return st
}

func (s *fsys) open(number uint64) (*opened, error) {
	own, vol, inode, err := s.split(number)
	switch {
	case err != nil:
		return nil, err
	case own != nil && own.raw == nil:
		return nil, syscall.EISDIR
	case own != nil:
		return &opened{own.parent.path(own.parent.nameOf(own.number)), own.raw.content, own.raw.size, own.raw.extents}, nil
	}
	f, err := s.vols[vol].File(inode)
	if err != nil {
		return nil, s.fail(vol, inode, "look at", err)
	}
	r, err := s.vols[vol].Open(inode)
	if err != nil {
		return nil, s.fail(vol, inode, "open", err)
	}
	o := &opened{what: fmt.Sprintf("%s: inode %d", s.where(vol), inode), content: r, size: f.Size}
	if p, ok := r.(*tree.Pieced); ok {
		o.extents = func(off int64, fn func(off, n int64) bool) error {
			for _, f := range p.Pieces {
				if f.At+f.Len > off && !fn(f.At, f.Len) {
					break
				}
			}
			return nil
		}
	}
	return o, nil
}

func (n *node) nameOf(number uint64) string {
	for _, c := range n.below {
		if c.number == number {
			return c.name
		}
	}
	return ""
}

// Release implements fuse.RawFileSystem.
func (s *fsys) Release(_ <-chan struct{}, in *fuse.ReleaseIn) { s.forgetOpen(in.Fh) }

// ReleaseDir implements fuse.RawFileSystem.
func (s *fsys) ReleaseDir(in *fuse.ReleaseIn) { s.forgetOpen(in.Fh) }

// Read implements fuse.RawFileSystem.
func (s *fsys) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	o, ok := s.handle(in.Fh).(*opened)
	if !ok {
		return nil, fuse.EBADF
	}
	off, n := int64(in.Offset), int64(in.Size)
	if off < 0 || off >= o.size {
		return fuse.ReadResultData(nil), fuse.OK
	}
	n = min(n, o.size-off, int64(len(buf)))
	// A buffer of our own: a read that nobody waits for any more may still write to it.
	b, st := ask(s, cancel, func() ([]byte, error) {
		b := make([]byte, n)
		got, err := o.content.ReadAt(b, off)
		if int64(got) < n && (err == nil || errors.Is(err, io.EOF)) {
			err = io.ErrUnexpectedEOF
		}
		if int64(got) < n {
			return nil, &problem{fmt.Sprintf("%s: read %d bytes at offset %d", o.what, n, off), err}
		}
		return b, nil
	})
	if st != fuse.OK {
		return nil, st
	}
	return fuse.ReadResultData(b), fuse.OK
}

// Lseek implements fuse.RawFileSystem: where data or a hole comes next.
func (s *fsys) Lseek(cancel <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	const seekData, seekHole = 3, 4
	o, ok := s.handle(in.Fh).(*opened)
	if !ok {
		return fuse.EBADF
	}
	off := int64(in.Offset)
	if off < 0 || off >= o.size {
		return fuse.Status(syscall.ENXIO)
	}
	if in.Whence != seekData && in.Whence != seekHole {
		return fuse.EINVAL
	}
	data := in.Whence == seekData
	at, st := ask(s, cancel, func() (int64, error) {
		switch {
		case o.extents == nil && data:
			return off, nil
		case o.extents == nil:
			return o.size, nil
		}
		at, found := off, false
		err := o.extents(off, func(from, n int64) bool {
			switch {
			case data:
				at, found = max(off, from), true
				return false
			case from > at:
				return false // a hole begins at at
			}
			at = max(at, from+n)
			return true
		})
		switch {
		case err != nil:
			return 0, &problem{fmt.Sprintf("%s: look for holes at offset %d", o.what, off), err}
		case data && (!found || at >= o.size):
			return 0, syscall.ENXIO
		}
		return min(at, o.size), nil
	})
	if st == fuse.OK {
		out.Offset = uint64(at)
	}
	return st
}

// listing is what a folder holds.
type listing struct {
	entries []entry
	index   map[string]int
	err     error // what is missing from entries
}

type entry struct {
	name   string
	number uint64
	mode   uint32 // type bits, where they are known
}

func (l *listing) find(name string) (uint64, bool) {
	i, ok := l.index[name]
	if !ok {
		return 0, false
	}
	return l.entries[i].number, true
}

func (l *listing) add(e entry) {
	if _, ok := l.index[e.name]; ok {
		return // of two files of one name the first is found
	}
	l.index[e.name] = len(l.entries)
	l.entries = append(l.entries, e)
}

// list reads a folder. What can be read of a damaged one is there.
func (s *fsys) list(number uint64) *listing {
	if l := s.dirs.get(number); l != nil {
		return l
	}
	l := &listing{index: map[string]int{}}
	own, vol, inode, err := s.split(number)
	switch {
	case err != nil:
		l.err = err
		return l
	case own != nil:
		for _, c := range own.below {
			l.add(entry{c.name, c.number, 0})
		}
		return l
	}
	if err := s.vols[vol].Dir(inode, func(e tree.Entry) error {
		if e.Name == "" || e.Name == "." || e.Name == ".." || len(e.Name) > maxName || strings.ContainsAny(e.Name, "/\x00") {
			s.log("%s: %v", s.name, s.fail(vol, inode, "list", fmt.Errorf("%q cannot be a file's name: it is left out", e.Name)))
			return nil
		}
		n, err := s.number(vol, e.Inode)
		if err != nil {
			s.log("%s: %v", s.name, err)
			return nil
		}
		l.add(entry{name: e.Name, number: n})
		return s.ctx.Err()
	}); err != nil {
		l.err = s.fail(vol, inode, "list", err)
	}
	s.dirs.put(number, l)
	return l
}

// OpenDir implements fuse.RawFileSystem.
func (s *fsys) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	number := in.NodeId
	l, st := ask(s, cancel, func() (*listing, error) {
		l := s.list(number)
		if l.err != nil && len(l.entries) == 0 {
			return nil, l.err
		}
		return l, nil
	})
	if st == fuse.OK {
		out.Fh, out.OpenFlags = s.keepOpen(l), fuse.FOPEN_KEEP_CACHE|fuse.FOPEN_CACHE_DIR
	}
	return st
}

// ReadDir implements fuse.RawFileSystem. The names of a damaged folder that can be read come before the error.
func (s *fsys) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	l, ok := s.handle(in.Fh).(*listing)
	if !ok {
		return fuse.EBADF
	}
	if in.Offset >= uint64(len(l.entries)) {
		return s.status(l.err)
	}
	for _, e := range l.entries[in.Offset:] {
		if !out.AddDirEntry(fuse.DirEntry{Name: e.name, Ino: e.number, Mode: e.mode}) {
			break
		}
	}
	return fuse.OK
}

// listings keeps folders that were read, those used last, up to a number of names.
type listings struct {
	mu    sync.Mutex
	m     map[uint64]*listing
	order []uint64 // the one used last is last
	names int
}

// Most that is kept: some 20 MiB, more where a single folder is larger.
const (
	maxListings = 256
	maxNames    = 100_000
)

func (c *listings) get(number uint64) *listing {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.m[number]
	if l != nil {
		c.touch(number)
	}
	return l
}

func (c *listings) touch(number uint64) {
	for i := len(c.order) - 1; i >= 0; i-- {
		if c.order[i] == number {
			copy(c.order[i:], c.order[i+1:])
			c.order[len(c.order)-1] = number
			return
		}
	}
	c.order = append(c.order, number)
}

func (c *listings) put(number uint64, l *listing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m[number] != nil {
		return
	}
	c.m[number] = l
	c.names += len(l.entries)
	c.touch(number)
	for len(c.order) > 1 && (len(c.order) > maxListings || c.names > maxNames) {
		old := c.order[0]
		c.order = c.order[1:]
		c.names -= len(c.m[old].entries)
		delete(c.m, old)
	}
}
