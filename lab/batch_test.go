package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/lab/sim"
)

// smallDisk makes a disk with some MB on it, so that forty deploys take little.
func smallDisk(t *testing.T, disk string) {
	t.Helper()
	script := `set -e; d=$(mktemp -d); mkdir $d/tree
head -c 5000000 /dev/urandom >$d/tree/big; cp -a /usr/share/perl-base $d/tree/ 2>/dev/null || cp -a /etc/ssl $d/tree/
truncate -s 48M $d/disk; sgdisk -og -n 1:1M:0 $d/disk >/dev/null
mke2fs -q -t ext4 -d $d/tree $d/fs 40M; dd if=$d/fs of=$d/disk bs=1M seek=1 conv=notrunc,sparse status=none
mv $d/disk "$1"; rm -r $d`
	if out, err := exec.Command("sh", "-c", script, "sh", disk).CombinedOutput(); err != nil {
		t.Fatalf("make the source disk: %v: %s", err, out)
	}
}

// emptyDisk makes a disk that holds nothing.
func emptyDisk(t *testing.T, disk string, size int64) {
	t.Helper()
	if err := os.WriteFile(disk, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, size); err != nil {
		t.Fatal(err)
	}
}

// batch lists the jobs of a batch by their nodes; none while the server is down.
func (l *faultLab) batch(id string) map[node.Name]api.Job {
	out, err := l.Run(l.ctx, "job", "list", "--batch", id, "--json")
	if err != nil {
		return nil
	}
	var jobs []api.Job
	if err := json.Unmarshal([]byte(out), &jobs); err != nil {
		l.t.Fatal(err)
	}
	byNode := map[node.Name]api.Job{}
	for _, j := range jobs {
		byNode[j.Node] = j
	}
	return byNode
}

// untilBatch waits for a batch to come to a state, and sees that never more than most are at work.
func (l *faultLab) untilBatch(id string, most int, what string, ok func(jobs map[node.Name]api.Job, done, active int) bool) map[node.Name]api.Job {
	l.t.Helper()
	for deadline := time.Now().Add(8 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		jobs := l.batch(id)
		done, active, working := 0, 0, 0
		for _, j := range jobs {
			switch {
			case j.Phase == api.PhaseDone:
				done++
			case j.Active:
				active++
				if j.Phase != api.PhaseQueued {
					working++
				}
			}
		}
		if working > most {
			l.t.Fatalf("%d are at work, want at most %d", working, most)
		}
		if jobs != nil && ok(jobs, done, active) {
			return jobs
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("the batch did not come to %q: %d done, %d active of %d", what, done, active, len(jobs))
		}
	}
}

