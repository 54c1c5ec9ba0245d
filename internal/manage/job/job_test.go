package job

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
	"mimeo/internal/manage/power"
)

func TestCapture(t *testing.T) {
	r := newRig(t)
	id := r.capture("k")
	r.want(id, api.PhaseQueued, node.BootCapture)
	r.pump()
	r.want(id, api.PhaseNetbooting, node.BootCapture)
	if !r.bmc.has("next pxe", "cycle") {
		t.Fatalf("BMC was asked %q", r.bmc.calls)
	}
	r.netboot(id)
	for _, p := range []api.Phase{api.PhasePre, api.PhaseMapping, api.PhaseCapturing} {
		r.wait(5 * time.Second)
		if !r.progress(id, p, 100) {
			t.Fatalf("agent is told to stop in %s", p)
		}
		r.want(id, p, node.BootCapture)
	}
	r.wait(2 * time.Second)
	r.progress(id, api.PhaseCapturing, 600)
	if j := r.job(id); j.Rate != 250 || j.ETAMS != 1600 || j.Done != 600 {
		t.Errorf("rate %d, eta %d ms, done %d; want 250, 1600, 600", j.Rate, j.ETAMS, j.Done)
	}
	m := r.stage()
	for range 3 { // the answer is lost
		if a := r.done(id, m); a.Action != "wait" || a.RetryMS <= 0 {
			t.Fatalf("first answer %+v, want wait", a)
		}
		r.want(id, api.PhaseVerifying, node.BootCapture)
	}
	if r.revisions() != 0 {
		t.Fatal("a revision before the server's part")
	}
	if r.script(id) || r.job(id).Phase != api.PhaseVerifying {
		t.Fatal("a node that reboots too early got the stateless image")
	}
	r.pump()
	r.want(id, api.PhaseRebooting, node.BootDisk)
	for range 3 {
		if a := r.done(id, m); a.Action != "reboot" {
			t.Fatalf("last answer %+v, want reboot", a)
		}
	}
	r.script(id)
	r.want(id, api.PhaseDone, node.BootDisk)
	if a := r.done(id, m); a.Action != "reboot" {
		t.Errorf("answer after the end %+v, want reboot", a)
	}
	j := r.job(id)
	if j.Rev != 1 || j.Try != 1 || r.revisions() != 1 || j.PhaseMS[api.PhaseCapturing] == 0 || j.Started == nil {
		t.Errorf("job %+v, %d revisions", j.Job, r.revisions())
	}
	f, err := r.db.Revision(t.Context(), "web", 1)
	n, _ := r.db.Node(t.Context(), n1)
	if err != nil || f.Node != "n1" || f.Job != id || f.New != 5 || f.Stored != 4 || n.LastImage != "web@1" {
		t.Errorf("facts %+v, %v; last image %q", f, err, n.LastImage)
	}
	if !r.bmc.has("next pxe", "cycle", "next pxe") {
		t.Errorf("BMC was asked %q; want one cycle, and the network for the last boot", r.bmc.calls)
	}
}

func TestDeploy(t *testing.T) {
	r := newRig(t)
	id := r.deploy("k")
	r.netboot(id)
	for _, p := range []api.Phase{api.PhasePre, api.PhaseMapping} {
		r.progress(id, p, 1)
		if r.job(id).Touched {
			t.Fatalf("touched in %s", p)
		}
	}
	for _, p := range []api.Phase{api.PhaseWriting, api.PhaseFinishing, api.PhaseRootPost, api.PhasePost} {
		r.progress(id, p, 1)
		if !r.job(id).Touched {
			t.Fatalf("not touched in %s", p)
		}
	}
	r.done(id, "")
	r.pump()
	r.want(id, api.PhaseRebooting, node.BootDisk)
	r.script(id)
	r.want(id, api.PhaseDone, node.BootDisk)
	if n, _ := r.db.Node(t.Context(), n1); n.LastImage != "web@7" || r.revisions() != 0 {
		t.Errorf("last image %q, %d revisions", n.LastImage, r.revisions())
	}
}

