// Package trial boots a captured disk in a virtual machine that is thrown away, to see whether it comes up.
package trial

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Options say what to boot, and what to wait for.
type Options struct {
	Disk       string // path of the raw disk, which is only read
	SectorSize int    // bytes
	Firmware   string // "bios" or "uefi"
	Bus        string // of the disk: "ahci", "nvme" or "virtio"
	Expect     *regexp.Regexp
	Timeout    time.Duration
	Memory     int // MiB
	CPUs       int
	Accel      string // "kvm", "tcg", or "" for what works
	Screen     string // path of a PNG that is made of the screen at the end; "" for none
	Work       string // folder for what it needs meanwhile
	Console    io.Writer
	Log        func(format string, args ...any)
}

// Result is what came of it.
type Result struct {
	Booted  bool          // what was waited for was said
	Match   string        // the text that was
	Why     string        // why not
	Took    time.Duration // until then
	Accel   string        // "kvm" or "tcg"
	Read    int64         // bytes that the guest read from its disk
	Resets  int           // how often the guest started anew by itself
	Console string        // the end of what it said on its serial console
	Screen  bool          // there is a picture of the screen
}

const (
	look      = 250 * time.Millisecond
	maxResets = 5               // of a guest: a system that sets itself up starts anew once or twice
	kvmTime   = 8 * time.Second // after which a guest that KVM runs has long read from its disk
	maxFile   = 16 << 30        // bytes that the guest may write to its disk, at most
	tailBytes = 4 << 10
)

// errStuck says that KVM takes the machine and then does not run it, as happens inside some virtual machines.
var errStuck = errors.New("KVM does not run the machine")

// Run boots the disk, and returns when it has come up, has failed, or the time is over: no program of it runs any more then. An
// error means that it could not be tried.
func Run(ctx context.Context, o Options) (Result, error) {
	if err := canRun(); err != nil {
		return Result{}, err
	}
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	if o.Expect == nil {
		o.Expect = Login
	}
	accel := o.Accel
	if accel == "" {
		accel = "tcg"
		if kvm() {
			accel = "kvm"
		}
	}
	res, err := run(ctx, o, accel)
	if errors.Is(err, errStuck) && o.Accel == "" {
		o.Log("%v: it is tried without, which is slower", err)
		res, err = run(ctx, o, "tcg")
	}
	return res, err
}

func run(ctx context.Context, o Options, accel string) (res Result, err error) {
	work, err := os.MkdirTemp(o.Work, "boot-")
	if err != nil {
		return res, err
	}
	defer os.RemoveAll(work)
	args, err := machine(o, accel, work)
	if err != nil {
		return res, err
	}
	outer := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var said transcript
	var problems bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + work}
	cmd.Dir = work
	cmd.Stdout, cmd.Stderr = &said, &problems
	if o.Console != nil {
		cmd.Stdout = io.MultiWriter(&said, o.Console)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 5 * time.Second
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return res, fmt.Errorf("start %s: %w", program, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait(); cancel() }()
	defer func() {
		cancel()
		<-ended
	}()
	fail := func(err error) (Result, error) {
		cancel()
		<-ended
		ended <- nil
		if errors.Is(err, context.Canceled) && outer.Err() == nil {
			err = errors.New("QEMU has ended")
		}
		if outer.Err() == nil && accel == "kvm" && o.Accel == "" && res.Read == 0 {
			err = errStuck
		}
		if text := strings.TrimSpace(problems.String()); text != "" {
			err = fmt.Errorf("%w: %s", err, tail(text, 1000))
		}
		return res, err
	}
	if err := unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: maxFile, Max: maxFile}, nil); err != nil && !errors.Is(err, unix.ESRCH) {
		return fail(fmt.Errorf("bound what the machine may write: %w", err))
	}
	m, err := dial(ctx, filepath.Join(work, "qmp"))
	if err != nil {
		return fail(err)
	}
	defer m.conn.Close()

	res.Accel = accel
	tick := time.NewTicker(look)
	defer tick.Stop()
	for res.Why == "" {
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
		text := said.String()
		res.Took, res.Console = time.Since(begin), tail(text, tailBytes)
		if res.Match, res.Why = judge(text, o.Expect); res.Match != "" {
			res.Booted, res.Why = true, ""
			break
		}
		n, err := m.read()
		res.Resets = m.resets
		if err == nil {
			res.Read = n
		}
		switch {
		case res.Why != "":
		case m.ended != "":
			res.Why = m.ended
		case outer.Err() != nil:
			return fail(context.Cause(outer))
		case err != nil:
			return fail(fmt.Errorf("the virtual machine has failed: %w", err))
		case res.Resets > maxResets:
			res.Why = fmt.Sprintf("it has started anew %d times", res.Resets)
		case accel == "kvm" && o.Accel == "" && res.Read == 0 && res.Took > kvmTime:
			return fail(errStuck)
		case res.Took > o.Timeout && text == "":
			res.Why = fmt.Sprintf("it said nothing on its serial console within %v", o.Timeout)
		case res.Took > o.Timeout:
			res.Why = fmt.Sprintf("%q was not seen on its serial console within %v", o.Expect, o.Timeout)
		}
	}
	if o.Screen != "" {
		res.Screen = screenshot(m, work, o.Screen) == nil
	}
	if n, err := m.read(); err == nil {
		res.Read = n
	}
	return res, nil
}

// screenshot makes a picture of the screen.
func screenshot(m *monitor, work, path string) error {
	tmp := filepath.Join(work, "screen.png")
	if _, err := m.ask("screendump", map[string]any{"filename": tmp, "format": "png"}); err != nil {
		return err
	}
	b, err := os.ReadFile(tmp)
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o644)
}
