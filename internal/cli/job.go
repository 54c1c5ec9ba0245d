package cli

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"sort"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
)

func captureCmd(t *terminal) *cobra.Command {
	var watch, verify bool
	req := api.JobNew{Kind: api.TaskCapture}
	c := &cobra.Command{
		Use:   "capture NODE --image NAME",
		Short: "Capture a node's disk as the next revision of an image",
		Long: `Capture a node's disk as the next revision of an image. The node is restarted,
boots the stateless image over the network, sends the blocks in use of its disk,
and boots from its disk again. Its disk is only read.

The disk is the node's only one, or the one that its disk.* rule names.`,
		Example: "  mimeo capture n01 --image debian12 --watch",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Range, req.Verify = args[0], verify
			return t.startJobs(cmd, req, watch)
		},
	}
	f := c.Flags()
	f.StringVar(&req.Image, "image", "", "`NAME` of the image")
	f.BoolVarP(&watch, "watch", "w", false, "show progress until the job ends")
	f.StringArrayVar(&req.LeaveOut, "leave-out", nil, "`PATTERN` of files to capture as zeros, as /tmp, '/home/*/.cache', '*.iso'; several times for several")
	f.BoolVar(&req.KeepAll, "keep-all", false, "capture swap, page and hibernation files, too")
	f.BoolVar(&verify, "verify", false, "read every chunk back before the revision counts")
	f.IntVar(&req.Tries, "tries", 0, "netboots before giving up (3)")
	f.StringVar(&req.Key, "key", "", "the same key twice gives the same job (for scripts)")
	c.MarkFlagRequired("image")
	return c
}

func deployCmd(t *terminal) *cobra.Command {
	var watch, yes bool
	req := api.JobNew{Kind: api.TaskDeploy}
	c := &cobra.Command{
		Use:   "deploy RANGE --image NAME[@REV]",
		Short: "Write an image onto the disks of nodes",
		Long: `Write an image onto the disks of nodes: the newest revision, or the one named.
What their disks held is lost. On a disk that holds most of the image already,
only what differs is written.

The disk of each node is its only one, or the one that its disk.* rule names;
a node where none or several match fails, untouched.`,
		Example: `  mimeo deploy n02 --image debian12 --watch
  mimeo deploy "n[02-40]" --image debian12@3 --yes`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Range = args[0]
			nodes, err := t.hit(cmd, args[0])
			if err != nil {
				return err
			}
			if len(nodes) > 1 && !yes {
				if err := t.ask(fmt.Sprintf("overwrite the disks of %s (%s)?", count(len(nodes), "node"), fold(nodes))); err != nil {
					return err
				}
			}
			return t.startJobs(cmd, req, watch)
		},
	}
	f := c.Flags()
	f.StringVar(&req.Image, "image", "", "`NAME` or NAME@REV of the image")
	f.BoolVarP(&watch, "watch", "w", false, "show progress until all jobs end")
	f.BoolVarP(&yes, "yes", "y", false, "do not ask, however many disks")
	f.StringVar(&req.Grow, "grow", "last", "what grows on a larger disk: last (the last volume) or none")
	f.BoolVar(&req.Full, "full", false, "write everything, without reading the disk first")
	f.IntVar(&req.Tries, "tries", 0, "netboots before giving up (3)")
	f.StringVar(&req.Key, "key", "", "the same key twice gives the same jobs (for scripts)")
	c.MarkFlagRequired("image")
	return c
}

func (t *terminal) startJobs(cmd *cobra.Command, req api.JobNew, watch bool) error {
	if req.Key == "" {
		var k [12]byte
		rand.Read(k[:])
		req.Key = hex.EncodeToString(k[:])
	}
	c, err := connect()
	if err != nil {
		return err
	}
	var jobs []api.Job
	if err := c.Do(cmd.Context(), http.MethodPost, "/v1/jobs", req, &jobs); err != nil {
		return err
	}
	if watch {
		return t.watch(cmd.Context(), c, jobs)
	}
	if t.json {
		return t.printJSON(jobs)
	}
	for _, j := range jobs {
		fmt.Fprintf(t.out, "%s\t%s %s of %s\n", j.ID, j.Kind, j.Image, j.Node)
	}
	fmt.Fprintln(t.err, "watch with: mimeo job watch", jobs[0].ID)
	return nil
}

