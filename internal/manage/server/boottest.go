package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/store"
	"mimeo/internal/manage/stateless"
)

// bootTestFile is where the result of a revision's last boot test is kept, or the picture of its screen. The revision's hash is
// part of the name: a result is never taken for that of another content.
func (s *Server) bootTestFile(rev store.Revision, end string) string {
	return filepath.Join(s.cfg.State, "boot-tests", rev.ID.String()+end)
}

// lastBootTest returns what came of the last boot test of a revision, or nil.
func (s *Server) lastBootTest(rev store.Revision) *api.BootTest {
	b, err := os.ReadFile(s.bootTestFile(rev, ".json"))
	var t api.BootTest
	if err != nil || json.Unmarshal(b, &t) != nil {
		return nil
	}
	t.Image, t.Rev = rev.Image, rev.Rev // two revisions may have the same content
	return &t
}

// bootTest boots a revision in a virtual machine and streams how long that takes, and what comes of it. One at a time: each takes
// memory and two processors of the management node.
func (s *Server) bootTest(w http.ResponseWriter, r *http.Request) {
	req, err := read[api.BootTestNew](r)
	if err == nil {
		err = checkBootTest(&req)
	}
	var rev store.Revision
	if err == nil {
		rev, _, err = s.revision(r)
	}
	if err != nil {
		writeError(w, err)
		return
	}
	if !s.trials.TryLock() {
		writeError(w, &api.Error{Code: "busy", Message: "an image is being tried already", Hint: "try again when that is done"})
		return
	}
	defer s.trials.Unlock()
	send := sse(w)
	ctx, stop := context.WithCancel(r.Context())
	defer stop()
	var t *api.BootTest
	done := make(chan error, 1)
	begin := time.Now()
	go func() {
		var err error
		t, err = s.runBootTest(ctx, rev, req)
		done <- err
	}()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		p := api.BootTestProgress{RunningMS: time.Since(begin).Milliseconds()}
		select {
		case err := <-done:
			if p.Finished, p.Result = true, t; err != nil {
				p.Error = toAPIError(err)
			}
			send(p)
			return
		case <-tick.C:
			if send(p) != nil {
				stop() // nobody waits for it any more
			}
		}
	}
}

func checkBootTest(q *api.BootTestNew) error {
	bad := func(format string, args ...any) error {
		return &api.Error{Code: "bad_request", Message: fmt.Sprintf(format, args...)}
	}
	if q.TimeoutMS == 0 {
		q.TimeoutMS = api.BootTestTimeout.Milliseconds()
	}
	if q.Bus == "" {
		q.Bus = api.BootTestBuses[0]
	}
	if q.Memory == 0 {
		q.Memory = api.BootTestMemory
	}
	if _, err := regexp.Compile(q.Expect); err != nil || len(q.Expect) > 1000 {
		return bad("expect: %v, or longer than 1000 characters", err)
	}
	switch {
	case q.Firmware != "" && q.Firmware != "bios" && q.Firmware != "uefi":
		return bad("firmware %q: want bios or uefi", q.Firmware)
	case !slices.Contains(api.BootTestBuses, q.Bus):
		return bad("bus %q: want one of %s", q.Bus, strings.Join(api.BootTestBuses, ", "))
	case q.TimeoutMS < 1000 || q.TimeoutMS > api.BootTestMaxTimeout.Milliseconds():
		return bad("timeout_ms: want 1000 to %d", api.BootTestMaxTimeout.Milliseconds())
	case q.Memory < 64 || q.Memory > api.BootTestMaxMemory:
		return bad("memory: want 64 to %d MiB", api.BootTestMaxMemory)
	}
	return nil
}

// runBootTest runs the agent, which runs the machine, and keeps what comes of it.
func (s *Server) runBootTest(ctx context.Context, rev store.Revision, q api.BootTestNew) (*api.BootTest, error) {
	agent, err := stateless.AgentBinary(s.cfg.Agent, stateless.OwnArch())
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(s.cfg.State, "boot-tests")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	work, err := os.MkdirTemp("/var/tmp", "mimeo-trial-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	screen := filepath.Join(work, "screen.png")
	limit := time.Duration(q.TimeoutMS) * time.Millisecond
	ctx, cancel := context.WithTimeoutCause(ctx, 2*limit+time.Minute, errors.New("the boot test took far too long"))
	defer cancel()
	place, env := s.storeArgs()
	cmd := exec.CommandContext(ctx, agent, "boot-test", "--json", "--store", place, "--work", work, "--screenshot", screen, "--firmware="+q.Firmware, "--bus", q.Bus,
		"--expect="+q.Expect, "--timeout", limit.String(), "--memory", strconv.Itoa(q.Memory), "--", rev.String())
	cmd.Env = append(env, "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "GOMEMLIMIT=256MiB")
	// By these it ends the machine and takes the mount down; Pdeathsig does so where this daemon dies.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = api.BootTestWait
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err = cmd.Run()
	var t api.BootTest
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case json.Unmarshal(out.Bytes(), &t) == nil && t.ID == rev.ID.String():
	case errors.As(err, &exit):
		return nil, browseError(exit.ExitCode(), said.String())
	case err != nil:
		return nil, err
	default:
		return nil, fmt.Errorf("mimeo-agent printed no result: %.200q", out.String())
	}
	s.log.Info("boot test", "image", rev.String(), "booted", t.Booted, "why", t.Why, "took", time.Duration(t.TookMS)*time.Millisecond)
	return &t, s.keepBootTest(rev, &t, screen)
}

// keepBootTest keeps a result and the picture that belongs to it.
func (s *Server) keepBootTest(rev store.Revision, t *api.BootTest, screen string) error {
	b, err := json.Marshal(t)
	if err != nil {
		return err
	}
	s.forgetBootTest(rev)
	if t.Screen {
		p, err := os.ReadFile(screen)
		if err == nil {
			err = os.WriteFile(s.bootTestFile(rev, ".png"), p, 0o600)
		}
		if err != nil {
			return fmt.Errorf("keep the picture of the screen: %w", err)
		}
	}
	if err := os.WriteFile(s.bootTestFile(rev, ".json"), b, 0o600); err != nil {
		return fmt.Errorf("keep the result of the boot test: %w", err)
	}
	return nil
}

// forgetBootTest removes what is kept of a revision that is not there any more.
func (s *Server) forgetBootTest(rev store.Revision) {
	os.Remove(s.bootTestFile(rev, ".json"))
	os.Remove(s.bootTestFile(rev, ".png"))
}

// bootTestScreen sends the picture of the screen of the last boot test.
func (s *Server) bootTestScreen(w http.ResponseWriter, r *http.Request) {
	rev, _, err := s.revision(r)
	if err != nil {
		writeError(w, err)
		return
	}
	b, err := os.ReadFile(s.bootTestFile(rev, ".png"))
	if err != nil {
		writeError(w, &api.Error{Code: "not_found", Message: fmt.Sprintf("there is no picture of a boot test of %s", rev), Hint: fmt.Sprintf("make one: mimeo image boot-test %s", rev)})
		return
	}
	w.Header().Set("Content-Type", "image/png")
	w.Write(b)
}
