package disk

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain keeps disk images in memory where there is room: tools sync what they write, and disks are slow.
func TestMain(m *testing.M) {
	var st unix.Statfs_t
	if unix.Statfs("/dev/shm", &st) == nil && st.Bavail*uint64(st.Bsize) > 2<<30 {
		os.Setenv("TMPDIR", "/dev/shm")
	}
	os.Exit(m.Run())
}
