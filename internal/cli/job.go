package cli

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/client"
	"mimeo/internal/cluster/node"
)

// isBatch tells the name of a batch from others.
func isBatch(s string) bool {
	return len(s) > 1 && s[0] == 'b' && strings.Trim(s[1:], "0123456789") == ""
}

func jobCmd(t *terminal) *cobra.Command {
	c := &cobra.Command{
		Use: "job", Short: "List, show, watch, cancel and retry jobs",
		Long: `List, show, watch, cancel and retry jobs. Jobs that were asked for together are a
BATCH, whose name takes the place of theirs.`,
	}
	c.AddCommand(jobListCmd(t), jobShowCmd(t), jobWatchCmd(t), jobCancelCmd(t), jobRetryCmd(t), jobCertificateCmd(t))
	return c
}

func jobListCmd(t *terminal) *cobra.Command {
	var active, failed bool
	var batch string
	c := &cobra.Command{
		Use: "list [RANGE]", Short: "List jobs, newest first", Aliases: []string{"ls"},
		Example: `  mimeo job list --active
  mimeo job list --batch b3
  mimeo job list @lab3 --failed`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			q := url.Values{}
			if len(args) > 0 {
				q.Set("range", args[0])
			}
			if active {
				q.Set("active", "1")
			}
			if failed {
				q.Set("failed", "1")
			}
			if batch != "" {
				q.Set("batch", batch)
			}
			var jobs []api.Job
			if err := c.Do(cmd.Context(), http.MethodGet, "/v1/jobs?"+q.Encode(), nil, &jobs); err != nil {
				return err
			}
			if t.json {
				return t.printJSON(jobs)
			}
			t.listJobs(jobs)
			return nil
		},
	}
	f := c.Flags()
	f.BoolVarP(&active, "active", "a", false, "only those that have not ended")
	f.BoolVar(&failed, "failed", false, "only those that failed, and after which their node had no other")
	f.StringVar(&batch, "batch", "", "only those of `BATCH`")
	return c
}

func (t *terminal) listJobs(jobs []api.Job) {
	rows := [][]string{{"JOB", "BATCH", "NODE", "WORK", "PHASE", "TRY", "STARTED", "TOOK", "WHAT"}}
	for _, j := range jobs {
		what := j.Waiting
		if j.Error != nil {
			what = j.Error.Message
		}
		rows = append(rows, []string{j.ID, dash(j.Batch), string(j.Node), string(j.Kind) + " " + imageRev(j), string(j.Phase), fmt.Sprintf("%d/%d", j.Try, j.Tries), moment(j.Created), took(j), what})
	}
	table(t.out, rows)
}

func imageRev(j api.Job) string {
	if j.Rev > 0 {
		return fmt.Sprintf("%s@%d", j.Image, j.Rev)
	}
	return j.Image
}

// took is how long a job worked, or waited until it ended without a beginning.
func took(j api.Job) string {
	from := j.Created
	if j.Started != nil {
		from = *j.Started
	}
	if j.Ended != nil {
		return span(j.Ended.Sub(from))
	}
	return span(time.Since(from).Truncate(time.Second))
}

func jobShowCmd(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use: "show JOB|BATCH", Short: "Show a job: its phases, bytes, postscripts and events; of a batch, how far it is",
		Example: "  mimeo job show j7\n  mimeo job show b3",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			if isBatch(args[0]) {
				return t.showBatch(cmd.Context(), c, args[0])
			}
			var j api.Job
			if err := c.Do(cmd.Context(), http.MethodGet, "/v1/jobs/"+url.PathEscape(args[0]), nil, &j); err != nil {
				return err
			}
			if t.json {
				return t.printJSON(j)
			}
			var events []api.Event
			if err := c.Do(cmd.Context(), http.MethodGet, "/v1/jobs/"+url.PathEscape(args[0])+"/events", nil, &events); err != nil {
				return err
			}
			t.showJob(j)
			fmt.Fprintln(t.out)
			t.listEvents(events)
			return nil
		},
	}
}

