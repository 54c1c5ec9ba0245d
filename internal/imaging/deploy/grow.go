package deploy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"mimeo/internal/imaging/manifest"
)

// ErrCannotGrow says that this program does not know how to grow a filesystem of that type. It works as it is, in the
// first part of its partition.
var ErrCannotGrow = errors.New("no way known to grow it")

// ToolError is what a filesystem's own tool said.
type ToolError struct {
	Command string // with its arguments
	Output  string // both streams, the last 4 KiB
	Err     error
}

func (e *ToolError) Error() string {
	s := fmt.Sprintf("%s: %v", e.Command, e.Err)
	if e.Output != "" {
		s += ": " + strings.Join(strings.Fields(e.Output), " ")
	}
	return s
}
func (e *ToolError) Unwrap() error { return e.Err }

// Grow makes the filesystem on a block device as large as the device, with the filesystem's own tools: e2fsck and
// resize2fs for ext2, ext3 and ext4. A swap area stays as it is. The filesystem must not be mounted.
func Grow(ctx context.Context, device, fsType string) error {
	switch fsType {
	case "ext2", "ext3", "ext4":
	case "swap":
		return nil
	default:
		return fmt.Errorf("grow the %s filesystem on %s: %w", fsType, device, ErrCannotGrow)
	}
	// resize2fs insists on a check that is younger than the last mount. -p mends what is safe to mend, and asks nothing;
	// 1 is its exit status for "mended".
	if err := tool(ctx, 1, "e2fsck", "-f", "-p", device); err != nil {
		return fmt.Errorf("check the filesystem on %s before it grows: %w", device, err)
	}
	if err := tool(ctx, 0, "resize2fs", device); err != nil {
		return fmt.Errorf("grow the filesystem on %s: %w", device, err)
	}
	return nil
}

// GrowRange grows the filesystem on a part of a disk or image file, for which there is no device of its own, through a
// loop device.
func GrowRange(ctx context.Context, path string, off, n int64, fsType string) (err error) {
	switch fsType {
	case "ext2", "ext3", "ext4":
	default:
		return Grow(ctx, path, fsType) // needs no device
	}
	device, detach, err := attachLoop(path, off, n)
	if err != nil {
		return fmt.Errorf("make a loop device for %d bytes at offset %d of %s: %w", n, off, path, err)
	}
	defer func() { err = errors.Join(err, detach()) }()
	return Grow(ctx, device, fsType)
}

// LastVolume returns the volume that grows with GrowLast: the one in the partition that lies last on the disk. The
// volume's length is the captured one.
func LastVolume(m *manifest.Manifest) (manifest.Volume, bool) {
	last := -1
	for i, p := range m.Table.Partitions {
		if p.Len > 0 && (last < 0 || p.Off > m.Table.Partitions[last].Off) {
			last = i
		}
	}
	if last < 0 {
		return manifest.Volume{}, false
	}
	for _, v := range m.Volumes {
		if v.Partition == m.Table.Partitions[last].Number {
			return v, true
		}
	}
	return manifest.Volume{}, false
}

// tool runs a program; mended is an exit status above zero that is fine too.
func tool(ctx context.Context, mended int, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = 5 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var exit *exec.ExitError
	if err == nil || errors.As(err, &exit) && mended > 0 && exit.ExitCode() == mended {
		return nil
	}
	text := bytes.TrimSpace(out.Bytes())
	if over := len(text) - 4<<10; over > 0 {
		text = text[over:]
	}
	return &ToolError{Command: strings.Join(append([]string{name}, args...), " "), Output: string(text), Err: err}
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
