package server

import (
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mimeo/internal/cluster/api"
)

// soon bounds a step far above what it takes, so that a busy machine does not fail the test, and a cost for each node
// that grows with their number does.
func soon(t *testing.T, what string, f func()) {
	t.Helper()
	begin := time.Now()
	f()
	took := time.Since(begin)
	t.Logf("%s: %v", what, took.Round(time.Millisecond))
	if took > 20*time.Second {
		t.Errorf("%s took %v", what, took)
	}
}

// What 400 jobs at once cost the server. An agent reports every second.
func TestFourHundredJobs(t *testing.T) {
	r := start(t)
	r.lab(400)
	ask := api.JobNew{Key: "k", Kind: api.TaskDeploy, Range: "@lab", Image: "web", Skip: true}
	var pre api.Preflight
	soon(t, "preflight", func() { r.must("POST", "/v1/jobs/preflight", ask, &pre) })
	var jobs []api.Job
	soon(t, "make 400 jobs", func() { r.must("POST", "/v1/jobs", ask, &jobs) })
	batch := "batch=" + jobs[0].Batch
	soon(t, "begin 400 jobs", func() {
		r.until("all begin", func() bool { return phases(r.jobs(batch)) == "[netbooting:400]" })
	})
	soon(t, "list 400 jobs", func() { r.jobs(batch) })
	var bytes, messages atomic.Int64
	seen := make(chan error, 1)
	last := api.WatchJobs{}
	go func() {
		seen <- r.admin.Stream(t.Context(), "GET", "/v1/watch?"+batch, nil, func(b []byte) error {
			bytes.Add(int64(len(b)))
			messages.Add(1)
			last = api.WatchJobs{}
			return json.Unmarshal(b, &last)
		})
	}()
	r.until("the watcher", func() bool { return messages.Load() > 0 })
	e, ctx := r.Server.jobs, t.Context()
	all := func(what string, f func(j api.Job) error) {
		t.Helper()
		soon(t, what, func() {
			var wg sync.WaitGroup
			next := make(chan api.Job)
			for range 8 {
				wg.Go(func() {
					for j := range next {
						if err := f(j); err != nil {
							t.Error(err)
						}
					}
				})
			}
			for _, j := range jobs {
				next <- j
			}
			close(next)
			wg.Wait()
		})
	}
	all("400 agents say hello", func(j api.Job) error {
		_, _, err := e.Hello(ctx, j.ID, api.Hello{Agent: "test", BootID: "b" + j.ID})
		return err
	})
	progress := func(p api.Phase, done int64) func(api.Job) error {
		return func(j api.Job) error {
			_, err := e.Progress(ctx, j.ID, api.Progress{Job: j.ID, BootID: "b" + j.ID, Phase: p, Done: done, Total: 1 << 30, Counts: map[string]int64{"written": done, "skipped": 7}})
			return err
		}
	}
	all("400 agents begin to write", progress(api.PhaseWriting, 1))
	size := func() (n int64) {
		for _, f := range []string{"mimeo.db", "mimeo.db-wal"} {
			if fi, err := os.Stat(filepath.Join(r.cfg.State, f)); err == nil {
				n += fi.Size()
			}
		}
		return n
	}
	before, m0, b0 := size(), messages.Load(), bytes.Load()
	begun := time.Now()
	for i := range 5 {
		all("400 reports", progress(api.PhaseWriting, int64(i+2)<<20))
		time.Sleep(200 * time.Millisecond)
	}
	took := time.Since(begun)
	if grown := size() - before; grown != 0 {
		t.Errorf("numbers alone made the inventory grow by %d bytes", grown)
	}
	n, kb := messages.Load()-m0, (bytes.Load()-b0)>>10
	t.Logf("2000 reports in %v: %d messages to the watcher, %d KiB", took, n, kb)
	if n > int64(took/gather)+2 {
		t.Errorf("%d messages in %v", n, took)
	}
	soon(t, "agents ask for the store 2000 times", func() {
		for range 5 {
			for _, j := range jobs {
				if rec, ok := e.OfNode(j.Node); !ok || rec.ID != j.ID {
					t.Fatal("no job")
				}
			}
		}
	})
	all("400 agents are done", func(j api.Job) error {
		_, err := e.Done(ctx, j.ID, api.Done{Job: j.ID, BootID: "b" + j.ID, OK: true, Touched: true})
		return err
	})
	soon(t, "finish 400 jobs", func() {
		r.until("all reboot", func() bool { return phases(r.jobs(batch)) == "[rebooting:400]" })
	})
	all("400 nodes boot their disks", func(j api.Job) error { return e.ToldDisk(ctx, j.Node) })
	if err := <-seen; err != nil || !last.Ended || phases(r.jobs(batch)) != "[done:400]" {
		t.Errorf("%v; %s", err, phases(r.jobs(batch)))
	}
	t.Logf("the inventory has %d KiB; the watcher got %d messages, %d KiB", size()>>10, messages.Load(), bytes.Load()>>10)
}