// phaseOrder is the order in which phases are shown.
var phaseOrder = []api.Phase{api.PhaseQueued, api.PhasePowering, api.PhaseNetbooting, api.PhaseAgent, api.PhasePre, api.PhaseMapping, api.PhaseCapturing,
	api.PhaseWriting, api.PhaseFinishing, api.PhaseRootPost, api.PhasePost, api.PhaseVerifying, api.PhasePublishing, api.PhaseFlipping, api.PhaseRebooting}

func (t *terminal) showJob(j api.Job) {
	rows := [][]string{
		{"job", j.ID}, {"node", string(j.Node)}, {"work", string(j.Kind) + " " + imageRev(j)}, {"phase", string(j.Phase)},
		{"netboots", fmt.Sprintf("%d of at most %d", j.Try, j.Tries)}, {"took", took(j)},
	}
	if j.Waiting != "" {
		rows = append(rows, []string{"waits for", j.Waiting})
	}
	if j.Error != nil {
		rows = append(rows, []string{"error", j.Error.Message})
		if j.Error.Hint != "" {
			rows = append(rows, []string{"hint", j.Error.Hint})
		}
	}
	if j.Touched {
		rows = append(rows, []string{"disk", "was written to"})
	}
	keys := make([]string, 0, len(j.Counts))
	for k := range j.Counts {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		rows = append(rows, []string{"bytes " + k, size(j.Counts[k])})
	}
	for _, p := range phaseOrder {
		if n, ok := j.PhaseMS[p]; ok {
			rows = append(rows, []string{"time " + string(p), ms(n)})
		}
	}
	table(t.out, rows)
	for _, o := range j.Outputs {
		fmt.Fprintf(t.out, "\npostscript %s (%s), exit %d, %s\n", o.Name, o.Stage, o.Exit, ms(o.MS))
		if o.Output != "" {
			fmt.Fprintln(t.out, "  "+strings.ReplaceAll(strings.TrimRight(o.Output, "\n"), "\n", "\n  "))
		}
	}
}

func (t *terminal) showBatch(ctx context.Context, c *client.Client, id string) error {
	var b api.Batch
	if err := c.Do(ctx, http.MethodGet, "/v1/batches/"+id, nil, &b); err != nil {
		return err
	}
	if t.json {
		return t.printJSON(b)
	}
	var jobs []api.Job
	if err := c.Do(ctx, http.MethodGet, "/v1/jobs?batch="+id, nil, &jobs); err != nil {
		return err
	}
	rows := [][]string{{"batch", b.ID}, {"work", work(b.Request)}, {"asked for", moment(b.Created)}}
	if b.Schedule != "" {
		rows = append(rows, []string{"by schedule", b.Schedule})
	}
	if b.Request.Max > 0 {
		rows = append(rows, []string{"at a time", fmt.Sprint(b.Request.Max)})
	}
	if b.Request.WithinMS > 0 {
		rows = append(rows, []string{"begun within", ms(b.Request.WithinMS)})
	}
	table(t.out, append(rows, []string{"jobs", tally(jobs, time.Now())}))
	fmt.Fprintln(t.out)
	t.listJobs(jobs)
	return nil
}

// jobsOf reads jobs and the jobs of batches by their names.
func jobsOf(ctx context.Context, c *client.Client, names []string) (jobs []api.Job, err error) {
	for _, id := range names {
		if isBatch(id) {
			var some []api.Job
			if err := c.Do(ctx, http.MethodGet, "/v1/jobs?batch="+id, nil, &some); err != nil {
				return nil, err
			}
			slices.Reverse(some) // in the order of the range
			jobs = append(jobs, some...)
			continue
		}
		var j api.Job
		if err := c.Do(ctx, http.MethodGet, "/v1/jobs/"+url.PathEscape(id), nil, &j); err != nil {
			return nil, err
		}
		jobs = append(jobs, j)
	}
	if len(jobs) == 0 {
		return nil, &api.Error{Code: "not_found", Message: "of this batch no job is left: its nodes were removed"}
	}
	return jobs, nil
}

func jobWatchCmd(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use: "watch JOB|BATCH...", Short: "Show the progress of jobs until they end",
		Example: "  mimeo job watch j7\n  mimeo job watch b3",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			jobs, err := jobsOf(cmd.Context(), c, args)
			if err != nil {
				return err
			}
			return t.watch(cmd.Context(), c, jobs)
		},
	}
}

