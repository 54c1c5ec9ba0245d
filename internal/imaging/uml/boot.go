package uml

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// NetMAC is the MAC address of a booted system's card eth0. Its network is one where nobody else is but 10.9.0.1, which gives out addresses
// from 10.9.0.50 to 10.9.0.60 by DHCP.
const NetMAC = "52:54:00:00:00:0a"

// bootLimit is how long a system may be up.
const bootLimit = 8 * time.Minute

// alone runs user-mode Linux with its first network card in a network namespace that goes away with it. It is
// process 1 of a namespace, too: when that ends, nothing of it is left.
const alone = `ip link set lo up
ip tuntap add dev t0 mode tap
ip addr add 10.9.0.1/24 dev t0
ip link set t0 up
dnsmasq -k -C /dev/null -i t0 --bind-interfaces --port=0 --leasefile-ro --no-ping --pid-file= -u root --dhcp-range=10.9.0.50,10.9.0.60 >"$1/dnsmasq" 2>&1 &
shift
status=0
linux.uml "$@" || status=$?
exit $status`

// Boot boots the system whose root filesystem is on a disk without a partition table, by the system's own init, and returns what its
// console showed until it powered itself off. The test ends where it does not, or takes too long.
func Boot(t testing.TB, disk string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	dir, err := os.MkdirTemp("/var/tmp", "mimeo-uml-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path, err := filepath.Abs(disk)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, "unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-euc", alone, "sh", dir,
		"mem=384M", "root=/dev/ubda", "rw", "ubd0="+path, "con=null", "con0=null,fd:1", "uml_dir="+dir, "umid=guest", "eth0=tuntap,t0,"+NetMAC, "net.ifnames=0")
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	text := strings.ReplaceAll(string(out), "\r\n", "\n")
	if err != nil || !strings.Contains(text, "reboot: System halted") {
		t.Fatalf("the system in user-mode Linux did not end by itself (%v):\n%s", err, text)
	}
	return text
}
