package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"mimeo/internal/agent/hwinfo"
	"mimeo/internal/agent/loopdev"
	"mimeo/internal/imaging/fsmap/fact"
	"mimeo/internal/imaging/manifest"
)

// target is a deployed system, mounted.
type target struct {
	dir  string
	undo []func() error
}

// volume is one of the image as it lies on the target disk.
type volume struct {
	manifest.Volume
	partUUID, partName string
	logical            string // "vg0/root" of a logical volume

	part *fact.Part // of what lies inside another volume, in bytes of the disk; nil of a partition
	raid *raid      // in which it lies, or nil
}

// mountable are the filesystems that may hold a root, in the order in which they are tried.
var mountable = []string{"ext4", "ext3", "ext2", "xfs", "btrfs", "f2fs"}

// mountTarget finds the root filesystem of Linux on the deployed disk and mounts it, with what its fstab has below /usr,
// /var, /boot and /etc. It returns nil where there is none.
func (j *job) mountTarget(ctx context.Context, m *manifest.Manifest) (t *target, err error) {
	vols, err := volumes(j.disk, m)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "mimeo-target-")
	if err != nil {
		return nil, err
	}
	t = &target{dir: dir}
	t.defers(func() error { return os.Remove(dir) })
	defer func() {
		if err != nil || t == nil {
			err = errors.Join(err, (&target{undo: []func() error{func() error { return removeIfThere(dir) }}}).unmount())
		}
	}()
	type candidate struct {
		volume
		says bool // its fstab names it as root
	}
	var found []candidate
	for _, kind := range mountable {
		for _, v := range vols {
			if v.Type != kind {
				continue
			}
			ok, says, err := j.looksLikeRoot(dir, v)
			if err != nil {
				j.report.say(fmt.Sprintf("partition %d (%s) cannot be mounted: %v", v.Partition, v.Type, err))
				continue
			}
			if ok {
				found = append(found, candidate{v, says})
			}
		}
	}
	if len(found) == 0 {
		return nil, nil
	}
	best := 0
	if i := slices.IndexFunc(found, func(c candidate) bool { return c.says }); i >= 0 {
		best = i
	}
	if len(found) > 1 {
		j.report.say(fmt.Sprintf("%d volumes look like a root of Linux; taking partition %d", len(found), found[best].Partition))
	}
	root := found[best].volume
	undo, err := mountVolume(j.disk, root, dir, false)
	if err != nil {
		return nil, fmt.Errorf("mount the deployed root (partition %d): %w", root.Partition, err)
	}
	t.defers(undo)
	j.report.say(fmt.Sprintf("deployed root is partition %d (%s %s)", root.Partition, root.Type, root.UUID))
	if root.raid != nil {
		j.report.say("it lies in a RAID1, which runs with this disk alone: wipe disks that were in the same array before, then add them with \"mdadm --add\"")
	}
	for _, f := range readFstab(dir) {
		v, ok := f.find(vols)
		if !ok || !f.wanted() {
			continue
		}
		at, ok := below(dir, f.dir)
		if !ok {
			continue
		}
		undo, err := mountVolume(j.disk, v, at, false)
		if err != nil {
			j.report.say(fmt.Sprintf("%s of the deployed system (partition %d) cannot be mounted: %v", f.dir, v.Partition, err))
			continue
		}
		t.defers(undo)
	}
	return t, nil
}

