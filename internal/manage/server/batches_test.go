package server

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store/storetest"
)

func TestCheck(t *testing.T) {
	disk := func(size int64, sector int) *api.Hardware {
		return &api.Hardware{Disks: []api.Disk{{Name: "sda", Size: size, SectorSize: sector, Serial: "S1"}}}
	}
	image := func(kind string, types ...string) *manifest.Manifest {
		m := &manifest.Manifest{Source: manifest.Source{Arch: "amd64"}, Disk: manifest.Disk{Size: 100 << 30, SectorSize: 512}, Table: manifest.Table{Kind: kind}}
		for i, typ := range types {
			m.Table.Partitions = append(m.Table.Partitions, manifest.Partition{Number: i + 1, Off: int64(i+1) << 30, Len: 1 << 30, Type: typ})
		}
		return m
	}
	const linux = "0fc63daf-8483-4772-8e79-3d69d8477de4"
	both := image("gpt", gptESP, gptBIOS, linux)
	bios := node.Node{Name: "n1", Arch: "amd64", Firmware: node.BIOS}
	with := func(f func(*node.Node)) node.Node { n := bios; f(&n); return n }
	uefi := with(func(n *node.Node) { n.Firmware = node.UEFI })
	for _, c := range []struct {
		name    string
		m       *manifest.Manifest
		n       node.Node
		hw      *api.Hardware
		problem string
		warning string
	}{
		{"fits", both, bios, disk(200<<30, 512), "", ""},
		{"just fits", both, bios, disk(both.Needed(), 512), "", ""},
		{"a byte too small", both, bios, disk(both.Needed()-1, 512), "n1: the disk sda is too small", ""},
		{"no table: all of it", image("none"), bios, disk(100<<30-1, 512), "too small", ""},
		{"other sectors", both, bios, disk(200<<30, 4096), "sectors of 4096 bytes", ""},
		{"not reported yet", both, bios, nil, "", "has not reported its disks"},
		{"no disk", both, bios, &api.Hardware{}, "no disk was found", ""},
		{"which disk", both, bios, &api.Hardware{Disks: []api.Disk{{Name: "sda", Size: 200 << 30}, {Name: "sdb", Size: 200 << 30}}}, "n1: without a disk rule", ""},
		{"another disk", both, with(func(n *node.Node) { n.Disk.Serial = "S2" }), disk(200<<30, 512), "disk.serial=S2", ""},
		{"another architecture", both, with(func(n *node.Node) { n.Arch = "arm64" }), disk(200<<30, 512), "captured on amd64, the node is arm64", ""},
		{"architecture not known", both, with(func(n *node.Node) { n.Arch = "" }), disk(200<<30, 512), "", ""},
		{"UEFI", both, uefi, disk(200<<30, 512), "", ""},
		{"UEFI, MBR with an ESP", image("mbr", "ef", "83"), uefi, disk(200<<30, 512), "", ""},
		{"UEFI, no ESP", image("gpt", gptBIOS, linux), uefi, disk(200<<30, 512), "no EFI system partition", ""},
		{"UEFI by HTTP, no ESP", image("mbr", "83"), with(func(n *node.Node) { n.Firmware = node.UEFIHTTP }), disk(200<<30, 512), "no EFI system partition", ""},
		{"BIOS, GPT for UEFI", image("gpt", gptESP, linux), bios, disk(200<<30, 512), "", "no BIOS boot partition"},
		{"BIOS, MBR", image("mbr", "83"), bios, disk(200<<30, 512), "", ""},
		{"Open Firmware", image("gpt", gptPReP, linux), with(func(n *node.Node) { n.Firmware = node.OpenFirmware }), disk(200<<30, 512), "", ""},
		{"Open Firmware, no PReP", both, with(func(n *node.Node) { n.Firmware = node.OpenFirmware }), disk(200<<30, 512), "no PReP partition", ""},
		{"capture", nil, bios, disk(1, 512), "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			kind := api.TaskDeploy
			if c.m == nil {
				kind = api.TaskCapture
			}
			f := check(kind, c.m, c.n, c.hw)
			if (f.problem == nil) != (c.problem == "") || f.problem != nil && !strings.Contains(f.problem.Message, c.problem) {
				t.Errorf("problem %+v, want %q", f.problem, c.problem)
			}
			if got := strings.Join(f.warnings, "; "); (got == "") != (c.warning == "") || !strings.Contains(got, c.warning) {
				t.Errorf("warnings %q, want %q", got, c.warning)
			}
			if c.problem == "" && c.hw != nil && (f.disk != nil) != (kind == api.TaskDeploy) {
				t.Errorf("disk %+v", f.disk)
			}
		})
	}
}

