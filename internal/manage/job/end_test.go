package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/inventory"
	"mimeo/internal/manage/power"
)

func (r *rig) cancel(id string) {
	r.t.Helper()
	_, err := r.e.Cancel(r.t.Context(), id)
	r.check(err)
}

// cancelled is the agent's answer to a cancel.
func (r *rig) cancelled(id string, touched bool) {
	r.t.Helper()
	a, err := r.e.Done(r.t.Context(), id, api.Done{BootID: r.bootID(), Cancelled: true, Touched: touched})
	r.check(err)
	if a.Action != "reboot" {
		r.t.Fatalf("a cancelled agent is told %+v", a)
	}
}

func TestCancel(t *testing.T) {
	to := func(p api.Phase) func(*rig, string) {
		return func(r *rig, id string) { r.netboot(id); r.progress(id, p, 1); r.cancel(id) }
	}
	silent := func(r *rig, id string) { r.wait(r.e.limits.AgentSilence + time.Second); r.pump() }
	for _, tc := range []struct {
		name  string
		kind  api.TaskKind
		do    func(*rig, string)
		after func(*rig, string) // nil where the job has to be over
		end   api.Phase
		error string // code
	}{
		{"queued", api.TaskCapture, func(r *rig, id string) { r.cancel(id) }, nil, api.PhaseCancelled, ""},
		{"netbooting", api.TaskDeploy, func(r *rig, id string) { r.pump(); r.cancel(id) }, nil, api.PhaseCancelled, ""},
		{"script fetched", api.TaskDeploy, func(r *rig, id string) { r.pump(); r.script(id); r.cancel(id) }, nil, api.PhaseCancelled, ""},
		{"agent", api.TaskDeploy, to(api.PhaseAgent), func(r *rig, id string) { r.cancelled(id, false) }, api.PhaseCancelled, ""},
		{"capturing", api.TaskCapture, to(api.PhaseCapturing), func(r *rig, id string) { r.cancelled(id, false) }, api.PhaseCancelled, ""},
		{"capturing, twice", api.TaskCapture, to(api.PhaseCapturing), func(r *rig, id string) {
			r.cancel(id)
			r.want(id, api.PhaseCancelling, node.BootCapture)
			r.cancelled(id, false)
		}, api.PhaseCancelled, ""},
		{"capturing, restarted", api.TaskCapture, to(api.PhaseCapturing), func(r *rig, id string) {
			r.restart()
			if r.progress(id, api.PhaseCapturing, 2) {
				r.t.Error("the agent is not told to stop")
			}
			r.cancelled(id, false)
		}, api.PhaseCancelled, ""},
		{"capturing, agent silent", api.TaskCapture, to(api.PhaseCapturing), silent, api.PhaseCancelled, ""},
		{"capturing, through before it heard", api.TaskCapture, to(api.PhaseCapturing), func(r *rig, id string) { r.done(id, r.stage()) }, api.PhaseCancelled, ""},
		{"capturing, rebooted", api.TaskCapture, to(api.PhaseCapturing), func(r *rig, id string) { r.script(id) }, api.PhaseCancelled, ""},
		{"capturing, agent restarted", api.TaskCapture, to(api.PhaseCapturing), func(r *rig, id string) { r.helloAgain(id) }, api.PhaseCancelled, ""},
		{"mapping a target, late word of a write", api.TaskDeploy, to(api.PhaseMapping), func(r *rig, id string) { r.cancelled(id, true) }, api.PhaseCancelled, "cancelled"},
		{"writing", api.TaskDeploy, to(api.PhaseWriting), func(r *rig, id string) { r.cancelled(id, true) }, api.PhaseCancelled, "cancelled"},
		{"writing, rebooted", api.TaskDeploy, to(api.PhaseWriting), func(r *rig, id string) { r.script(id) }, api.PhaseCancelled, "cancelled"},
		{"writing, agent silent", api.TaskDeploy, to(api.PhaseWriting), silent, api.PhaseLost, "lost"},
		{"writing, unheard and not switched off", api.TaskDeploy, func(r *rig, id string) {
			r.bmc.err = power.ErrByHand
			r.netboot(id)
			r.progress(id, api.PhaseWriting, 1)
			silent(r, id)
			r.cancel(id)
		}, nil, api.PhaseLost, "lost"},
		{"writing, unheard and power-cycled", api.TaskDeploy, func(r *rig, id string) {
			r.netboot(id)
			r.progress(id, api.PhaseWriting, 1)
			silent(r, id)
			r.cancel(id)
		}, nil, api.PhaseCancelled, "cancelled"},
		{"written before it heard", api.TaskDeploy, to(api.PhaseFinishing), func(r *rig, id string) {
			r.done(id, "")
			r.pump()
			r.script(id)
		}, api.PhaseDone, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			id := r.start(api.JobNew{Key: "k", Kind: tc.kind, Image: "web"})
			tc.do(r, id)
			if tc.after != nil {
				r.want(id, api.PhaseCancelling, bootState(tc.kind))
				tc.after(r, id)
			}
			r.want(id, tc.end, node.BootDisk)
			j := r.job(id)
			if code := ""; j.Error != nil && j.Error.Code != tc.error || j.Error == nil && code != tc.error {
				t.Errorf("error %+v, want %q", j.Error, tc.error)
			}
			if r.revisions() != 0 {
				t.Error("a cancelled capture was published")
			}
			// Whatever comes late changes nothing.
			r.pump()
			if r.script(id) || r.hello(id) || r.progress(id, api.PhaseWriting, 9) {
				t.Error("the node goes on after the end")
			}
			r.want(id, tc.end, node.BootDisk)
			if _, err := r.e.Cancel(t.Context(), id); err == nil {
				t.Error("a job that has ended was cancelled")
			}
		})
	}
}