// Forty nodes, five at a time. One never netboots, one has a disk that is too small, one none that its rule names, one is
// cancelled while it waits and one while it works; and mimeod is killed in the middle. In the end every job has ended as
// its node did, and every node boots its disk.
func TestBatchOfForty(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("-short leaves the virtual rack out")
	}
	const nodes, most = 40, 5
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	t.Cleanup(cancel)
	config := filepath.Join(t.TempDir(), "mimeod.yaml")
	if err := os.WriteFile(config, []byte(quick), 0o644); err != nil {
		t.Fatal(err)
	}
	l := &faultLab{t: t, ctx: ctx, Rack: newRack(t, ctx)}
	fakeStateless(t, l.State)
	startServer(t, ctx, l.Rack, "--config", config)
	source := filepath.Join(l.Dir, "n01.img")
	smallDisk(t, source)
	l.n1 = l.node("n01", 1, source)
	l.done(l.start("capture", "n01", "--image", "lab"))

	all := map[node.Name]*sim.Node{}
	var order []node.Name
	for i := range nodes {
		name := fmt.Sprintf("b%02d", i+1)
		disk := filepath.Join(l.Dir, name+".img")
		emptyDisk(t, disk, 64<<20)
		all[node.Name(name)] = l.node(name, i+2, disk)
		order = append(order, node.Name(name))
	}
	all["b04"].Dead = true
	emptyDisk(t, all["b11"].Disks[0], 16<<20)
	mimeo(t, ctx, l.Rack, "node", "set", "b17", "disk.serial=NOT-HERE")

	var jobs []api.Job
	out := mimeo(t, ctx, l.Rack, "deploy", "b[01-40]", "--image", "lab", "--grow", "none", "--max", fmt.Sprint(most), "--tries", "2", "--key", "forty", "--yes", "--json")
	if err := json.Unmarshal([]byte(out), &jobs); err != nil {
		t.Fatal(err)
	}
	batch := jobs[0].Batch
	if len(jobs) != nodes || batch == "" {
		t.Fatalf("%d jobs, batch %q", len(jobs), batch)
	}
	begun := time.Now()
	mimeo(t, ctx, l.Rack, "job", "cancel", jobs[29].ID) // b30 waits
	l.untilBatch(batch, most, "some are done", func(_ map[node.Name]api.Job, done, _ int) bool { return done >= 6 })
	if err := l.StopServer(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	if err := l.StartServerAgain(ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("mimeod was killed %v after the start", time.Since(begun).Round(time.Second))
	// The same request once more gives the same jobs.
	var again []api.Job
	out = mimeo(t, ctx, l.Rack, "deploy", "b[01-40]", "--image", "lab", "--grow", "none", "--max", fmt.Sprint(most), "--tries", "2", "--key", "forty", "--yes", "--json")
	if err := json.Unmarshal([]byte(out), &again); err != nil || len(again) != nodes || again[7].ID != jobs[7].ID || again[7].Batch != batch {
		t.Errorf("the same key: %v, %d jobs, %+v", err, len(again), again[7])
	}
	var stopped node.Name // cancelled at work
	l.untilBatch(batch, most, "one is at work", func(jobs map[node.Name]api.Job, done, _ int) bool {
		for _, n := range order[17:] {
			if j := jobs[n]; j.Active && (j.Phase == api.PhasePowering || j.Phase == api.PhaseNetbooting || j.Phase == api.PhaseWriting || j.Phase == api.PhaseMapping) {
				if _, err := l.Run(ctx, "job", "cancel", j.ID); err == nil {
					stopped = n
					return true
				}
			}
		}
		return false
	})
	final := l.untilBatch(batch, most, "all have ended", func(jobs map[node.Name]api.Job, _, active int) bool { return active == 0 })
	t.Logf("the batch took %v; %s was cancelled at work", time.Since(begun).Round(time.Second), stopped)

	want := map[node.Name]struct {
		phase api.Phase
		says  string
	}{"b04": {api.PhaseFailed, "netboot"}, "b11": {api.PhaseFailed, "too small"}, "b17": {api.PhaseFailed, "NOT-HERE"}, "b30": {api.PhaseCancelled, ""}}
	if final[stopped].Phase != api.PhaseDone { // its agent may have been through before it heard of the cancel
		want[stopped] = want["b30"]
	}
	volumes := mapDisk(t, source).Volumes
	holds := func(n node.Name) {
		t.Helper()
		for _, v := range volumes {
			if differ, total := sameBytes(t, source, all[n].Disks[0], v.Used); differ > 0 || total == 0 {
				t.Errorf("%s: %d of %d used bytes differ", n, differ, total)
			}
		}
	}
	for _, n := range order {
		j := final[n]
		l.bootsDisk(n)
		w, ok := want[n]
		if !ok {
			if j.Phase != api.PhaseDone {
				t.Errorf("%s: %s %+v", n, j.Phase, j.Error)
				continue
			}
			holds(n)
			continue
		}
		if j.Phase != w.phase || w.says != "" && (j.Error == nil || !strings.Contains(j.Error.Message, w.says)) {
			t.Errorf("%s ended %s, %+v; want %s with %q", n, j.Phase, j.Error, w.phase, w.says)
		}
		if n == stopped {
			continue // it says whether it was written to
		}
		if differ, _ := sameBytes(t, "/dev/zero", all[n].Disks[0], volumes[0].Used); j.Touched || differ > 0 && n != "b11" {
			t.Errorf("%s was not deployed, and its disk was written to", n)
		}
		if netboots, _ := all[n].Boots(); n == "b30" && netboots > 0 {
			t.Errorf("%s netbooted %d times", n, netboots)
		}
	}

	// What failed is mended, and started again; the others are left alone.
	all["b04"].PowerOff()
	all["b04"].Dead = false
	emptyDisk(t, all["b11"].Disks[0], 64<<20)
	mimeo(t, ctx, l.Rack, "node", "set", "b17", "disk.serial=")
	// By now the server knows the small disk, and holds the node back with others; alone it looks itself.
	out, err := l.Run(ctx, "job", "retry", "--failed", batch, "--yes", "--json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(out), &jobs); err != nil || len(jobs) != 3 {
		t.Fatalf("%v: %s", err, out)
	}
	ends := map[node.Name]api.Job{}
	for _, j := range jobs {
		ends[j.Node] = l.until(j.ID, "end", ended)
	}
	if ends["b04"].Phase != api.PhaseDone || ends["b17"].Phase != api.PhaseDone || ends["b11"].Phase != api.PhaseFailed || ends["b11"].Error.Code != "unfit" {
		t.Errorf("%+v", ends)
	}
	out = mimeo(t, ctx, l.Rack, "job", "retry", "--failed", "b[01-40]", "--json")
	if err := json.Unmarshal([]byte(out), &jobs); err != nil || len(jobs) != 1 || jobs[0].Node != "b11" {
		t.Fatalf("%v: %s", err, out)
	}
	l.done(jobs[0].ID)
	for _, n := range []node.Name{"b04", "b11", "b17"} {
		holds(n)
		l.bootsDisk(n)
	}
	if out := mimeo(t, ctx, l.Rack, "job", "list", "b[01-40]", "--failed", "--json"); strings.TrimSpace(out) != "[]" {
		t.Errorf("still failed: %s", out)
	}

	// Work for later is begun late where mimeod was down when it was due.
	mimeo(t, ctx, l.Rack, "deploy", "b01,b02", "--image", "lab", "--grow", "none", "--at", time.Now().Add(2*time.Second).Format(time.RFC3339), "--yes")
	if err := l.StopServer(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * time.Second)
	if err := l.StartServerAgain(ctx); err != nil {
		t.Fatal(err)
	}
	var s api.Schedule
	for deadline := time.Now().Add(20 * time.Second); s.Last == nil; time.Sleep(100 * time.Millisecond) {
		if out, err := l.Run(ctx, "schedule", "show", "s1", "--json"); err == nil {
			if err := json.Unmarshal([]byte(out), &s); err != nil {
				t.Fatal(err)
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("it did not run: %+v", s)
		}
	}
	if s.Last.Error != nil || s.Last.Jobs != 2 {
		t.Fatalf("%+v %+v", s.Last, s.Last.Error)
	}
	for _, j := range l.untilBatch(s.Last.Batch, 2, "all have ended", func(_ map[node.Name]api.Job, _, active int) bool { return active == 0 }) {
		if j.Phase != api.PhaseDone {
			t.Errorf("%s: %s %+v", j.Node, j.Phase, j.Error)
		}
		l.bootsDisk(j.Node)
	}
}
