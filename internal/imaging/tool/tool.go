// Package tool runs the programs that filesystems and volume managers bring along.
package tool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// Error is what a program said that failed.
type Error struct {
	Command string // with its arguments
	Output  string // both streams, the last 4 KiB
	Err     error
}

func (e *Error) Error() string {
	s := fmt.Sprintf("%s: %v", e.Command, e.Err)
	if e.Output != "" {
		s += ": " + strings.Join(strings.Fields(e.Output), " ")
	}
	return s
}
func (e *Error) Unwrap() error { return e.Err }

// Run runs a program and returns what it wrote to its standard output. mended is an exit status above zero that is fine,
// too. An error is an *Error.
func Run(ctx context.Context, mended int, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = 5 * time.Second
	cmd.Env = append(os.Environ(), "LC_ALL=C", "LVM_SUPPRESS_FD_WARNINGS=1")
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Run()
	var exit *exec.ExitError
	if err == nil || errors.As(err, &exit) && mended > 0 && exit.ExitCode() == mended {
		return out.String(), nil
	}
	text := bytes.TrimSpace(append(out.Bytes(), said.Bytes()...))
	if over := len(text) - 4<<10; over > 0 {
		text = text[over:]
	}
	return out.String(), &Error{Command: strings.Join(append([]string{name}, args...), " "), Output: string(text), Err: err}
}

// packages are Debian's, by the program of theirs that may be missing.
var packages = map[string]string{"e2fsck": "e2fsprogs", "resize2fs": "e2fsprogs", "ntfsresize": "ntfs-3g", "ntfs-3g": "ntfs-3g", "xfs_growfs": "xfsprogs", "btrfs": "btrfs-progs", "lvm": "lvm2", "tune2fs": "e2fsprogs", "xfs_admin": "xfsprogs", "btrfstune": "btrfs-progs", "swaplabel": "util-linux", "sfdisk": "fdisk"}

// MissingPackage names Debian's package with the program for lack of which an error came.
func MissingPackage(err error) (name string, ok bool) {
	var missing *exec.Error
	if !errors.As(err, &missing) || !errors.Is(err, exec.ErrNotFound) {
		return "", false
	}
	name, ok = packages[missing.Name]
	return name, ok
}
