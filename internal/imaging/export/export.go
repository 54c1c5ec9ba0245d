// Package export writes a captured disk as a file that other programs read.
package export

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/view"
)

// Progress takes how many bytes of the disk's content are written, and of how many.
type Progress func(done, total int64)

// maxRead bounds what is read of the disk at once.
const maxRead = 4 << 20

// sink takes the disk's content in ascending order, and then its end. What it is not given is zero.
type sink interface {
	io.WriterAt
	// Finish writes what comes last.
	Finish() error
}

// copyTo reads all of the disk that is not zero and gives it to the sink. Every chunk is checked against its name.
func copyTo(ctx context.Context, d *view.Disk, to sink, progress Progress) error {
	total, done := d.Manifest().Content.Used-d.Manifest().Content.Zero, int64(0)
	buf := make([]byte, maxRead)
	var run extent.Extent // that was not read yet
	flush := func() error {
		for run.Len > 0 {
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			b := buf[:min(run.Len, maxRead)]
			if _, err := d.ReadAt(b, run.Off); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			if _, err := to.WriteAt(b, run.Off); err != nil {
				return err
			}
			run.Off, run.Len = run.Off+int64(len(b)), run.Len-int64(len(b))
			if done += int64(len(b)); progress != nil {
				progress(done, total)
			}
		}
		return nil
	}
	err := d.Entries(0, d.Size(), func(e manifest.Entry) error {
		switch {
		case e.Zero:
			return nil
		case e.Off == run.End() && run.Len > 0 && run.Len+e.Len <= maxRead:
			run.Len += e.Len
			return nil
		}
		if err := flush(); err != nil {
			return err
		}
		run = extent.Extent{Off: e.Off, Len: e.Len}
		return nil
	})
	if err == nil {
		err = flush()
	}
	if err != nil {
		return err
	}
	return to.Finish()
}

// Raw writes the disk as it is; what is zero becomes holes.
func Raw(ctx context.Context, d *view.Disk, f *os.File, progress Progress) error {
	if err := f.Truncate(d.Size()); err != nil {
		return fmt.Errorf("make room for %d bytes: %w", d.Size(), err)
	}
	return copyTo(ctx, d, rawFile{f}, progress)
}

type rawFile struct{ *os.File }

func (rawFile) Finish() error { return nil }

// Stream writes the disk from its first byte to its last, zeros too.
func Stream(ctx context.Context, d *view.Disk, w io.Writer, progress Progress) error {
	return copyTo(ctx, d, &stream{w: w, size: d.Size()}, progress)
}

type stream struct {
	w         io.Writer
	pos, size int64
}

func (s *stream) WriteAt(b []byte, off int64) (int, error) {
	if err := s.zeros(off); err != nil {
		return 0, err
	}
	n, err := s.w.Write(b)
	s.pos += int64(n)
	return n, err
}

// zeros writes zeros up to an offset.
func (s *stream) zeros(to int64) error {
	zero := make([]byte, min(max(to-s.pos, 0), 1<<20))
	for s.pos < to {
		n, err := s.w.Write(zero[:min(to-s.pos, int64(len(zero)))])
		if s.pos += int64(n); err != nil {
			return err
		}
	}
	return nil
}

func (s *stream) Finish() error { return s.zeros(s.size) }

// ErrExists says that a file is there, and may not be written over.
var ErrExists = errors.New("it is there already")

// File makes a file by fn, under another name first: it has its name when it is whole and on the disk, and is not there
// after an error. One that is there is written over only with force, and stays as it was until then.
func File(path string, force bool, fn func(f *os.File) error) (err error) {
	if _, err := os.Lstat(path); err == nil && !force {
		return fmt.Errorf("%s: %w", path, ErrExists)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*.part")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}()
	if err := fn(f); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if force {
		err = os.Rename(f.Name(), path)
	} else if err = unix.Renameat2(unix.AT_FDCWD, f.Name(), unix.AT_FDCWD, path, unix.RENAME_NOREPLACE); errors.Is(err, unix.EEXIST) {
		err = fmt.Errorf("%s: %w", path, ErrExists)
	} else if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // some network filesystems cannot
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return syncDir(dir)
}

// Dir makes a folder by fn, as File makes a file. One that is there, empty or not, is never written over.
func Dir(path string, fn func(dir string) error) (err error) {
	path = filepath.Clean(path)
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s: %w", path, ErrExists)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(path)
	tmp, err := os.MkdirTemp(parent, "."+filepath.Base(path)+".*.part")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	if err := fn(tmp); err != nil {
		return err
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	if err := syncDir(tmp); err != nil {
		return err
	}
	err = unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EEXIST) {
		err = fmt.Errorf("%s: %w", path, ErrExists)
	} else if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // some network filesystems cannot
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return err
	}
	return syncDir(parent)
}

// syncDir makes the names in a folder durable, where its filesystem can.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}
