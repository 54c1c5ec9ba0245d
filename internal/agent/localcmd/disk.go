package localcmd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/deploy"
	"mimeo/internal/imaging/disk"
	"mimeo/internal/imaging/fsmap"
	"mimeo/internal/imaging/manifest"
)

// source is a disk that is captured. While it is open the kernel lets nobody mount it.
type source struct {
	*disk.Disk
	claim *os.File // holds a block device exclusively; nil for an image file, and where the user wants none
}

func (s *source) Close() error {
	if s.claim != nil {
		s.claim.Close()
	}
	return s.Disk.Close()
}

// openSource opens a disk to be captured.
func openSource(path string, force bool) (*source, error) {
	if !force {
		if err := inUse(path); err != nil {
			return nil, err
		}
	}
	d, err := disk.Open(path, disk.Options{})
	if err != nil {
		return nil, openError(err)
	}
	s := &source{Disk: d}
	if d.IsBlock() && !force {
		if s.claim, err = os.OpenFile(path, os.O_RDONLY|os.O_EXCL, 0); err != nil {
			return nil, errors.Join(openError(err), d.Close())
		}
	}
	return s, nil
}

// inUse refuses a disk that somebody uses.
func inUse(path string) error {
	err := disk.InUse(path)
	var use *disk.InUseError
	if errors.As(err, &use) {
		return &api.Error{Code: "refused", Message: err.Error(),
			Hint: "unmount it first; --force captures it all the same, and the image may then not be consistent"}
	}
	return openError(err)
}

func openError(err error) error {
	switch {
	case errors.Is(err, unix.EBUSY):
		return &api.Error{Code: "refused", Message: err.Error(), Hint: "something uses it: look with \"lsblk\" and \"fuser -v\""}
	case errors.Is(err, os.ErrNotExist):
		return &api.Error{Code: "not_found", Message: err.Error(), Hint: "\"lsblk\" lists the disks of this machine"}
	case errors.Is(err, os.ErrPermission):
		return &api.Error{Code: "refused", Message: err.Error(), Hint: "run it as root"}
	}
	return err
}

// target is a disk that is written.
type target struct {
	deploy.Disk
	path  string
	fresh bool // an image file that was not there, or has no data yet
}

// openTarget opens the disk that m is written to. A path where nothing is becomes an image file as large as the captured
// disk, but not below /dev: there it is a mistyped disk.
func openTarget(path string, m *manifest.Manifest) (*target, error) {
	t := &target{path: path}
	_, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		if abs, err := filepath.Abs(path); err != nil || strings.HasPrefix(abs, "/dev/") && !strings.HasPrefix(abs, "/dev/shm/") {
			return nil, &api.Error{Code: "not_found", Message: fmt.Sprintf("there is no disk %s", path), Hint: "\"lsblk\" lists the disks of this machine"}
		}
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return nil, err
		}
		if err := errors.Join(f.Truncate(m.Disk.Size), f.Close()); err != nil {
			return nil, errors.Join(fmt.Errorf("make image file %s: %w", path, err), os.Remove(path))
		}
		t.fresh = true
	}
	opts := disk.Options{}
	if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() {
		opts.SectorSize = m.Disk.SectorSize // a file has the sectors that its table is made for
	}
	d, err := disk.OpenExclusive(path, opts)
	var use *disk.InUseError
	if errors.As(err, &use) {
		return nil, &api.Error{Code: "refused", Message: err.Error(), Hint: "look whether this is the right disk; nothing writes to one in use"}
	}
	if err != nil {
		return nil, openError(err)
	}
	t.Disk = deploy.Disk{Disk: d}
	return t, nil
}

// holds says what is on the disk, "" where it is empty: no partition table, no filesystem, and zeros in its first MiB.
func (t *target) holds() (string, error) {
	if t.fresh {
		return "", nil
	}
	table, err := disk.ReadTable(t, t.Size(), t.SectorSize())
	if err != nil {
		return "", err
	}
	switch n := len(table.Partitions); {
	case table.Whole != "":
		return "a damaged partition table", nil
	case table.Kind != "none":
		return fmt.Sprintf("a partition table (%s) with %d partitions", table.Kind, n), nil
	}
	usage, err := fsmap.Map(t, t.Size())
	if err != nil {
		return "", err
	}
	if usage.Type != "unknown" {
		what := usage.Type
		if usage.Label != "" {
			what += fmt.Sprintf(" with the label %q", usage.Label)
		}
		return what, nil
	}
	buf := make([]byte, min(1<<20, t.Size()))
	if n, err := t.ReadAt(buf, 0); n < len(buf) && err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	if !chunk.IsZero(buf) {
		return "data in its first MiB", nil
	}
	return "", nil
}