func TestSameKeyTwice(t *testing.T) {
	r := newRig(t)
	a, b := r.capture("k"), r.capture("k")
	if a != b {
		t.Errorf("the same key made %s and %s", a, b)
	}
	r.restart()
	if c := r.capture("k"); c != a {
		t.Errorf("the same key made %s after a restart, and %s before", c, a)
	}
	_, err := r.e.New(t.Context(), Work{Request: api.JobNew{Key: "other", Kind: api.TaskDeploy, Image: "web"}, Nodes: []node.Name{"n2", n1}, Rev: 1, Manifest: manifest.Sum([]byte("x"))})
	var ae *api.Error
	if !errors.As(err, &ae) || ae.Code != "conflict" || !strings.Contains(ae.Message, a) || ae.Hint == "" {
		t.Errorf("second job on a node: %v", err)
	}
	// All or none: n2 was asked for together with n1.
	if n, _ := r.db.Node(t.Context(), "n2"); n.Boot != node.BootDisk {
		t.Errorf("boot state of n2 is %s", n.Boot)
	}
	if _, ok := r.e.OfNode("n2"); ok {
		t.Error("n2 has a job")
	}
	if _, err := r.e.Cancel(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if c := r.capture("k"); c != a {
		t.Errorf("the same key made %s after the end of %s", c, a)
	}
	if c := r.capture("new"); c != "j2" {
		t.Errorf("the second job is %s, want j2", c)
	}
}

func TestPowerFails(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fails int
		err   error
		phase api.Phase
		boot  node.BootState
	}{
		{"once", 1, nil, api.PhaseNetbooting, node.BootCapture},
		{"twice", 2, nil, api.PhaseNetbooting, node.BootCapture},
		{"always", 99, nil, api.PhaseFailed, node.BootDisk},
		{"with a hint", 0, &api.Error{Code: "denied", Message: "BMC refused user", Hint: "set the password"}, api.PhaseFailed, node.BootDisk},
		{"by hand", 0, power.ErrByHand, api.PhaseNetbooting, node.BootCapture},
		{"nobody can tell", 0, &power.Error{Kind: power.ErrSent, Text: "sent"}, api.PhaseNetbooting, node.BootCapture},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			r.bmc.fails, r.bmc.err = tc.fails, tc.err
			id := r.capture("k")
			r.pump()
			r.want(id, tc.phase, tc.boot)
			j := r.job(id)
			switch {
			case tc.phase == api.PhaseFailed && (j.Error == nil || j.Error.Code != "power" || j.Error.Hint == "" || r.bmc.count("cycle") != powerTries):
				t.Errorf("error %+v after %d cycles", j.Error, r.bmc.count("cycle"))
			case tc.name == "with a hint" && j.Error.Hint != "set the password":
				t.Errorf("hint %q", j.Error.Hint)
			case errors.Is(tc.err, power.ErrByHand):
				if j.Waiting == "" {
					t.Error("the job does not say that it waits for a person")
				}
				r.wait(100 * time.Hour)
				r.pump()
				r.want(id, api.PhaseNetbooting, node.BootCapture)
				r.netboot(id)
				if j := r.job(id); j.Waiting != "" || j.Try != 1 {
					t.Errorf("waiting %q, try %d", j.Waiting, j.Try)
				}
			}
		})
	}
}

// The node asks for its script before its BMC has answered: there is one netboot, and no second power cycle.
func TestFasterThanItsBMC(t *testing.T) {
	r := newRig(t)
	id := r.capture("k")
	r.bmc.hook = func() { r.script(id) }
	r.pump()
	r.bmc.hook = nil
	r.wait(10 * time.Second)
	if !r.script(id) || !r.hello(id) {
		t.Fatal("the node was turned away")
	}
	if j := r.job(id); j.Try != 1 || r.bmc.count("cycle") != 1 {
		t.Errorf("try %d, %d cycles", j.Try, r.bmc.count("cycle"))
	}
	// Switched on by a person while the job is only queued.
	r = newRig(t)
	id = r.capture("k")
	if !r.script(id) {
		t.Fatal("no script")
	}
	r.pump()
	if j := r.job(id); j.Try != 1 || len(r.bmc.calls) != 0 {
		t.Errorf("try %d, BMC was asked %q", j.Try, r.bmc.calls)
	}
}

func TestShutsDownBeforeCapture(t *testing.T) {
	r := newRig(t)
	r.e.limits.SoftOff = 50 * time.Millisecond
	r.bmc.state = power.StateOn
	id := r.capture("k")
	r.pump()
	if !r.bmc.has("soft", "next pxe", "cycle") {
		t.Errorf("BMC was asked %q", r.bmc.calls)
	}
	if !slices.ContainsFunc(r.events(id), func(s string) bool { return strings.Contains(s, "did not shut down") }) {
		t.Errorf("events %q", r.events(id))
	}
}

