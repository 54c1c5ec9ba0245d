package disk

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// InUseError says who uses a disk.
type InUseError struct {
	Path string // of the disk
	By   string // such as "/dev/sda1 is mounted on /home"
}

func (e *InUseError) Error() string { return fmt.Sprintf("%s is in use: %s", e.Path, e.By) }

// InUse returns an *InUseError when the disk, or one of its partitions, is mounted, is swapped to, or carries another
// device (LVM, RAID, encryption); or when an image file is attached to a loop device in such use or locked by a virtual
// machine that writes to it. Other errors say that this could not be found out.
func InUse(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if st.Mode()&os.ModeDevice != 0 {
		by, err := deviceUse(rdev(st))
		if err != nil {
			return fmt.Errorf("find out who uses %s: %w", path, err)
		}
		if by != "" {
			return &InUseError{Path: path, By: by}
		}
		return nil
	}
	by, err := fileUse(path, st)
	if err != nil {
		return fmt.Errorf("find out who uses %s: %w", path, err)
	}
	if by != "" {
		return &InUseError{Path: path, By: by}
	}
	return nil
}

// deviceUse returns who uses a block device or its partitions, or "".
func deviceUse(n number) (string, error) {
	devs := family(n)
	by, err := mountOf(devs)
	if by != "" || err != nil {
		return by, err
	}
	if by, err = swapOf(devs); by != "" || err != nil {
		return by, err
	}
	for _, d := range devs {
		dir := sysDir(d)
		if dir == "" {
			continue
		}
		holders, err := os.ReadDir(filepath.Join(dir, "holders"))
		if err != nil && !os.IsNotExist(err) {
			return "", err
		}
		for _, h := range holders {
			what := "/dev/" + strings.ReplaceAll(h.Name(), "!", "/")
			if name := sysText("/sys/block", h.Name(), "dm/name"); name != "" {
				what += " (" + name + ")"
			}
			return fmt.Sprintf("%s carries %s", devName(d), what), nil
		}
	}
	return "", nil
}

// mountOf looks for devs in /proc/self/mountinfo (proc_pid_mountinfo(5)). A filesystem of several devices, such as
// btrfs, has a number of its own there: then its source is looked at, too.
func mountOf(devs []number) (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		w := strings.Fields(sc.Text())
		sep := slices.Index(w, "-")
		if len(w) < 6 || sep < 0 || len(w) < sep+3 {
			continue
		}
		n, ok := parseNumber(w[2])
		hit := ok && slices.Contains(devs, n)
		if source := unescape(w[sep+2]); !hit && strings.HasPrefix(source, "/dev/") {
			if st, err := os.Stat(source); err == nil && st.Mode()&os.ModeDevice != 0 {
				n = rdev(st)
				hit = slices.Contains(devs, n)
			}
		}
		if hit {
			return fmt.Sprintf("%s is mounted on %s", devName(n), unescape(w[4])), nil
		}
	}
	return "", sc.Err()
}

// swapOf looks for devs in /proc/swaps.
func swapOf(devs []number) (string, error) {
	b, err := os.ReadFile("/proc/swaps")
	if os.IsNotExist(err) {
		return "", nil // a kernel without swap
	}
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		w := strings.Fields(line)
		if len(w) == 0 || !strings.HasPrefix(w[0], "/") {
			continue
		}
		if st, err := os.Stat(unescape(w[0])); err == nil && st.Mode()&os.ModeDevice != 0 && slices.Contains(devs, rdev(st)) {
			return devName(rdev(st)) + " is swapped to", nil
		}
	}
	return "", nil
}

// unescape undoes what the kernel does to blanks in paths: \040.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			var c byte
			if _, err := fmt.Sscanf(s[i+1:i+4], "%03o", &c); err == nil {
				out.WriteByte(c)
				i += 3
				continue
			}
		}
		out.WriteByte(s[i])
	}
	return out.String()
}

// qemuWriteByte is the byte of an image file that QEMU locks while it may write to it (the second of those from 100 on,
// one a permission; block/file-posix.c).
const qemuWriteByte = 101

// fileUse returns who uses an image file, or "".
func fileUse(path string, st os.FileInfo) (string, error) {
	loops, _ := filepath.Glob("/sys/block/loop*/loop/backing_file") // the pattern is well formed
	for _, l := range loops {
		back, err := os.Stat(sysText(l))
		if err != nil || !os.SameFile(st, back) {
			continue
		}
		n, ok := parseNumber(sysText(filepath.Dir(filepath.Dir(l)), "dev"))
		if !ok {
			continue
		}
		by, err := deviceUse(n)
		if by != "" || err != nil {
			return by, err
		}
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK, Start: qemuWriteByte, Len: 1}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lock); err != nil || lock.Type == unix.F_UNLCK {
		return "", nil // a filesystem that knows no locks has none
	}
	return "another program, which holds a lock on it (a virtual machine?)", nil
}
