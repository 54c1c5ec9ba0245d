// Package mount shows a captured disk as a folder: the disk, its volumes and their files, read out of a store when they are
// looked at.
package mount

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"mimeo/internal/imaging/browse"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
)

// Options say how to mount.
type Options struct {
	Name       string // of the image, as messages and mount(8) have it: "rocky9@2"
	AllowOther bool   // other users of this machine may look, too, as far as the modes of the files let them
	Log        func(format string, args ...any)
}

// Mount is a captured disk that is mounted.
type Mount struct {
	Dir   string // absolute
	Size  int64  // bytes of the disk
	Shown []Shown

	fs     *fsys
	server *fuse.Server
	made   bool // the folder is ours
	ended  chan struct{}
	stop   context.CancelFunc
	log    func(format string, args ...any)
}

// Errors of Start.
var (
	ErrNoFuse    = errors.New("this system cannot mount in user space: /dev/fuse is missing or not for this user")
	ErrNoHelper  = errors.New("only root can mount without fusermount3")
	ErrNotEmpty  = errors.New("the folder is not empty")
	ErrNotFolder = errors.New("not a folder")
	ErrStale     = errors.New("a mount whose program has died is still there")
)

// Start mounts a captured disk at dir, which is made where it is missing. The image is read from the store while it is
// looked at, until ctx is done: call Wait.
func Start(ctx context.Context, from store.Reader, m *manifest.Manifest, dir string, o Options) (*Mount, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	if err := checkFuse(); err != nil {
		return nil, err
	}
	made, err := prepare(dir)
	if err != nil {
		return nil, err
	}
	// Reads go on while the mount is taken down: it waits for them.
	reads, stop := context.WithCancel(context.WithoutCancel(ctx))
	mnt := &Mount{Dir: dir, made: made, stop: stop, log: o.Log, ended: make(chan struct{})}
	fail := func(err error) (*Mount, error) {
		stop()
		mnt.cleanUp()
		return nil, err
	}
	opening := context.AfterFunc(ctx, stop)
	image, err := browse.Open(reads, from, m)
	if err != nil {
		return fail(err)
	}
	mnt.fs = newFsys(reads, o)
	if err := mnt.fs.layout(image); err != nil {
		return fail(err)
	}
	if !opening() {
		return fail(context.Cause(ctx))
	}
	mnt.Size, mnt.Shown = m.Disk.Size, mnt.fs.shown
	opts := &fuse.MountOptions{
		FsName: "mimeo:" + o.Name, Name: "mimeo", Options: []string{"ro"}, AllowOther: o.AllowOther,
		DirectMount: os.Geteuid() == 0, DirectMountFlags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_RDONLY,
		DisableReadDirPlus: true, EnableSymlinkCaching: true,
		Logger: log.New(logWriter(o.Log), "", 0),
	}
	if o.AllowOther {
		opts.Options = append(opts.Options, "default_permissions")
	}
	if mnt.server, err = fuse.NewServer(mnt.fs, dir, opts); err != nil {
		return fail(fmt.Errorf("mount at %s: %w", dir, err))
	}
	go func() {
		defer close(mnt.ended)
		mnt.server.Serve()
	}()
	if err := mnt.server.WaitMount(); err != nil {
		return fail(errors.Join(fmt.Errorf("mount at %s: %w", dir, err), detach(dir)))
	}
	return mnt, nil
}

// Wait returns when the mount has been taken down: by somebody, or here when ctx is done. Where it is in use then, it is
// detached: it is gone for all that do not have it open, and what these still read fails when this program ends.
func (m *Mount) Wait(ctx context.Context) error {
	select {
	case <-m.ended:
		m.finish()
		return nil
	case <-ctx.Done():
	}
	return m.Close()
}

// Close takes the mount down, as Wait does.
func (m *Mount) Close() error {
	err := m.unmount()
	if errors.Is(err, unix.EBUSY) {
		if err = detach(m.Dir); err == nil {
			m.log("%s was in use and is detached: what is still open there fails when this program ends", m.Dir)
		}
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", m.Dir, err)
	}
	select {
	case <-m.ended:
		m.finish()
	case <-time.After(farewell):
		// Somebody has a file open, or was given a copy of the mount with a namespace of mounts: the kernel keeps it for them.
		m.stop()
		m.cleanUp()
	}
	return nil
}

// farewell is how long the kernel may take to let go of what is not in use any more.
const farewell = 2 * time.Second

// unmount takes the mount out of sight where nobody uses it. Programs that have just ended may still be about to let go.
func (m *Mount) unmount() (err error) {
	for wait := 5 * time.Millisecond; wait < time.Second; wait *= 2 {
		if os.Geteuid() == 0 {
			err = unix.Unmount(m.Dir, 0)
		} else if err = exec.Command("fusermount3", "-u", m.Dir).Run(); err != nil {
			err = fmt.Errorf("fusermount3: %w: %w", err, unix.EBUSY)
		}
		if !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(wait)
	}
	if errors.Is(err, unix.EINVAL) {
		err = nil // somebody was quicker
	}
	return err
}

func (m *Mount) finish() {
	m.stop()
	m.fs.running.Wait()
	m.cleanUp()
}

func (m *Mount) cleanUp() {
	if m.made {
		os.Remove(m.Dir)
	}
}

// detach takes a mount that is in use out of sight.
func detach(dir string) error {
	if os.Geteuid() == 0 {
		return unix.Unmount(dir, unix.MNT_DETACH)
	}
	return exec.Command("fusermount3", "-u", "-z", dir).Run()
}

func checkFuse() error {
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoFuse, err)
	}
	f.Close()
	if os.Geteuid() != 0 {
		if _, err := exec.LookPath("fusermount3"); err != nil {
			return ErrNoHelper
		}
	}
	return nil
}

// prepare sees to the folder, and tells whether it made it.
func prepare(dir string) (made bool, err error) {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, unix.ENOTCONN):
		return false, fmt.Errorf("%s: %w", dir, ErrStale)
	case errors.Is(err, os.ErrNotExist):
		return true, os.Mkdir(dir, 0o700)
	case err != nil:
		return false, err
	case !info.IsDir():
		return false, fmt.Errorf("%s: %w", dir, ErrNotFolder)
	}
	list, err := os.ReadDir(dir)
	if err == nil && len(list) > 0 {
		err = fmt.Errorf("%s: %w", dir, ErrNotEmpty)
	}
	return false, err
}

// logWriter makes lines of a log.Logger ours.
type logWriter func(format string, args ...any)

func (w logWriter) Write(b []byte) (int, error) {
	w("%s", trimLine(b))
	return len(b), nil
}

func trimLine(b []byte) string {
	for len(b) > 0 && b[len(b)-1] == '\n' {
		b = b[:len(b)-1]
	}
	return string(b)
}
