package ipmi

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"mimeo/internal/manage/power"
)

// TestNoRoute says that it is the way to the BMC that is missing, at once.
func TestNoRoute(t *testing.T) {
	runtime.LockOSThread() // in a network namespace of this thread's own, which ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	_, err := open(t, quick("10.9.9.9")).Status(t.Context())
	wantError(t, err, power.ErrUnreachable, "BMC 10.9.9.9 cannot be reached from here: network is unreachable")
}
