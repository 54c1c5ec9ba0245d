package job

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/manage/inventory"
)

// many makes nodes m01, m02 and so on.
func (r *rig) many(n int) (names []node.Name) {
	r.t.Helper()
	r.check(r.db.Update(r.t.Context(), func(tx *inventory.Tx) error {
		for i := range n {
			name := node.Name(fmt.Sprintf("m%02d", i+1))
			names = append(names, name)
			if err := tx.PutNode(node.Node{Name: name, Boot: node.BootDisk, BMC: node.BMC{URL: "test:"}, NICs: []node.NIC{{MAC: fmt.Sprintf("52:54:00:00:01:%02x", i)}}}); err != nil {
				return err
			}
		}
		return nil
	}))
	return names
}

func (r *rig) work(nodes []node.Name, req api.JobNew) Work {
	req.Kind, req.Image = api.TaskDeploy, "web"
	return Work{Request: req, Nodes: nodes, Rev: 7, Manifest: manifest.Sum([]byte("x"))}
}

// batch starts a deploy on nodes and returns the jobs' IDs.
func (r *rig) batch(nodes []node.Name, req api.JobNew) (ids []string) {
	r.t.Helper()
	jobs, err := r.e.New(r.t.Context(), r.work(nodes, req))
	r.check(err)
	for _, j := range jobs {
		ids = append(ids, j.ID)
	}
	return ids
}

// is checks the phases of jobs, and that each node boots what its job needs: phases by their first letters.
func (r *rig) is(ids []string, phases string) {
	r.t.Helper()
	var got string
	for _, id := range ids {
		j := r.job(id)
		n, err := r.db.Node(r.t.Context(), j.Node)
		r.check(err)
		want := node.BootDisk
		if j.Active && !j.Held && j.Phase != api.PhaseRebooting {
			want = node.BootDeploy
		}
		if n.Boot != want {
			r.t.Errorf("%s is %s, held %v, and the boot state of %s is %s", id, j.Phase, j.Held, j.Node, n.Boot)
		}
		if j.Held != (j.Phase == api.PhaseQueued) {
			r.t.Errorf("%s is %s, held %v", id, j.Phase, j.Held)
		}
		got += string(j.Phase[0])
	}
	if got != phases {
		r.t.Fatalf("jobs are %s, want %s (queued, netbooting, agent, done, failed, cancelled, rebooting)", got, phases)
	}
}

// finish takes a job that netboots to its end.
func (r *rig) finish(id string) {
	r.t.Helper()
	r.hello(id)
	r.progress(id, api.PhaseWriting, 10)
	r.done(id, "")
	r.pump()
	r.check(r.e.ToldDisk(r.t.Context(), r.job(id).Node))
	r.pump()
}

func TestBatchMax(t *testing.T) {
	r := newRig(t)
	nodes := r.many(6)
	ids := r.batch(nodes, api.JobNew{Key: "k", Max: 2})
	r.pump()
	r.is(ids, "nnqqqq")
	b := r.job(ids[0]).Batch
	if b == "" || r.job(ids[5]).Batch != b {
		t.Fatalf("batches %q, %q", b, r.job(ids[5]).Batch)
	}
	if got := r.bmc.count("cycle"); got != 2 {
		t.Errorf("%d nodes were power-cycled", got)
	}
	// One that waits and reboots by itself boots its disk, and stays where it is.
	r.check(r.e.ToldDisk(t.Context(), nodes[3]))
	r.finish(ids[1])
	r.is(ids, "ndnqqq")
	r.restart()
	r.pump()
	r.is(ids, "ndnqqq")
	if again := r.batch(nodes, api.JobNew{Key: "k", Max: 2}); !slices.Equal(again, ids) {
		t.Errorf("the same key gave %v and %v", ids, again)
	}
	// One that waits can be cancelled by itself; the next has its turn as before.
	if _, err := r.e.Cancel(t.Context(), ids[3]); err != nil {
		t.Fatal(err)
	}
	r.is(ids, "ndncqq")
	r.finish(ids[0])
	r.is(ids, "ddncnq")
	r.hello(ids[2])
	r.check(r.e.CancelBatch(t.Context(), b))
	r.is(ids, "ddcccc") // the one with an agent is cancelling
	if r.job(ids[2]).Phase != api.PhaseCancelling {
		t.Errorf("it is %s", r.job(ids[2]).Phase)
	}
	if r.progress(ids[2], api.PhaseMapping, 1) {
		t.Error("its agent is not told to stop")
	}
	if reply, err := r.e.Done(t.Context(), ids[2], api.Done{Job: ids[2], BootID: r.bootID(), Cancelled: true}); err != nil || reply.Action != "reboot" {
		t.Errorf("%+v, %v", reply, err)
	}
	r.is(ids, "ddcccc")
	for _, id := range ids {
		if r.job(id).Active {
			t.Errorf("%s is active", id)
		}
	}
	if got := r.events(ids[5]); len(got) != 2 || !strings.Contains(got[1], "cancelled") {
		t.Errorf("events of one that never began: %q", got)
	}
}

