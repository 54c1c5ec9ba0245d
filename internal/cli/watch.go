package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/client"
)

// watch follows jobs until all have ended, and fails where one did. A lost connection is made again: the jobs do not
// depend on who looks at them.
func (t *terminal) watch(ctx context.Context, c *client.Client, jobs []api.Job) error {
	show := t.newProgress(jobs)
	err := follow(ctx, c, jobs, show.update)
	show.close()
	if err != nil {
		return err
	}
	if t.json {
		if err := t.printJSON(jobs); err != nil {
			return err
		}
	}
	return t.outcome(jobs)
}

// batchOf is the batch that all jobs are of, or "".
func batchOf(jobs []api.Job) string {
	b := jobs[0].Batch
	if slices.ContainsFunc(jobs, func(j api.Job) bool { return j.Batch != b }) {
		return ""
	}
	return b
}

// follow streams the news of jobs until all have ended, and keeps them in jobs.
func follow(ctx context.Context, c *client.Client, jobs []api.Job, fn func([]api.Job)) error {
	at := map[string]int{}
	q := url.Values{}
	for i, j := range jobs {
		at[j.ID] = i
		q.Add("job", j.ID)
	}
	if b := batchOf(jobs); b != "" && len(jobs) > 1 {
		q = url.Values{"batch": {b}}
	}
	for wait := time.Second; ; {
		ended := false
		err := c.Stream(ctx, http.MethodGet, "/v1/watch?"+q.Encode(), nil, func(data []byte) error {
			var w api.WatchJobs
			if err := json.Unmarshal(data, &w); err != nil {
				return fmt.Errorf("read the jobs' stream: %w", err)
			}
			var mine []api.Job
			for _, j := range w.Jobs {
				if i, ok := at[j.ID]; ok {
					jobs[i] = j
					mine = append(mine, j)
				}
			}
			ended, wait = w.Ended, time.Second
			fn(mine)
			return nil
		})
		if ended || !slices.ContainsFunc(jobs, func(j api.Job) bool { return j.Active || j.Ended == nil }) {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var e *api.Error
		if errors.As(err, &e) && e.Code != "unreachable" {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
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
	hint := `"mimeo job list" shows them; "mimeo job retry JOB" starts one again`
	if b := batchOf(jobs); b != "" {
		hint = fmt.Sprintf(`"mimeo job retry --failed %s" starts those that failed again`, b)
	}
	return &api.Error{Code: "failed", Message: fmt.Sprintf("%d of %d jobs did not end well", failed, len(jobs)), Hint: hint}
}

// summary is the one line for a job that is done.
func summary(j api.Job) string {
	n := j.Counts
	switch j.Kind {
	case api.TaskCapture:
		return fmt.Sprintf("%s: captured %s in %s: %s in use, %s new, stored as %s", j.Node, imageRev(j), took(j), size(n["used"]), size(n["new"]), size(n["stored"]))
	case api.TaskDeploy:
		text := fmt.Sprintf("%s: deployed %s in %s: %s in the image, %s written, %s were there already", j.Node, imageRev(j), took(j), size(n["used"]), size(n["written"]), size(n["skipped"]))
		if trusted, asked := n["trusted"]; asked {
			text += fmt.Sprintf(", %s trusted, not read", size(trusted))
		}
		return text
	}
	if j.Kind == api.TaskWipe {
		return fmt.Sprintf("%s: wiped %s in %s; its certificate: mimeo job certificate %s", j.Node, size(n["wiped"]), took(j), j.ID)
	}
	return fmt.Sprintf("%s: %s done in %s", j.Node, j.Kind, took(j))
}
