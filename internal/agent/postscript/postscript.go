// Package postscript runs a node's postscripts in order and keeps their output.
package postscript

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"mimeo/internal/cluster/api"
)

// MaxOutput is how much of a postscript's output is kept: its end.
const MaxOutput = 64 << 10

// DefaultTimeout is for a postscript that names none.
const DefaultTimeout = 10 * time.Minute

// grace is how long a postscript may take to end itself after it was asked to.
const grace = 5 * time.Second

// Options say how postscripts are run.
type Options struct {
	Stage api.Phase         // for the outputs
	Env   map[string]string // their whole environment, but for PATH, HOME and LANG, which have defaults
	Dir   string            // they start here, and programs that came with the task are kept here while they run
	Root  string            // they run with this as their root; Dir is then below it; "" means the real one

	// Ended is called after each; nil means none.
	Ended func(api.Output)
}

// Error is a postscript that failed.
type Error struct {
	api.Output
	Err error // why, where it did not run or was stopped
}

func (e *Error) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("postscript %s: %v", e.Name, e.Err)
	}
	return fmt.Sprintf("postscript %s: exit status %d", e.Name, e.Exit)
}

func (e *Error) Unwrap() error { return e.Err }

// Run runs the postscripts one after the other until one fails, which is an *Error. The outputs are of those that ran.
// After ctx is cancelled, or a postscript's time is over, it and all that it started in its process group is ended.
func Run(ctx context.Context, list []api.Postscript, o Options) ([]api.Output, error) {
	var outs []api.Output
	for i, p := range list {
		if err := ctx.Err(); err != nil {
			return outs, context.Cause(ctx)
		}
		out, err := one(ctx, i, p, o)
		out.Name, out.Stage = p.Name, o.Stage
		outs = append(outs, out)
		if o.Ended != nil {
			o.Ended(out)
		}
		if err != nil || out.Exit != 0 {
			return outs, &Error{out, err}
		}
	}
	return outs, nil
}

func one(ctx context.Context, i int, p api.Postscript, o Options) (out api.Output, err error) {
	out.Exit = -1
	began := time.Now()
	defer func() {
		out.MS = time.Since(began).Milliseconds()
		if err != nil && out.Output == "" {
			out.Output = err.Error() + "\n"
		}
	}()
	path := p.Path
	if len(p.Content) > 0 {
		file, remove, err := place(filepath.Join(o.Root, o.Dir), i, p)
		if err != nil {
			return out, err
		}
		defer remove()
		path = filepath.Join(o.Dir, file)
	}
	if o.Dir != "" { // where it runs, also one that lies elsewhere
		if err := os.MkdirAll(filepath.Join(o.Root, o.Dir), 0o700); err != nil {
			return out, err
		}
	}
	if !filepath.IsAbs(path) {
		return out, fmt.Errorf("program %q is not an absolute path", path)
	}
	limit := time.Duration(p.TimeoutMS) * time.Millisecond
	if limit <= 0 {
		limit = DefaultTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("ran longer than its limit of %v", limit))
	defer cancel()

	var kept tail
	cmd, err := start(path, o, &kept)
	if err != nil {
		return out, fmt.Errorf("start %s: %w", path, explain(err))
	}
	os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", cmd.Process.Pid), []byte("0"), 0) // the agent's own may be lower
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		end(cmd.Process.Pid)
	})
	err = cmd.Wait()
	stopped := !stop()
	if stopped {
		<-ended // nothing is left behind, of the group or of ours
	}
	out.Output = kept.String()
	var exit *exec.ExitError
	switch {
	case stopped:
		return out, context.Cause(ctx)
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		out.Exit = cmd.ProcessState.ExitCode()
		return out, nil
	case errors.As(err, &exit):
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return out, fmt.Errorf("killed by %v", ws.Signal())
		}
		out.Exit = exit.ExitCode()
		return out, nil
	}
	return out, err
}

// start starts a program. Another child that is being started at the same moment may hold the file, which was just
// written, open for an instant: then it is busy, and a second try is due.
func start(path string, o Options, to *tail) (*exec.Cmd, error) {
	for try := 0; ; try++ {
		cmd := exec.Command(path)
		cmd.Dir, cmd.Env = o.Dir, Environ(o.Env)
		cmd.Stdout, cmd.Stderr = to, to
		cmd.WaitDelay = time.Second // for programs that it left behind with its output open
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Chroot: o.Root}
		err := cmd.Start()
		if !errors.Is(err, syscall.ETXTBSY) || try == 20 {
			return cmd, err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// end asks a process group to end, and makes it.
func end(pid int) {
	syscall.Kill(-pid, syscall.SIGTERM)
	for deadline := time.Now().Add(grace); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if syscall.Kill(-pid, 0) != nil {
			return
		}
	}
	syscall.Kill(-pid, syscall.SIGKILL)
}

// explain says what the kernel's two most common refusals mean.
func explain(err error) error {
	switch {
	case errors.Is(err, syscall.ENOEXEC):
		return fmt.Errorf("%w: it is neither a program of this architecture nor a script that starts with #!", err)
	case errors.Is(err, syscall.ENOENT):
		return fmt.Errorf("%w (or the interpreter that its first line names is not there)", err)
	}
	return err
}

var unsafeChars = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// FileName makes a postscript's name one that a file can have.
func FileName(name string) string { return unsafeChars.ReplaceAllString(filepath.Base(name), "_") }

// place writes a postscript that came with the task into dir.
func place(dir string, i int, p api.Postscript) (name string, remove func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", nil, err
	}
	name = fmt.Sprintf("%02d-%s", i+1, FileName(p.Name))
	file := filepath.Join(dir, name)
	os.Remove(file) // never write through a link
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o700)
	if err != nil {
		return "", nil, fmt.Errorf("keep postscript %s: %w", p.Name, err)
	}
	_, err = f.Write(p.Content)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(file)
		return "", nil, fmt.Errorf("keep postscript %s: %w", p.Name, err)
	}
	return name, func() { os.Remove(file) }, nil
}

// Environ makes a program's environment of its variables, NAME=VALUE in no order, with defaults for PATH, HOME and LANG.
func Environ(env map[string]string) []string {
	all := map[string]string{"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
	for k, v := range env {
		if k != "" && !strings.ContainsAny(k, "=\x00") && !strings.Contains(v, "\x00") {
			all[k] = v
		}
	}
	out := make([]string, 0, len(all))
	for k, v := range all {
		out = append(out, k+"="+v)
	}
	return out
}

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	if over := len(t.buf) - MaxOutput; over > MaxOutput { // moves at most once for each MaxOutput
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(b), nil
}

// String returns the end, as valid UTF-8.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.buf
	if over := len(b) - MaxOutput; over > 0 {
		b = b[over:]
	}
	return strings.ToValidUTF8(string(b), "\uFFFD")
}
