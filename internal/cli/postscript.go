package cli

import (
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
)

func postscriptCmd(t *terminal) *cobra.Command {
	c := &cobra.Command{Use: "postscript", Short: "List and show the postscripts that come with Mimeo"}
	c.AddCommand(postscriptListCmd(t), postscriptShowCmd(t))
	return c
}

func postscriptListCmd(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the ready postscripts",
		Long: `List the ready postscripts: name, the stage that they are for, and what they do. A node
or group runs one when its label of that stage names it.`,
		Example: "  mimeo postscript list\n  mimeo node set n07 label.postscripts.root=network",
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
