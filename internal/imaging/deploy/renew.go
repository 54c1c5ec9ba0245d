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
	for _, v := range r.m.Volumes {
		if v.Method != manifest.MethodUsed {
			continue
		}
		w := window{ctx, r, v.Off, v.Len}
		if err := fsmap.Renew(w, v.Len, v.Type, time.Now()); err != nil {
			return fmt.Errorf("make the %s filesystem at offset %d fit for a disk that was in use: %w", v.Type, v.Off, err)
		}
	}
	return nil
}

// window is a volume of the disk, with what is kept back as if it were written.
type window struct {
	ctx    context.Context // once it is done, nothing more is written
	r      *run
	off, n int64
}

func (w window) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 || off >= w.n {
		return 0, io.EOF
	}
	var end error
	if rest := w.n - off; int64(len(b)) > rest {
		b, end = b[:rest], io.EOF
	}
	if err := readFull(w.r.t, b, w.off+off); err != nil {
		return 0, err
	}
	w.r.head.give(b, w.off+off)
	w.r.tail.give(b, w.off+off)
	return len(b), end
}

func (w window) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 || off > w.n || int64(len(b)) > w.n-off {
		return 0, fmt.Errorf("write %d bytes at offset %d of a volume of %d", len(b), off, w.n)
	}
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	if err := w.r.put(b, w.off+off); err != nil {
		return 0, err
	}
	return len(b), nil
}