// lab adds nodes l001 and so on, and an image "web" that needs a disk of some MB.
func (r *rig) lab(n int) (names []string) {
	r.t.Helper()
	per := map[node.Name]map[string]string{}
	for i := range n {
		name := fmt.Sprintf("l%03d", i+1)
		names = append(names, name)
		per[node.Name(name)] = map[string]string{"mac": fmt.Sprintf("52:54:00:01:%02x:%02x", i/256, i%256), "bmc": "manual:"}
	}
	r.must("POST", "/v1/nodes", api.NodeAdd{Range: fmt.Sprintf("l[001-%03d]", n), Set: map[string]string{"arch": "amd64", "firmware": "bios", "groups": "lab"}, PerNode: per}, nil)
	m, err := storetest.Image(r.t.Context(), r.store, 20, func(i int) uint64 { return uint64(i) })
	if err != nil {
		r.t.Fatal(err)
	}
	id, err := r.store.Stage(r.t.Context(), m)
	if err == nil {
		_, err = r.store.Publish(r.t.Context(), "web", id)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return names
}

func (r *rig) jobs(query string) (jobs []api.Job) {
	r.t.Helper()
	r.must("GET", "/v1/jobs?"+query, nil, &jobs)
	return jobs
}

func phases(jobs []api.Job) string {
	n := map[api.Phase]int{}
	for _, j := range jobs {
		n[j.Phase]++
	}
	return strings.TrimPrefix(fmt.Sprint(n), "map")
}

func TestBatch(t *testing.T) {
	r := start(t)
	r.lab(6)
	ask := api.JobNew{Key: "k", Kind: api.TaskDeploy, Range: "@lab", Image: "web", Max: 2, Skip: true}
	if err := r.db.SetHardware(t.Context(), "l003", api.Hardware{Disks: []api.Disk{{Name: "sda", Size: 64 << 10, SectorSize: 512}}}); err != nil {
		t.Fatal(err)
	}
	busy := r.capture("l005")
	var pre api.Preflight
	r.must("POST", "/v1/jobs/preflight", ask, &pre)
	if len(pre.Nodes) != 6 || pre.Rev != 1 || pre.Image != "web" || pre.Used == 0 || pre.Need == 0 || len(r.jobs("batch=")) != 1 {
		t.Errorf("%+v", pre)
	}
	for i, n := range pre.Nodes {
		if bad := i == 2 || i == 4; (n.Problem != nil) != bad || len(n.Warnings) == 0 || !strings.Contains(n.Warnings[len(n.Warnings)-1], "person") {
			t.Errorf("%+v %+v", n, n.Problem)
		}
	}
	strict := ask
	strict.Skip, strict.Key = false, "strict"
	r.fails("POST", "/v1/jobs", strict, "unfit", "l003: the disk sda is too small")
	strict.Skip, strict.FailFast = true, true
	r.fails("POST", "/v1/jobs", strict, "unfit", "l003")
	none := ask
	none.Range, none.Key = "l003,l005", "none"
	r.fails("POST", "/v1/jobs", none, "unfit", "none of the 2 nodes can take it; l003")
	for _, bad := range []api.JobNew{{Max: -1}, {WithinMS: -1}, {WithinMS: maxWithin.Milliseconds() + 1}} {
		bad.Key, bad.Kind, bad.Range, bad.Image = "bad", api.TaskDeploy, "@lab", "web"
		r.fails("POST", "/v1/jobs", bad, "bad_request", "want")
	}
	var jobs, again []api.Job
	r.must("POST", "/v1/jobs", ask, &jobs)
	r.must("POST", "/v1/jobs", ask, &again)
	b := jobs[0].Batch
	if len(jobs) != 6 || len(again) != 6 || again[5].ID != jobs[5].ID || again[5].Batch != b || b == "" {
		t.Fatalf("%+v, then %+v", jobs, again)
	}
	r.until("two at work", func() bool { return phases(r.jobs("batch="+b)) == "[failed:2 netbooting:2 queued:2]" })
	// A node with a problem of its own that only a report tells is let try alone.
	alone := ask
	alone.Range, alone.Key, alone.Max = "l003", "alone", 0
	r.must("POST", "/v1/jobs/preflight", alone, &pre)
	if n := pre.Nodes[0]; n.Problem != nil || !strings.Contains(n.Warnings[0], "too small") {
		t.Errorf("%+v", n)
	}
	r.fails("GET", "/v1/jobs?batch=b99", nil, "not_found", "b99")
	r.fails("GET", "/v1/watch?batch=b99", nil, "not_found", "b99")
	r.fails("GET", "/v1/watch?job="+jobs[0].ID+"&job=j99", nil, "not_found", "no job")
	r.fails("GET", "/v1/watch", nil, "bad_request", "name jobs")
	var seen []api.WatchJobs
	var messages atomic.Int64
	ended := make(chan error, 1)
	go func() {
		ended <- r.admin.Stream(t.Context(), "GET", "/v1/watch?batch="+b, nil, func(data []byte) error {
			var w api.WatchJobs
			err := json.Unmarshal(data, &w)
			seen = append(seen, w)
			messages.Add(1)
			return err
		})
	}()
	r.until("the watcher to be there", func() bool { return messages.Load() > 0 })
	var cancelled []api.Job
	r.must("POST", "/v1/batches/"+b+"/cancel", nil, &cancelled)
	if got := phases(cancelled); got != "[cancelled:4 failed:2]" {
		t.Errorf("after the cancel: %s", got)
	}
	if err := <-ended; err != nil || len(seen) < 2 || len(seen[0].Jobs) != 6 || !seen[len(seen)-1].Ended || seen[0].Ended {
		t.Errorf("%v; seen %+v", err, seen)
	}
	for _, n := range []string{"l001", "l002", "l003", "l004", "l006"} {
		if st := r.node(n); st.Boot != node.BootDisk || st.Job != "" {
			t.Errorf("%s is left with boot state %s, job %s", n, st.Boot, st.Job)
		}
	}
	if st := r.node("l005"); st.Boot != node.BootCapture || st.Job != busy {
		t.Errorf("the node that captures has boot state %s, job %s", st.Boot, st.Job)
	}
	var bt api.Batch
	r.must("GET", "/v1/batches/"+b, nil, &bt)
	if bt.Jobs != 6 || bt.Active != 0 || bt.Phases[api.PhaseCancelled] != 4 || bt.Request.Max != 2 {
		t.Errorf("%+v", bt)
	}
	// What failed is asked for again; those that have had another job since are not.
	if _, err := r.Server.jobs.Cancel(t.Context(), busy); err != nil {
		t.Fatal(err)
	}
	failed := r.jobs("failed=1&batch=" + b)
	if len(failed) != 2 || failed[0].Node != "l005" || failed[1].Node != "l003" {
		t.Fatalf("failed: %+v", failed)
	}
	r.fails("POST", "/v1/jobs/retry", api.JobRetry{Key: "r", Jobs: []string{"j99"}}, "not_found", "j99")
	retry := api.JobRetry{Key: "r", Jobs: []string{failed[0].ID, failed[1].ID}}
	r.must("POST", "/v1/jobs/retry", retry, &jobs)
	r.must("POST", "/v1/jobs/retry", retry, &again)
	if len(jobs) != 2 || jobs[0].Batch == "" || jobs[0].Batch == b || again[0].ID != jobs[0].ID || jobs[0].Node != "l005" || jobs[0].Error != nil || jobs[1].Error == nil || jobs[0].Rev != 1 {
		t.Errorf("%+v, then %+v", jobs, again)
	}
	if failed = r.jobs("failed=1&range=" + url.QueryEscape("@lab")); len(failed) != 1 || failed[0].ID != jobs[1].ID {
		t.Errorf("failed: %+v", failed)
	}
	r.fails("POST", "/v1/jobs/retry", api.JobRetry{Key: "s", Jobs: []string{jobs[0].ID}}, "conflict", "still on")
}

func TestSchedules(t *testing.T) {
	r := start(t)
	r.lab(3)
	job := api.JobNew{Kind: api.TaskDeploy, Range: "@lab", Image: "web"}
	r.fails("POST", "/v1/schedules", api.ScheduleNew{Job: job, At: "02:00"}, "bad_request", "key")
	r.fails("POST", "/v1/schedules", api.ScheduleNew{Key: "k", Job: job, At: "soon"}, "bad_request", "soon")
	r.fails("POST", "/v1/schedules", api.ScheduleNew{Key: "k", Job: job, Every: "Mon-Fri"}, "bad_request", "no time of day")
	nowhere := job
	nowhere.Image = "none"
	r.fails("POST", "/v1/schedules", api.ScheduleNew{Key: "k", Job: nowhere, At: "02:00"}, "not_found", "none")
	var nightly, once api.Schedule
	r.must("POST", "/v1/schedules", api.ScheduleNew{Key: "k", Job: job, Every: "Mon-Fri 02:00"}, &nightly)
	if nightly.ID != "s1" || nightly.Next == nil || nightly.GraceMS != time.Hour.Milliseconds() {
		t.Errorf("%+v", nightly)
	}
	// One that is due now begins by itself, and its batch is named.
	r.must("POST", "/v1/schedules", api.ScheduleNew{Key: "o", Job: job, At: time.Now().Add(time.Second).Format(time.RFC3339Nano)}, &once)
	r.until("it begins", func() bool {
		once = api.Schedule{}
		r.must("GET", "/v1/schedules/s2", nil, &once)
		return once.Last != nil
	})
	if once.Last.Error != nil || once.Last.Jobs != 3 || len(once.Batches) != 1 || once.Batches[0] != once.Last.Batch || once.Next != nil {
		t.Errorf("%+v %+v", once, once.Last)
	}
	if jobs := r.jobs("batch=" + once.Last.Batch); len(jobs) != 3 {
		t.Errorf("%d jobs", len(jobs))
	}
	// The nodes are at work: a run by hand finds none that can take it.
	r.fails("POST", "/v1/schedules/s1/run", api.ScheduleRun{Key: "x"}, "conflict", "none of the 3 nodes")
	r.must("POST", "/v1/batches/"+once.Last.Batch+"/cancel", nil, nil)
	var jobs []api.Job
	r.must("POST", "/v1/schedules/s1/run", api.ScheduleRun{Key: "x"}, &jobs)
	r.must("GET", "/v1/schedules/s1", nil, &nightly)
	if len(jobs) != 3 || len(nightly.Batches) != 1 || nightly.Batches[0] != jobs[0].Batch || nightly.Last != nil {
		t.Errorf("%+v; %+v", jobs, nightly)
	}
	r.must("POST", "/v1/schedules/s1/pause", api.SchedulePause{Paused: true}, &nightly)
	if !nightly.Paused {
		t.Errorf("%+v", nightly)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	after := startIn(t, r.cfg.State)
	var all []api.Schedule
	after.must("GET", "/v1/schedules", nil, &all)
	if len(all) != 2 || !all[0].Paused || all[0].Every != "Mon-Fri 02:00" || all[1].Last == nil {
		t.Errorf("after a restart: %+v", all)
	}
	after.must("DELETE", "/v1/schedules/s1", nil, nil)
	after.fails("GET", "/v1/schedules/s1", nil, "not_found", "s1")
	after.fails("DELETE", "/v1/schedules/s1", nil, "not_found", "s1")
	after.fails("POST", "/v1/schedules/s1/run", api.ScheduleRun{Key: "y"}, "not_found", "s1")
	after.fails("POST", "/v1/schedules/s1/pause", api.SchedulePause{}, "not_found", "s1")
}
