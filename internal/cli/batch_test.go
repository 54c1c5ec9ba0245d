package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

var asked = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// batchJobs are the jobs of batch b3: n02 cannot take it where the image says so.
func batchJobs(req api.JobNew) (jobs []api.Job) {
	for i := range 3 {
		j := api.Job{ID: fmt.Sprintf("j%d", i+1), Batch: "b3", Kind: req.Kind, Node: node.Name(fmt.Sprintf("n%02d", i+1)), Image: req.Image, Phase: api.PhaseQueued, Active: true, Created: asked}
		if i == 1 && strings.HasPrefix(req.Image, "big") {
			j.Phase, j.Active, j.Ended, j.Error = api.PhaseFailed, false, &asked, &api.Error{Code: "unfit", Message: "n02: the disk sda is too small"}
		}
		jobs = append(jobs, j)
	}
	return jobs
}

func watchBatch(w http.ResponseWriter) {
	jobs := batchJobs(api.JobNew{Kind: api.TaskDeploy, Image: "pc"})
	send := func(ended bool, jobs ...api.Job) {
		b, _ := json.Marshal(api.WatchJobs{Jobs: jobs, Ended: ended})
		fmt.Fprintf(w, "data: %s\n\n", b)
		w.(http.Flusher).Flush()
	}
	send(false, jobs...)
	end := asked.Add(time.Minute)
	for i := range jobs {
		jobs[i].Phase, jobs[i].Done, jobs[i].Total = api.PhaseWriting, 1, 2
		send(false, jobs[i])
		jobs[i].Phase, jobs[i].Active, jobs[i].Ended = api.PhaseDone, false, &end
		if i == 2 {
			jobs[i].Phase, jobs[i].Error = api.PhaseFailed, &api.Error{Code: "disk", Message: "it is on fire"}
		}
	}
	send(true, jobs...)
}

func answerBatches(mux *http.ServeMux, answer func(http.ResponseWriter, any)) {
	mux.HandleFunc("POST /v1/jobs/preflight", func(w http.ResponseWriter, r *http.Request) {
		var req api.JobNew
		json.NewDecoder(r.Body).Decode(&req)
		p := api.Preflight{Image: req.Image, Rev: 4}
		n := 3
		if req.Range == "n01" {
			n = 1
		}
		for _, j := range batchJobs(req)[:n] {
			p.Nodes = append(p.Nodes, api.PreflightNode{Node: j.Node, Problem: j.Error, Warnings: []string{"it has no BMC: a person must switch it on"}})
		}
		answer(w, p)
	})
	mux.HandleFunc("GET /v1/jobs", func(w http.ResponseWriter, r *http.Request) {
		jobs := batchJobs(api.JobNew{Kind: api.TaskDeploy, Image: "big"})
		switch {
		case r.FormValue("batch") == "b9":
			answer(w, &api.Error{Code: "not_found", Message: `no batch "b9"`})
			return
		case r.FormValue("range") == "n01":
			jobs = []api.Job{}
		case r.FormValue("failed") != "":
			jobs = jobs[1:2]
		}
		answer(w, jobs)
	})
	mux.HandleFunc("GET /v1/batches/b3", func(w http.ResponseWriter, r *http.Request) {
		answer(w, api.Batch{ID: "b3", Request: api.JobNew{Kind: api.TaskDeploy, Image: "big", Range: "@lab", Max: 20}, Created: asked, Jobs: 3, Active: 2})
	})
	mux.HandleFunc("POST /v1/batches/b3/cancel", func(w http.ResponseWriter, r *http.Request) {
		jobs := batchJobs(api.JobNew{Kind: api.TaskDeploy, Image: "pc"})
		for i := range jobs {
			jobs[i].Phase = api.PhaseCancelled
		}
		answer(w, jobs)
	})
	mux.HandleFunc("POST /v1/jobs/retry", func(w http.ResponseWriter, r *http.Request) {
		var req api.JobRetry
		json.NewDecoder(r.Body).Decode(&req)
		answer(w, []api.Job{{ID: "j9", Kind: api.TaskDeploy, Image: strings.Join(req.Jobs, "+"), Node: "n02", Phase: api.PhaseQueued, Active: true}})
	})
	next := asked.AddDate(100, 0, 0)
	mux.HandleFunc("POST /v1/schedules", func(w http.ResponseWriter, r *http.Request) {
		var req api.ScheduleNew
		json.NewDecoder(r.Body).Decode(&req)
		if req.Key == "" || req.Job.Key != "" {
			answer(w, &api.Error{Code: "conflict", Message: "keys are wrong"})
			return
		}
		answer(w, api.Schedule{ID: "s1", Job: req.Job, Every: req.Every, Zone: "Local", GraceMS: *req.GraceMS, Next: &next})
	})
	s := api.Schedule{ID: "s1", Job: api.JobNew{Kind: api.TaskDeploy, Image: "win11", Range: "@lab3", Max: 20}, Every: "Mon-Fri 02:00", Zone: "Local", GraceMS: 3600000, Next: &next,
		Last: &api.LastRun{Planned: asked, Error: &api.Error{Code: "missed", Message: "mimeod was down", Hint: "run it"}}, Batches: []string{"b3", "b1"}}
	mux.HandleFunc("GET /v1/schedules", func(w http.ResponseWriter, r *http.Request) { answer(w, []api.Schedule{s}) })
	mux.HandleFunc("GET /v1/schedules/s1", func(w http.ResponseWriter, r *http.Request) { answer(w, s) })
	mux.HandleFunc("DELETE /v1/schedules/s1", func(w http.ResponseWriter, r *http.Request) { answer(w, api.Affected{Names: []string{"s1"}}) })
	mux.HandleFunc("POST /v1/schedules/s1/run", func(w http.ResponseWriter, r *http.Request) { answer(w, batchJobs(s.Job)) })
	mux.HandleFunc("POST /v1/schedules/s1/pause", func(w http.ResponseWriter, r *http.Request) {
		var req api.SchedulePause
		json.NewDecoder(r.Body).Decode(&req)
		c := s
		c.Paused = req.Paused
		answer(w, c)
	})
}

