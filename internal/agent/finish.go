package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"mimeo/internal/agent/identity"
	"mimeo/internal/agent/postscript"
	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/deploy"
	"mimeo/internal/imaging/manifest"
)

// chrootDir is where root postscripts that come with the task are kept while they run, in the deployed root.
const chrootDir = "/.mimeo-postscripts"

// finish makes of the copied disk a system of its own: its last filesystem grows, the firmware learns
// of it, it gets its identity, and root
// postscripts run in it.
func (j *job) finish(ctx context.Context, m *manifest.Manifest) (err error) {
	j.report.enter(api.PhaseFinishing)
	if err := j.grow(ctx, m); err != nil {
		return err
	}
	if err := j.bootEntries(m); err != nil {
		return err
	}
	t, err := j.mountTarget(ctx, m)
	if err != nil {
		return err
	}
	if t == nil {
		if len(j.task.Root) > 0 {
			return &api.Error{Code: "no_root", Message: "the image has no root filesystem of Linux that can be mounted, and postscripts were to run in it",
				Hint: "take the root postscripts out of the profile, or see in the job's log what was found"}
		}
		j.report.say("no root filesystem of Linux was found: the system keeps the identity of the captured one")
		return nil
	}
	defer func() { err = errors.Join(err, t.unmount()) }()
	done, err := identity.Apply(t.dir, identity.Options{Hostname: j.hostname()})
	for _, d := range done {
		j.report.say(d)
	}
	if err != nil {
		return fmt.Errorf("give the deployed system its identity: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	return j.rootScripts(ctx, t)
}

// grow makes the last partition's filesystem as large as the partition. One that cannot grow works as it is.
func (j *job) grow(ctx context.Context, m *manifest.Manifest) error {
	if j.task.Grow == deploy.GrowNone || j.disk.Size <= m.Disk.Size {
		return nil
	}
	v, ok := deploy.LastVolume(m)
	if !ok || v.Method == manifest.MethodHead {
		return nil
	}
	vols, err := volumes(j.disk, m)
	if err != nil {
		return err
	}
	for _, have := range vols {
		if have.Partition != v.Partition || have.Len <= v.Len {
			continue
		}
		err := deploy.GrowRange(ctx, j.disk.Path, have.Off, have.Len, v.Type)
		switch {
		case errors.Is(err, deploy.ErrCannotGrow):
			j.report.say(fmt.Sprintf("the %s filesystem in partition %d keeps its size: no way is known to grow it", v.Type, v.Partition))
		case errors.Is(err, deploy.ErrSleeps):
			j.report.say(fmt.Sprintf("the %s filesystem in partition %d keeps its size: %v", v.Type, v.Partition, deploy.ErrSleeps))
		case errors.Is(err, exec.ErrNotFound):
			return &api.Error{Code: "no_tool", Message: err.Error(), Hint: "the stateless image's profile needs the package " + deploy.GrowPackage(v.Type)}
		case err != nil:
			return err
		default:
			j.report.say(fmt.Sprintf("partition %d grew from %d to %d MiB", v.Partition, v.Len>>20, have.Len>>20))
		}
	}
	return nil
}

// rootScripts runs postscripts with the deployed root as their root.
func (j *job) rootScripts(ctx context.Context, t *target) (err error) {
	if len(j.task.Root) == 0 {
		return nil
	}
	j.report.enter(api.PhaseRootPost)
	undo, err := t.forPrograms()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, undo()) }()
	list, err := withContent(j.task.Root)
	if err != nil {
		return err
	}
	// A new folder, so that nothing of the deployed system, a link above all, stands in its place.
	dir := filepath.Join(t.dir, chrootDir)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make a folder for postscripts in the deployed root: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	outs, err := postscript.Run(ctx, list, postscript.Options{Stage: api.PhaseRootPost, Env: j.env(), Root: t.dir, Dir: chrootDir, Ended: j.report.output})
	j.outputs = append(j.outputs, outs...)
	return scriptError(err)
}

// withContent reads postscripts that lie on a mount of the stateless image, which the deployed root does not have.
func withContent(list []api.Postscript) ([]api.Postscript, error) {
	const most = 64 << 20
	out := make([]api.Postscript, 0, len(list))
	for _, p := range list {
		if len(p.Content) == 0 {
			st, err := os.Stat(p.Path)
			if err != nil {
				return nil, &api.Error{Code: "postscript", Message: fmt.Sprintf("postscript %s: %v", p.Name, err),
					Hint: "its path is one of the stateless image, on one of the profile's mounts"}
			}
			if !st.Mode().IsRegular() || st.Size() > most {
				return nil, fmt.Errorf("postscript %s: %s is not a program of at most %d bytes", p.Name, p.Path, most)
			}
			if p.Content, err = os.ReadFile(p.Path); err != nil {
				return nil, fmt.Errorf("postscript %s: %w", p.Name, err)
			}
			if p.Name == "" {
				p.Name = strings.TrimPrefix(filepath.Base(p.Path), ".")
			}
		}
		out = append(out, p)
	}
	return out, nil
}
