package console

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"mimeo/internal/cluster/transcript"
)

// Names in a node's folder: current is being written; the others are named by when they were closed, in UTC.
const (
	current   = "current"
	oldLayout = "20060102T150405.000000Z"
	gz        = ".gz"
)

// logFile is the log of one node's console. One goroutine uses it.
type logFile struct {
	dir  string
	max  int64 // bytes after which a new file is begun
	keep int   // old files
	f    *os.File
	size int64
	pack sync.WaitGroup
	fail func(error) // of what is done in the background
}

// openLog goes on with a node's log. The end of a record that was cut off, as by a power cut, is removed.
func openLog(dir string, max int64, keep int, fail func(error)) (*logFile, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("console log: %w", err)
	}
	l := &logFile{dir: dir, max: max, keep: keep, fail: fail}
	f, err := os.OpenFile(filepath.Join(dir, current), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("console log: %w", err)
	}
	l.f = f
	r := transcript.NewReader(f)
	for err == nil {
		_, err = r.Next()
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, transcript.ErrBroken) {
		f.Close()
		return nil, fmt.Errorf("console log %s: %w", f.Name(), err)
	}
	st, err := f.Stat()
	if err == nil && r.Offset() == 0 && st.Size() > 64 { // not ours, or of a later version: it is kept, and left alone
		err = l.rotate()
	} else if err == nil {
		if err = f.Truncate(r.Offset()); err == nil {
			_, err = f.Seek(r.Offset(), io.SeekStart)
		}
		if l.size = r.Offset(); err == nil && l.size == 0 {
			err = l.write(transcript.AppendHeader(nil))
		}
	}
	if err != nil {
		l.close()
		return nil, fmt.Errorf("console log: %w", err)
	}
	return l, nil
}

func (l *logFile) write(b []byte) error {
	n, err := l.f.Write(b)
	l.size += int64(n)
	if err != nil && n > 0 { // half a record would hide what follows
		if l.f.Truncate(l.size-int64(n)) == nil {
			l.size, _ = l.f.Seek(0, io.SeekEnd)
		}
	}
	return err
}

// add writes a record.
func (l *logFile) add(r transcript.Record) error {
	if l.size >= l.max {
		if err := l.rotate(); err != nil {
			return fmt.Errorf("console log: %w", err)
		}
	}
	if err := l.write(r.Append(nil)); err != nil {
		return fmt.Errorf("console log: %w", err)
	}
	return nil
}

// rotate begins a new file. The old one is compressed in the background.
func (l *logFile) rotate() error {
	l.pack.Wait() // of the last time
	old := filepath.Join(l.dir, time.Now().UTC().Format(oldLayout))
	if err := os.Rename(filepath.Join(l.dir, current), old); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(l.dir, current), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return errors.Join(err, os.Rename(old, filepath.Join(l.dir, current)))
	}
	l.f.Close()
	l.f, l.size = f, 0
	l.pack.Go(func() {
		if err := tidy(l.dir, l.keep); err != nil {
			l.fail(err)
		}
	})
	return l.write(transcript.AppendHeader(nil))
}

func (l *logFile) close() {
	l.pack.Wait()
	l.f.Close()
}

// tidy compresses old files and removes those that are too many.
func tidy(dir string, keep int) error {
	names, err := oldFiles(dir)
	if err != nil {
		return err
	}
	for len(names) > keep {
		if err := os.Remove(filepath.Join(dir, names[0])); err != nil {
			return err
		}
		names = names[1:]
	}
	for _, name := range names {
		if !strings.HasSuffix(name, gz) {
			if err := compress(filepath.Join(dir, name)); err != nil {
				return fmt.Errorf("compress console log: %w", err)
			}
		}
	}
	return nil
}

func compress(path string) (err error) {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	part := path + ".part"
	out, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	z := gzip.NewWriter(out)
	_, err = io.Copy(z, in)
	if err = errors.Join(err, z.Close(), out.Sync(), out.Close()); err != nil {
		os.Remove(part)
		return err
	}
	if err := os.Rename(part, path+gz); err != nil {
		return err
	}
	return os.Remove(path)
}

// oldFiles lists the files that were closed, oldest first. Where a file is there twice, as after a power cut between
// its compression and its removal, the compressed one counts.
func oldFiles(dir string) (names []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if _, err := time.Parse(oldLayout, strings.TrimSuffix(e.Name(), gz)); err == nil {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return slices.DeleteFunc(names, func(n string) bool { return slices.Contains(names, n+gz) }), nil
}

// ReadLog calls fn with the records of a node's log that are not older than since, oldest first. Files that are damaged
// are read as far as they are good; fn gets a note of it. A folder that is not there is an empty log.
func ReadLog(ctx context.Context, dir string, since time.Time, fn func(transcript.Record) error) error {
	// The newest file first, while it has that name: it may be closed before the older ones are read.
	f, err := os.Open(filepath.Join(dir, current))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("console log: %w", err)
	}
	defer f.Close()
	opened := time.Now()
	newest, err := f.Stat()
	if err != nil {
		return fmt.Errorf("console log: %w", err)
	}
	names, err := oldFiles(dir)
	if err != nil {
		return fmt.Errorf("console log: %w", err)
	}
	for _, name := range names {
		end, err := time.Parse(oldLayout, strings.TrimSuffix(name, gz))
		if err != nil || end.Before(since) || end.After(opened) {
			continue
		}
		if err := readOld(ctx, filepath.Join(dir, name), newest, since, fn); err != nil {
			return err
		}
	}
	return read(ctx, f, current, since, fn)
}

// readOld reads a file that was closed, unless it is the one that was the newest just before.
func readOld(ctx context.Context, path string, newest os.FileInfo, since time.Time, fn func(transcript.Record) error) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) && !strings.HasSuffix(path, gz) {
		path += gz // compressed meanwhile
		f, err = os.Open(path)
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil // removed meanwhile
	}
	if err != nil {
		return fmt.Errorf("console log: %w", err)
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && os.SameFile(st, newest) {
		return nil
	}
	if !strings.HasSuffix(path, gz) {
		return read(ctx, f, path, since, fn)
	}
	z, err := gzip.NewReader(bufio.NewReader(f))
	if err != nil {
		return fn(damaged(path, since, err))
	}
	return read(ctx, z, path, since, fn)
}

func read(ctx context.Context, in io.Reader, path string, since time.Time, fn func(transcript.Record) error) error {
	last := since
	for r := transcript.NewReader(in); ; {
		rec, err := r.Next()
		switch {
		case errors.Is(err, io.EOF), err != nil && path == current:
			return nil // a record that is being written just now
		case err != nil:
			return fn(damaged(path, last, err))
		case ctx.Err() != nil:
			return ctx.Err()
		}
		last = rec.Time
		if rec.Time.Before(since) {
			continue
		}
		if err := fn(rec); err != nil {
			return err
		}
	}
}

func damaged(path string, when time.Time, err error) transcript.Record {
	return transcript.Record{Kind: transcript.Note, Time: when, Data: fmt.Appendf(nil, "the log file %s is damaged: %v", filepath.Base(path), err)}
}

// tail returns the node's last n bytes in its log.
func tail(dir string, n int) (out []byte) {
	f, err := os.Open(filepath.Join(dir, current))
	if err != nil {
		return nil
	}
	defer f.Close()
	read(context.Background(), f, current, time.Time{}, func(r transcript.Record) error {
		if r.Kind == transcript.Output {
			if out = append(out, r.Data...); len(out) > 4*n {
				out = append(out[:0], out[len(out)-n:]...)
			}
		}
		return nil
	})
	return out[max(0, len(out)-n):]
}