func TestNeverNetboots(t *testing.T) {
	r := newRig(t)
	id := r.capture("k")
	for try := 1; try <= defaultTries; try++ {
		r.pump()
		r.want(id, api.PhaseNetbooting, node.BootCapture)
		if j := r.job(id); j.Try != try {
			t.Fatalf("try %d, want %d", j.Try, try)
		}
		r.wait(r.e.limits.Netboot + time.Second)
	}
	r.pump()
	r.want(id, api.PhaseFailed, node.BootDisk)
	if j := r.job(id); j.Error.Code != "node_lost" || j.Error.Hint == "" || r.bmc.count("cycle") != defaultTries {
		t.Errorf("error %+v, %d cycles", j.Error, r.bmc.count("cycle"))
	}
}

// A node whose network card passes nothing at first boots what is on its disk, which asks for an address, too. It is not
// waited for until the limit of a netboot is over.
func TestBootsItsSystemInstead(t *testing.T) {
	r := newRig(t)
	id := r.capture("k")
	for try := 1; try <= defaultTries; try++ {
		r.pump()
		r.wait(20 * time.Second)
		r.e.HeardSystem(id)
		r.wait(strayLimit - time.Second)
		r.e.HeardSystem(id)
		r.pump()
		if j := r.job(id); j.Try != try || j.Phase != api.PhaseNetbooting {
			t.Fatalf("try %d, %s, want %d", j.Try, j.Phase, try)
		}
		r.wait(2 * time.Second)
	}
	r.pump()
	r.want(id, api.PhaseFailed, node.BootDisk)
	if j := r.job(id); !strings.Contains(j.Error.Message, "operating system") || !strings.Contains(j.Error.Hint, "boot order") || r.bmc.count("cycle") != defaultTries {
		t.Errorf("error %+v, %d cycles", j.Error, r.bmc.count("cycle"))
	}

	// A loader that asks as an operating system does is followed by its firmware's next step, or by the script.
	id = r.capture("k2")
	r.pump()
	r.e.HeardSystem(id)
	r.wait(30 * time.Second)
	r.e.Heard(id)
	r.wait(strayLimit)
	r.pump()
	r.want(id, api.PhaseNetbooting, node.BootCapture)
	r.e.HeardSystem(id)
	r.wait(30 * time.Second)
	r.script(id)
	r.wait(2 * strayLimit)
	r.e.HeardSystem(id) // the stateless image's own
	r.wait(2 * strayLimit)
	r.pump()
	if j := r.job(id); j.Try != 1 || j.Phase != api.PhaseNetbooting {
		t.Errorf("try %d, %s", j.Try, j.Phase)
	}
}

// Firmware that asks for an address for ever, and gets no further, is no sign that the job goes on.
func TestAsksForEver(t *testing.T) {
	r := newRig(t)
	id := r.capture("k")
	r.pump()
	for n := 0; r.job(id).Active; n++ {
		if n > 1000 {
			t.Fatal("the job never ends")
		}
		r.wait(time.Minute)
		r.e.Heard(id)
		r.pump()
	}
	r.want(id, api.PhaseFailed, node.BootDisk)
	// Nor is it one of an agent.
	id = r.capture("k2")
	r.netboot(id)
	for range 3 {
		r.wait(50 * time.Second)
		r.e.Heard(id)
		r.pump()
	}
	if p := r.job(id).Phase; p == api.PhaseAgent {
		t.Error("requests for an address keep a dead agent's job alive")
	}
}

func TestPanicsInALoop(t *testing.T) {
	r := newRig(t)
	id := r.capture("k")
	r.pump()
	for n := 0; r.script(id); n++ {
		if n > defaultTries {
			t.Fatal("the node gets its script for ever")
		}
		r.wait(40 * time.Second)
	}
	r.want(id, api.PhaseFailed, node.BootDisk)
	if r.hello(id) {
		t.Error("an agent that comes late got the task of an ended job")
	}
	// A loader that repeats its request within a second netboots once.
	id = r.capture("k2")
	r.pump()
	for range 10 {
		if !r.script(id) {
			t.Fatal("no script")
		}
		r.wait(100 * time.Millisecond)
	}
	if j := r.job(id); j.Try != 1 {
		t.Errorf("try %d, want 1", j.Try)
	}
}

