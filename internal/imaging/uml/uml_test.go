package uml

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	out := Run(t, `
uname -r
printf marked | dd of=/dev/ubda bs=1 seek=4096 conv=notrunc 2>/dev/null
modprobe minix
grep minix /proc/filesystems
if touch /root/uml-was-here; then exit 1; fi
`, disk)
	if !strings.Contains(out, "\tminix") {
		t.Errorf("the module was not loaded: %s", out)
	}
	b, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	if string(b[4096:4102]) != "marked" {
		t.Error("what the guest wrote is not on the disk")
	}
}
