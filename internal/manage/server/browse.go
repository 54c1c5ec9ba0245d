package server

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/manage/stateless"
)

// The files of images are read by mimeo-agent in a process of its own: what parses the filesystems of strange disks has
// no place in the daemon.

// maxBrowse bounds how many of these run at once.
const maxBrowse = 4

// maxLine bounds a line of what the agent prints.
const maxLine = 1 << 20

// browse runs the agent on the store and calls fn with what it prints. Its error is the agent's.
func (s *Server) browse(ctx context.Context, fn func(io.Reader) error, args ...string) error {
	select {
	case s.browsing <- struct{}{}:
		defer func() { <-s.browsing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	agent, err := stateless.AgentBinary(s.cfg.Agent, stateless.OwnArch())
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	cmd := exec.CommandContext(ctx, agent, args...)
	_, env := s.storeArgs()
	cmd.Env = append(env, "PATH=/usr/bin:/bin", "GOMEMLIMIT=256MiB")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", agent, err)
	}
	failed := fn(out)
	if failed != nil {
		stop()
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	switch {
	case failed != nil:
		return failed
	case errors.As(err, &exit):
		return browseError(exit.ExitCode(), said.String())
	}
	return err
}

// browseError is what the agent said, with the code that its exit status means.
func browseError(status int, said string) *api.Error {
	e := &api.Error{Code: "internal"}
	switch status {
	case 2:
		e.Code = "bad_request"
	case 3:
		e.Code = "not_found"
	}
	for line := range strings.Lines(said) {
		line = strings.TrimSuffix(line, "\n")
		if m, ok := strings.CutPrefix(line, "mimeo-agent: error: "); ok {
			e.Message = m
		} else if h, ok := strings.CutPrefix(line, "mimeo-agent: hint: "); ok {
			e.Hint = h
		}
	}
	if e.Message == "" {
		e.Message = fmt.Sprintf("mimeo-agent ended with status %d", status)
	}
	return e
}

// browseArgs checks the request and returns the arguments of the agent: the command with flags, then the revision.
func (s *Server) browseArgs(r *http.Request, flags ...string) ([]string, error) {
	rev, _, err := s.revision(r)
	if err != nil {
		return nil, err
	}
	if p := r.FormValue("partition"); p != "" {
		if n, err := strconv.Atoi(p); err != nil || n < 0 {
			return nil, &api.Error{Code: "bad_request", Message: fmt.Sprintf("partition %q: want a number", p)}
		}
		flags = append(flags, "--partition", p)
	}
	place, _ := s.storeArgs()
	return append(flags, "--store", place, "--", rev.String()), nil
}

// relay streams the lines that the agent prints, as events. An error becomes the last event, made by end.
func (s *Server) relay(w http.ResponseWriter, r *http.Request, args []string, end func(*api.Error) any) {
	started := false
	var send func(any) error
	err := s.browse(r.Context(), func(out io.Reader) error {
		lines := bufio.NewScanner(out)
		lines.Buffer(make([]byte, 0, 64<<10), maxLine)
		for lines.Scan() {
			if !started {
				started, send = true, sse(w)
			}
			if err := send(json.RawMessage(lines.Bytes())); err != nil {
				return err
			}
		}
		return lines.Err()
	}, args...)
	switch {
	case err == nil:
	case !started:
		writeError(w, err)
	default:
		send(end(toAPIError(err)))
	}
}

func (s *Server) imageFiles(w http.ResponseWriter, r *http.Request) {
	flags := []string{"files", "--json"}
	if r.FormValue("recursive") == "1" {
		flags = append(flags, "--recursive")
	}
	args, err := s.browseArgs(r, flags...)
	if err != nil {
		writeError(w, err)
		return
	}
	s.relay(w, r, append(args, "/"+r.FormValue("path")), func(e *api.Error) any { return api.ImageFiles{Finished: true, Error: e} })
}

func (s *Server) imageDiff(w http.ResponseWriter, r *http.Request) {
	args, err := s.browseArgs(r, "diff", "--json")
	if err == nil {
		with, rev, _ := strings.Cut(r.FormValue("with"), "@")
		other := r.Clone(r.Context())
		other.SetPathValue("name", with)
		other.SetPathValue("rev", rev)
		if _, _, err = s.revision(other); err == nil {
			args = append(args, with+"@"+rev)
		}
	}
	if err != nil {
		writeError(w, err)
		return
	}
	s.relay(w, r, args, func(e *api.Error) any { return api.ImageDiff{Finished: true, Error: e} })
}

// imageContent sends the bytes of a file. Where that fails in the middle the connection breaks off, so that nobody takes
// what came for the whole.
func (s *Server) imageContent(w http.ResponseWriter, r *http.Request) {
	args, err := s.browseArgs(r, "cat")
	if err != nil {
		writeError(w, err)
		return
	}
	sent := false
	err = s.browse(r.Context(), func(out io.Reader) error {
		buf := make([]byte, 256<<10)
		for {
			n, err := out.Read(buf)
			if n > 0 {
				if !sent {
					w.Header().Set("Content-Type", "application/octet-stream")
					sent = true
				}
				if _, err := w.Write(buf[:n]); err != nil {
					return err
				}
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
		}
	}, append(args, "/"+r.FormValue("path"))...)
	switch {
	case err != nil && sent:
		s.log.Warn("a file of an image was not sent whole", "err", err)
		panic(http.ErrAbortHandler)
	case err != nil:
		writeError(w, err)
	case !sent:
		w.Header().Set("Content-Type", "application/octet-stream")
	}
}
