package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"mimeo/internal/agent/firstboot"
	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/deploy"
	"mimeo/internal/imaging/fsmap"
	"mimeo/internal/imaging/leaveout"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/tool"
)

// windows leaves postscripts and an answer file in a deployed Windows. found is false where the disk holds none.
func (j *job) windows(ctx context.Context, m *manifest.Manifest) (found bool, err error) {
	vols, err := volumes(j.disk, m)
	if err != nil {
		return false, err
	}
	list, err := withContent(j.task.First)
	if err != nil {
		return false, err
	}
	env := j.env()
	delete(env, "DISK")
	for _, v := range vols {
		if v.Type != "ntfs" {
			continue
		}
		var done []string
		err := j.inNTFS(ctx, v, func(dir string) (err error) {
			done, err = firstboot.PlaceWindows(dir, list, env, j.task.Unattend)
			return err
		})
		if errors.Is(err, firstboot.ErrNoWindows) {
			continue
		}
		for _, d := range done {
			j.report.say(d)
		}
		if err != nil {
			err = fmt.Errorf("leave postscripts in the Windows on partition %d: %w", v.Partition, err)
		}
		return true, err
	}
	return false, nil
}

// inNTFS mounts an NTFS with ntfs-3g while do runs. One in which a Windows sleeps, or that Windows has not left in order, is not
// touched.
func (j *job) inNTFS(ctx context.Context, v volume, do func(dir string) error) (err error) {
	dev, detach, err := device(j.disk, v, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, detach()) }()
	f, err := os.Open(dev)
	if err != nil {
		return err
	}
	fs, err := fsmap.Tree(f, v.Len, "ntfs")
	sleeps := err == nil && leaveout.Sleeps(fs)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("look at it before it is written to: %w", err)
	}
	if sleeps {
		return &api.Error{Code: "refused", Message: deploy.ErrSleeps.Error() + ", and must find it as it left it",
			Hint: "start the captured system, run \"shutdown /s /f /t 0\" or switch fast startup off with \"powercfg /h off\", and capture it again"}
	}
	dir, err := os.MkdirTemp("", "mimeo-target-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(dir)) }()
	if _, err := tool.Run(ctx, 0, "ntfs-3g", "-o", "rw,nosuid,nodev,noatime,norecover,windows_names", dev, dir); err != nil {
		if name, missing := tool.MissingPackage(err); missing {
			return &api.Error{Code: "no_tool", Message: err.Error(), Hint: "the stateless image's profile needs the package " + name}
		}
		return fmt.Errorf("mount it: %w", err)
	}
	defer func() { err = errors.Join(err, unmountNTFS(dir)) }()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return err
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		return &api.Error{Code: "refused", Message: "Windows has not left its filesystem in order: it was switched off while it ran, or sleeps",
			Hint: "start the captured system, shut it down with \"shutdown /s /f /t 0\", and capture it again"}
	}
	return do(dir)
}

// unmountNTFS unmounts, and waits until the program behind it has written all: it holds the device until then.
func unmountNTFS(dir string) error {
	err := unix.Unmount(dir, 0)
	for try := 0; errors.Is(err, unix.EBUSY) && try < 50; try++ {
		time.Sleep(100 * time.Millisecond)
		err = unix.Unmount(dir, 0)
	}
	if err != nil {
		return fmt.Errorf("unmount the deployed NTFS: %w", err)
	}
	for range 300 {
		if !servesMount(dir) {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return errors.New("ntfs-3g still writes to the deployed NTFS, half a minute after it was unmounted")
}

// servesMount tells whether an ntfs-3g that has a folder among its arguments runs.
func servesMount(dir string) bool {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is well formed
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err == nil && len(b) > len(dir)+1 && string(b[len(b)-len(dir)-1:]) == dir+"\x00" {
			return true
		}
	}
	return false
}
