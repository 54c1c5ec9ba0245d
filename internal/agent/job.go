package agent

import (
	"context"
	"errors"
	"maps"
	"os"
	"strconv"
	"time"

	"mimeo/internal/agent/hwinfo"
	"mimeo/internal/agent/postscript"
	"mimeo/internal/agent/upstream"
	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store/httpstore"
)

// postDir is where postscripts that come with the task are kept and started.
const postDir = "/run/mimeo/postscripts"

// job is a task under way.
type job struct {
	*agent
	task   api.Task
	report *reporter
	store  *httpstore.Client

	disk     hwinfo.Disk
	touched  bool
	manifest string
	table    manifest.Table // deploy: as it is on the disk
	counts   map[string]int64
	outputs  []api.Output
	wiping   []victim        // wipe: the disks
	proof    *api.WipeReport // wipe: what became of them
	entries  *api.HardwareBoot
}

// job runs a capture, deploy or wipe to its end, and returns what the server wants then.
func (a *agent) job(ctx context.Context, t api.Task) Action {
	a.Log("job %s: %s %s", t.Job, t.Kind, t.Image)
	jctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	j := &job{agent: a, task: t, counts: map[string]int64{}}
	j.report = newReporter(a.srv, t.Job, a.BootID, a.Log, stop)
	err := j.run(jctx)
	j.report.close()
	if ctx.Err() != nil {
		return ActionNone
	}
	unsaid, _ := j.report.take()
	j.clean()
	d := api.Done{Job: t.Job, BootID: a.BootID, OK: err == nil, Touched: j.touched, Manifest: j.manifest, Counts: j.counts,
		PhaseMS: j.report.times(), Disk: j.disk.Disk, Outputs: j.outputs, Log: unsaid.Log, Wipe: j.proof, Boot: j.entries, Time: time.Now().UTC()}
	switch {
	case errors.Is(err, errCancelled), errors.Is(err, errGone):
		d.Cancelled = true
		d.Error = asError("cancelled", err)
		a.Log("stopped: %v", err)
	case err != nil:
		d.Error = asError("failed", err)
		a.Log("failed: %v", err)
		if d.Error.Hint != "" {
			a.Log("hint: %s", d.Error.Hint)
		}
	}
	return a.tell(ctx, d)
}

// tell repeats the agent's last word until it is answered: the node must not reboot before its boot state is disk.
func (a *agent) tell(ctx context.Context, d api.Done) Action {
	wait, refused := firstWait, 0
	for ctx.Err() == nil {
		r, err := a.srv.Done(ctx, d)
		switch {
		case err == nil && r.Action == string(ActionReboot), err == nil && r.Action == string(ActionPowerOff):
			return Action(r.Action)
		case err == nil:
			wait = time.Duration(max(r.RetryMS, 100)) * time.Millisecond
			sleep(ctx, wait)
			continue
		case upstream.Final(err):
			// The server has answered: it knows nothing of this job. What the node boots next is its decision again.
			if refused++; refused >= goneAfter {
				a.Log("the server refuses the result of job %s: %v", d.Job, err)
				return ActionReboot
			}
		default:
			refused = 0
		}
		if ctx.Err() == nil {
			a.Log("tell the result: %v; trying again in %v", err, wait)
		}
		sleep(ctx, jitter(wait))
		wait = min(wait*2, longWait)
	}
	return ActionNone
}

// run does all steps of a task.
func (j *job) run(ctx context.Context) error {
	err := j.steps(ctx)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause // what failed then, failed because of it
	}
	return err
}

// steps undoes the mounts whatever happened.
func (j *job) steps(ctx context.Context) (err error) {
	disks, err := j.disks()
	if err != nil {
		return err
	}
	if j.task.Kind == api.TaskWipe {
		if j.wiping, err = j.victims(disks); err != nil {
			return err
		}
		j.disk = j.wiping[0].Disk
	} else if j.disk, err = hwinfo.ChooseDisk(j.task.Disk, disks); err != nil {
		return err
	}
	j.report.say("disk " + j.disk.Describe())
	j.store, err = httpstore.NewClient(httpstore.Options{Base: j.srv.Base(), Token: j.srv.Token(), HTTP: j.srv.HTTP()})
	if err != nil {
		return err
	}
	j.report.enter(api.PhasePre)
	unmount, err := j.mounts(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unmount()) }()
	if err := j.scripts(ctx, api.PhasePre, j.task.Pre); err != nil {
		return err
	}
	switch j.task.Kind {
	case api.TaskCapture:
		err = j.capture(ctx)
	case api.TaskWipe:
		err = j.wipe(ctx)
	default:
		err = j.deploy(ctx)
	}
	if err != nil {
		return err
	}
	return j.scripts(ctx, api.PhasePost, j.task.Post)
}

// mounts makes the task's NFS mounts.
func (j *job) mounts(ctx context.Context) (unmount func() error, err error) {
	if !j.Own {
		if len(j.task.Mounts) > 0 {
			j.report.say("this agent is a guest on its system and makes no mounts")
		}
		return func() error { return nil }, nil
	}
	return mountAll(ctx, j.task.Mounts, j.Log)
}

// scripts runs postscripts in the stateless image.
func (j *job) scripts(ctx context.Context, stage api.Phase, list []api.Postscript) error {
	if len(list) == 0 {
		return nil
	}
	j.report.enter(stage)
	outs, err := postscript.Run(ctx, list, postscript.Options{Stage: stage, Env: j.env(), Dir: j.scriptDir(), Ended: j.report.output})
	j.outputs = append(j.outputs, outs...)
	return scriptError(err)
}

// scriptDir is postDir where this machine is the agent's own.
func (j *job) scriptDir() string {
	if j.Own {
		return postDir
	}
	return guestDir(j.task.Job)
}

// clean removes what an agent that is a guest has left on its system.
func (j *job) clean() {
	if !j.Own {
		os.RemoveAll(j.scriptDir())
	}
}

// scriptError adds the end of the output, so that the job's error says what the script said.
func scriptError(err error) error {
	var p *postscript.Error
	if !errors.As(err, &p) {
		return err
	}
	e := &api.Error{Code: "postscript", Message: p.Error(), Hint: "its output is with the job: mimeo job show"}
	if last := lastLine(p.Output.Output); last != "" && p.Err == nil {
		e.Message += ": " + last
	}
	return e
}

// env is the environment of postscripts: the node's attributes as the server sends them, and what only the agent knows.
// docs/agent.md lists it.
func (j *job) env() map[string]string {
	env := map[string]string{"NODE": string(j.task.Node), "HOSTNAME": j.hostname(), "TASK": string(j.task.Kind), "IMAGE": j.task.Image, "JOB": j.task.Job}
	if j.task.Rev > 0 {
		env["REV"] = strconv.Itoa(j.task.Rev)
	}
	maps.Copy(env, j.task.Attrs)
	env["DISK"], env["DISK_SERIAL"], env["DISK_SIZE"] = j.disk.Path, j.disk.Serial, strconv.FormatInt(j.disk.Size, 10)
	if j.manifest != "" {
		env["MANIFEST"] = j.manifest
	}
	return env
}

// hostname is what the deployed system is called.
func (j *job) hostname() string {
	if j.task.Hostname != "" {
		return j.task.Hostname
	}
	return string(j.task.Node)
}