// What a batch has done already is not undone by its cancel.
func TestCancelBatchLate(t *testing.T) {
	r := newRig(t)
	ids := r.batch(r.many(3), api.JobNew{Key: "k", Max: 2})
	r.pump()
	r.hello(ids[0])
	r.progress(ids[0], api.PhaseWriting, 1)
	r.done(ids[0], "")
	r.pump()
	r.is(ids, "rnq")
	r.check(r.e.CancelBatch(t.Context(), "b1"))
	r.check(r.e.CancelBatch(t.Context(), "b1"))
	r.is(ids, "rcc")
	r.check(r.e.ToldDisk(t.Context(), "m01"))
	r.is(ids, "dcc")
	r.check(r.e.CancelBatch(t.Context(), "b1"))
	r.is(ids, "dcc")
}

func TestServerLimit(t *testing.T) {
	r := newRig(t)
	nodes := r.many(5)
	r.e.quota = Quota{Jobs: 3}
	first := r.batch(nodes[:2], api.JobNew{Key: "a"})
	second := r.batch(nodes[2:], api.JobNew{Key: "b", Max: 2})
	r.pump()
	r.is(append(first, second...), "nnnqq")
	// A daemon that starts with a smaller limit stops nothing, and lets nothing begin.
	r.restart()
	r.e.quota = Quota{Jobs: 2}
	r.finish(first[0])
	r.is(append(first, second...), "dnnqq")
	r.finish(second[0])
	r.is(append(first, second...), "dndnq")
	r.restart()
	r.pump()
	r.is(append(first, second...), "dndnn")
}

func TestWithin(t *testing.T) {
	r := newRig(t)
	nodes := r.many(3)
	ids := r.batch(nodes, api.JobNew{Key: "k", Max: 1, WithinMS: (30 * time.Minute).Milliseconds()})
	r.pump()
	r.hello(ids[0])
	for range 29 {
		r.wait(time.Minute)
		r.progress(ids[0], api.PhaseWriting, int64(r.now().Minute()))
	}
	r.pump()
	r.is(ids, "wqq")
	r.wait(time.Minute + time.Second)
	r.progress(ids[0], api.PhaseWriting, 77)
	r.restart()
	r.pump()
	r.is(ids, "wff")
	j := r.job(ids[2])
	if j.Error.Code != "not_started" || !strings.Contains(j.Error.Message, "m03 was not started in time") || !strings.Contains(j.Error.Hint, j.Batch) || j.Try != 0 || j.Started != nil {
		t.Errorf("%+v", j.Job)
	}
	// It counts from when the work was planned for, not from when it was begun late.
	w := r.work(nodes[1:], api.JobNew{Key: "late", WithinMS: time.Hour.Milliseconds(), Max: 1})
	w.From = r.now().Add(-50 * time.Minute)
	jobs, err := r.e.New(t.Context(), w)
	r.check(err)
	r.pump()
	r.wait(11 * time.Minute)
	r.pump()
	r.is([]string{jobs[0].ID, jobs[1].ID}, "nf")
}

func TestFailFast(t *testing.T) {
	for _, fast := range []bool{true, false} {
		r := newRig(t)
		ids := r.batch(r.many(5), api.JobNew{Key: "k", Max: 2, FailFast: fast})
		r.pump()
		r.is(ids, "nnqqq")
		r.check(r.e.Fail(t.Context(), ids[1], &api.Error{Code: "disk", Message: "no disk"}))
		if fast {
			r.restart() // what follows was written with the failure
			r.pump()
			r.is(ids, "nffff")
			if e := r.job(ids[4]).Error; e.Code != "not_started" || !strings.Contains(e.Message, "m02 failed") {
				t.Errorf("%+v", e)
			}
		} else {
			r.pump()
			r.is(ids, "nfnqq")
		}
		r.finish(ids[0])
		if j := r.job(ids[0]); j.Phase != api.PhaseDone {
			t.Errorf("the one at work is %s: %+v", j.Phase, j.Error)
		}
	}
}

