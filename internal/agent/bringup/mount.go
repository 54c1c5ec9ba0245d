package bringup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"mimeo/internal/agent/loopdev"
)

// Where things lie. All but the new root is below /run, which moves from the initrd into it as one.
const (
	runDir    = "/run/mimeo"
	AgentPath = runDir + "/agent"      // this program, in the new root
	probePath = runDir + "/modprobe"   // the same, for the kernel's own requests
	leasePath = runDir + "/lease.json" // see package uplink
	imagePath = runDir + "/rootimg"
	lowerPath = runDir + "/ro"        // rootimg's content
	upperPath = runDir + "/rw"        // what is written to the root
	rootPath  = "/newroot"            // not below /run: a mount cannot move below itself
	stagePath = runDir + "/node.json" // what Initrd tells Init
)

type mount struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}

const plain = unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV

// kernelMounts are what every root needs.
var kernelMounts = []mount{
	{"proc", "/proc", "proc", plain, ""},
	{"sysfs", "/sys", "sysfs", plain, ""},
	{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
	{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755,size=80%"},
}

func (m mount) do() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", m.fstype, m.target, err)
	}
	return nil
}

// isMounted tells whether something is mounted on a folder: it lies on another device than the folder above.
func isMounted(dir string) bool {
	var here, above unix.Stat_t
	return unix.Lstat(dir, &here) == nil && unix.Lstat(filepath.Dir(dir), &above) == nil && here.Dev != above.Dev
}

// mountAll makes those of list that are not there.
func mountAll(list []mount) error {
	for _, m := range list {
		if isMounted(m.target) {
			continue
		}
		if err := m.do(); err != nil {
			return err
		}
	}
	return nil
}

// mountRoot puts rootimg below an overlay in memory, at rootPath.
func mountRoot() error {
	dev, _, err := loopdev.Attach(imagePath, 0, 0, true) // for good: it is the root until the end
	if err != nil {
		return fmt.Errorf("make a loop device of rootimg: %w", err)
	}
	for _, m := range []mount{
		{dev, lowerPath, "squashfs", unix.MS_RDONLY | unix.MS_NODEV, ""},
		{"tmpfs", upperPath, "tmpfs", unix.MS_NODEV, "mode=0755,size=60%"},
	} {
		if err := m.do(); err != nil {
			return err
		}
	}
	for _, d := range []string{"upper", "work"} {
		if err := os.MkdirAll(filepath.Join(upperPath, d), 0o755); err != nil {
			return err
		}
	}
	data := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", lowerPath, upperPath, upperPath)
	return mount{"mimeo", rootPath, "overlay", 0, data}.do()
}

// checkInitramfs makes sure that the root is an initramfs. What comes after it must never happen to a real system.
func checkInitramfs() error {
	var st unix.Statfs_t
	if err := unix.Statfs("/", &st); err != nil {
		return err
	}
	if uint32(st.Type) != unix.RAMFS_MAGIC && uint32(st.Type) != unix.TMPFS_MAGIC {
		return fmt.Errorf("the root is no initramfs (filesystem type %#x)", st.Type)
	}
	return nil
}

// switchRoot makes newRoot the root of this process and of all that the kernel starts, and frees the memory of the
// initrd. It cannot be undone.
func switchRoot(newRoot string) error {
	old, err := os.Open("/")
	if err != nil {
		return err
	}
	defer old.Close()
	if err := checkInitramfs(); err != nil {
		return err
	}
	// A move keeps what is mounted below.
	if err := os.Chdir(newRoot); err != nil {
		return err
	}
	for _, d := range []string{"proc", "sys", "dev", "run"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("/"+d, d, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move /%s into the new root: %w", d, err)
		}
	}
	if err := empty(int(old.Fd())); err != nil {
		return fmt.Errorf("free the initrd's memory: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the new root to /: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	return os.Chdir("/")
}

// empty deletes all that lies in a folder on its own filesystem; what is mounted there stays.
func empty(dir int) error {
	var top unix.Stat_t
	if err := unix.Fstat(dir, &top); err != nil {
		return err
	}
	fd, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) // os.File's ReadDir moves a cursor
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "initrd")
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range names {
		var st unix.Stat_t
		if err := unix.Fstatat(dir, n, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || st.Dev != top.Dev {
			continue
		}
		flags := 0
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			flags = unix.AT_REMOVEDIR
			sub, err := unix.Openat(dir, n, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
			if err != nil {
				continue
			}
			err = empty(sub)
			unix.Close(sub)
			if err != nil {
				return err
			}
		}
		unix.Unlinkat(dir, n, flags) // a mount point stays; it costs nothing
	}
	return nil
}

// unmountAll unmounts what holds data elsewhere, so that nothing is lost in a reboot: disks and network filesystems.
func unmountAll() []error {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return []error{err}
	}
	var errs []error
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		w := strings.Fields(lines[i])
		if len(w) < 4 || !keepsData(w[0], w[2]) {
			continue
		}
		dir := unescape(w[1])
		flags := 0
		if strings.HasPrefix(w[2], "nfs") {
			flags = unix.MNT_FORCE // a server that is gone must not hold up the reboot
		}
		if err := unix.Unmount(dir, flags); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", dir, err))
			unix.Unmount(dir, unix.MNT_DETACH)
		}
	}
	return errs
}

func keepsData(source, fstype string) bool {
	if fstype == "squashfs" || fstype == "overlay" {
		return false
	}
	return strings.HasPrefix(source, "/dev/") || strings.HasPrefix(fstype, "nfs")
}

// unescape undoes the \ooo of /proc/mounts.
func unescape(s string) string {
	for _, r := range [][2]string{{`\040`, " "}, {`\011`, "\t"}, {`\012`, "\n"}, {`\134`, `\`}} {
		s = strings.ReplaceAll(s, r[0], r[1])
	}
	return s
}
