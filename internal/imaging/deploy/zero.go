package deploy

import (
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"mimeo/internal/imaging/chunk"
)

// zeroBlock is how much of a block device is looked at before zeros are written to it.
const zeroBlock = 1 << 20

var zeros [zeroBlock]byte

// ZeroFile makes a range of a file or block device read as zeros. In a file it punches a hole, so that a sparse file
// stays one. On a block device it writes only what is not zero yet, and leaves large ranges to the device itself where
// the kernel can ask it to.
func ZeroFile(f *os.File, off, n int64) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.Mode()&os.ModeDevice != 0 {
		return zeroDevice(f, off, n)
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	cerr := conn.Control(func(fd uintptr) {
		err = unix.Fallocate(int(fd), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	})
	if cerr != nil {
		return cerr
	}
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return zeroPieces(f, off, n, func(off, n int64) error { return errors.ErrUnsupported })
	}
	if err != nil {
		return fmt.Errorf("punch a hole: %w", err)
	}
	return nil
}

func zeroDevice(f *os.File, off, n int64) error {
	return zeroPieces(f, off, n, func(off, n int64) error { return blkZeroOut(f, off, n) })
}

// zeroPieces looks at the range piece by piece, and zeroes those that are not zero: with quick, or, where that is not
// supported, by writing.
func zeroPieces(f *os.File, off, n int64, quick func(off, n int64) error) error {
	buf := make([]byte, min(n, zeroBlock))
	for n > 0 {
		b := buf[:min(n, zeroBlock)]
		if m, err := f.ReadAt(b, off); m < len(b) && err != nil && !errors.Is(err, io.EOF) {
			return err
		} else if m < len(b) || !chunk.IsZero(b) {
			err := quick(off, int64(len(b)))
			if errors.Is(err, errors.ErrUnsupported) {
				_, err = f.WriteAt(zeros[:len(b)], off)
			}
			if err != nil {
				return err
			}
		}
		off, n = off+int64(len(b)), n-int64(len(b))
	}
	return nil
}

// blkZeroOut asks the kernel to zero a range of a block device, and says errors.ErrUnsupported where it would refuse:
// BLKZEROOUT takes whole sectors only.
func blkZeroOut(f *os.File, off, n int64) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var errno unix.Errno
	cerr := conn.Control(func(fd uintptr) {
		sector, serr := unix.IoctlGetInt(int(fd), unix.BLKSSZGET)
		if serr != nil || sector <= 0 || off%int64(sector) != 0 || n%int64(sector) != 0 {
			errno = unix.ENOTSUP
			return
		}
		r := [2]uint64{uint64(off), uint64(n)}
		_, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, unix.BLKZEROOUT, uintptr(unsafe.Pointer(&r)))
	})
	switch {
	case cerr != nil:
		return cerr
	case errno == unix.EOPNOTSUPP || errno == unix.ENOTTY || errno == unix.EINVAL:
		return errors.ErrUnsupported
	case errno != 0:
		return fmt.Errorf("zero %d bytes at offset %d: %w", n, off, errno)
	}
	return nil
}
