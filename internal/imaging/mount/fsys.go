package mount

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"mimeo/internal/imaging/browse"
	"mimeo/internal/imaging/fsmap/tree"
)

// fsys answers the kernel. Nothing that it shows ever changes, so that the kernel may keep what it was told.
//
// The number of a file says by itself which file it is: the volume in its highest bits, the inode below. So nothing is
// remembered of what the kernel has looked up, however many files that are.
type fsys struct {
	fuse.RawFileSystem // for what we do not do
	ctx                context.Context
	name               string
	say                func(format string, args ...any)

	nodes []*node // the one numbered 1 is the root
	vols  []*browse.Volume

	shift uint // where a number's volume begins
	shown []Shown
	uid   uint32
	gid   uint32
	begun time.Time

	dirs    *listings
	running sync.WaitGroup
	slots   chan struct{}

	mu      sync.Mutex
	handles map[uint64]any // *opened or *listing
	next    uint64
	said    map[string]bool
}

const (
	keep     = time.Hour       // how long the kernel may believe what it was told
	slots    = 16              // requests at work: each holds a buffer, and some chunks on their way into the cache
	patience = 2 * time.Second // of a request whose caller got a signal: most end by then, as if there had been none
	maxSaid  = 1000            // different problems that are told
	maxName  = 1024            // bytes of a file's name that the kernel takes
)

// String implements fuse.RawFileSystem.
func (s *fsys) String() string { return "mimeo" }

// problem is what could not be read.
type problem struct {
	what string
	err  error
}

func (p *problem) Error() string { return p.what + ": " + p.err.Error() }
func (p *problem) Unwrap() error { return p.err }

// log tells a problem once: a program that meets one often asks again.
func (s *fsys) log(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	s.mu.Lock()
	again := s.said[line] || len(s.said) > maxSaid
	s.said[line] = true
	last := len(s.said) == maxSaid
	s.mu.Unlock()
	if again {
		return
	}
	s.say("%s", line)
	if last {
		s.say("no more of what cannot be read is told from here on")
	}
}

// status is the error that a program gets, whose reason we tell.
func (s *fsys) status(err error) fuse.Status {
	var no syscall.Errno
	switch {
	case err == nil:
		return fuse.OK
	case errors.Is(err, tree.ErrNotFound):
		return fuse.ENOENT
	case errors.As(err, &no):
		return fuse.Status(no)
	case s.ctx.Err() != nil:
		return fuse.EIO // we are being taken down
	}
	s.log("%s: %v", s.name, err)
	return fuse.EIO
}

// ask does what may take long: a read from the store, or through a volume's metadata. Where the caller gets a signal
// meanwhile it need not wait for the end, which nobody looks at any more.
func ask[T any](s *fsys, cancel <-chan struct{}, fn func() (T, error)) (T, fuse.Status) {
	type answer struct {
		value T
		err   error
	}
	var none T
	select {
	case s.slots <- struct{}{}:
	case <-cancel:
		return none, fuse.EINTR
	case <-s.ctx.Done():
		return none, fuse.EIO
	}
	done := make(chan answer, 1)
	s.running.Add(1)
	go func() {
		defer s.running.Done()
		defer func() { <-s.slots }()
		var a answer
		defer func() { done <- a }()
		defer func() {
			if p := recover(); p != nil { // what a damaged filesystem has come to must not take the others down
				a.err = fmt.Errorf("a fault of this program: %v\n%s", p, debug.Stack())
			}
		}()
		a.value, a.err = fn()
	}()
	select {
	case a := <-done:
		return a.value, s.status(a.err)
	case <-cancel:
	}
	select {
	case a := <-done:
		return a.value, s.status(a.err)
	case <-time.After(patience):
		return none, fuse.EINTR
	}
}

// number returns the number of a volume's file.
func (s *fsys) number(vol int, inode uint64) (uint64, error) {
	if inode>>s.shift != 0 {
		return 0, &problem{s.where(vol), fmt.Errorf("inode number %d is too large to be shown", inode)}
	}
	return uint64(vol+1)<<s.shift | inode, nil
}

// split says which file a number is: a node of ours, or an inode of a volume.
func (s *fsys) split(number uint64) (own *node, vol int, inode uint64, err error) {
	vol = int(number>>s.shift) - 1
	inode = number & (1<<s.shift - 1)
	switch {
	case vol < 0 && number > 0 && number <= uint64(len(s.nodes)):
		return s.nodes[number-1], -1, 0, nil
	case vol < 0 || vol >= len(s.vols):
		return nil, 0, 0, syscall.ESTALE
	}
	return nil, vol, inode, nil
}