// A cancel that comes while the power command is under way.
func TestCancelWhilePowering(t *testing.T) {
	r := newRig(t)
	id := r.capture("k")
	r.bmc.hook = func() { r.cancel(id) }
	r.pump()
	r.want(id, api.PhaseCancelled, node.BootDisk)
	// A system that was asked to shut down is switched on again; one that was not is left alone.
	for _, state := range []power.State{power.StateOn, power.StateOff} {
		r := newRig(t)
		r.e.limits.SoftOff = 30 * time.Millisecond
		r.bmc.state = state
		id := r.capture("k")
		r.e.power = func(ctx context.Context, n node.Node, f func(power.Controller) error) error {
			r.cancel(id)
			return f(r.bmc)
		}
		r.pump()
		if n := r.bmc.count("cycle"); state == power.StateOn && n != 1 || state == power.StateOff && n != 0 {
			t.Errorf("system was %s: %d cycles", state, n)
		}
	}
}

func TestCancelTooLate(t *testing.T) {
	r := newRig(t)
	id := r.capture("k")
	r.netboot(id)
	r.done(id, r.stage())
	for _, p := range []api.Phase{api.PhaseVerifying, api.PhaseRebooting} {
		if r.job(id).Phase != p {
			t.Fatalf("job is %s", r.job(id).Phase)
		}
		var ae *api.Error
		if _, err := r.e.Cancel(t.Context(), id); !errors.As(err, &ae) || ae.Code != "conflict" {
			t.Errorf("cancel in %s: %v", p, err)
		}
		r.pump()
	}
	if _, err := r.e.Cancel(t.Context(), "j99"); err == nil {
		t.Error("a job that never was is cancelled")
	}
}

func TestNotBack(t *testing.T) {
	r := newRig(t)
	id := r.capture("k")
	r.netboot(id)
	r.done(id, r.stage())
	r.pump()
	before := r.bmc.count("cycle")
	r.wait(r.e.limits.Reboot + time.Second)
	r.pump()
	r.want(id, api.PhaseRebooting, node.BootDisk)
	if n := r.bmc.count("cycle") - before; n != 1 {
		t.Fatalf("%d cycles for a node that is not back", n)
	}
	r.restart()
	r.pump()
	r.wait(r.e.limits.Reboot + time.Second)
	r.pump()
	r.want(id, api.PhaseLost, node.BootDisk)
	if n := r.bmc.count("cycle") - before; n != 1 || r.revisions() != 1 || r.job(id).Error.Hint == "" {
		t.Errorf("%d cycles, %d revisions, error %+v", n, r.revisions(), r.job(id).Error)
	}
}

