package deploy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/manifest"
)

// Discarder is a Target that can be told which of its blocks nobody needs. An error that wraps errors.ErrUnsupported says that this
// disk cannot.
type Discarder interface {
	Discard(off, n int64) error
}

const (
	discardMin   = 128 << 10 // shorter stretches are not worth a command
	discardAlign = 4 << 10
	discardStep  = 1 << 30 // bounds how long a cancel waits
)

// discard tells the disk which of its blocks the image leaves free: all that lies in no entry of the manifest, up to the end of the
// disk. It comes before the partition table is written.
func (r *run) discard(ctx context.Context) error {
	d, ok := r.t.(Discarder)
	if !ok {
		r.cannotDiscard = true
		return nil
	}
	at := r.head.End()
	give := func(to int64) error {
		free := extent.List{{Off: at, Len: max(to-at, 0)}}
		if !r.moved() {
			free = extent.Subtract(free, set(r.tail.Extent))
		}
		for _, e := range free {
			off := (e.Off + discardAlign - 1) / discardAlign * discardAlign
			end := e.End() / discardAlign * discardAlign
			for end-off >= discardMin && !r.cannotDiscard {
				if err := ctx.Err(); err != nil {
					return err
				}
				n := min(end-off, discardStep)
				err := d.Discard(off, n)
				if errors.Is(err, errors.ErrUnsupported) {
					r.cannotDiscard = true
					break
				}
				if err != nil {
					return fmt.Errorf("discard %d bytes at offset %d of the disk: %w", n, off, err)
				}
				r.discarded.Add(n)
				off += n
			}
		}
		return nil
	}
	err := r.each(ctx, func(e manifest.Entry) error {
		if r.cannotDiscard {
			return nil
		}
		if err := give(min(e.Off, r.t.Size())); err != nil {
			return err
		}
		at = max(at, e.Off+e.Len)
		return nil
	})
	if err != nil {
		return err
	}
	return give(r.t.Size())
}

// Discard implements Discarder: a file loses the blocks, a block device is told by BLKDISCARD.
func (d Disk) Discard(off, n int64) error { return DiscardFile(d.File(), off, n) }

// DiscardFile gives back a range of a file or block device, whose content is lost. The error wraps errors.ErrUnsupported where it cannot.
func DiscardFile(f *os.File, off, n int64) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	cerr := conn.Control(func(fd uintptr) {
		if st.Mode()&os.ModeDevice == 0 {
			err = unix.Fallocate(int(fd), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
			return
		}
		r := [2]uint64{uint64(off), uint64(n)}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, unix.BLKDISCARD, uintptr(unsafe.Pointer(&r))); errno != 0 {
			err = errno
		}
	})
	if cerr != nil {
		return cerr
	}
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
	}
	return err
}