func removeIfThere(dir string) error {
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (t *target) defers(undo func() error) { t.undo = append(t.undo, undo) }

// unmount undoes all, the last first.
func (t *target) unmount() error {
	var errs []error
	for i := len(t.undo) - 1; i >= 0; i-- {
		errs = append(errs, t.undo[i]())
	}
	t.undo = nil
	return errors.Join(errs...)
}

// looksLikeRoot mounts a volume for a moment.
func (j *job) looksLikeRoot(dir string, v volume) (ok, says bool, err error) {
	undo, err := mountVolume(j.disk, v, dir, true)
	if err != nil {
		return false, false, err
	}
	defer func() { err = errors.Join(err, undo()) }()
	isFile := func(name string) bool {
		st, err := os.Lstat(filepath.Join(dir, name))
		return err == nil && (st.Mode().IsRegular() || st.Mode()&os.ModeSymlink != 0)
	}
	if st, err := os.Lstat(filepath.Join(dir, "etc")); err != nil || !st.IsDir() {
		return false, false, nil
	}
	if !isFile("etc/os-release") && !isFile("usr/lib/os-release") && !isFile("etc/fstab") {
		return false, false, nil
	}
	for _, f := range readFstab(dir) {
		if f.dir == "/" {
			_, says = f.find([]volume{v})
		}
	}
	return true, says, nil
}

// fstabLine is a line of fstab(5).
type fstabLine struct{ source, dir string }

// readFstab reads a deployed system's table, the upper folders first. What is wrong in it is passed over.
func readFstab(root string) []fstabLine {
	r, err := os.OpenRoot(root)
	if err != nil {
		return nil
	}
	defer r.Close()
	st, err := r.Stat("etc/fstab")
	if err != nil || !st.Mode().IsRegular() || st.Size() > 1<<20 {
		return nil
	}
	b, err := r.ReadFile("etc/fstab")
	if err != nil {
		return nil
	}
	var out []fstabLine
	for line := range strings.Lines(string(b)) {
		w := strings.Fields(line)
		if len(w) < 3 || strings.HasPrefix(w[0], "#") || !path.IsAbs(w[1]) {
			continue
		}
		out = append(out, fstabLine{strings.Trim(w[0], `"`), path.Clean(w[1])})
	}
	slices.SortStableFunc(out, func(a, b fstabLine) int { return strings.Count(a.dir, "/") - strings.Count(b.dir, "/") })
	return out
}

// wanted tells whether identity or root postscripts may need what is mounted there.
func (f fstabLine) wanted() bool {
	for _, d := range []string{"/usr", "/var", "/boot", "/etc", "/efi"} {
		if f.dir == d || strings.HasPrefix(f.dir, d+"/") {
			return true
		}
	}
	return false
}

// isLogical tells whether a device's name is that of a logical volume: /dev/vg0/root, or /dev/mapper/vg0-root, where
// hyphens of the names are doubled.
func isLogical(source, name string) bool {
	group, lv, ok := strings.Cut(name, "/")
	double := func(s string) string { return strings.ReplaceAll(s, "-", "--") }
	return ok && (source == "/dev/"+name || source == "/dev/mapper/"+double(group)+"-"+double(lv))
}

// find returns the volume that a line means. Device names are not followed: what is vda2 here may be sda2 there.
func (f fstabLine) find(vols []volume) (volume, bool) {
	for _, v := range vols {
		if v.logical != "" && isLogical(f.source, v.logical) {
			return v, true
		}
	}
	key, value, ok := strings.Cut(f.source, "=")
	if !ok {
		for _, p := range []struct{ dir, key string }{{"/dev/disk/by-uuid/", "UUID"}, {"/dev/disk/by-label/", "LABEL"}, {"/dev/disk/by-partuuid/", "PARTUUID"}, {"/dev/disk/by-partlabel/", "PARTLABEL"}} {
			if v, is := strings.CutPrefix(f.source, p.dir); is {
				key, value, ok = p.key, v, true
			}
		}
	}
	value = strings.Trim(value, `"`)
	if !ok || value == "" {
		return volume{}, false
	}
	for _, v := range vols {
		has := ""
		switch key {
		case "UUID":
			has = v.UUID
		case "LABEL":
			has = v.Label
		case "PARTUUID":
			has = v.partUUID
		case "PARTLABEL":
			has = v.partName
		}
		if strings.EqualFold(has, value) {
			return v, true
		}
	}
	return volume{}, false
}

// below returns a folder of the deployed system, if all parts of its path are folders and none is a link.
func below(root, dir string) (string, bool) {
	at := root
	for part := range strings.SplitSeq(strings.Trim(dir, "/"), "/") {
		at = filepath.Join(at, part)
		if st, err := os.Lstat(at); err != nil || !st.IsDir() {
			return "", false
		}
	}
	return at, true
}

// untouched are the options by which a filesystem's journal is left alone.
var untouched = map[string]string{"ext3": "noload", "ext4": "noload", "xfs": "norecovery", "btrfs": "rescue=nologreplay"}

// mountVolume mounts a volume of a disk on a folder, by its partition's device where the kernel has made one, else
// through a loop device. To look only, it is mounted so that not a byte of it changes: a journal is not replayed, as
// that would write even to what is mounted read-only.
func mountVolume(d hwinfo.Disk, v volume, dir string, look bool) (undo func() error, err error) {
	dev, detach, err := device(d, v, look)
	if err != nil {
		return nil, err
	}
	fstype := v.Type
	if fstype == "fat" {
		fstype = "vfat"
	}
	flags, options := uintptr(unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOATIME), ""
	if look {
		flags |= unix.MS_RDONLY
		options = untouched[fstype]
	}
	if err := unix.Mount(dev, dir, fstype, flags, options); err != nil {
		return nil, errors.Join(fmt.Errorf("mount %s (%s): %w", dev, fstype, err), detach())
	}
	return func() error {
		err := unix.Unmount(dir, 0)
		for try := 0; errors.Is(err, unix.EBUSY) && try < 50; try++ { // a postscript's child may be about to end
			time.Sleep(100 * time.Millisecond)
			err = unix.Unmount(dir, 0)
		}
		if err != nil {
			err = fmt.Errorf("unmount the deployed %s filesystem from %s: %w", v.Type, dir, err)
		}
		return errors.Join(err, detach())
	}, nil
}

// partitionWait is how long the kernel may take to make a partition's device.
const partitionWait = 5 * time.Second

// device returns a block device of a volume.
func device(d hwinfo.Disk, v volume, look bool) (dev string, detach func() error, err error) {
	if v.part != nil {
		return innerDevice(d, v, look)
	}
	none := func() error { return nil }
	if !d.Image {
		if v.Partition == 0 && v.Off == 0 {
			return d.Path, none, nil
		}
		for deadline := time.Now().Add(partitionWait); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
			if dev := partitionDevice(d, v); dev != "" {
				return dev, none, nil
			}
			if !hasPartitions(d) {
				break // a kernel that reads no partition tables
			}
		}
	}
	return loopdev.Attach(d.Path, v.Off, v.Len, false)
}

