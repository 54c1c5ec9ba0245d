package erase

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	ends       = 1 << 20 // bytes at both ends of a disk, where partition tables and their copies are
	step       = 4 << 20 // bytes of one write or read
	discarding = 1 << 30 // bytes of one discard
	sampleSize = 64 << 10
	sampleMost = 1024
)

var zeros [step]byte

// ioctl calls a driver with a pointer.
func (d *Disk) ioctl(req uint, arg unsafe.Pointer) error {
	conn, err := d.File().SyscallConn()
	if err != nil {
		return err
	}
	var errno unix.Errno
	if err := conn.Control(func(fd uintptr) { _, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, uintptr(req), uintptr(arg)) }); err != nil {
		return err
	}
	if errno != 0 {
		return errno
	}
	return nil
}

// Tables zeroes both ends of the disk, so that nothing boots from it and no partition is found, whatever comes after.
func (d *Disk) Tables(ctx context.Context) error {
	for _, off := range []int64{0, max(d.Size()-ends, 0)} {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if _, err := d.WriteAt(zeros[:min(ends, d.Size())], off); err != nil {
			return fmt.Errorf("disk %s: zero its partition tables: %w", d.name, err)
		}
	}
	if err := errors.Join(d.Sync(), d.forget()); err != nil {
		return fmt.Errorf("disk %s: zero its partition tables: %w", d.name, err)
	}
	b := make([]byte, min(ends, d.Size()))
	for _, off := range []int64{0, max(d.Size()-ends, 0)} {
		if _, err := d.ReadAt(b, off); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("disk %s: read its first blocks back: %w", d.name, err)
		}
		if i := notZero(b); i >= 0 {
			return fmt.Errorf("disk %s: zeros were written to its partition table and are not there (byte %d): the disk does not keep what is written", d.name, off+int64(i))
		}
	}
	d.Reread() // the kernel's partitions go; where that fails, they stay until the reboot
	return nil
}

// forget drops what the kernel remembers of the disk, so that it is read itself.
func (d *Disk) forget() error {
	if err := d.Sync(); err != nil {
		return err
	}
	if d.IsBlock() {
		return d.ioctl(unix.BLKFLSBUF, nil)
	}
	return unix.Fadvise(int(d.File().Fd()), 0, 0, unix.FADV_DONTNEED)
}

func notZero(b []byte) int {
	for i := 0; i < len(b); i += 4096 {
		part := b[i:min(i+4096, len(b))]
		if string(part) != string(zeros[:len(part)]) {
			for j, c := range part {
				if c != 0 {
					return i + j
				}
			}
		}
	}
	return -1
}

// zero is the way that every disk has.
func (d *Disk) zero() way {
	return way{method: Zero, what: "zeros written to every block", whole: true, zeros: true, run: func(ctx context.Context, p *pace) error {
		const settle = 256 << 20 // bytes that may wait in memory
		for off := int64(0); off < d.Size(); {
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			n := min(step, d.Size()-off)
			if _, err := d.WriteAt(zeros[:n], off); err != nil {
				return fmt.Errorf("write at byte %d: %w", off, err)
			}
			off += n
			if off%settle == 0 {
				if err := d.Sync(); err != nil {
					return fmt.Errorf("write before byte %d: %w", off, err)
				}
			}
			p.at(off)
		}
		return d.Sync()
	}}
}

// discard finds whether discarded blocks read as zeros, by the word of the disk itself or of the kernel's driver.
func (d *Disk) discard() (way, error) {
	w := way{method: Discard, zeros: true}
	says, err := d.saysZeros()
	if err == nil {
		w.what = "all blocks discarded; " + says
		w.run = func(ctx context.Context, p *pace) error { return d.ranges(ctx, p, d.blkDiscard) }
		return w, nil
	}
	if perr := d.probePunch(); perr != nil {
		return w, fmt.Errorf("discard: %w; %w", err, perr)
	}
	w.what = "all blocks given back and read as zeros, as the driver promises (write zeroes with unmap)"
	w.run = func(ctx context.Context, p *pace) error { return d.ranges(ctx, p, d.punch) }
	return w, nil
}

// saysZeros tells whether the disk itself says that what was discarded reads as zeros.
func (d *Disk) saysZeros() (string, error) {
	if !d.IsBlock() {
		return "", errors.New("an image file has holes instead")
	}
	switch d.bus {
	case "nvme":
		return d.nvmeZeros()
	case "sata":
		return d.ataZeros()
	case "scsi":
		return d.scsiZeros()
	}
	return "", fmt.Errorf("a disk on %q does not say what discarded blocks read as", d.bus)
}

func (d *Disk) ranges(ctx context.Context, p *pace, f func(off, n int64) error) error {
	for off := int64(0); off < d.Size(); {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		n := min(discarding, d.Size()-off)
		if err := f(off, n); err != nil {
			return fmt.Errorf("at byte %d: %w", off, err)
		}
		off += n
		p.at(off)
	}
	return d.Sync()
}

func (d *Disk) blkDiscard(off, n int64) error {
	r := [2]uint64{uint64(off), uint64(n)}
	return d.ioctl(unix.BLKDISCARD, unsafe.Pointer(&r))
}

