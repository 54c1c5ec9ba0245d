package agent

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"mimeo/internal/agent/identity"
	"mimeo/internal/cluster/api"
)

// stayedPath remembers over a restart of the agent what has been run in this boot.
const stayedPath = "/run/mimeo/stayed"

// stateless gives a system in RAM its identity, makes its mounts, runs its postscripts, and stays. What fails is told
// and does not end it: a node without one of its mounts is of more use than none. The same task is not run twice in one
// boot.
func (a *agent) stateless(ctx context.Context, t api.Task) Action {
	key := t.Job + " " + t.Image
	for _, p := range slices.Concat(t.Pre, t.Post) {
		key += " " + p.Name
	}
	if a.stayed == key || a.Service && ranBefore() {
		a.stayed = key
		return ActionNone
	}
	a.stayed = key
	jctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	j := &job{agent: a, task: t, counts: map[string]int64{}}
	j.report = newReporter(a.srv, t.Job, a.BootID, a.Log, stop)
	j.identity()
	a.ready()
	failed := j.stay(jctx)
	j.report.close()
	if ctx.Err() != nil {
		return ActionNone
	}
	j.clean()
	if a.Service {
		os.WriteFile(stayedPath, []byte(key+"\n"), 0o644) // without it the scripts run again, as they must be able to
	}
	if len(t.SSHKeys) > 0 && !a.Service {
		a.shell(t)
	}
	if len(failed) == 0 {
		j.report.say("this stateless system is up, with all mounts and postscripts")
	} else {
		j.report.say("this stateless system is up; failed: " + strings.Join(failed, "; "))
	}
	j.report.flush(ctx, 5*time.Minute)
	return ActionNone
}

func ranBefore() bool {
	_, err := os.Stat(stayedPath)
	return err == nil
}

// stay makes the mounts, which are kept, and runs all postscripts. It returns what failed.
func (j *job) stay(ctx context.Context) (failed []string) {
	j.report.enter(api.PhasePre)
	if _, err := j.mounts(ctx); err != nil {
		failed = append(failed, err.Error())
	}
	for _, s := range []struct {
		stage api.Phase
		list  []api.Postscript
	}{{api.PhasePre, j.task.Pre}, {api.PhasePost, j.task.Post}} {
		for _, p := range s.list {
			if ctx.Err() != nil {
				return failed
			}
			if err := j.scripts(ctx, s.stage, []api.Postscript{p}); err != nil {
				failed = append(failed, err.Error())
				j.report.say(err.Error())
			}
		}
	}
	return failed
}

// Where a system has its SSH host key and root's keys.
var (
	hostKeyPath = "/etc/ssh/ssh_host_ed25519_key"
	rootKeys    = authorizedKeys
)

// identity gives a system with services of its own the host key by which it is known, and lets those in who were named
// with its boot state, beside those of its profile.
func (j *job) identity() {
	if !j.Service {
		return
	}
	if j.task.HostKey != "" {
		if err := identity.PutHostKey(hostKeyPath, j.task.HostKey); err != nil {
			j.report.say("the SSH host key is not set: " + err.Error())
		}
	}
	if err := addKeys(rootKeys, j.task.SSHKeys); err != nil {
		j.report.say(err.Error())
	}
}

// addKeys adds lines to a file of those who may sign in, unless they are there.
func addKeys(path string, keys []string) error {
	if len(keys) == 0 {
		return nil
	}
	have, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("keep ssh keys: %w", err)
	}
	lines := bytes.Split(have, []byte("\n"))
	text := bytes.TrimRight(have, "\n")
	for _, k := range keys {
		if !slices.ContainsFunc(lines, func(l []byte) bool { return string(bytes.TrimSpace(l)) == k }) {
			if len(text) > 0 {
				text = append(text, '\n')
			}
			text = append(text, k...)
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("keep ssh keys: %w", err)
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("keep ssh keys: %w", err)
	}
	return nil
}