// partitionDevice finds the device of a volume's partition by where it starts.
func partitionDevice(d hwinfo.Disk, v volume) string {
	dirs, _ := filepath.Glob("/sys/block/" + d.Name + "/" + d.Name + "*") // the pattern is well formed
	for _, p := range dirs {
		b, err := os.ReadFile(filepath.Join(p, "start"))
		if err != nil {
			continue
		}
		start, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
		if dev := "/dev/" + filepath.Base(p); err == nil && start*512 == v.Off {
			if _, err := os.Stat(dev); err == nil {
				return dev
			}
		}
	}
	return ""
}

func hasPartitions(d hwinfo.Disk) bool {
	dirs, _ := filepath.Glob("/sys/block/" + d.Name + "/" + d.Name + "*/partition")
	return len(dirs) > 0
}

// forPrograms mounts what programs in the deployed root need of the kernel.
func (t *target) forPrograms() (undo func() error, err error) {
	p := &target{}
	for _, m := range []struct {
		source, dir, fstype string
		flags               uintptr
	}{
		{"proc", "/proc", "proc", 0},
		{"sysfs", "/sys", "sysfs", 0},
		{"/dev", "/dev", "", unix.MS_BIND | unix.MS_REC},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV},
		{"efivarfs", "/sys/firmware/efi/efivars", "efivarfs", 0},
	} {
		at, ok := below(t.dir, m.dir)
		if !ok {
			continue // the last one on machines without UEFI, any where the system lacks the folder
		}
		if err := unix.Mount(m.source, at, m.fstype, m.flags, ""); err != nil {
			if m.fstype == "efivarfs" {
				continue
			}
			return nil, errors.Join(fmt.Errorf("mount %s in the deployed root: %w", m.dir, err), p.unmount())
		}
		if m.flags&unix.MS_REC != 0 {
			unix.Mount("", at, "", unix.MS_PRIVATE|unix.MS_REC, "") // so that unmounting it touches the real one's mounts never
		}
		p.defers(func() error {
			if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
				return fmt.Errorf("unmount %s in the deployed root: %w", m.dir, err)
			}
			return nil
		})
	}
	return p.unmount, nil
}
