// Package agent asks the management node for a task, runs it and reports.
//
// The agent pulls one task, makes one call into imaging for it, and says "done" until it is answered: the server never
// calls the agent. Packages bringup (from the kernel's first process to here) and hwinfo, postscript, identity (what a
// task needs) lie beside it.
package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"mimeo/internal/agent/hwinfo"
	"mimeo/internal/agent/lldp"
	"mimeo/internal/agent/upstream"
	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

// Config says for which node and in what surroundings the agent works.
type Config struct {
	Server, Pin, Token string
	Node               node.Name
	BootID             string               // of this boot of the machine
	Build              string               // of the stateless image
	Version            string               // of this program
	BootMAC            string               // of the network card that the machine booted from; may be empty
	BootTime           func() time.Duration // since the kernel started

	// Own says that this machine is the agent's alone, as in the stateless image: it makes mounts and shells. Otherwise
	// the agent is a guest on somebody's system, and touches nothing but Images.
	Own bool
	// Service says that the machine's own init is process 1 and the agent one of its services: it offers no shell and
	// never reboots.
	Service bool
	// Ready is called once the system has the identity that the server gives it; nil means that nobody waits.
	Ready func()
	// Images are image files that stand in for the machine's disks. Without, its real disks are used.
	Images []string
	// Once makes Run return after the first task rather than ask for another.
	Once bool

	Log func(format string, args ...any)
}

// Action is what is left to do when Run returns.
type Action string

// The actions.
const (
	ActionNone     Action = "none"
	ActionReboot   Action = "reboot"
	ActionPowerOff Action = "poweroff"
)

// Waits of the agent. Tests make them shorter.
var (
	firstWait  = 500 * time.Millisecond
	longWait   = 10 * time.Second
	deniedFor  = time.Minute      // how long the server may say no before the node boots anew
	silentFor  = 30 * time.Minute // how long it may say nothing at the start
	stayWait   = time.Minute      // between tries of a stateless system whose server says nothing, or no
	shellEvery = 5 * time.Second  // between questions for the next task, where the server does not say
)

type agent struct {
	Config
	srv *upstream.Server

	shells *shells // what TaskShell has started; nil before
	asked  bool    // whether there is a BMC
	bmc    *api.HardwareBMC
	lldp   *lldp.Listener // nil on a system of somebody else
	said   string         // by the server, with its last TaskNone
	stayed string         // key of the stateless task that has been run
}

// Run works until a task or the server says how to go on.
func Run(ctx context.Context, c Config) (Action, error) {
	srv, err := upstream.New(c.Server, c.Pin, c.Token)
	if err != nil {
		return ActionNone, err
	}
	defer srv.Close()
	if c.Log == nil {
		c.Log = func(string, ...any) {}
	}
	if c.BootTime == nil {
		began := time.Now()
		c.BootTime = func() time.Duration { return time.Since(began) }
	}
	a := &agent{Config: c, srv: srv}
	defer func() { a.shells.stop() }()
	if c.Own {
		if a.lldp, err = lldp.Listen(); err != nil {
			c.Log("%v", err)
		} else {
			defer a.lldp.Close()
		}
	}
	ready := false
	for {
		task, err := a.ask(ctx)
		if err != nil {
			return a.giveUp(ctx, err)
		}
		if !ready {
			ready = true
			c.Log("ready %s boot_ms=%d", c.Node, c.BootTime().Milliseconds())
		}
		action, wait := a.do(ctx, task)
		a.ready()
		if ctx.Err() != nil {
			return ActionNone, context.Cause(ctx)
		}
		if action != ActionNone || c.Once && task.Kind != api.TaskNone {
			return action, nil
		}
		if err := sleep(ctx, wait); err != nil {
			return ActionNone, err
		}
	}
}

// ready tells, once, that the system has its identity, or that there is none to be had.
func (a *agent) ready() {
	if a.Ready != nil {
		a.Ready()
		a.Ready = nil
	}
}

// stays tells whether this is a system that somebody works with, and that nothing but a person reboots.
func (a *agent) stays() bool { return a.Service || a.stayed != "" }

