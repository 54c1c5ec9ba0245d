package doctor

import (
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// kernelClock is what the kernel knows of the clock.
type kernelClock struct {
	now      time.Time
	synced   bool          // something keeps it right: not STA_UNSYNC, and no TIME_ERROR, as adjtimex(2) has them
	maxError time.Duration // by how much it may be off, as far as whoever keeps it right can tell; it grows while nobody does
}

func readClock() (kernelClock, error) {
	var t unix.Timex // Modes is 0: nothing is changed
	state, err := unix.Adjtimex(&t)
	return kernelClock{time.Now(), state != unix.TIME_ERROR && t.Status&unix.STA_UNSYNC == 0, time.Duration(t.Maxerror) * time.Microsecond}, err
}

const (
	offTooMuch = time.Second // of kernelClock.maxError: a time service in a network stays far below
	farAhead   = 20 * 365 * 24 * time.Hour
)

// clock looks whether the time is right: schedules, logs and retention go by it, and nodes are given it.
func (d *doctor) clock() {
	c, err := readClock()
	if err != nil {
		d.add(Warn, "clock", "", "%s; whether something keeps it right cannot be read: %v", time.Now().Format(time.RFC3339), err)
		return
	}
	what, at := d.lastWritten()
	d.judgeClock(c, what, at)
}

// lastWritten is the newest trace of a time that has been: when this program was made or installed, and when the inventory was last written.
func (d *doctor) lastWritten() (what string, at time.Time) {
	what, at = "this version of Mimeo", time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	look := func(name, path string) {
		if fi, err := os.Stat(path); err == nil && fi.ModTime().After(at) {
			what, at = name, fi.ModTime()
		}
	}
	look("this program", "/proc/self/exe")
	for _, file := range []string{"mimeo.db", "mimeo.db-wal"} {
		look("the inventory", filepath.Join(d.Config.State, file))
	}
	return what, at
}

// judgeClock says what a clock is worth, when something is known to have been there at a time.
func (d *doctor) judgeClock(c kernelClock, what string, was time.Time) {
	const nodes = "; nodes are given it when they netboot"
	says := c.now.Format(time.RFC3339)
	switch {
	case c.now.Before(was.Add(-time.Minute)):
		d.add(Bad, "clock", "set it (timedatectl set-time, or date -s), and run a time service, as systemd-timesyncd or chrony", "it says %s, but %s is from %s%s", says, what, was.Format(time.RFC3339), nodes)
	case c.now.Sub(was) > farAhead:
		d.add(Bad, "clock", "set it (timedatectl set-time, or date -s), and run a time service, as systemd-timesyncd or chrony", "it says %s, and %s is from %s%s", says, what, was.Format(time.RFC3339), nodes)
	case !c.synced:
		d.add(Warn, "clock", "run a time service, as systemd-timesyncd or chrony; where one runs, see whether it reaches its servers: timedatectl timesync-status, chronyc tracking", "%s, and nothing keeps it right%s", says, nodes)
	case c.maxError > offTooMuch:
		d.add(Warn, "clock", "see whether the time service reaches its servers: timedatectl timesync-status, chronyc tracking", "%s, but it may be off by %s%s", says, c.maxError.Round(100*time.Millisecond), nodes)
	default:
		d.add(OK, "clock", "", "%s, kept right by a time service within %d ms", says, c.maxError.Milliseconds()+1)
	}
}