// The daemon dies and starts again at each step of a job, in the middle of its server's part too: the job ends well,
// with one netboot, one power cycle and one revision.
func TestRestartAnywhere(t *testing.T) {
	type step struct {
		name string
		do   func(r *rig, id string)
	}
	for _, kind := range []api.TaskKind{api.TaskCapture, api.TaskDeploy} {
		staged := func(r *rig) string {
			if kind == api.TaskDeploy {
				return ""
			}
			if r.salt == 0 {
				r.stage()
			}
			r.salt = 0
			return r.stage()
		}
		main := api.PhaseCapturing
		if kind == api.TaskDeploy {
			main = api.PhaseWriting
		}
		steps := []step{
			{"queued", func(r *rig, id string) {}},
			{"power", func(r *rig, id string) { r.pump() }},
			{"script", func(r *rig, id string) { r.wait(9 * time.Second); r.script(id) }},
			{"hello", func(r *rig, id string) { r.hello(id) }},
			{"pre", func(r *rig, id string) { r.progress(id, api.PhasePre, 0) }},
			{"mapping", func(r *rig, id string) { r.progress(id, api.PhaseMapping, 0) }},
			{"main", func(r *rig, id string) { r.progress(id, main, 5) }},
			{"post", func(r *rig, id string) { r.progress(id, api.PhasePost, 0) }},
			{"done", func(r *rig, id string) { r.done(id, staged(r)) }},
			{"done again", func(r *rig, id string) { r.done(id, staged(r)) }},
			{"server", func(r *rig, id string) { r.pump() }},
			{"done once more", func(r *rig, id string) { r.done(id, staged(r)) }},
			{"disk", func(r *rig, id string) { r.script(id) }},
		}
		for k := range steps {
			t.Run(fmt.Sprint(kind, " ", steps[k].name), func(t *testing.T) {
				t.Parallel()
				r := newRig(t)
				id := r.start(api.JobNew{Key: "k", Kind: kind, Image: "web", Verify: true})
				for i, s := range steps {
					s.do(r, id)
					if i == k {
						r.restart()
						if i > 0 { // a job that is only queued is not powered by the old one
							r.pump()
						}
					}
				}
				r.want(id, api.PhaseDone, node.BootDisk)
				j := r.job(id)
				revs := 1
				if kind == api.TaskDeploy {
					revs = 0
				}
				if j.Try != 1 || r.bmc.count("cycle") != 1 || r.revisions() != revs {
					t.Errorf("try %d, %d cycles, %d revisions", j.Try, r.bmc.count("cycle"), r.revisions())
				}
			})
		}
	}
}

// The daemon dies between the store's publishing and the inventory's knowing.
func TestDiesWhilePublishing(t *testing.T) {
	r := newRig(t)
	id := r.capture("k")
	r.netboot(id)
	m := r.stage()
	r.done(id, m)
	ctx, die := context.WithCancel(t.Context())
	r.store.hook = die
	r.e.step(ctx)
	r.e.work.Wait()
	if r.revisions() != 1 || r.boot() != node.BootCapture {
		t.Fatalf("%d revisions, boot state %s", r.revisions(), r.boot())
	}
	r.store.hook = nil
	r.restart()
	if r.done(id, m).Action != "wait" {
		t.Error("the agent may reboot before the boot state is disk")
	}
	r.pump()
	r.want(id, api.PhaseRebooting, node.BootDisk)
	if r.revisions() != 1 || r.job(id).Rev != 1 {
		t.Errorf("%d revisions, job's is %d", r.revisions(), r.job(id).Rev)
	}
}

// Run ends with its context, with nothing left behind, also in the middle of a power command and of a pause.
func TestRunEnds(t *testing.T) {
	r := newRig(t)
	r.e.powerPause = time.Hour
	r.bmc.fails = 99
	id := r.capture("k")
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { r.e.Run(ctx) })
	for end := time.Now().Add(5 * time.Second); r.job(id).PowerTries == 0 && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	stop()
	wg.Wait()
	if j := r.job(id); j.Phase != api.PhasePowering || j.PowerTries != 1 {
		t.Errorf("job is %s after %d tries", j.Phase, j.PowerTries)
	}
}