func jobCmd(t *terminal) *cobra.Command {
	c := &cobra.Command{Use: "job", Short: "List, show, watch, cancel and retry jobs"}
	c.AddCommand(jobListCmd(t), jobShowCmd(t), jobWatchCmd(t),
		jobDoCmd(t, "cancel", "Cancel jobs", "Cancel jobs. The node goes back to booting its disk. A deploy that has begun to write leaves a disk\nthat does not boot, and says so."),
		jobDoCmd(t, "retry", "Start ended jobs again", "Start ended jobs again, as new jobs. What is stored or written already is not moved again."))
	return c
}

func jobListCmd(t *terminal) *cobra.Command {
	var active bool
	c := &cobra.Command{
		Use: "list [RANGE]", Short: "List jobs, newest first", Aliases: []string{"ls"},
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
			var jobs []api.Job
			if err := c.Do(cmd.Context(), http.MethodGet, "/v1/jobs?"+q.Encode(), nil, &jobs); err != nil {
				return err
			}
			if t.json {
				return t.printJSON(jobs)
			}
			rows := [][]string{{"JOB", "NODE", "WORK", "PHASE", "TRY", "STARTED", "TOOK", "WHAT"}}
			for _, j := range jobs {
				what := j.Waiting
				if j.Error != nil {
					what = j.Error.Message
				}
				rows = append(rows, []string{j.ID, string(j.Node), string(j.Kind) + " " + imageRev(j), string(j.Phase), fmt.Sprintf("%d/%d", j.Try, j.Tries), moment(j.Created), took(j), what})
			}
			table(t.out, rows)
			return nil
		},
	}
	c.Flags().BoolVarP(&active, "active", "a", false, "only those that have not ended")
	return c
}

func imageRev(j api.Job) string {
	if j.Rev > 0 {
		return fmt.Sprintf("%s@%d", j.Image, j.Rev)
	}
	return j.Image
}

func took(j api.Job) string {
	if j.Ended != nil {
		return span(j.Ended.Sub(j.Created))
	}
	return span(time.Since(j.Created).Truncate(time.Second))
}

func jobShowCmd(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use: "show JOB", Short: "Show a job: its phases, bytes, postscripts and events",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := connect()
			if err != nil {
				return err
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

func jobWatchCmd(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use: "watch JOB...", Short: "Show the progress of jobs until they end",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			jobs := make([]api.Job, len(args))
			for i, id := range args {
				if err := c.Do(cmd.Context(), http.MethodGet, "/v1/jobs/"+url.PathEscape(id), nil, &jobs[i]); err != nil {
					return err
				}
			}
			return t.watch(cmd.Context(), c, jobs)
		},
	}
}

func jobDoCmd(t *terminal, verb, short, long string) *cobra.Command {
	return &cobra.Command{
		Use: verb + " JOB...", Short: short, Long: long,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			jobs := make([]api.Job, len(args))
			for i, id := range args {
				if err := c.Do(cmd.Context(), http.MethodPost, "/v1/jobs/"+url.PathEscape(id)+"/"+verb, nil, &jobs[i]); err != nil {
					return err
				}
				if !t.json {
					fmt.Fprintf(t.out, "%s\t%s %s of %s: %s\n", jobs[i].ID, jobs[i].Kind, imageRev(jobs[i]), jobs[i].Node, jobs[i].Phase)
				}
			}
			if t.json {
				return t.printJSON(jobs)
			}
			return nil
		},
	}
}
