package deploy

import (
	"context"
	"fmt"
	"io"
	"time"

	"mimeo/internal/imaging/fsmap"
	"mimeo/internal/imaging/manifest"
)

// renew prepares the volumes that were written for what the disk held before and still holds in their free space.
func (r *run) renew(ctx context.Context) error {
	w := window{ctx, r}
	volumes := fsmap.DiskOf(w, r.m.Volumes).Volumes
	for i, v := range r.m.Volumes {
		if v.Method != manifest.MethodUsed {
			continue
		}
		if err := fsmap.Renew(w, volumes, i, v.Type, time.Now()); err != nil {
			return fmt.Errorf("make the %s filesystem at offset %d fit for a disk that was in use: %w", v.Type, v.Off, err)
		}
	}
	return nil
}

// window is the disk, with what is kept back as if it were written.
type window struct {
	ctx context.Context // once it is done, nothing more is read or written
	r   *run
}

func (w window) ReadAt(b []byte, off int64) (int, error) {
	size := w.r.t.Size()
	if off < 0 || off >= size {
		return 0, io.EOF
	}
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	var end error
	if rest := size - off; int64(len(b)) > rest {
		b, end = b[:rest], io.EOF
	}
	if err := readFull(w.r.t, b, off); err != nil {
		return 0, err
	}
	w.r.head.give(b, off)
	w.r.tail.give(b, off)
	return len(b), end
}

func (w window) WriteAt(b []byte, off int64) (int, error) {
	if size := w.r.t.Size(); off < 0 || off > size || int64(len(b)) > size-off {
		return 0, fmt.Errorf("write %d bytes at offset %d of a disk of %d", len(b), off, size)
	}
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	if err := w.r.put(b, off); err != nil {
		return 0, err
	}
	return len(b), nil
}