// where names a volume.
func (s *fsys) where(vol int) string {
	v := s.vols[vol]
	return strings.TrimSpace(fmt.Sprintf("partition %d %s", v.Partition, v.Name))
}

func (s *fsys) fail(vol int, inode uint64, what string, err error) error {
	return &problem{fmt.Sprintf("%s: %s inode %d", s.where(vol), what, inode), err}
}

// attributes fills what stat(2) shows.
func (s *fsys) attributes(number uint64) (a fuse.Attr, err error) {
	own, vol, inode, err := s.split(number)
	if err != nil {
		return a, err
	}
	a.Ino, a.Blksize = number, 64<<10
	if own != nil {
		a.Nlink, a.Owner = 1, fuse.Owner{Uid: s.uid, Gid: s.gid}
		a.SetTimes(&s.begun, &s.begun, &s.begun)
		a.Mode = syscall.S_IFDIR | 0o555
		if own.raw != nil {
			a.Mode, a.Size, a.Blocks = syscall.S_IFREG|0o400, uint64(own.raw.size), uint64(own.raw.stored+511)/512
		}
		return a, nil
	}
	f, err := s.vols[vol].File(inode)
	if err != nil {
		return a, s.fail(vol, inode, "look at", err)
	}
	a.Mode, a.Nlink, a.Owner = f.Mode, max(1, f.Links), fuse.Owner{Uid: f.UID, Gid: f.GID}
	a.SetTimes(&f.Modified, &f.Modified, &f.Modified)
	a.Size = uint64(max(0, f.Size))
	if f.Type() == tree.Link {
		a.Size = uint64(len(f.Target))
	}
	if f.Type() == tree.Regular {
		a.Blocks = uint64(max(0, f.Size-f.Holes)+511) / 512
	}
	a.Rdev = f.Device
	switch f.Type() {
	case tree.Pipe, tree.Char, tree.Dir, tree.Block, tree.Regular, tree.Link, tree.Socket:
		return a, nil
	}
	return a, s.fail(vol, inode, "look at", fmt.Errorf("it has the mode %o, which is no kind of file", f.Mode))
}

// Lookup implements fuse.RawFileSystem.
func (s *fsys) Lookup(cancel <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	dir := h.NodeId
	a, st := ask(s, cancel, func() (fuse.Attr, error) {
		number, err := s.child(dir, name)
		if err != nil {
			return fuse.Attr{}, err
		}
		return s.attributes(number)
	})
	if st != fuse.OK {
		return st
	}
	out.NodeId, out.Attr = a.Ino, a
	out.SetEntryTimeout(keep)
	out.SetAttrTimeout(keep)
	return fuse.OK
}

// child finds a name in a folder.
func (s *fsys) child(dir uint64, name string) (uint64, error) {
	own, _, _, err := s.split(dir)
	if err != nil {
		return 0, err
	}
	if own != nil {
		for _, c := range own.below {
			if c.name == name {
				return c.number, nil
			}
		}
		return 0, syscall.ENOENT
	}
	l := s.list(dir)
	if n, ok := l.find(name); ok {
		return n, nil
	}
	if l.err != nil {
		return 0, l.err
	}
	return 0, syscall.ENOENT
}

// GetAttr implements fuse.RawFileSystem.
func (s *fsys) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	number := in.NodeId
	a, st := ask(s, cancel, func() (fuse.Attr, error) { return s.attributes(number) })
	if st == fuse.OK {
		out.Attr = a
		out.SetTimeout(keep)
	}
	return st
}

// Readlink implements fuse.RawFileSystem.
func (s *fsys) Readlink(cancel <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	number := h.NodeId
	return ask(s, cancel, func() ([]byte, error) {
		own, vol, inode, err := s.split(number)
		if err != nil {
			return nil, err
		}
		if own != nil {
			return nil, syscall.EINVAL
		}
		f, err := s.vols[vol].File(inode)
		if err != nil {
			return nil, s.fail(vol, inode, "read the link", err)
		}
		if f.Type() != tree.Link {
			return nil, syscall.EINVAL
		}
		return []byte(f.Target), nil
	})
}

// StatFs implements fuse.RawFileSystem.
func (s *fsys) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	const block = 4096
	out.Bsize, out.Frsize, out.NameLen = block, block, maxName
	out.Blocks = uint64(s.nodes[1].raw.size) / block // disk.img
	return fuse.OK
}

// Forget implements fuse.RawFileSystem: there is nothing to forget.
func (s *fsys) Forget(uint64, uint64) {}
