// Package console writes the agent's lines to all consoles of the machine.
package console

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Log writes lines with the seconds since the kernel started, as the kernel's own have them.
type Log struct {
	mu  sync.Mutex
	out []io.Writer
}

// Open returns a Log to every console that the kernel writes to. /dev and /sys must be mounted. Where there is none it
// writes to standard error.
func Open() *Log {
	l := &Log{}
	for _, name := range Active() {
		if f, err := os.OpenFile("/dev/"+name, os.O_WRONLY|unix.O_NOCTTY, 0); err == nil {
			l.out = append(l.out, f)
		}
	}
	if len(l.out) == 0 {
		if f, err := os.OpenFile("/dev/console", os.O_WRONLY|unix.O_NOCTTY, 0); err == nil {
			l.out = append(l.out, f)
		} else {
			l.out = append(l.out, os.Stderr)
		}
	}
	return l
}

// Active lists the terminals behind the kernel's consoles, as ttyS0 and tty0.
func Active() []string {
	b, err := os.ReadFile("/sys/class/tty/console/active")
	if err != nil {
		return nil
	}
	return strings.Fields(string(b))
}

// Printf writes one line.
func (l *Log) Printf(format string, args ...any) {
	text := strings.TrimRight(fmt.Sprintf(format, args...), "\n")
	l.mu.Lock()
	defer l.mu.Unlock()
	var b strings.Builder
	for line := range strings.SplitSeq(text, "\n") {
		fmt.Fprintf(&b, "[%9.3f] mimeo-agent: %s\n", Uptime().Seconds(), line)
	}
	for _, w := range l.out {
		io.WriteString(w, b.String()) // a console that is gone is no reason to stop
	}
}

// Uptime returns the time since the kernel started.
func Uptime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
