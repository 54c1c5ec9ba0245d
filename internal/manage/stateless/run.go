package stateless

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mimeo/internal/cluster/api"
)

// command is a program to run to its end.
type command struct {
	name    string
	args    []string
	dir     string
	env     []string // added to a small environment of its own
	mountNS bool     // in a mount namespace of its own: what it mounts is gone when it ends, however it ends
}

// run runs a program and gives back what it wrote to standard output. Its environment is the same everywhere: what a
// person has set must not change an image. A cancelled ctx ends the program and all that it started.
func (c command) run(ctx context.Context) ([]byte, error) {
	path, err := exec.LookPath(c.name)
	if err != nil {
		return nil, &api.Error{Code: "internal", Message: fmt.Sprintf("%s is not installed", c.name),
			Hint: "install the packages that build/packages lists (./setup does)"}
	}
	args := c.args
	if c.mountNS {
		// What it mounts must not show outside: its copies of the mounts stop sharing. In a chroot whose root is no
		// mount point that cannot be said; then removeTree is what keeps others' files safe.
		args = append([]string{"-c", `mount --make-rprivate / 2>/dev/null; exec "$0" "$@"`, path}, args...)
		path = "/bin/sh"
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = c.dir
	cmd.Env = append([]string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"LC_ALL=C.UTF-8", "TZ=UTC", "HOME=/root", "DEBIAN_FRONTEND=noninteractive",
	}, c.env...)
	for _, name := range []string{"http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"} {
		if v, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+v)
		}
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &tail{b: &errs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if c.mountNS {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNS
	}
	// Its group gets the time to tidy up before it is killed.
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 15 * time.Second
	err = cmd.Run()
	if ctx.Err() != nil {
		if cmd.Process != nil {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		}
		return nil, fmt.Errorf("%s: %w", c.name, context.Cause(ctx))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", c.name, err, lastLines(errs.String(), 6))
	}
	return out.Bytes(), nil
}

// tail keeps the end of what is written to it: a program's last words say why it failed.
type tail struct{ b *bytes.Buffer }

const tailBytes = 64 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.b.Write(p)
	if extra := t.b.Len() - tailBytes; extra > 0 {
		t.b.Next(extra)
	}
	return len(p), nil
}

// lastLines are the last lines that say something, as one line.
func lastLines(s string, n int) string {
	var lines []string
	for _, l := range strings.Split(s, "\n") {
		if l = strings.TrimSpace(l); l != "" && !strings.HasPrefix(l, "I: ") {
			lines = append(lines, l)
		}
	}
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	if len(lines) == 0 {
		return "it said nothing"
	}
	return strings.Join(lines, "; ")
}

// removeTree removes a folder in which programs may have mounted something (the machine's own /dev, for one), and been
// killed before they took it away: what is mounted goes first.
func removeTree(dir string) error {
	mounts, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(mounts) {
		if err := unix.Unmount(m, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("remove %s: unmount %s: %w", dir, m, err)
		}
	}
	return os.RemoveAll(dir)
}

// mountsBelow are the mount points at or below a folder, in the order in which they were made (proc(5), mountinfo).
func mountsBelow(dir string) ([]string, error) {
	real, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if real, err = filepath.Abs(real); err != nil {
		return nil, err
	}
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var out []string
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 4 {
			if p := unescape.Replace(f[4]); p == real || strings.HasPrefix(p, real+"/") {
				out = append(out, p)
			}
		}
	}
	return out, nil
}

// flock takes the lock of a folder, which exists afterwards. Where wait is false, a lock that somebody else holds is
// errBusy. The caller closes the file, which gives the lock back.
func flock(ctx context.Context, file string, how int, wait bool) (*os.File, error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", file, err), f.Close())
		}
		if !wait {
			return nil, errors.Join(errBusy, f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), f.Close())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

var errBusy = errors.New("somebody else is at work there")
