package cli

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

func postscriptCmd(t *terminal) *cobra.Command {
	c := &cobra.Command{Use: "postscript", Short: "Show which postscripts a node runs, and those that come with Mimeo"}
	c.AddCommand(postscriptListCmd(t), postscriptShowCmd(t), postscriptExplainCmd(t))
	return c
}

func postscriptListCmd(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the ready postscripts",
		Long: `List the ready postscripts: name, the stage that they are for, and what they do. A node
runs one when a label of that stage, its own or a group's, or its image names it.`,
		Example: "  mimeo postscript list\n  mimeo node set n07 label.postscripts.root=network\n  mimeo postscript explain n07",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			var list []api.ReadyScript
			if err := c.Do(cmd.Context(), http.MethodGet, "/v1/postscripts", nil, &list); err != nil {
				return err
			}
			if t.json {
				return t.printJSON(list)
			}
			rows := [][]string{{"NAME", "STAGE", "WHAT IT DOES"}}
			for _, s := range list {
				rows = append(rows, []string{s.Name, s.Stage, s.About})
			}
			table(t.out, rows)
			return nil
		},
	}
}

func postscriptShowCmd(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "show NAME",
		Short: "Print a ready postscript, with the labels that it reads",
		Long: `Print a ready postscript. Its first lines say which labels of a node it reads. To change
one, put the changed program under the same name into the folder of postscripts: what
is there goes before the ready one.`,
		Example: "  mimeo postscript show network",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			var s api.ReadyScript
			if err := c.Do(cmd.Context(), http.MethodGet, "/v1/postscripts/"+url.PathEscape(args[0]), nil, &s); err != nil {
				return err
			}
			if t.json {
				return t.printJSON(s)
			}
			_, err = fmt.Fprint(t.out, s.Content)
			return err
		},
	}
}

func postscriptExplainCmd(t *terminal) *cobra.Command {
	var image, task string
	c := &cobra.Command{
		Use:   "explain NODE",
		Short: "Show which postscripts a node would run, in order, and who names each",
		Long: `Show which postscripts a node would run in a task: stage, name, who names it, and where
the program lies. The list begins with those of the node's profile; what its groups (the
group all first, and of its own the one that it names first at last), its image and the
node itself say is added in this order. Of a list,

  NAME    adds a postscript, or replaces the one of that name at its place
  -NAME   takes away one that was inherited
  -*      takes away all that were inherited

Keys: postscripts.pre, postscripts.post, postscripts.root, postscripts.first; pre and
post also for one task alone, as postscripts.pre.deploy (capture, deploy, wipe,
stateless). Nothing is changed. Where one cannot run, it is said, and the command fails.`,
		Example: `  mimeo postscript explain n07
  mimeo postscript explain n07 --image rocky9
  mimeo postscript explain n07 --task capture --image rocky9
  mimeo group set gpu label.postscripts.root=cuda.sh,motd.sh
  mimeo node set n07 label.postscripts.root=-motd.sh`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			q := url.Values{"task": {task}, "image": {image}}
			var p api.ScriptPlan
			if err := c.Do(cmd.Context(), http.MethodGet, "/v1/nodes/"+url.PathEscape(args[0])+"/postscripts?"+q.Encode(), nil, &p); err != nil {
				return err
			}
			if t.json {
				err = t.printJSON(p)
			} else {
				t.scriptPlan(p)
			}
			for _, s := range p.Scripts {
				if err == nil && s.Error != nil {
					err = s.Error
				}
			}
			return err
		},
	}
	c.Flags().StringVar(&image, "image", "", "the image that is deployed or captured")
	c.Flags().StringVar(&task, "task", string(api.TaskDeploy), "the task: "+strings.Join(node.ScriptTasks, ", "))
	return c
}

// scriptPlan prints the postscripts that a node would run.
func (t *terminal) scriptPlan(p api.ScriptPlan) {
	whose := func(s api.PlannedScript) string {
		return strings.TrimSpace(fmt.Sprintf("%s %s %s", s.From, s.Of, s.Key))
	}
	if len(p.Scripts) == 0 {
		fmt.Fprintf(t.out, "%s runs no postscript in a %s\n", p.Node, p.Task)
	} else {
		rows := [][]string{{"STAGE", "NAME", "SAID BY", "PROGRAM", "LIMIT", ""}}
		for _, s := range p.Scripts {
			limit, problem := "10 min", "" // the agent's own
			if s.TimeoutMS > 0 {
				limit = ms(s.TimeoutMS)
			}
			if s.Error != nil {
				problem = "cannot run"
			}
			rows = append(rows, []string{s.Stage, s.Name, whose(s), s.Program, limit, problem})
		}
		table(t.out, rows)
	}
	for _, s := range p.Dropped {
		fmt.Fprintf(t.out, "not run: %s %s of %s: taken away or replaced by %s\n", s.Stage, s.Name, whose(s), s.DroppedBy)
	}
}
