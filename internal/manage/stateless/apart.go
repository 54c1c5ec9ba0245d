package stateless

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"mimeo/internal/cluster/api"
)

// CommandApart is the word by which a program runs ServeApart: a build by somebody who is not root starts that program again.
const CommandApart = "build-stateless"

// reply is a line of its standard output; on its standard input are the Options.
type reply struct {
	Line   string     `json:"line,omitempty"`
	Built  bool       `json:"built,omitempty"`
	Failed *api.Error `json:"failed,omitempty"`
}

// buildApart has Build done in a user namespace: there a user who is not root is, for packages that want to be installed by root. It
// needs 65536 subordinate users and groups (subuid(5)) and the programs newuidmap and newgidmap.
func buildApart(ctx context.Context, o Options) (Stateless, error) {
	self, err := os.Executable()
	if err != nil {
		return Stateless{}, err
	}
	cmd := exec.CommandContext(ctx, "unshare", "--user", "--map-root-user", "--map-auto", "--", self, CommandApart)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	var errs bytes.Buffer
	cmd.Stderr = &tail{b: &errs}
	// It goes on for as long as its input is open: it ends with this process, however that ends.
	in, err := cmd.StdinPipe()
	if err != nil {
		return Stateless{}, err
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		return Stateless{}, err
	}
	if err := cmd.Start(); err != nil {
		return Stateless{}, fmt.Errorf("start a build in a user namespace: %w", err)
	}
	var last reply
	err = json.NewEncoder(in).Encode(o)
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 16<<20)
	for err == nil && lines.Scan() {
		var r reply
		if err = json.Unmarshal(lines.Bytes(), &r); err != nil {
			err = fmt.Errorf("a build in a user namespace said %.200q: %w", lines.Bytes(), err)
		} else if r.Line != "" && o.Progress != nil {
			o.Progress(r.Line)
		} else if r.Line == "" {
			last = r
		}
	}
	_, _ = io.Copy(io.Discard, out)
	waited := cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return Stateless{}, context.Cause(ctx)
	case last.Failed != nil:
		return Stateless{}, last.Failed
	case last.Built && waited == nil:
		return Current(o.StateDir, o.Profile, o.Arch)
	}
	return Stateless{}, &api.Error{Code: "internal", Message: fmt.Sprintf("a build in a user namespace failed: %v: %s", errors.Join(err, lines.Err(), waited), lastLines(errs.String(), 6)),
		Hint: fmt.Sprintf("user %d needs 65536 subordinate users and groups in /etc/subuid and /etc/subgid, the package uidmap, and a kernel that allows user namespaces", os.Getuid())}
}

// ServeApart runs one build as buildApart asks for it, until in ends.
func ServeApart(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d := json.NewDecoder(in)
	var o Options
	if err := d.Decode(&o); err != nil {
		return fmt.Errorf("read what to build: %w", err)
	}
	go func() {
		_, _ = io.Copy(io.Discard, in)
		cancel()
	}()
	enc := json.NewEncoder(out)
	o.Progress = func(line string) { _ = enc.Encode(reply{Line: line}) }
	if _, err := Build(ctx, o); err != nil {
		var e *api.Error
		if !errors.As(err, &e) {
			e = &api.Error{Code: "failed", Message: err.Error()}
		}
		return enc.Encode(reply{Failed: e})
	}
	return enc.Encode(reply{Built: true})
}