// A node that cannot take it fails by itself, and what it does otherwise is left alone.
func TestSkip(t *testing.T) {
	r := newRig(t)
	nodes := r.many(4)
	capture, err := r.e.New(t.Context(), Work{Request: api.JobNew{Key: "c", Kind: api.TaskCapture, Image: "web"}, Nodes: nodes[:1]})
	r.check(err)
	r.pump()
	w := r.work(nodes, api.JobNew{Key: "k", Skip: true})
	w.Unfit = map[node.Name]*api.Error{nodes[2]: {Code: "unfit", Message: "m03: its disk is too small"}}
	jobs, err := r.e.New(t.Context(), w)
	r.check(err)
	r.pump()
	want := []api.Phase{api.PhaseFailed, api.PhaseNetbooting, api.PhaseFailed, api.PhaseNetbooting}
	for i, j := range jobs {
		if got := r.job(j.ID); got.Phase != want[i] || got.Active != (want[i] == api.PhaseNetbooting) || got.Started != nil != got.Active {
			t.Errorf("%s is %+v", j.Node, got.Job)
		}
	}
	if e := r.job(jobs[0].ID).Error; e.Code != "conflict" || !strings.Contains(e.Message, capture[0].ID) {
		t.Errorf("%+v", e)
	}
	if n, _ := r.db.Node(t.Context(), nodes[0]); n.Boot != node.BootCapture {
		t.Errorf("the node that captures is left with boot state %s", n.Boot)
	}
	if n, _ := r.db.Node(t.Context(), nodes[2]); n.Boot != node.BootDisk {
		t.Errorf("the unfit node has boot state %s", n.Boot)
	}
	if o, ok := r.e.OfNode(nodes[0]); !ok || o.ID != capture[0].ID {
		t.Errorf("%v %+v", ok, o.Job)
	}
	// The newest job of a node, for those who start again what failed.
	var newest []string
	r.check(r.db.Jobs(t.Context(), inventory.JobFilter{Newest: true, Nodes: nodes}, func(b []byte) error {
		newest = append(newest, string(b))
		return nil
	}))
	if len(newest) != 4 || !strings.Contains(newest[3], `"id":"j2"`) {
		t.Errorf("%d newest: %s", len(newest), newest)
	}
}

func TestFollow(t *testing.T) {
	r := newRig(t)
	ids := r.batch(r.many(3), api.JobNew{Key: "k", Max: 2})
	f := r.e.Follow(ids)
	defer f.Stop()
	take := func() (got []string) {
		t.Helper()
		jobs, err := f.Take(t.Context())
		r.check(err)
		for _, j := range jobs {
			got = append(got, fmt.Sprint(j.ID, " ", j.Phase, " ", j.Done))
		}
		return got
	}
	r.pump()
	r.hello(ids[0])
	for i := range 5 {
		r.wait(time.Second)
		r.progress(ids[0], api.PhaseWriting, int64(i))
	}
	<-f.News
	if got := take(); !slices.Equal(got, []string{"j1 writing 4", "j2 netbooting 0"}) {
		t.Errorf("%q", got)
	}
	if got := take(); len(got) != 0 {
		t.Errorf("the same news twice: %q", got)
	}
	r.done(ids[0], "")
	r.pump()
	r.check(r.e.ToldDisk(t.Context(), "m01"))
	r.pump()
	if got := take(); !slices.Equal(got, []string{"j1 done 0", "j3 netbooting 0"}) {
		t.Errorf("%q", got)
	}
	r.check(r.e.CancelBatch(t.Context(), "b1"))
	if got := take(); !slices.Equal(got, []string{"j2 cancelled 0", "j3 cancelled 0"}) {
		t.Errorf("%q", got)
	}
	f.Stop()
	if len(r.e.follows) != 0 {
		t.Errorf("%d are still followed", len(r.e.follows))
	}
}
