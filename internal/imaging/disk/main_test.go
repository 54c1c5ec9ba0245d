package disk

import (
	"flag"
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
	// sfdisk and sgdisk sleep; so may many of them at a time.
	flag.Parse()
	flag.Set("test.parallel", "16")
	os.Exit(m.Run())
}