// punch makes a range read as zeros without writing it. On a block device the kernel does so only where the driver can
// promise it (blkdev_fallocate, BLKDEV_ZERO_NOFALLBACK); else it refuses.
func (d *Disk) punch(off, n int64) error {
	return unix.Fallocate(int(d.File().Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}

// probePunch asks without changing anything: a range of no length is refused with another error than a thing that
// cannot be done at all is, so sysfs is asked for block devices.
func (d *Disk) probePunch() error {
	if !d.IsBlock() {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(d.File().Fd()), &st); err != nil {
		return err
	}
	b, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/queue/write_zeroes_max_bytes", unix.Major(st.Rdev), unix.Minor(st.Rdev)))
	if err != nil {
		return fmt.Errorf("ask the kernel for write zeroes: %w", err)
	}
	if s := string(b); s == "0\n" || s == "" {
		return errors.New("its driver cannot zero blocks without writing them")
	}
	return nil
}

// sample is what stood at one place before.
type sample struct {
	off     int64
	n       int
	sum     [sha256.Size]byte
	uniform bool // all bytes are the same: that it is so again proves nothing
}

// sample reads places all over the disk: its ends, and one at random in each of a thousand parts of it.
func (d *Disk) sample(ctx context.Context) ([]sample, error) {
	var out []sample
	buf := make([]byte, sampleSize)
	for _, off := range d.places() {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		b := buf[:min(sampleSize, d.Size()-off)]
		if _, err := io.ReadFull(io.NewSectionReader(d, off, int64(len(b))), b); err != nil {
			// A place that cannot be read is no reason not to erase it.
			continue
		}
		out = append(out, sample{off: off, n: len(b), sum: sha256.Sum256(b), uniform: uniform(b)})
	}
	return out, nil
}

func (d *Disk) places() []int64 {
	parts := d.Size() / sampleSize
	if parts <= sampleMost {
		out := []int64{}
		for off := int64(0); off < d.Size(); off += sampleSize {
			out = append(out, off)
		}
		return out
	}
	last := (d.Size() - sampleSize) &^ 4095
	out := []int64{0}
	wide := last / sampleMost
	for i := int64(0); i < sampleMost; i++ {
		out = append(out, (i*wide+rand.Int64N(wide))&^4095)
	}
	return append(out, last)
}

func uniform(b []byte) bool {
	for _, c := range b {
		if c != b[0] {
			return false
		}
	}
	return true
}

// check reads the disk back: all of it where zeros were written; else its ends and places all over it, which must be
// zeros where that is promised, and in any case not what stood there before.
func (d *Disk) check(ctx context.Context, w way, before []sample, p *pace) (Check, error) {
	if w.whole {
		return d.checkAll(ctx, p)
	}
	c := Check{}
	if w.zeros {
		places := append(d.places(), 0, max(0, d.Size()-ends))
		buf := make([]byte, ends)
		for i, off := range places {
			if err := ctx.Err(); err != nil {
				return c, context.Cause(ctx)
			}
			n := int64(sampleSize)
			if i >= len(places)-2 {
				n = ends
			}
			b := buf[:min(n, d.Size()-off)]
			if _, err := io.ReadFull(io.NewSectionReader(d, off, int64(len(b))), b); err != nil {
				return c, fmt.Errorf("read back at byte %d: %w", off, err)
			}
			if at := notZero(b); at >= 0 {
				return c, fmt.Errorf("the disk says that it is erased, and byte %d is not zero", off+int64(at))
			}
			c.Read += int64(len(b))
			c.Samples++
			p.at(d.Size() * int64(i+1) / int64(len(places)))
		}
		c.Text = fmt.Sprintf("both ends and %d places all over it read as zeros", c.Samples-2)
		return c, nil
	}
	told, zeroed := 0, 0
	buf := make([]byte, sampleSize)
	for i, s := range before {
		b := buf[:s.n]
		if _, err := io.ReadFull(io.NewSectionReader(d, s.off, int64(s.n)), b); err != nil {
			return c, fmt.Errorf("read back at byte %d: %w", s.off, err)
		}
		c.Read += int64(s.n)
		c.Samples++
		if notZero(b) < 0 {
			zeroed++
		}
		if !s.uniform {
			told++
			if sha256.Sum256(b) == s.sum {
				return c, fmt.Errorf("the disk says that it is erased, and holds at byte %d what it held before", s.off)
			}
		}
		p.at(d.Size() * int64(i+1) / int64(len(before)))
	}
	c.Text = fmt.Sprintf("%d places all over it were read before and after: %d held data, and none of them does now; %d read as zeros", c.Samples, told, zeroed)
	return c, nil
}

func (d *Disk) checkAll(ctx context.Context, p *pace) (Check, error) {
	c := Check{Text: "every block was read back as zeros"}
	buf := make([]byte, step)
	for off := int64(0); off < d.Size(); {
		if err := ctx.Err(); err != nil {
			return c, context.Cause(ctx)
		}
		b := buf[:min(step, d.Size()-off)]
		if _, err := io.ReadFull(io.NewSectionReader(d, off, int64(len(b))), b); err != nil {
			return c, fmt.Errorf("read back at byte %d: %w", off, err)
		}
		if at := notZero(b); at >= 0 {
			return c, fmt.Errorf("zeros were written, and byte %d is not zero", off+int64(at))
		}
		off += int64(len(b))
		c.Read = off
		p.at(off)
	}
	return c, nil
}
