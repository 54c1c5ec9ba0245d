package cli

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

func captureCmd(t *terminal) *cobra.Command {
	var watch, verify bool
	var at later
	req := api.JobNew{Kind: api.TaskCapture}
	c := &cobra.Command{
		Use:   "capture NODE --image NAME",
		Short: "Capture a node's disk as the next revision of an image",
		Long: `Capture a node's disk as the next revision of an image. The node is restarted,
boots the stateless image over the network, sends the blocks in use of its disk,
and boots from its disk again. Its disk is only read.

The disk is the node's only one, or the one that its disk.* rule names.

With --shrink the image is that of a smaller disk, for nodes that have one: ext and
NTFS filesystems are made smaller by their own tools, and partitions behind them
move up. That is done on a view of the disk, in the node's memory. The image's
warnings say what was shrunk, and from what ("mimeo image show"). On a larger disk
the last volume grows again when it is deployed.`,
		Example: `  mimeo capture n01 --image debian12 --watch
  mimeo capture n01 --image debian12 --shrink
  mimeo capture n01 --image golden --every "Fri 20:00"`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Range, req.Verify = args[0], verify
			return t.startJobs(cmd, req, at, watch)
		},
	}
	f := c.Flags()
	f.StringVar(&req.Image, "image", "", "`NAME` of the image")
	f.BoolVarP(&watch, "watch", "w", false, "show progress until the job ends")
	f.StringArrayVar(&req.LeaveOut, "leave-out", nil, "`PATTERN` of files to capture as zeros, as /tmp, '/home/*/.cache', '*.iso'; several times for several")
	f.BoolVar(&req.KeepAll, "keep-all", false, "capture swap, page and hibernation files, too")
	f.BoolVar(&req.Shrink, "shrink", false, "capture the disk as a smaller one: its ext and NTFS filesystems just large enough")
	f.BoolVar(&verify, "verify", false, "read every chunk back before the revision counts")
	f.IntVar(&req.Tries, "tries", 0, "netboots before giving up (3)")
	f.StringVar(&req.Key, "key", "", "the same key twice gives the same job (for scripts)")
	at.flags(c)
	c.MarkFlagRequired("image")
	return c
}

func deployCmd(t *terminal) *cobra.Command {
	var watch, yes bool
	var at later
	var within time.Duration
	req := api.JobNew{Kind: api.TaskDeploy}
	c := &cobra.Command{
		Use:   "deploy RANGE --image NAME[@REV]",
		Short: "Write an image onto the disks of nodes",
		Long: `Write an image onto the disks of nodes: the newest revision, or the one named.
What their disks held is lost. On a disk that holds most of the image already,
only what differs is written.

The disk of each node is its only one, or the one that its disk.* rule names;
a node where none or several match fails, untouched.

With several nodes all is looked at first: disks, firmware, who is busy, who
has no BMC. That is shown, and asked about. Nodes that cannot take the image
fail by themselves, and so do those that fail later; the others go on, unless
--fail-fast is said. The jobs are a batch, which "mimeo job watch", "cancel",
"show" and "retry --failed" take as a whole.

On a larger disk the last volume grows, partition and filesystem; where that is
LVM's, the physical volume and the only logical volume with a filesystem. --grow
names another one: by its partition's number, name or UUID, by its label or UUID,
or as GROUP/VOLUME. With a GPT, partitions behind it then lie at the end of the
disk; with an MBR there must be room behind it.

With --trust-last, files that nobody wrote to since the last deploy onto this disk
are neither read nor written, where both revisions have the same there. That is told
by the disk's own metadata, which is read: of ext2, ext3, ext4, XFS, btrfs and NTFS, after
a clean shutdown; all else, or all where nothing is known, is read as ever, and the job's
log says why. It does not see what was written past the filesystem (dd, a boot loader,
bit rot), by a clock set back to the very moment, or what a power cut kept from the
metadata. The job tells how many bytes were trusted and not read.

--max bounds how many are at work at a time; the rest waits, and boots its disk
as before. With --within, nodes whose turn has not come by then are not begun
any more, and fail. Those that have begun go on.

With --at and --every the work is kept for later, and RANGE and image are read
when it is time ("mimeo schedule --help").`,
		Example: `  mimeo deploy n02 --image debian12 --watch
  mimeo deploy "n[02-40]" --image debian12@3 --yes
  mimeo deploy n03 --image rocky9 --grow rl/home
  mimeo deploy @lab3 --image win11@4 --max 20 --watch
  mimeo deploy @lab3 --image rocky9 --trust-last
  mimeo deploy @lab3 --image win11 --every "Mon-Fri 02:00" --within 3h --max 40`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Range = args[0]
			if req.Max < 0 || within < 0 {
				return usagef("deploy: --max and --within want more than nothing")
			}
			req.WithinMS = within.Milliseconds()
			if err := at.check(watch); err != nil {
				return err
			}
			nodes, err := t.preflight(cmd, &req, at, yes)
			if err != nil {
				return err
			}
			req.Skip = nodes > 1
			return t.startJobs(cmd, req, at, watch)
		},
	}
	f := c.Flags()
	f.StringVar(&req.Image, "image", "", "`NAME` or NAME@REV of the image")
	f.BoolVarP(&watch, "watch", "w", false, "show progress until all jobs end")
	f.BoolVarP(&yes, "yes", "y", false, "do not ask, however many disks")
	f.IntVar(&req.Max, "max", 0, "at most `N` nodes at a time; the others wait for their turn")
	f.DurationVar(&within, "within", 0, "nodes whose turn has not come after `TIME` (as 30m, 2h) fail")
	f.BoolVar(&req.FailFast, "fail-fast", false, "begin no more once one has failed")
	f.StringVar(&req.Grow, "grow", "last", "what grows on a larger disk: last (the last volume), none, or the `VOLUME` named")
	f.BoolVar(&req.Discard, "discard", false, "tell the disk (SSD, thin volume) which of its blocks the image leaves free (TRIM)")
	f.BoolVar(&req.Trust, "trust-last", false, "do not read files that, by the disk's metadata, nobody wrote to since the last deploy")
	f.BoolVar(&req.Full, "full", false, "write everything, without reading the disk first")
	f.IntVar(&req.Tries, "tries", 0, "netboots before giving up (3)")
	f.StringVar(&req.Key, "key", "", "the same key twice gives the same jobs (for scripts)")
	at.flags(c)
	c.MarkFlagRequired("image")
	return c
}

