package bringup

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// initForTest is process 1 of a namespace of its own. It runs the shell commands in MIMEO_TEST_INIT (with @@ between them) as
// the agent, each start the next of them, and prints how it would end.
func initForTest() int {
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		fmt.Println("mount:", err)
		return 1
	}
	runs := strings.Split(os.Getenv("MIMEO_TEST_INIT"), "@@")
	exits, signals := make(chan exit, 16), make(chan os.Signal)
	go reap(exits)
	start := func() (int, error) {
		text := runs[0]
		runs = append(runs[1:], text)
		return syscall.ForkExec("/bin/sh", []string{"sh", "-c", text}, &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setsid: true}})
	}
	clean := func() { unix.Kill(-1, unix.SIGKILL) }
	how := supervise(func(format string, args ...any) { fmt.Printf(format+"\n", args...) }, start, clean, exits, signals)
	fmt.Printf("how %#x\n", how)
	// A zombie would still have a folder here.
	left, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range left {
		if st, err := os.ReadFile(p + "/stat"); err == nil && strings.Contains(string(st), ") Z ") {
			fmt.Printf("zombie %s", st)
		}
	}
	return 0
}

func TestInitReapsAndReboots(t *testing.T) {
	for _, c := range []struct{ what, runs, want string }{
		{"asks for a reboot", "exit 10", fmt.Sprintf("how %#x\n", unix.LINUX_REBOOT_CMD_RESTART)},
		{"asks to be switched off", "exit 11", fmt.Sprintf("how %#x\n", unix.LINUX_REBOOT_CMD_POWER_OFF)},
		{"leaves orphans behind", `i=0; while [ $i -lt 50 ]; do (sleep 0.2 &) ; i=$((i+1)); done; sleep 0.6; exit 10`, fmt.Sprintf("how %#x\n", unix.LINUX_REBOOT_CMD_RESTART)},
		{"crashes once", "kill -9 $$@@exit 11", fmt.Sprintf("the agent ended: killed by killed\nhow %#x\n", unix.LINUX_REBOOT_CMD_POWER_OFF)},
		{"leaves a child behind in a crash", "sleep 1000 & exit 3@@for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; done | grep -c '[s]leep 1000'; exit 10", fmt.Sprintf("the agent ended: exit status 3\n0\nhow %#x\n", unix.LINUX_REBOOT_CMD_RESTART)},
		{"crashes always", "exit 2", fmt.Sprintf("the agent ended: exit status 2\nthe agent ended: exit status 2\nthe agent ended: exit status 2\nthat was the 3th time within 10m0s; this node starts anew\nhow %#x\n", unix.LINUX_REBOOT_CMD_RESTART)},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), "MIMEO_TEST_INIT="+c.runs)
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS, Unshareflags: unix.CLONE_NEWNS}
			out, err := cmd.CombinedOutput()
			if err != nil || string(out) != c.want {
				t.Errorf("got %q, %v; want %q", out, err, c.want)
			}
		})
	}
}

// TestEmpty makes sure that only the initrd's own files are deleted, and nothing that is mounted below.
func TestEmpty(t *testing.T) {
	top := t.TempDir()
	other := filepath.Join(top, "a/mounted")
	if err := os.MkdirAll(other, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", other, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(other, unix.MNT_DETACH)
	outside := filepath.Join(t.TempDir(), "outside")
	for _, f := range []string{filepath.Join(top, "file"), filepath.Join(top, "a/b/c/deep"), filepath.Join(other, "kept"), filepath.Join(outside, "kept")} {
		if err := os.MkdirAll(filepath.Dir(f), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(top, "link")); err != nil {
		t.Fatal(err)
	}
	d, err := os.Open(top)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := empty(int(d.Fd())); err != nil {
		t.Fatal(err)
	}
	out, _ := exec.Command("find", top, outside, "-type", "f").Output()
	if got, want := string(out), filepath.Join(other, "kept")+"\n"+filepath.Join(outside, "kept")+"\n"; got != want {
		t.Errorf("left:\n%swant:\n%s", got, want)
	}
	if _, err := os.Lstat(filepath.Join(top, "link")); !os.IsNotExist(err) {
		t.Errorf("the link is still there: %v", err)
	}
}

// TestSwitchRootRefusesARealDisk: deleting the root is for an initramfs alone.
func TestSwitchRootRefusesARealDisk(t *testing.T) {
	var st unix.Statfs_t
	if err := unix.Statfs("/", &st); err != nil {
		t.Fatal(err)
	}
	if uint32(st.Type) == unix.RAMFS_MAGIC || uint32(st.Type) == unix.TMPFS_MAGIC {
		t.Fatal("this test must not run where / is in memory")
	}
	if err := switchRoot(t.TempDir()); err == nil || !strings.Contains(err.Error(), "no initramfs") {
		t.Error(err)
	}
}

func TestKeepsData(t *testing.T) {
	for _, c := range []struct {
		source, fstype string
		want           bool
	}{
		{"/dev/vda1", "ext4", true}, {"10.0.0.1:/x", "nfs", true}, {"10.0.0.1:/x", "nfs4", true}, {"/dev/loop0", "squashfs", false},
		{"mimeo", "overlay", false}, {"tmpfs", "tmpfs", false}, {"proc", "proc", false}, {"/dev/sda1", "vfat", true},
	} {
		if got := keepsData(c.source, c.fstype); got != c.want {
			t.Errorf("%s %s: got %v", c.source, c.fstype, got)
		}
	}
	if got := unescape(`/mnt/a\040b\134c`); got != `/mnt/a b\c` {
		t.Errorf("got %q", got)
	}
}

func TestModulesForNetworkAlone(t *testing.T) {
	for file, skip := range map[string]bool{
		"kernel/drivers/net/virtio_net.ko": false, "kernel/drivers/virtio/virtio_pci.ko": false, "kernel/drivers/usb/host/xhci-pci.ko": false,
		"kernel/drivers/ata/ahci.ko": true, "kernel/drivers/scsi/mpt3sas/mpt3sas.ko": true, "kernel/drivers/nvme/host/nvme.ko": true,
		"kernel/drivers/gpu/drm/ast/ast.ko": true, "kernel/drivers/net/wireless/ath/ath9k/ath9k.ko": true,
	} {
		if got := notForNetwork(file); got != skip {
			t.Errorf("%s: got %v", file, got)
		}
	}
	if NotForServers("kernel/drivers/ata/ahci.ko") {
		t.Error("disks are left out in the stateless image")
	}
}