func TestFrame(t *testing.T) {
	now := asked.Add(10 * time.Minute)
	at := func(d time.Duration) *time.Time { x := asked.Add(d); return &x }
	var jobs []api.Job
	for i := range 12 {
		j := api.Job{ID: fmt.Sprint("j", i), Node: node.Name(fmt.Sprintf("n%d", i+1)), Phase: api.PhaseQueued, Active: true, Created: asked}
		switch {
		case i < 3:
			j.Phase, j.Active, j.Started, j.Ended = api.PhaseDone, false, at(0), at(6*time.Minute)
		case i == 3:
			j.Phase, j.Active, j.Ended = api.PhaseFailed, false, at(time.Minute)
		case i == 8 || i == 9:
			j.Phase, j.Started, j.Done, j.Total, j.Rate, j.ETAMS = api.PhaseWriting, at(6*time.Minute), 1<<30, 4<<30, 100<<20, 30000
		}
		jobs = append(jobs, j)
	}
	got := frame(jobs, 100, 9, now)
	want := []string{
		"n9   writing          [=====               ]   25 %  1.00 GiB of 4.00 GiB  100 MiB/s  30 s left",
		"n10  writing          [=====               ]   25 %  1.00 GiB of 4.00 GiB  100 MiB/s  30 s left",
		"n4   failed                                   1 min 00 s",
		"n5   queued", "n6   queued", "n7   queued",
		"... and 6 more",
		"3 of 12 done, 1 failed, 2 at work, 6 waiting  200 MiB/s  about 20 min 00 s left",
	}
	if len(got) != len(want) {
		t.Fatalf("%d lines:\n%s", len(got), strings.Join(got, "\n"))
	}
	for i := range want {
		if i < 3 && got[i] != want[i] || !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("line %d is\n%s, want\n%s", i, got[i], want[i])
		}
	}
	for _, size := range [][2]int{{20, 4}, {1, 1}, {40, 100}, {79, 2}} {
		lines := frame(jobs, size[0], size[1], now)
		if len(lines) > max(1, size[1]-1) {
			t.Errorf("%d lines on a terminal of %v", len(lines), size)
		}
		for _, l := range lines {
			if n := len([]rune(l)); n >= max(2, size[0]) {
				t.Errorf("%d columns on a terminal of %v: %q", n, size, l)
			}
		}
	}
	if one := frame(jobs[:1], 80, 24, now); len(one) != 1 {
		t.Errorf("one job has %q", one)
	}
}

func TestLeft(t *testing.T) {
	now := asked.Add(10 * time.Minute)
	started := asked.Add(8 * time.Minute)
	ended := asked.Add(4 * time.Minute)
	done := api.Job{Phase: api.PhaseDone, Started: &asked, Ended: &ended} // took 4 min
	on := api.Job{Phase: api.PhaseWriting, Active: true, Started: &started}
	slow := api.Job{Phase: api.PhaseWriting, Active: true, Started: &started, ETAMS: 600000}
	waits := api.Job{Phase: api.PhaseQueued, Active: true}
	for _, c := range []struct {
		jobs []api.Job
		want time.Duration
	}{
		{[]api.Job{on, waits}, 0},
		{[]api.Job{done, done}, 0},
		{[]api.Job{done, on}, 2 * time.Minute},
		{[]api.Job{done, on, slow}, 10 * time.Minute},
		{[]api.Job{done, on, on, waits, waits, waits, waits}, 10 * time.Minute},
		{[]api.Job{slow, waits}, 22 * time.Minute},
		{[]api.Job{done, waits}, 4 * time.Minute},
	} {
		if got := left(c.jobs, now); got != c.want {
			t.Errorf("%d jobs: %v left, want %v", len(c.jobs), got, c.want)
		}
	}
}

func TestNatural(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"n9", "n10", -1}, {"n09", "n9", 0}, {"n2", "n2", 0}, {"a1b2", "a1b10", -1}, {"n", "n1", -1}, {"node", "n1", 1}, {"99999999999999999999", "100000000000000000000", -1}} {
		if got := natural(c.a, c.b); got < 0 != (c.want < 0) || got > 0 != (c.want > 0) {
			t.Errorf("%s and %s: %d", c.a, c.b, got)
		}
	}
}
