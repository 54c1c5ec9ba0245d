// Command marker is process 1 of a golden disk of another architecture, where no program of that architecture can be run
// to make one: in the initrd it loads drivers and goes on in the root filesystem; there it prints the marker and stays.
package main

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	what := system
	if os.Args[0] == "/init" {
		what = initrd
	}
	if err := what(); err != nil {
		fmt.Println("marker:", err)
	}
	time.Sleep(time.Hour) // process 1 must not end
}

// initrd finds the root filesystem by the UUID in root=UUID=…, and starts its /sbin/init.
func initrd() error {
	for _, m := range [][3]string{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil && err != unix.EBUSY {
			return fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	list, err := os.ReadFile("/modules")
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(list)) {
		f, err := os.Open("/lib/" + name)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil && err != unix.EEXIST {
			return fmt.Errorf("load %s: %w", name, err)
		}
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	_, uuid, ok := strings.Cut(string(cmdline), "root=UUID=")
	if !ok || len(uuid) < 36 {
		return fmt.Errorf("no root=UUID=… in %q", cmdline)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if dev := find(uuid[:36]); dev != "" {
			return into(dev)
		}
		if time.Now().After(end) {
			return fmt.Errorf("no filesystem %s", uuid[:36])
		}
	}
}

// find looks for an ext filesystem: its magic is at byte 56 of the superblock, its UUID at 104.
func find(uuid string) string {
	devs, _ := filepath.Glob("/sys/class/block/*")
	for _, d := range devs {
		dev := "/dev/" + filepath.Base(d)
		f, err := os.Open(dev)
		if err != nil {
			continue
		}
		var super [256]byte
		_, err = f.ReadAt(super[:], 1024)
		f.Close()
		if err == nil && binary.LittleEndian.Uint16(super[56:]) == 0xef53 && hex.EncodeToString(super[104:120]) == strings.ReplaceAll(uuid, "-", "") {
			return dev
		}
	}
	return ""
}

// into makes a filesystem the root and starts its process 1.
func into(dev string) error {
	if err := unix.Mount(dev, "/root", "ext4", 0, ""); err != nil {
		return fmt.Errorf("mount %s: %w", dev, err)
	}
	for _, d := range []string{"/dev", "/proc", "/sys"} {
		if err := unix.Mount(d, "/root"+d, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", d, err)
		}
	}
	if err := unix.Chdir("/root"); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return unix.Exec("/sbin/init", []string{"/sbin/init", dev}, nil)
}

// system prints who it is.
func system() error {
	name, err := os.ReadFile("/etc/hostname")
	if err != nil {
		return err
	}
	id, err := os.ReadFile("/etc/machine-id")
	if err != nil {
		return err
	}
	boot := "openfirmware"
	if _, err := os.Stat("/sys/firmware/efi"); err == nil {
		boot = "uefi"
	}
	var size unix.Statfs_t
	if err := unix.Statfs("/", &size); err != nil {
		return err
	}
	fmt.Printf("MIMEO-LAB-UP node=%s root=%s id=%s boot=%s size=%d\n", bytes.TrimSpace(name), os.Args[1], bytes.TrimSpace(id), boot, int64(size.Blocks)*size.Bsize)
	return nil
}
