// Package blockfile shows bytes as a file, by FUSE, so that programs of the system can work on what is no file of its own.
package blockfile

import (
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Bytes are what the file holds. Reads and writes come from several goroutines at once, and never past the size.
type Bytes interface {
	io.ReaderAt
	io.WriterAt
}

// File is a file of a fixed size. Its path is valid until Close.
type File struct {
	Path string

	dir    string
	server *fuse.Server
	fs     *fsys
	ended  chan struct{}
}

// ErrNoFuse says that the kernel or its device for filesystems of programs is missing.
var ErrNoFuse = errors.New("no file can be made of a part of a disk: /dev/fuse is missing")

// Start shows b, of size bytes, as a file that this user may read and write. A truncation changes nothing: the tools of
// filesystems cut an image file when they have made what is on it smaller. The caller closes it.
func Start(b Bytes, size int64) (*File, error) {
	if _, err := os.Stat("/dev/fuse"); err != nil {
		exec.Command("modprobe", "fuse").Run() // where it fails the device stays missing
		if _, err := os.Stat("/dev/fuse"); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoFuse, err)
		}
	}
	dir, err := os.MkdirTemp("", "mimeo-block-")
	if err != nil {
		return nil, err
	}
	f := &File{Path: filepath.Join(dir, name), dir: dir, ended: make(chan struct{}), fs: &fsys{RawFileSystem: fuse.NewDefaultRawFileSystem(), b: b, size: size}}
	f.server, err = fuse.NewServer(f.fs, dir, &fuse.MountOptions{
		FsName: "mimeo-block", Name: "mimeo", MaxWrite: 1 << 20, DisableXAttrs: true, DisableReadDirPlus: true,
		DirectMount: os.Geteuid() == 0, DirectMountFlags: unix.MS_NOSUID | unix.MS_NODEV,
		Logger: log.New(io.Discard, "", 0),
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("mount at %s: %w", dir, err), os.Remove(dir))
	}
	go func() {
		defer close(f.ended)
		f.server.Serve()
	}()
	if err := f.server.WaitMount(); err != nil {
		return nil, errors.Join(fmt.Errorf("mount at %s: %w", dir, err), f.Close())
	}
	return f, nil
}

// Err returns the first error of a read or write, which programs only know as EIO.
func (f *File) Err() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	return f.fs.err
}

// Close takes the file away. It waits for who has just closed it; one who keeps it open is cut off.
func (f *File) Close() error {
	var err error
	for try := range 50 {
		if err = f.server.Unmount(); err == nil || try == 49 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil {
		if err = unix.Unmount(f.dir, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", f.dir, err)
		}
	}
	select {
	case <-f.ended:
	case <-time.After(5 * time.Second):
		return fmt.Errorf("%s is still in use", f.Path)
	}
	return os.Remove(f.dir)
}

// The folder has one file.
const (
	name   = "volume"
	rootID = fuse.FUSE_ROOT_ID
	fileID = rootID + 1
)

type fsys struct {
	fuse.RawFileSystem
	b    Bytes
	size int64

	mu  sync.Mutex
	err error
}

// String implements fuse.RawFileSystem.
func (s *fsys) String() string { return "mimeo-block" }

func (s *fsys) fail(err error) fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	var no syscall.Errno
	if errors.As(err, &no) {
		return fuse.Status(no)
	}
	return fuse.EIO
}

func (s *fsys) attr(id uint64, a *fuse.Attr) {
	a.Ino, a.Nlink, a.Blksize = id, 1, 4096
	a.Owner = fuse.Owner{Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid())}
	if id == rootID {
		a.Mode = syscall.S_IFDIR | 0o700
		return
	}
	a.Mode, a.Size, a.Blocks = syscall.S_IFREG|0o600, uint64(s.size), uint64(s.size)/512
}

// Lookup implements fuse.RawFileSystem.
func (s *fsys) Lookup(_ <-chan struct{}, h *fuse.InHeader, what string, out *fuse.EntryOut) fuse.Status {
	if h.NodeId != rootID || what != name {
		return fuse.ENOENT
	}
	out.NodeId = fileID
	out.SetEntryTimeout(time.Hour)
	out.SetAttrTimeout(time.Hour)
	s.attr(fileID, &out.Attr)
	return fuse.OK
}

// GetAttr implements fuse.RawFileSystem.
func (s *fsys) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.SetTimeout(time.Hour)
	s.attr(in.NodeId, &out.Attr)
	return fuse.OK
}

// SetAttr implements fuse.RawFileSystem: the size stays, and so does all else.
func (s *fsys) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	s.attr(in.NodeId, &out.Attr)
	return fuse.OK
}

// Open implements fuse.RawFileSystem. The kernel keeps nothing of what is read and written: all is asked of us.
func (s *fsys) Open(_ <-chan struct{}, _ *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	out.OpenFlags = fuse.FOPEN_DIRECT_IO
	return fuse.OK
}

// Read implements fuse.RawFileSystem.
func (s *fsys) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	off := int64(in.Offset)
	if off < 0 || off >= s.size {
		return fuse.ReadResultData(nil), fuse.OK
	}
	buf = buf[:min(int64(len(buf)), int64(in.Size), s.size-off)]
	if n, err := s.b.ReadAt(buf, off); n < len(buf) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, s.fail(fmt.Errorf("read %d bytes at offset %d: %w", len(buf), off, err))
	}
	return fuse.ReadResultData(buf), fuse.OK
}

// Write implements fuse.RawFileSystem.
func (s *fsys) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	off := int64(in.Offset)
	if off < 0 || off > s.size || int64(len(data)) > s.size-off {
		return 0, fuse.Status(syscall.ENOSPC)
	}
	if _, err := s.b.WriteAt(data, off); err != nil {
		return 0, s.fail(fmt.Errorf("write %d bytes at offset %d: %w", len(data), off, err))
	}
	return uint32(len(data)), fuse.OK
}

// Flush implements fuse.RawFileSystem.
func (s *fsys) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.OK }

// Fsync implements fuse.RawFileSystem: what the bytes lie on is its owner's to sync.
func (s *fsys) Fsync(<-chan struct{}, *fuse.FsyncIn) fuse.Status { return fuse.OK }
