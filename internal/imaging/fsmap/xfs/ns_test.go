package xfs

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// alone runs f with mounts that nobody else sees. Otherwise any program that makes a namespace of its own at that moment
// keeps what is mounted, and what was unmounted here is not written yet. The thread is used up.
func alone(t testing.TB, f func()) {
	t.Helper()
	done := make(chan bool)
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			t.Errorf("unshare: %v", err)
			return
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Errorf("make mounts private: %v", err)
			return
		}
		f()
	}()
	<-done
}
