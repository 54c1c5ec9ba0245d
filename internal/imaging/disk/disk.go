// Package disk opens a block device or image file, reads and writes its partition table.
package disk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"mimeo/internal/imaging/manifest"
)

// Options say how to open a disk. The zero value is right for block devices.
type Options struct {
	// SectorSize is the logical sector size of an image file in bytes: a power of two from 512 to 4096. 0 means what
	// the file's GPT was made for, 512 where it has none. A block device knows its own.
	SectorSize int
}

// Disk is an open block device or image file. Its methods may be called from several goroutines.
type Disk struct {
	f     *os.File
	info  manifest.Disk
	block bool
}

// Open opens a block device or image file for reading. Others may use and even change it at the same time: ask InUse.
func Open(path string, o Options) (*Disk, error) { return open(path, os.O_RDONLY, o) }

// OpenExclusive opens a block device or image file for reading and writing. A disk that is in use is refused with an
// *InUseError, and while it is open nobody can mount it or its partitions (a block device), or start a virtual machine
// on it (an image file, where the machine's program locks its images as QEMU does).
func OpenExclusive(path string, o Options) (*Disk, error) {
	if err := InUse(path); err != nil {
		return nil, err
	}
	d, err := open(path, os.O_RDWR|os.O_EXCL, o)
	if errors.Is(err, unix.EBUSY) {
		return nil, &InUseError{Path: path, By: "something else in the kernel"}
	}
	if err != nil || d.block {
		return d, err
	}
	// Locks of the open file description, as in QEMU: those of other opens of the file stand against them, also ours.
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(d.f.Fd(), unix.F_OFD_SETLK, &lock); errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		d.Close()
		return nil, &InUseError{Path: path, By: "another program, which holds a lock on it"}
	} else if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOLCK) {
		d.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return d, nil
}

func open(path string, flag int, o Options) (d *Disk, err error) {
	if s := o.SectorSize; s != 0 && !goodSector(s) {
		return nil, fmt.Errorf("sector size %d: want a power of two from 512 to 4096", s)
	}
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	block := st.Mode()&os.ModeDevice != 0 && st.Mode()&os.ModeCharDevice == 0
	switch {
	case block:
	case st.Mode().IsRegular():
		flag &^= os.O_EXCL // has a meaning without O_CREATE for block devices only
	default:
		return nil, fmt.Errorf("%s is neither a block device nor an image file", path)
	}
	f, err := os.OpenFile(path, flag, 0)
	if err != nil {
		return nil, err
	}
	d = &Disk{f: f, block: block}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if block {
		err = d.askKernel()
	} else {
		err = d.askFile(o)
	}
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", path, err)
	}
	if d.info.Size <= 0 {
		return nil, fmt.Errorf("%s is empty: no medium, or a file of no length", path)
	}
	return d, nil
}

func goodSector(n int) bool { return n >= 512 && n <= 4096 && n&(n-1) == 0 }

// askKernel fills in what the kernel knows of a block device.
func (d *Disk) askKernel() error {
	var size uint64
	if err := d.ioctl(unix.BLKGETSIZE64, unsafe.Pointer(&size)); err != nil {
		return fmt.Errorf("ask for its size: %w", err)
	}
	var logical, physical int32
	if err := d.ioctl(unix.BLKSSZGET, unsafe.Pointer(&logical)); err != nil {
		return fmt.Errorf("ask for its sector size: %w", err)
	}
	if err := d.ioctl(unix.BLKPBSZGET, unsafe.Pointer(&physical)); err != nil || physical < logical {
		physical = logical // kernels before 2.6.32 do not tell
	}
	if !goodSector(int(logical)) {
		return fmt.Errorf("sectors of %d bytes are not supported", logical)
	}
	d.info = manifest.Disk{Size: int64(size), SectorSize: int(logical), PhysicalSector: int(physical)}
	st, err := d.f.Stat()
	if err != nil {
		return err
	}
	d.info.Model, d.info.Serial, d.info.WWN = identity(rdev(st))
	return nil
}

func (d *Disk) askFile(o Options) error {
	st, err := d.f.Stat()
	if err != nil {
		return err
	}
	sector := o.SectorSize
	if sector == 0 {
		sector = 512
		for _, s := range []int{512, 4096, 2048, 1024} {
			if hasGPTMagic(d.f, s) {
				sector = s
				break
			}
		}
	}
	d.info = manifest.Disk{Size: st.Size(), SectorSize: sector}
	return nil
}

func (d *Disk) ioctl(req uint, arg unsafe.Pointer) error {
	conn, err := d.f.SyscallConn()
	if err != nil {
		return err
	}
	var errno unix.Errno
	if err := conn.Control(func(fd uintptr) {
		_, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, uintptr(req), uintptr(arg))
	}); err != nil {
		return err
	}
	if errno != 0 {
		return errno
	}
	return nil
}

// Path returns the path that the disk was opened by.
func (d *Disk) Path() string { return d.f.Name() }

// Size returns the disk's bytes.
func (d *Disk) Size() int64 { return d.info.Size }

// SectorSize returns the bytes of a logical sector.
func (d *Disk) SectorSize() int { return d.info.SectorSize }

// Info returns the disk's geometry and identity. An image file has no identity.
func (d *Disk) Info() manifest.Disk { return d.info }

// IsBlock tells a block device from an image file.
func (d *Disk) IsBlock() bool { return d.block }

// File returns the open file, which stays the disk's: it must not be closed.
func (d *Disk) File() *os.File { return d.f }

// ReadAt reads as io.ReaderAt says. Reads past Size give io.EOF.
func (d *Disk) ReadAt(b []byte, off int64) (int, error) {
	if off >= d.info.Size {
		return 0, io.EOF
	}
	return d.f.ReadAt(b, off)
}

// WriteAt writes as io.WriterAt says, and refuses to write past Size: an image file does not get longer.
func (d *Disk) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 || int64(len(b)) > d.info.Size-off {
		return 0, fmt.Errorf("write %d bytes at offset %d of %s: it has %d", len(b), off, d.Path(), d.info.Size)
	}
	return d.f.WriteAt(b, off)
}

// Sync makes all that was written durable.
func (d *Disk) Sync() error { return d.f.Sync() }

// Close closes the disk; what was written since the last Sync may not be durable.
func (d *Disk) Close() error { return d.f.Close() }

// Reread makes the kernel look at the partition table again. It does nothing on an image file, and on a device that
// cannot have partitions.
func (d *Disk) Reread() error {
	if !d.block {
		return nil
	}
	err := d.ioctl(unix.BLKRRPART, nil)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTTY) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the partition table of %s again: %w", d.Path(), err)
	}
	return nil
}
