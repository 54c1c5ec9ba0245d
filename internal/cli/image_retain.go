package cli

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
)

func imageRetainCmd(t *terminal) *cobra.Command {
	var rule api.RetentionRule
	var dry, yes, off bool
	c := &cobra.Command{
		Use: "retain NAME", Short: "Say which revisions of an image stay",
		Long: `Gives an image a rule: the newest revisions stay (--last), of each day that has one
the newest (--daily), of each week likewise (--weekly). What no part of the rule keeps
is removed: now, after each capture, and once a day. The newest revision always stays,
and so does what is pinned ("mimeo image pin") or being deployed.

Look first: --dry-run says which revisions would go and changes nothing. Without it,
they are shown and asked about. Without any flag the rule is shown.

The room is freed by "mimeo store gc", which runs once a day by itself.`,
		Example: `  mimeo image retain rocky9 --last 5 --daily 7 --weekly 4 --dry-run
  mimeo image retain rocky9 --last 5 --daily 7 --weekly 4
  mimeo image retain rocky9
  mimeo image retain rocky9 --off`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			none := rule == (api.RetentionRule{})
			if off && !none {
				return usagef("--off goes without --last, --daily and --weekly")
			}
			c, err := connect()
			if err != nil {
				return err
			}
			path := "/v1/images/" + url.PathEscape(args[0]) + "/retention"
			var r api.Retention
			switch {
			case none && !off:
				err = c.Do(cmd.Context(), http.MethodGet, path, nil, &r)
			default:
				err = c.Do(cmd.Context(), http.MethodPost, path, rule, &r)
			}
			if err != nil {
				return err
			}
			if none && !off || dry {
				if t.json {
					return t.printJSON(r)
				}
				t.retention(r)
				return nil
			}
			var gone []string
			for _, v := range r.Revisions {
				if !v.Keep {
					gone = append(gone, fmt.Sprintf("%s@%d", r.Image, v.Rev))
				}
			}
			if len(gone) > 0 && !yes {
				fmt.Fprintln(t.err, "these go:", strings.Join(gone, " "))
				if err := t.ask(fmt.Sprintf("remove %s of %s now, and later what the rule does not keep?", count(len(gone), "revision"), r.Image)); err != nil {
					return err
				}
			}
			r = api.Retention{}
			if err := c.Do(cmd.Context(), http.MethodPut, path, rule, &r); err != nil {
				return err
			}
			if t.json {
				return t.printJSON(r)
			}
			fmt.Fprintf(t.err, "%s: %s; %s removed\n", r.Image, ruleText(r.Rule), count(len(r.Removed), "revision"))
			return nil
		},
	}
	f := c.Flags()
	f.IntVar(&rule.Last, "last", 0, "keep so many of the newest")
	f.IntVar(&rule.Daily, "daily", 0, "keep the newest of each of so many days")
	f.IntVar(&rule.Weekly, "weekly", 0, "keep the newest of each of so many weeks")
	f.BoolVar(&off, "off", false, "no rule: everything stays")
	f.BoolVar(&dry, "dry-run", false, "say which revisions would go, and change nothing")
	f.BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

// ruleText is a rule in words.
func ruleText(r api.RetentionRule) string {
	if r == (api.RetentionRule{}) {
		return "no rule, everything stays"
	}
	return fmt.Sprintf("last %d, daily %d, weekly %d", r.Last, r.Daily, r.Weekly)
}

func (t *terminal) retention(r api.Retention) {
	fmt.Fprintf(t.out, "%s: %s\n", r.Image, ruleText(r.Rule))
	if len(r.Revisions) == 0 {
		return
	}
	rows := [][]string{{"REVISION", "CAPTURED", "", "WHY"}}
	for _, v := range r.Revisions {
		rows = append(rows, []string{fmt.Sprintf("%s@%d", r.Image, v.Rev), moment(v.Created), map[bool]string{true: "stays", false: "goes"}[v.Keep], strings.Join(v.Why, ", ")})
	}
	table(t.out, rows)
}

func imagePinCmd(t *terminal, pin bool) *cobra.Command {
	use, short, method, done := "pin NAME@REV", "Keep a revision whatever rules say", http.MethodPut, "pinned"
	if !pin {
		use, short, method, done = "unpin NAME@REV", "Let a pinned revision be removed", http.MethodDelete, "not pinned any more:"
	}
	return &cobra.Command{
		Use: use, Short: short,
		Long:    "A pinned revision is removed by no retention rule, and \"mimeo image rm\" refuses it.",
		Example: "  mimeo image " + strings.Replace(use, "NAME@REV", "rocky9@3", 1),
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !strings.Contains(args[0], "@") {
				return usagef("%s wants NAME@REV", cmd.Name())
			}
			name, rev, err := t.splitImage(cmd, args[0])
			if err != nil {
				return err
			}
			c, err := connect()
			if err != nil {
				return err
			}
			var a api.Affected
			if err := c.Do(cmd.Context(), method, imagePath(name, rev)+"/pin", nil, &a); err != nil {
				return err
			}
			if t.json {
				return t.printJSON(a)
			}
			fmt.Fprintf(t.err, "%s %s@%d\n", done, name, rev)
			return nil
		},
	}
}