// preflight shows what is known of the nodes before their disks are touched, and asks. What is done now is then asked for by the names
// and the revision that were shown, whatever has changed since. It returns how many nodes they are.
func (t *terminal) preflight(cmd *cobra.Command, req *api.JobNew, at later, yes bool) (int, error) {
	c, err := connect()
	if err != nil {
		return 0, err
	}
	var p api.Preflight
	if err := c.Do(cmd.Context(), http.MethodPost, "/v1/jobs/preflight", req, &p); err != nil {
		return 0, err
	}
	fit := t.showPreflight(p, at.later())
	if !at.later() && (fit == 0 || req.FailFast && fit < len(p.Nodes)) {
		return len(p.Nodes), nil // it is refused, with the reason
	}
	var nodes []api.NodeStatus
	for _, n := range p.Nodes {
		nodes = append(nodes, api.NodeStatus{Node: node.Node{Name: n.Node}})
	}
	what := fmt.Sprintf("%s will be overwritten with %s@%d", count(fit, "disk"), p.Image, p.Rev)
	if !at.later() {
		req.Range, req.Image = exactly(nodes), fmt.Sprintf("%s@%d", p.Image, p.Rev)
	} else {
		what = fmt.Sprintf("as many disks as there are nodes then will be overwritten with %s, %s", req.Image, at.text())
	}
	return len(p.Nodes), t.confirm(yes, nodes, what)
}

// maxProblems bounds how many nodes are named one by one.
const maxProblems = 20

// showPreflight prints problems and warnings, and returns how many nodes have no problem. What is done later may find
// them otherwise.
func (t *terminal) showPreflight(p api.Preflight, later bool) (fit int) {
	out := "left out"
	if later {
		out = "would be left out now"
	}
	warned := map[string][]api.NodeStatus{}
	problems := 0
	for _, n := range p.Nodes {
		for _, w := range n.Warnings {
			warned[w] = append(warned[w], api.NodeStatus{Node: node.Node{Name: n.Node}})
		}
		if n.Problem == nil {
			fit++
			continue
		}
		if problems++; problems <= maxProblems {
			text := strings.TrimSpace(strings.TrimPrefix(strings.TrimPrefix(n.Problem.Message, string(n.Node)), ":"))
			fmt.Fprintf(t.err, "%s: %s: %s\n", n.Node, out, text)
		}
	}
	if problems > maxProblems {
		fmt.Fprintf(t.err, "... and %d more: %s\n", problems-maxProblems, out)
	}
	for _, w := range slices.Sorted(maps.Keys(warned)) {
		text := w
		if nodes := warned[w]; len(nodes) == 1 {
			text = strings.TrimPrefix(text, string(nodes[0].Name)+": ")
		}
		fmt.Fprintf(t.err, "%s: %s\n", fold(warned[w]), text)
	}
	return fit
}

// newKey names a request, so that sent twice it counts once.
func newKey() string {
	var k [12]byte
	rand.Read(k[:])
	return hex.EncodeToString(k[:])
}

// startJobs asks for work, now or later.
func (t *terminal) startJobs(cmd *cobra.Command, req api.JobNew, at later, watch bool) error {
	if err := at.check(watch); err != nil {
		return err
	}
	if req.Key == "" {
		req.Key = newKey()
	}
	if at.later() {
		return t.addSchedule(cmd, req, at)
	}
	c, err := connect()
	if err != nil {
		return err
	}
	var jobs []api.Job
	if err := c.Do(cmd.Context(), http.MethodPost, "/v1/jobs", req, &jobs); err != nil {
		return err
	}
	return t.started(cmd, jobs, watch)
}

// started shows jobs that were just made: their progress, or their names.
func (t *terminal) started(cmd *cobra.Command, jobs []api.Job, watch bool) error {
	if watch {
		c, err := connect()
		if err != nil {
			return err
		}
		return t.watch(cmd.Context(), c, jobs)
	}
	if t.json {
		return t.printJSON(jobs)
	}
	failed := 0
	for _, j := range jobs {
		text := ""
		if j.Phase == api.PhaseFailed {
			failed++
			text = ": failed"
		}
		fmt.Fprintf(t.out, "%s\t%s of %s%s\n", j.ID, strings.TrimSpace(string(j.Kind)+" "+j.Image), j.Node, text)
	}
	what := jobs[0].ID
	if jobs[0].Batch != "" {
		what = jobs[0].Batch
	}
	fmt.Fprintln(t.err, "watch with: mimeo job watch", what)
	if failed > 0 {
		return &api.Error{Code: "failed", Message: fmt.Sprintf("%d of %s could not begin; the others go on", failed, count(len(jobs), "node")), Hint: fmt.Sprintf(`"mimeo job list --batch %s" says why`, what)}
	}
	return nil
}
