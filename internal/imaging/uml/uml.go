// Package uml runs scripts for tests in a Linux of their own, with disks of their own.
//
// It is User-Mode Linux: a kernel that runs as a program. It needs no rights and no virtual machine, starts in a second, and has
// filesystems, RAID and device mapper that the kernel of the machine may lack. Its root is that of the machine, read-only.
package uml

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// limit is how long a script may take.
const limit = 10 * time.Minute

// prelude makes a system of the bare kernel. Modules come from the kernel's own package.
const prelude = `#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/run LC_ALL=C.UTF-8
mount -t proc proc /proc && mount -t sysfs sys /sys && mount -t devtmpfs dev /dev
mount -t tmpfs tmp /run && mount -t tmpfs tmp /tmp
mkdir -p /run/modules/lib /run/lock /run/mnt && ln -s /usr/lib/uml/modules /run/modules/lib/modules
modprobe() { command modprobe -d /run/modules "$@"; }
cd /run/mnt
(
set -eu
`

const coda = `
) </dev/null
echo "[exit $?]"
sync
echo o >/proc/sysrq-trigger
sleep 60
`

// Run runs a shell script as root in a Linux with the disks, which it has as /dev/ubda, /dev/ubdb and so on, and returns what it
// printed, with what the kernel said. The test ends where the script fails. /run and /tmp can be written to and are gone afterwards;
// everything else is the machine's and read-only. modprobe loads modules.
func Run(t testing.TB, script string, disks ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	// Programs of the guest see the machine's files; its /tmp lies on them.
	dir, err := os.MkdirTemp("/var/tmp", "mimeo-uml-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	init := filepath.Join(dir, "init")
	if err := os.WriteFile(init, []byte(prelude+script+coda), 0o755); err != nil {
		t.Fatal(err)
	}
	// The legacy terminals take the kernel two seconds to register.
	args := []string{"mem=384M", "quiet", "pty.legacy_count=0", "zswap.enabled=0", "selinux=0", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "init=" + init, "con=null", "con0=null,fd:1",
		"uml_dir=" + dir, "umid=guest"}
	for i, d := range disks {
		path, err := filepath.Abs(d)
		if err != nil {
			t.Fatal(err)
		}
		args = append(args, fmt.Sprintf("ubd%d=%s", i, path))
	}
	cmd := exec.CommandContext(ctx, "linux.uml", args...)
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // it has helpers
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	out, err := cmd.CombinedOutput()
	text := strings.ReplaceAll(string(out), "\r\n", "\n")
	if strings.HasSuffix(strings.TrimSpace(text), "reboot: Power down") && ctx.Err() == nil {
		err = nil // its last word: all was synced before, and as a program it may still abort, as one did in some hundred runs
	}
	if i := strings.LastIndex(text, "[exit "); err != nil || i < 0 || !strings.HasPrefix(text[i:], "[exit 0]") {
		t.Fatalf("the script in user-mode Linux failed (%v):\n%s", err, text)
	}
	return text
}
