package dir

import (
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mimeo/internal/imaging/store/storetest"
)

// faultFS lets faults happen to another filesystem.
type faultFS struct {
	FS
	plan *storetest.Plan
}

// do lets a fault happen to a change.
func (f *faultFS) do(fn func() error) error {
	switch f.plan.Next(storetest.Refuse, storetest.Lose, storetest.Full) {
	case storetest.Refuse:
		return unix.EIO
	case storetest.Full:
		return unix.ENOSPC
	case storetest.Lose:
		if err := fn(); err != nil {
			return err
		}
		return unix.EIO
	}
	return fn()
}

// look lets a fault happen to what changes nothing.
func (f *faultFS) look(fn func() error) error {
	if f.plan.Next(storetest.Refuse) != storetest.None {
		return unix.EIO
	}
	return fn()
}

func (f *faultFS) Open(name string, write bool) (h File, err error) {
	err = f.look(func() (err error) { h, err = f.FS.Open(name, write); return err })
	return &faultFile{h, f}, err
}

func (f *faultFS) Create(name string) (h File, err error) {
	err = f.do(func() (err error) { h, err = f.FS.Create(name); return err })
	return &faultFile{h, f}, err
}

func (f *faultFS) Rename(from, to string, replace bool) error {
	return f.do(func() error { return f.FS.Rename(from, to, replace) })
}

func (f *faultFS) Remove(name string) error {
	return f.do(func() error { return f.FS.Remove(name) })
}

func (f *faultFS) Mkdir(name string) error { return f.do(func() error { return f.FS.Mkdir(name) }) }

func (f *faultFS) ReadDir(name string) (list []Entry, err error) {
	err = f.look(func() (err error) { list, err = f.FS.ReadDir(name); return err })
	return list, err
}

func (f *faultFS) SyncDir(name string) error {
	return f.do(func() error { return f.FS.SyncDir(name) })
}

func (f *faultFS) Lock(name string) (c io.Closer, err error) {
	err = f.look(func() (err error) { c, err = f.FS.Lock(name); return err })
	return c, err
}

type faultFile struct {
	File
	fs *faultFS
}

func (f *faultFile) ReadAt(b []byte, off int64) (int, error) {
	switch f.fs.plan.Next(storetest.Refuse, storetest.Shorten) {
	case storetest.Refuse:
		return 0, unix.EIO
	case storetest.Shorten:
		n, err := f.File.ReadAt(b[:len(b)/2], off)
		if err == nil {
			err = unix.EIO
		}
		return n, err
	}
	return f.File.ReadAt(b, off)
}

func (f *faultFile) WriteAt(b []byte, off int64) (int, error) {
	fault := f.fs.plan.Next(storetest.Refuse, storetest.Shorten, storetest.Lose, storetest.Full)
	switch fault {
	case storetest.None:
		return f.File.WriteAt(b, off)
	case storetest.Refuse:
		return 0, unix.EIO
	}
	part := b
	if fault != storetest.Lose {
		part = b[:len(b)/2]
	}
	n, err := f.File.WriteAt(part, off)
	if err == nil && fault == storetest.Full {
		err = unix.ENOSPC
	} else if err == nil {
		err = unix.EIO
	}
	return n, err
}

func (f *faultFile) Size() (n int64, err error) {
	err = f.fs.look(func() (err error) { n, err = f.File.Size(); return err })
	return n, err
}

func (f *faultFile) Truncate(size int64) error {
	return f.fs.do(func() error { return f.File.Truncate(size) })
}

func (f *faultFile) Sync() error { return f.fs.do(f.File.Sync) }

// TestFaults lets each call of the filesystem fail in a store's life, in a store of one pack and in one of many.
func TestFaults(t *testing.T) {
	place := func(t *testing.T, p *storetest.Plan) storetest.Place {
		f := &faultFS{newCrashFS(), p}
		var s *Store
		return storetest.Place{
			Open: func() (_ storetest.Pair, err error) {
				if s, err = openAs("store", Options{Create: true, PackSize: smallPack, FS: f}); err != nil {
					return storetest.Pair{}, err
				}
				return storetest.Pair{Writer: s, Publisher: s}, nil
			},
			Close: func() error { return s.Close() },
			Work:  func(ctx context.Context, name string) error { return work1(ctx, s, name) },
			Check: func(ctx context.Context) error { return work1(ctx, s, "check") },
		}
	}
	all := []storetest.Fault{storetest.Refuse, storetest.Shorten, storetest.Lose, storetest.Full}
	storetest.Faults(t, place, 1, 1, []string{"gc", "repair", "repack"}, all...)
	// What cannot be read again and again is damaged: a repair sets it aside.
	storetest.Faults(t, place, 4, 1, []string{"gc", "repack"}, all...)
}

// work1 goes over the whole store.
func work1(ctx context.Context, s *Store, name string) error {
	switch name {
	case "gc":
		r, err := s.GC(ctx, GCOptions{Grace: time.Nanosecond})
		if err == nil && len(r.Problems) > 0 {
			err = fmt.Errorf("%q", r.Problems)
		}
		return err
	case "repack":
		r, err := s.Repack(ctx, RepackOptions{Level: 1})
		if err == nil && len(r.Problems) > 0 {
			err = fmt.Errorf("%q", r.Problems)
		}
		return err
	case "repair":
		r, err := s.Repair(ctx, false, nil)
		if err == nil && (len(r.Revisions) > 0 || r.Lost > 0) {
			err = fmt.Errorf("%+v", r)
		}
		return err
	}
	r, err := s.Check(ctx, true, nil)
	if err == nil && !r.OK() {
		err = fmt.Errorf("%+v", r)
	}
	return err
}
