package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"mimeo/internal/agent/firstboot"
	"mimeo/internal/agent/identity"
	"mimeo/internal/agent/postscript"
	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/imaging/deploy"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/tool"
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
	if m, err = j.newUUIDs(ctx, m); err != nil {
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
		if len(j.task.Root) == 0 && len(j.task.First)+len(j.task.Unattend) > 0 {
			if found, err := j.windows(ctx, m); found || err != nil {
				return err
			}
		}
		if len(j.task.Root)+len(j.task.First)+len(j.task.Unattend) > 0 {
			return &api.Error{Code: "no_root", Message: "the image has no root filesystem of Linux that can be mounted, nor a Windows that was asked for, and postscripts were to run in it",
				Hint: "take the postscripts of stages root and first, and label " + node.LabelUnattend + ", away from the node; stage root is for Linux alone; the job's log says what was found"}
		}
		j.report.say("no root filesystem of Linux was found: the system keeps the identity of the captured one")
		return nil
	}
	defer func() { err = errors.Join(err, t.unmount()) }()
	if len(j.task.Unattend) > 0 {
		j.report.say("the deployed system is a Linux: the answer file of label " + node.LabelUnattend + " is for none")
	}
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
	if err := j.newInitramfs(ctx, t); err != nil {
		return err
	}
	if err := j.rootScripts(ctx, t); err != nil {
		return err
	}
	return j.firstScripts(t)
}

// firstScripts leaves programs in the deployed system for its first boot. They are placed after the last root postscript, so
// that what those do to the system is not in their way.
func (j *job) firstScripts(t *target) error {
	list, err := withContent(j.task.First)
	if err != nil {
		return err
	}
	env := j.env()
	delete(env, "DISK") // another name in another kernel
	init, err := firstboot.Place(t.dir, list, env)
	switch {
	case errors.Is(err, firstboot.ErrNoInit):
		return &api.Error{Code: "no_init", Message: err.Error() + ", and postscripts were to run at its first boot",
			Hint: "take the postscripts of stage first away from the node, or make them ones of stage root"}
	case err != nil:
		return fmt.Errorf("leave postscripts for the first boot in the deployed system: %w", err)
	case init != "":
		names := make([]string, 0, len(list))
		for _, p := range list {
			names = append(names, p.Name)
		}
		j.report.say(fmt.Sprintf("left for the first boot, by %s: %s", init, strings.Join(names, ", ")))
	}
	return nil
}

// grow makes what lies in the volume that grew as large as that. What cannot grow works as it is.
func (j *job) grow(ctx context.Context, m *manifest.Manifest) error {
	g, err := deploy.GrowVolume(ctx, j.disk.Path, j.disk.Size, m, j.table, j.growth())
	for _, n := range g.Notes {
		j.report.say(n)
	}
	for _, is := range g.Grown {
		j.report.say(fmt.Sprintf("%s grew from %d to %d MiB", is.What, is.From>>20, is.To>>20))
	}
	if name, missing := tool.MissingPackage(err); missing {
		return &api.Error{Code: "no_tool", Message: err.Error(), Hint: "the stateless image's profile needs the package " + name}
	}
	return err
}

// growth says what grows on a larger disk.
func (j *job) growth() string {
	if j.task.Grow == "" {
		return deploy.GrowLast
	}
	return j.task.Grow
}

// rootScripts runs postscripts with the deployed root as their root.
func (j *job) rootScripts(ctx context.Context, t *target) (err error) {
	if len(j.task.Root) == 0 {
		return nil
	}
	j.report.enter(api.PhaseRootPost)
	list, err := withContent(j.task.Root)
	if err != nil {
		return err
	}
	return j.inRoot(ctx, t, list)
}

// inRoot runs programs, whose content is given, with the deployed root as their root.
func (j *job) inRoot(ctx context.Context, t *target, list []api.Postscript) (err error) {
	undo, err := t.forPrograms()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, undo()) }()
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