func TestAgentSilent(t *testing.T) {
	r := newRig(t)
	id := r.capture("k")
	for try := 1; try <= defaultTries; try++ {
		r.netboot(id)
		r.progress(id, api.PhaseCapturing, 1)
		if j := r.job(id); j.Try != try {
			t.Fatalf("try %d, want %d", j.Try, try)
		}
		r.wait(r.e.limits.AgentSilence + time.Second)
	}
	r.pump()
	r.want(id, api.PhaseFailed, node.BootDisk)
	if r.bmc.count("cycle") != defaultTries {
		t.Errorf("%d cycles", r.bmc.count("cycle"))
	}
}

func TestAgentHangs(t *testing.T) {
	r := newRig(t)
	id := r.capture("k")
	r.netboot(id)
	r.progress(id, api.PhasePre, 0)
	for range 100 { // a postscript has its own limit
		r.wait(30 * time.Second)
		r.progress(id, api.PhasePre, 0)
		r.pump()
	}
	r.want(id, api.PhasePre, node.BootCapture)
	for n := 0; r.job(id).Try == 1; n++ {
		if n > 1000 {
			t.Fatal("an agent that speaks and does nothing keeps its job for ever")
		}
		r.wait(30 * time.Second)
		r.progress(id, api.PhaseCapturing, 5)
		r.pump()
	}
}

// A network that was cut: a node that only a person can reboot goes on by itself.
func TestHeardAgain(t *testing.T) {
	r := newRig(t)
	r.bmc.err = power.ErrByHand
	id := r.capture("k")
	r.netboot(id)
	r.progress(id, api.PhaseCapturing, 1)
	r.wait(5 * time.Minute)
	r.pump()
	r.want(id, api.PhaseNetbooting, node.BootCapture)
	r.progress(id, api.PhaseCapturing, 2)
	r.want(id, api.PhaseCapturing, node.BootCapture)
	r.wait(5 * time.Minute)
	r.pump()
	r.done(id, r.stage())
	r.pump()
	r.script(id)
	r.want(id, api.PhaseDone, node.BootDisk)
}

func TestRebootsInTheMiddle(t *testing.T) {
	r := newRig(t)
	id := r.capture("k")
	r.netboot(id)
	r.progress(id, api.PhaseCapturing, 500)
	old := r.bootID()
	r.wait(5 * time.Second)
	if !r.script(id) || !r.hello(id) {
		t.Fatal("the node was turned away")
	}
	reply, err := r.e.Progress(t.Context(), id, api.Progress{BootID: old, Phase: api.PhaseCapturing})
	if err != nil || !reply.Cancel {
		t.Errorf("an agent of the last boot: %+v, %v", reply, err)
	}
	if d, err := r.e.Done(t.Context(), id, api.Done{BootID: old, OK: true, Manifest: r.stage()}); err != nil || d.Action != "reboot" || r.job(id).Phase != api.PhaseAgent {
		t.Errorf("done of the last boot: %+v, %v; job is %s", d, err, r.job(id).Phase)
	}
	r.done(id, r.stage())
	r.pump()
	r.script(id)
	r.want(id, api.PhaseDone, node.BootDisk)
	if j := r.job(id); j.Try != 2 || r.bmc.count("cycle") != 1 || r.revisions() != 1 {
		t.Errorf("try %d, %d cycles, %d revisions", j.Try, r.bmc.count("cycle"), r.revisions())
	}
	// For ever: no.
	id = r.capture("k2")
	r.pump()
	for n := 0; r.script(id); n++ {
		if n > defaultTries {
			t.Fatal("the node reboots for ever")
		}
		r.hello(id)
		r.progress(id, api.PhaseMapping, 0)
		r.wait(5 * time.Second)
	}
	r.want(id, api.PhaseFailed, node.BootDisk)
}

func TestAgentCrashes(t *testing.T) {
	r := newRig(t)
	id := r.capture("k")
	r.netboot(id)
	for range 5 {
		r.progress(id, api.PhaseCapturing, 500)
		if !r.helloAgain(id) {
			t.Fatal("an agent that was killed did not get its task again")
		}
		r.want(id, api.PhaseAgent, node.BootCapture)
	}
	for n := 0; r.helloAgain(id); n++ {
		if n > maxRestarts {
			t.Fatal("the agent crashes for ever")
		}
	}
	r.want(id, api.PhaseFailed, node.BootDisk)
}

