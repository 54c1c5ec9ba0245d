package agent

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"mimeo/internal/agent/hwinfo"
	"mimeo/internal/agent/loopdev"
	"mimeo/internal/imaging/blockfile"
	"mimeo/internal/imaging/fsmap/fact"
	"mimeo/internal/imaging/manifest"
)

// raid is a RAID1 of which one disk was deployed. It is written to through the kernel, which notes in the superblock that the
// other disks miss what came after: put beside this one, an old disk of the array is not taken for an equal one.
type raid struct {
	member  volume
	array   fact.Part // within the partition
	version string    // of the superblock: "1.2"

	users int
	dev   string
	stop  func() error
}

// raidPatience is how long the kernel may take to make or give back an array.
const raidPatience = 5 * time.Second

// start runs the array with the one disk and returns its device. release gives it back; the last one stops it.
func (r *raid) start(d hwinfo.Disk) (dev string, release func() error, err error) {
	if r.users == 0 {
		if err := r.run(d); err != nil {
			return "", nil, fmt.Errorf("run the RAID1 in partition %d with this disk alone: %w", r.member.Partition, err)
		}
	}
	r.users++
	return r.dev, func() error {
		if r.users--; r.users > 0 {
			return nil
		}
		return r.stop()
	}, nil
}

// run makes an array of the kernel by what it has in sysfs (Documentation/admin-guide/md.rst).
func (r *raid) run(d hwinfo.Disk) (err error) {
	const param = "/sys/module/md_mod/parameters/new_array"
	if _, err := os.Stat(param); err != nil {
		exec.Command("modprobe", "raid1").Run() // where it fails the file stays missing
		if _, err := os.Stat(param); err != nil {
			return fmt.Errorf("this kernel has no MD: %w", err)
		}
	}
	// Always a loop device: the kernel may have put the partition's own into an array by itself.
	member, detach, err := loopdev.Attach(d.Path, r.member.Off, r.member.Len, false)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, detach())
		}
	}()
	var st unix.Stat_t
	if err := unix.Stat(member, &st); err != nil {
		return err
	}
	name := ""
	for n := 100; n < 128 && name == ""; n++ {
		if _, err := os.Stat(fmt.Sprintf("/sys/block/md%d", n)); err != nil {
			name = fmt.Sprintf("md%d", n)
		}
	}
	if name == "" {
		return errors.New("no name for an array is free")
	}
	if err := os.WriteFile(param, []byte(name), 0o200); err != nil {
		return err
	}
	sys := filepath.Join("/sys/block", name, "md")
	stop := func() error {
		err := os.WriteFile(filepath.Join(sys, "array_state"), []byte("clear"), 0o200)
		for end := time.Now().Add(raidPatience); errors.Is(err, unix.EBUSY) && time.Now().Before(end); {
			time.Sleep(50 * time.Millisecond)
			err = os.WriteFile(filepath.Join(sys, "array_state"), []byte("clear"), 0o200)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("stop array %s: %w", name, err)
		}
		return nil
	}
	for _, w := range []struct{ file, text string }{
		{"metadata_version", r.version},
		{"new_dev", fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))},
		{"array_state", "active"},
	} {
		if err := os.WriteFile(filepath.Join(sys, w.file), []byte(w.text), 0o200); err != nil {
			return errors.Join(fmt.Errorf("array %s: %s: %w", name, w.file, err), stop())
		}
	}
	r.dev = "/dev/" + name
	for end := time.Now().Add(raidPatience); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(r.dev); err == nil {
			break
		} else if time.Now().After(end) {
			return errors.Join(err, stop())
		}
	}
	r.stop = func() error { return errors.Join(stop(), detach()) }
	return nil
}

// innerDevice returns a block device of a volume that lies inside another: to look through the disk, to write in a RAID1 through that.
func innerDevice(d hwinfo.Disk, v volume, look bool) (dev string, detach func() error, err error) {
	if v.raid == nil || look {
		return partDevice(d.Path, *v.part, look)
	}
	md, release, err := v.raid.start(d)
	if err != nil {
		return "", nil, err
	}
	if v.logical == "" {
		return md, release, nil
	}
	start, _ := v.raid.array.Piece()
	dev, free, err := partDevice(md, v.part.Moved(-start), look)
	if err != nil {
		return "", nil, errors.Join(err, release())
	}
	return dev, func() error { return errors.Join(free(), release()) }, nil
}

// partDevice makes a block device of a part of a disk: of several pieces by way of a file that shows them as one.
func partDevice(path string, p fact.Part, readOnly bool) (dev string, detach func() error, err error) {
	if off, ok := p.Piece(); ok {
		return loopdev.Attach(path, off, p.Size, readOnly)
	}
	mode := os.O_RDWR
	if readOnly {
		mode = os.O_RDONLY
	}
	disk, err := os.OpenFile(path, mode, 0)
	if err != nil {
		return "", nil, err
	}
	f, err := blockfile.Start(fact.Bytes{Part: p, Disk: disk}, p.Size)
	if err != nil {
		return "", nil, errors.Join(err, disk.Close())
	}
	end := func() error {
		err := errors.Join(f.Err(), f.Close())
		if !readOnly {
			err = errors.Join(err, disk.Sync())
		}
		return errors.Join(err, disk.Close())
	}
	dev, free, err := loopdev.Attach(f.Path, 0, p.Size, readOnly)
	if err != nil {
		return "", nil, errors.Join(err, end())
	}
	return dev, func() error { return errors.Join(free(), end()) }, nil
}

// innerVolume is a volume inside another as one of the list.
func innerVolume(around volume, v manifest.Volume, p fact.Part, r *raid, logical string) volume {
	v.Partition, v.Len = around.Partition, p.Size
	p.Outer(0, 1, func(_, off, _ int64) { v.Off = off })
	return volume{Volume: v, logical: logical, part: &p, raid: r}
}
