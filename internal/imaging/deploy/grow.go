package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"mimeo/internal/imaging/fsmap"
	"mimeo/internal/imaging/fsmap/fact"
	"mimeo/internal/imaging/fsmap/vfat"
	"mimeo/internal/imaging/leaveout"
	"mimeo/internal/imaging/tool"
)

// ErrCannotGrow says that this program does not know how to grow a filesystem of that type. It works as it is, in the
// first part of its partition.
var ErrCannotGrow = errors.New("no way known to grow it")

// ErrSleeps says that a system sleeps on the filesystem, which must find it as it left it.
var ErrSleeps = errors.New("a hibernated Windows sleeps on it")

// KeptError says why a filesystem of a kind that can grow does not take all of its device. It works as it is.
type KeptError struct {
	Size int64 // bytes that it has grown to; 0 where it keeps its size
	Why  string
}

func (e *KeptError) Error() string { return e.Why }

// Grow makes the filesystem on a block device as large as the device, with the filesystem's own tools: e2fsck and
// resize2fs for ext2, ext3 and ext4, ntfsresize for NTFS, and for XFS and btrfs, which grow while they are mounted, the
// kernel, xfs_growfs and btrfs; FAT, for which there is no sound tool, by ourselves. A swap area stays as it is. The
// filesystem must not be mounted.
func Grow(ctx context.Context, device, fsType string) error {
	switch fsType {
	case "ext2", "ext3", "ext4":
		return growExt(ctx, device)
	case "ntfs":
		return growNTFS(ctx, device)
	case "vfat":
		return growOwn(device, vfat.Grow)
	case "xfs":
		// The disk that it was captured from may be here as well, with the same UUID.
		return growMounted(ctx, device, fsType, "nouuid", "xfs_growfs", "-d")
	case "btrfs":
		return growMounted(ctx, device, fsType, "", "btrfs", "filesystem", "resize", "max")
	case "swap":
		return nil
	}
	return fmt.Errorf("grow the %s filesystem on %s: %w", fsType, device, ErrCannotGrow)
}

func growExt(ctx context.Context, device string) error {
	// resize2fs insists on a check that is younger than the last mount. -p mends what is safe to mend, and asks nothing;
	// 1 is its exit status for "mended".
	if _, err := tool.Run(ctx, 1, "e2fsck", "-f", "-p", device); err != nil {
		return fmt.Errorf("check the filesystem on %s before it grows: %w", device, err)
	}
	if _, err := tool.Run(ctx, 0, "resize2fs", device); err != nil {
		return fmt.Errorf("grow the filesystem on %s: %w", device, err)
	}
	return nil
}

// growNTFS marks the volume as dirty, as ntfsresize does: Windows checks it when it starts.
func growNTFS(ctx context.Context, device string) error {
	f, err := os.Open(device)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if fs, err := fsmap.Tree(f, size, "ntfs"); err != nil {
		return fmt.Errorf("look at the ntfs filesystem on %s before it grows: %w", device, err)
	} else if leaveout.Sleeps(fs) {
		return fmt.Errorf("grow the ntfs filesystem on %s: %w", device, ErrSleeps)
	}
	if _, err := tool.Run(ctx, 0, "ntfsresize", "--no-progress-bar", "--force", "--force", device); err != nil {
		return fmt.Errorf("grow the filesystem on %s: %w", device, err)
	}
	return nil
}

// growOwn grows a filesystem with a function of ours.
func growOwn(device string, grow func(f fact.Disk, size int64) (n int64, why string, err error)) (err error) {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	w := &writes{File: f}
	n, why, err := grow(w, size)
	switch {
	case err != nil && w.any:
		return fmt.Errorf("grow the filesystem on %s, which is not one any more until the disk is deployed again: %w", device, err)
	case err != nil:
		return fmt.Errorf("grow the filesystem on %s, which is as it was: %w", device, err)
	}
	if why != "" {
		return &KeptError{n, why}
	}
	return nil
}

// writes is a device, and whether anything was written to it.
type writes struct {
	*os.File
	any bool
}

// WriteAt implements io.WriterAt.
func (w *writes) WriteAt(b []byte, off int64) (int, error) {
	w.any = true
	return w.File.WriteAt(b, off)
}

// growMounted grows a filesystem that only grows while it is mounted. The mount point is the tool's last argument.
func growMounted(ctx context.Context, device, fsType, options, name string, args ...string) (err error) {
	dir, err := os.MkdirTemp("", "mimeo-grow-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(dir)) }()
	if err := unix.Mount(device, dir, fsType, unix.MS_NOATIME, options); err != nil {
		return fmt.Errorf("mount the %s filesystem on %s to grow it: %w", fsType, device, err)
	}
	defer func() { err = errors.Join(err, unmount(dir)) }()
	if _, err := tool.Run(ctx, 0, name, append(args, dir)...); err != nil {
		return fmt.Errorf("grow the filesystem on %s: %w", device, err)
	}
	return nil
}

// unmount waits for whoever looks at all mounts just now.
func unmount(dir string) error {
	for tries := 0; ; tries++ {
		err := unix.Unmount(dir, 0)
		if err == nil || !errors.Is(err, unix.EBUSY) || tries == 50 {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// GrowRange grows the filesystem on a part of a disk or image file, for which there is no device of its own, through a
// loop device.
func GrowRange(ctx context.Context, path string, off, n int64, fsType string) (err error) {
	if !slices.Contains(growable, fsType) {
		return Grow(ctx, path, fsType) // needs no device
	}
	device, detach, err := attachLoop(path, off, n)
	if err != nil {
		return fmt.Errorf("make a loop device for %d bytes at offset %d of %s: %w", n, off, path, err)
	}
	defer func() { err = errors.Join(err, detach()) }()
	return Grow(ctx, device, fsType)
}

// attachLoop makes a loop device for a range of a file. Partition tables on loop devices are not asked of the kernel:
// many cannot.
func attachLoop(path string, off, n int64) (device string, detach func() error, err error) {
	back, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return "", nil, err
	}
	defer back.Close()
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return "", nil, err
	}
	defer ctl.Close()

	// Between asking for a free device and taking it another program may take it.
	for range 64 {
		nr, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return "", nil, fmt.Errorf("ask for a free loop device: %w", err)
		}
		device = fmt.Sprintf("/dev/loop%d", nr)
		loop, err := os.OpenFile(device, os.O_RDWR, 0)
		if err != nil {
			return "", nil, err
		}
		config := unix.LoopConfig{Fd: uint32(back.Fd())}
		config.Info.Offset, config.Info.Sizelimit = uint64(off), uint64(n)
		copy(config.Info.File_name[:len(config.Info.File_name)-1], path)
		err = unix.IoctlLoopConfigure(int(loop.Fd()), &config)
		if errors.Is(err, unix.EBUSY) {
			loop.Close()
			continue
		}
		if err != nil {
			loop.Close()
			return "", nil, fmt.Errorf("configure %s: %w", device, err)
		}
		return device, func() error {
			defer loop.Close()
			if err := unix.Fsync(int(loop.Fd())); err != nil {
				return fmt.Errorf("sync %s: %w", device, err)
			}
			if _, err := unix.IoctlRetInt(int(loop.Fd()), unix.LOOP_CLR_FD); err != nil {
				return fmt.Errorf("detach %s: %w", device, err)
			}
			return nil
		}, nil
	}
	return "", nil, errors.New("no free loop device")
}