func TestServersPartFails(t *testing.T) {
	for _, tc := range []struct {
		name, code, text string
		set              func(*rig) (manifest string)
	}{
		{"missing chunk", "store", "not in the store", func(r *rig) string { m := r.stage(); r.store.missing = true; return m }},
		{"no manifest", "store", "not in the store", func(*rig) string { return manifest.Sum([]byte("nothing")).String() }},
		{"no name of a manifest", "store", "the agent's manifest", func(*rig) string { return "../../etc/passwd" }},
		{"store full", "store_full", "full", func(r *rig) string { r.store.fail = store.ErrFull; return r.stage() }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			id := r.capture("k")
			r.netboot(id)
			m := tc.set(r)
			r.done(id, m)
			r.pump()
			r.want(id, api.PhaseFailed, node.BootDisk)
			j := r.job(id)
			if j.Error.Code != tc.code || !strings.Contains(j.Error.Message, tc.text) || j.Error.Hint == "" || r.revisions() != 0 {
				t.Errorf("error %+v, %d revisions", j.Error, r.revisions())
			}
			if a := r.done(id, m); a.Action != "reboot" {
				t.Errorf("the agent is told %+v", a)
			}
		})
	}
}

func TestAgentFails(t *testing.T) {
	r := newRig(t)
	id := r.capture("k")
	r.netboot(id)
	big := strings.Repeat("x", 1<<20)
	a, err := r.e.Done(t.Context(), id, api.Done{BootID: r.bootID(), Error: &api.Error{Code: "postscript", Message: "postscript 10-raid: exit status 3"},
		Outputs: []api.Output{{Name: "10-raid", Stage: api.PhasePre, Exit: 3, Output: big + "the end"}}, Log: []string{"the last word"}})
	if err != nil || a.Action != "reboot" {
		t.Fatalf("%+v, %v", a, err)
	}
	r.want(id, api.PhaseFailed, node.BootDisk)
	j := r.job(id)
	if len(j.Outputs) != 1 || len(j.Outputs[0].Output) != maxText || !strings.HasSuffix(j.Outputs[0].Output, "the end") || j.Error.Code != "postscript" {
		t.Errorf("error %+v, %d outputs", j.Error, len(j.Outputs))
	}
	if evs := r.events(id); !slices.Contains(evs, "log: the last word") {
		t.Errorf("events: %q", evs)
	}
	id = r.capture("k2")
	r.netboot(id)
	if _, err := r.e.Done(t.Context(), id, api.Done{BootID: r.bootID()}); err != nil || r.job(id).Error == nil {
		t.Errorf("an agent that fails and says nothing: %v, %+v", err, r.job(id).Error)
	}
}

// What an agent adds to its job is bounded, and a message that is sent twice adds nothing.
func TestAgentSaysTooMuch(t *testing.T) {
	r := newRig(t)
	id := r.capture("k")
	r.netboot(id)
	p := api.Progress{BootID: r.bootID(), Phase: api.PhasePre, Done: -5, Total: -7, Counts: map[string]int64{}}
	for i := range 2 * maxOutputs {
		p.Outputs = append(p.Outputs, api.Output{Name: "a", MS: int64(i)})
		p.Counts[strings.Repeat("c", i)] = 1
		p.Log = append(p.Log, strings.Repeat("\xff", 2*maxLine))
	}
	for range 2 {
		if _, err := r.e.Progress(t.Context(), id, p); err != nil {
			t.Fatal(err)
		}
	}
	j := r.job(id)
	if len(j.Outputs) != maxOutputs || len(j.Counts) != 0 || j.Done != 0 || j.Total != 0 {
		t.Errorf("%d outputs, %d counts, %d of %d", len(j.Outputs), len(j.Counts), j.Done, j.Total)
	}
	if n := len(r.events(id)); n > 2*maxLines+20 {
		t.Errorf("%d events", n)
	}
	p = api.Progress{BootID: r.bootID(), Phase: api.PhaseDone}
	if _, err := r.e.Progress(t.Context(), id, p); err != nil || r.job(id).Phase != api.PhasePre {
		t.Errorf("an agent that says it is %s: %v, job is %s", p.Phase, err, r.job(id).Phase)
	}
}
