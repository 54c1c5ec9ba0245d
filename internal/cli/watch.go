package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/sync/errgroup"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/client"
)

// watch follows jobs until all have ended, and fails where one did. A lost connection is made again: the jobs do not
// depend on who looks at them.
func (t *terminal) watch(ctx context.Context, c *client.Client, jobs []api.Job) error {
	show := t.newProgress(jobs)
	g, gctx := errgroup.WithContext(ctx)
	ended := make([]api.Job, len(jobs))
	for i, j := range jobs {
		g.Go(func() (err error) {
			ended[i], err = follow(gctx, c, j, func(w api.Watch) { show.update(i, w) })
			return err
		})
	}
	err := g.Wait()
	show.close()
	if err != nil {
		return err
	}
	if t.json {
		if err := t.printJSON(ended); err != nil {
			return err
		}
	}
	return t.outcome(ended)
}

// follow streams one job until it has ended.
func follow(ctx context.Context, c *client.Client, j api.Job, fn func(api.Watch)) (api.Job, error) {
	for wait := time.Second; ; {
		err := c.Stream(ctx, http.MethodGet, "/v1/jobs/"+url.PathEscape(j.ID)+"/watch", nil, func(data []byte) error {
			var w api.Watch
			if err := json.Unmarshal(data, &w); err != nil {
				return fmt.Errorf("read the job's stream: %w", err)
			}
			if w.Job.ID != "" {
				j = w.Job
			} else {
				w.Job = j
			}
			wait = time.Second
			fn(w)
			return nil
		})
		if !j.Active && j.Ended != nil {
			return j, nil
		}
		if ctx.Err() != nil {
			return j, ctx.Err()
		}
		var e *api.Error
		if errors.As(err, &e) && e.Code != "unreachable" {
			return j, err
		}
		select {
		case <-ctx.Done():
			return j, ctx.Err()
		case <-time.After(wait):
			wait = min(2*wait, 10*time.Second)
		}
	}
}

// outcome prints what became of the jobs.
func (t *terminal) outcome(jobs []api.Job) error {
	failed := 0
	var last *api.Error
	for _, j := range jobs {
		if j.Phase != api.PhaseDone {
			failed++
			last = j.Error
			if last == nil {
				last = &api.Error{Code: string(j.Phase), Message: "the job is " + string(j.Phase)}
			}
			if len(jobs) > 1 {
				fmt.Fprintf(t.err, "%s: %s %s %s: %s\n", j.Node, j.Kind, imageRev(j), j.Phase, last.Message)
			}
			for _, o := range j.Outputs {
				if o.Exit != 0 {
					fmt.Fprintf(t.err, "%s: postscript %s ended with %d:\n  %s\n", j.Node, o.Name, o.Exit, strings.ReplaceAll(strings.TrimRight(o.Output, "\n"), "\n", "\n  "))
				}
			}
			continue
		}
		if !t.json {
			fmt.Fprintln(t.out, summary(j))
		}
	}
	switch {
	case failed == 0:
		return nil
	case len(jobs) == 1:
		return &api.Error{Code: "failed", Message: fmt.Sprintf("%s: %s %s %s: %s", jobs[0].Node, jobs[0].Kind, imageRev(jobs[0]), jobs[0].Phase, last.Message), Hint: last.Hint}
	}
	return &api.Error{Code: "failed", Message: fmt.Sprintf("%d of %d jobs did not end well", failed, len(jobs)), Hint: `"mimeo job list" shows them; "mimeo job retry JOB" starts one again`}
}

// summary is the one line for a job that is done.
func summary(j api.Job) string {
	n := j.Counts
	switch j.Kind {
	case api.TaskCapture:
		return fmt.Sprintf("%s: captured %s in %s: %s in use, %s new, stored as %s", j.Node, imageRev(j), took(j), size(n["used"]), size(n["new"]), size(n["stored"]))
	case api.TaskDeploy:
		return fmt.Sprintf("%s: deployed %s in %s: %s in the image, %s written, %s were there already", j.Node, imageRev(j), took(j), size(n["used"]), size(n["written"]), size(n["skipped"]))
	}
	return fmt.Sprintf("%s: %s done in %s", j.Node, j.Kind, took(j))
}

// progress shows jobs as they go on: one live line each on a terminal, a line at each change elsewhere.
type progress struct {
	t    *terminal
	mu   sync.Mutex
	jobs []api.Job
	said []string
	when []time.Time
	bars *mpb.Progress
	bar  []*mpb.Bar
}

func (t *terminal) newProgress(jobs []api.Job) *progress {
	p := &progress{t: t, jobs: jobs, said: make([]string, len(jobs)), when: make([]time.Time, len(jobs))}
	if !isTTY(t.err) || t.json {
		return p
	}
	p.bars = mpb.New(mpb.WithOutput(t.err), mpb.WithWidth(32), mpb.WithRefreshRate(200*time.Millisecond))
	for i := range jobs {
		line := func(f func(api.Job) string) decor.Decorator {
			return decor.Any(func(decor.Statistics) string {
				p.mu.Lock()
				defer p.mu.Unlock()
				return f(p.jobs[i])
			}, decor.WCSyncSpaceR)
		}
		p.bar = append(p.bar, p.bars.AddBar(1000,
			mpb.PrependDecorators(line(func(j api.Job) string { return string(j.Node) }), line(func(j api.Job) string { return string(j.Phase) })),
			mpb.AppendDecorators(line(numbers))))
	}
	return p
}

// numbers says how far a job is: percent, bytes, rate, time left.
func numbers(j api.Job) string {
	if j.Waiting != "" {
		return j.Waiting
	}
	if j.Total <= 0 || !j.Active {
		return took(j)
	}
	s := fmt.Sprintf("%3d %%  %s of %s", j.Done*100/j.Total, size(j.Done), size(j.Total))
	if j.Rate > 0 {
		s += fmt.Sprintf("  %s/s", size(j.Rate))
	}
	if j.ETAMS > 0 {
		s += "  " + ms(j.ETAMS) + " left"
	}
	return s
}

func (p *progress) update(i int, w api.Watch) {
	p.mu.Lock()
	p.jobs[i] = w.Job
	j := w.Job
	p.mu.Unlock()
	if p.bars != nil {
		done := int64(0)
		if j.Total > 0 {
			done = min(999, j.Done*1000/j.Total)
		}
		p.bar[i].SetCurrent(done)
		return
	}
	if p.t.json {
		return
	}
	// A line for each new phase, and one every five seconds within it.
	key := string(j.Phase) + j.Waiting
	if p.said[i] == key && time.Since(p.when[i]) < 5*time.Second {
		return
	}
	p.said[i], p.when[i] = key, time.Now()
	fmt.Fprintf(p.t.err, "%s  %-16s %s\n", j.Node, j.Phase, numbers(j))
}

func (p *progress) close() {
	if p.bars == nil {
		return
	}
	for i, b := range p.bar {
		if p.jobs[i].Phase == api.PhaseDone {
			b.SetCurrent(1000)
		} else {
			b.Abort(false)
		}
	}
	p.bars.Wait()
}