func jobCancelCmd(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use: "cancel JOB|BATCH...", Short: "Cancel jobs",
		Long: `Cancel jobs. The node goes back to booting its disk. A deploy that has begun to
write leaves a disk that does not boot, and says so. Of a batch, what has not
begun is cancelled at once; jobs whose work is done already end well.`,
		Example: "  mimeo job cancel j7\n  mimeo job cancel b3",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			var all []api.Job
			for _, id := range args {
				some := make([]api.Job, 1)
				if isBatch(id) {
					err = c.Do(cmd.Context(), http.MethodPost, "/v1/batches/"+id+"/cancel", nil, &some)
				} else {
					err = c.Do(cmd.Context(), http.MethodPost, "/v1/jobs/"+url.PathEscape(id)+"/cancel", nil, &some[0])
				}
				if err != nil {
					return err
				}
				all = append(all, some...)
			}
			return t.sayJobs(all)
		},
	}
}

// sayJobs prints a line for each job.
func (t *terminal) sayJobs(jobs []api.Job) error {
	if t.json {
		return t.printJSON(jobs)
	}
	for _, j := range jobs {
		fmt.Fprintf(t.out, "%s\t%s of %s: %s\n", j.ID, strings.TrimSpace(string(j.Kind)+" "+imageRev(j)), j.Node, j.Phase)
	}
	return nil
}

func jobRetryCmd(t *terminal) *cobra.Command {
	var failed, yes, watch bool
	var most int
	c := &cobra.Command{
		Use: "retry JOB... | retry --failed BATCH|RANGE", Short: "Start ended jobs again",
		Long: `Start ended jobs again, as new jobs of the same revision. What is stored or
written already is not moved again.

With --failed, those of a batch, or the newest of each node of a range, that
failed or were lost; nodes that have had another job since are left alone, and
so are jobs that somebody cancelled. Those of a batch are a batch again.`,
		Example: `  mimeo job retry j7
  mimeo job retry --failed b3 --watch
  mimeo job retry --failed @lab3`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			var jobs []api.Job
			if failed {
				if len(args) != 1 {
					return usagef("job retry --failed: name one batch or range")
				}
				q := url.Values{"failed": {"1"}, "range": {args[0]}}
				if isBatch(args[0]) {
					q = url.Values{"failed": {"1"}, "batch": {args[0]}}
				}
				err = c.Do(cmd.Context(), http.MethodGet, "/v1/jobs?"+q.Encode(), nil, &jobs)
				slices.Reverse(jobs)
			} else {
				jobs, err = jobsOf(cmd.Context(), c, args)
			}
			if err != nil {
				return err
			}
			if len(jobs) == 0 {
				fmt.Fprintln(t.err, "nothing failed: there is nothing to start again")
				return nil
			}
			ask := api.JobRetry{Key: newKey(), Max: most}
			var disks []api.NodeStatus
			for _, j := range jobs {
				ask.Jobs = append(ask.Jobs, j.ID)
				if j.Kind != api.TaskCapture {
					disks = append(disks, api.NodeStatus{Node: node.Node{Name: j.Node}})
				}
			}
			if err := t.confirm(yes, disks, "what is on their disks is lost"); err != nil {
				return err
			}
			if !yes && len(disks) == 1 && slices.ContainsFunc(jobs, func(j api.Job) bool { return j.Kind == api.TaskWipe }) {
				if err := t.ask(fmt.Sprintf("wipe %s once more; go on?", disks[0].Name)); err != nil {
					return err
				}
			}
			var made []api.Job
			if err := c.Do(cmd.Context(), http.MethodPost, "/v1/jobs/retry", ask, &made); err != nil {
				return err
			}
			if watch {
				return t.watch(cmd.Context(), c, made)
			}
			return t.sayJobs(made)
		},
	}
	f := c.Flags()
	f.BoolVar(&failed, "failed", false, "those that failed of a batch or of nodes")
	f.IntVar(&most, "max", 0, "at most `N` at a time (as before)")
	f.BoolVarP(&yes, "yes", "y", false, "do not ask, however many disks")
	f.BoolVarP(&watch, "watch", "w", false, "show progress until all jobs end")
	return c
}