// giveUp says what follows when no task can be had. In the stateless image a new boot helps: it brings a new token, or
// the disk.
func (a *agent) giveUp(ctx context.Context, err error) (Action, error) {
	if ctx.Err() != nil {
		return ActionNone, err
	}
	a.Log("no task: %v", err)
	if a.Own {
		return ActionReboot, nil
	}
	return ActionNone, err
}

// do runs a task and returns what is left to do, and how long to wait before the next question.
func (a *agent) do(ctx context.Context, t api.Task) (Action, time.Duration) {
	wait := time.Duration(t.RetryMS) * time.Millisecond
	if wait <= 0 {
		wait = shellEvery
	}
	switch t.Kind {
	case api.TaskNone:
		if t.Say != a.said {
			a.said = t.Say
			a.Log("%s", t.Say)
		}
	case api.TaskReboot:
		if a.Service {
			a.Log("the server has something else for the next boot of this node")
			return ActionNone, stayWait
		}
		a.Log("nothing to do here: rebooting")
		return ActionReboot, 0
	case api.TaskShell:
		a.shell(t)
	case api.TaskStateless:
		return a.stateless(ctx, t), wait
	case api.TaskCapture, api.TaskDeploy, api.TaskWipe:
		return a.job(ctx, t), 0
	default:
		a.Log("the server sent a task of kind %q, which this agent does not know; asking again", t.Kind)
	}
	return ActionNone, wait
}

// ask says hello until the server answers with a task.
func (a *agent) ask(ctx context.Context) (api.Task, error) {
	began, wait := time.Now(), firstWait
	var denied time.Time
	for {
		t, err := a.srv.Hello(ctx, api.Hello{Version: api.AgentVersion, Agent: a.Version, BootID: a.BootID, Build: a.Build,
			BootMS: a.BootTime().Milliseconds(), Hardware: a.hardware()})
		if err == nil {
			return t, nil
		}
		if ctx.Err() != nil {
			return t, context.Cause(ctx)
		}
		if !upstream.Final(err) {
			denied = time.Time{}
		} else if denied.IsZero() {
			denied = time.Now()
		}
		if !a.stays() && (!denied.IsZero() && time.Since(denied) >= deniedFor || time.Since(began) >= silentFor) {
			return t, err
		}
		if a.stays() && time.Since(began) > deniedFor {
			a.ready() // the system must not wait for its server for ever
			wait = stayWait
		}
		a.Log("ask for a task: %v; asking again in %v", err, wait)
		if err := sleep(ctx, jitter(wait)); err != nil {
			return t, err
		}
		wait = min(wait*2, longWait)
	}
}

// hardware reports the machine, with the disks that this agent would use.
func (a *agent) hardware() api.Hardware {
	h := hwinfo.Read("/", a.BootMAC)
	if a.Own && !a.asked { // once a boot: some take seconds to answer
		a.asked, a.bmc = true, hwinfo.BMC("/")
	}
	h.BMC = a.bmc
	if a.lldp != nil {
		heard := a.lldp.Heard()
		for i := range h.NICs {
			if s, ok := heard[h.NICs[i].Name]; ok {
				h.NICs[i].Switch = &s
			}
		}
	}
	if h.UEFI && a.Images == nil {
		h.Boot = a.boot()
	}
	if a.Images != nil {
		h.Disks = []api.Disk{}
		disks, err := a.disks()
		if err != nil {
			a.Log("%v", err)
		}
		for _, d := range disks {
			h.Disks = append(h.Disks, d.Disk)
		}
	}
	return h
}

// disks lists the disks that a task may use.
func (a *agent) disks() ([]hwinfo.Disk, error) {
	if a.Images == nil {
		return hwinfo.Disks("/"), nil
	}
	var out []hwinfo.Disk
	for _, path := range a.Images {
		d, err := hwinfo.ImageDisk(path)
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// jitter spreads nodes that lost their server together.
func jitter(d time.Duration) time.Duration { return d*3/4 + time.Duration(rand.Int64N(int64(d)/2+1)) }

// asError makes an error one for an admin.
func asError(code string, err error) *api.Error {
	var e *api.Error
	if errors.As(err, &e) {
		out := *e
		if full := err.Error(); full != "" {
			out.Message = full // with what was being done
		}
		return &out
	}
	return &api.Error{Code: code, Message: fmt.Sprint(err)}
}
