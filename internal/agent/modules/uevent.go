package modules

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Watch loads what devices ask for that appear later, until ctx ends. ready, if not nil, is called when nothing that
// appears from then on is missed.
func (l *Loader) Watch(ctx context.Context, ready func()) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return fmt.Errorf("listen to the kernel's device events: %w", err)
	}
	f := os.NewFile(uintptr(fd), "uevent") // takes part in the runtime's poller, so that Close ends Read
	defer f.Close()
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		return fmt.Errorf("listen to the kernel's device events: %w", err)
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20) // a small buffer works too
	stop := context.AfterFunc(ctx, func() { f.Close() })
	defer stop()
	if ready != nil {
		ready()
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := f.Read(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			l.Coldplug(ctx, "/sys") // some were lost
			continue
		case err != nil:
			return fmt.Errorf("read the kernel's device events: %w", err)
		}
		if a := added(string(buf[:n])); a != "" {
			l.Plug(a)
		}
	}
}

// added returns the modalias of a message that a device was added, as "add@/devices/…\0ACTION=add\0MODALIAS=…\0".
func added(msg string) string {
	if !strings.HasPrefix(msg, "add@") {
		return ""
	}
	for _, kv := range strings.Split(msg, "\x00") {
		if a, ok := strings.CutPrefix(kv, "MODALIAS="); ok {
			return a
		}
	}
	return ""
}