func TestWatch(t *testing.T) {
	r := newRig(t)
	id := r.capture("k")
	ch, stop := r.e.Watch(id)
	slow, stopSlow := r.e.Watch(id)
	defer stop()
	var phases []string
	var wg sync.WaitGroup
	wg.Go(func() {
		for w := range ch {
			if w.Event != nil {
				phases = append(phases, string(w.Job.Phase))
			}
		}
	})
	r.netboot(id)
	for i := range 500 { // more than a channel holds: who does not read keeps nobody waiting
		r.progress(id, api.PhaseCapturing, int64(i))
		time.Sleep(10 * time.Microsecond)
	}
	r.cancel(id)
	r.cancelled(id, false)
	wg.Wait()
	if s := strings.Join(phases, " "); !strings.HasPrefix(s, "powering netbooting") || !strings.HasSuffix(s, "cancelling cancelled") {
		t.Errorf("phases seen: %s", s)
	}
	n := 0
	for range slow {
		n++
	}
	if n == 0 {
		t.Error("the slow watcher saw nothing")
	}
	stopSlow() // after the end, and twice, it does nothing
	stopSlow()
	if _, ok := <-func() <-chan api.Watch { ch, _ := r.e.Watch(id); return ch }(); ok {
		t.Error("watching a job that has ended gives news")
	}
}

// Many callers at once, for the race detector; and whatever order they come in, the job ends and the disk is booted.
func TestAtOnce(t *testing.T) {
	r := newRig(t)
	ctx, stop := context.WithCancel(t.Context())
	var engine, callers sync.WaitGroup
	engine.Go(func() { r.e.Run(ctx) })
	id := r.capture("k")
	m := r.stage()
	boot := "boot-x"
	for i := range 6 {
		callers.Go(func() {
			for range 20 {
				switch i {
				case 0:
					r.e.Netbooted(ctx, id)
				case 1:
					r.e.Hello(ctx, id, api.Hello{BootID: boot})
				case 2:
					r.e.Progress(ctx, id, api.Progress{BootID: boot, Phase: api.PhaseCapturing, Counts: map[string]int64{"new": 1}, Log: []string{"x"}})
				case 3:
					j, _ := r.e.Get(ctx, id)
					if _, err := json.Marshal(j); err != nil {
						t.Error(err)
					}
					r.e.Publics(ctx, inventory.JobFilter{Limit: 10})
				case 4:
					_, stop := r.e.Watch(id)
					r.e.OfNode(n1)
					r.e.Heard(id)
					stop()
				case 5:
					r.e.ToldDisk(ctx, n1)
					r.wait(time.Second)
				}
			}
		})
	}
	callers.Wait()
	r.e.Hello(ctx, id, api.Hello{BootID: boot})
	r.e.Done(ctx, id, api.Done{BootID: boot, OK: true, Manifest: m})
	for end := time.Now().Add(10 * time.Second); r.boot() != node.BootDisk && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	r.e.ToldDisk(ctx, n1)
	stop()
	engine.Wait()
	if j := r.job(id); j.Active || r.boot() != node.BootDisk {
		t.Errorf("job is %s, boot state %s", j.Phase, r.boot())
	}
}

// A job whose record cannot be written stays as it was, and the boot state with it.
func TestInventoryFails(t *testing.T) {
	r := newRig(t)
	id := r.capture("k")
	r.netboot(id)
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if _, err := r.e.Done(ctx, id, api.Done{BootID: r.bootID(), Error: &api.Error{Message: "x"}}); err == nil {
		t.Fatal("no error")
	}
	r.want(id, api.PhaseAgent, node.BootCapture)
	err := r.db.Update(t.Context(), func(tx *inventory.Tx) error { return tx.PutJob("j9", n1, true, Record{}) })
	if err == nil {
		t.Error("a second active job of a node was written")
	}
}
