// Package loopdev makes block devices of image files and of parts of them.
package loopdev

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Attach makes a loop device of n bytes of a file from offset off on; n of 0 means up to its end. detach writes back
// what is cached and frees the device; for a read-only one that stays until the machine is switched off it need not be
// called. No partition table is read from it: many kernels cannot do so on loop devices.
func Attach(path string, off, n int64, readOnly bool) (device string, detach func() error, err error) {
	mode, flags := os.O_RDWR, uint32(0)
	if readOnly {
		mode, flags = os.O_RDONLY, unix.LO_FLAGS_READ_ONLY
	}
	back, err := os.OpenFile(path, mode, 0)
	if err != nil {
		return "", nil, err
	}
	defer back.Close()
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return "", nil, err
	}
	defer ctl.Close()
	// Between the question for a free device and its use another program may take it.
	for range 64 {
		nr, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return "", nil, fmt.Errorf("ask for a free loop device: %w", err)
		}
		device = fmt.Sprintf("/dev/loop%d", nr)
		loop, err := os.OpenFile(device, mode, 0)
		if err != nil {
			return "", nil, err
		}
		config := unix.LoopConfig{Fd: uint32(back.Fd())}
		config.Info.Offset, config.Info.Sizelimit, config.Info.Flags = uint64(off), uint64(n), flags
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
		return device, func() error { return free(loop, device, readOnly) }, nil
	}
	return "", nil, errors.New("no free loop device")
}

func free(loop *os.File, device string, readOnly bool) error {
	defer loop.Close()
	if !readOnly {
		if err := unix.Fsync(int(loop.Fd())); err != nil {
			return fmt.Errorf("write back %s: %w", device, err)
		}
	}
	if _, err := unix.IoctlRetInt(int(loop.Fd()), unix.LOOP_CLR_FD); err != nil {
		return fmt.Errorf("free %s: %w", device, err)
	}
	return nil
}
