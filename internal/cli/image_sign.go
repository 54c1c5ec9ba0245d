package cli

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
)

func imageSignCmd(t *terminal) *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "sign NAME@REV", Short: "Vouch for a revision, so that it can be deployed",
		Long: `Signs a revision with the key of the management node. What is captured is signed
already; this is for what came in another way, as with a copy of a store, or by
"mimeo-agent capture". Nodes write to their disks only what is signed by a key that
counts ("mimeo key list").

It says that you know where the image comes from: look at it first with "mimeo image
show", "mimeo image verify" and "mimeo image boot-test". Signatures that it has stay.`,
		Example: `  mimeo image show rocky9@3
  mimeo image verify rocky9@3
  mimeo image sign rocky9@3`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !strings.Contains(args[0], "@") {
				return usagef("sign wants NAME@REV, so that nothing else is signed by mistake")
			}
			name, rev, err := t.splitImage(cmd, args[0])
			if err != nil {
				return err
			}
			c, err := connect()
			if err != nil {
				return err
			}
			var r api.Revision
			if err := c.Do(cmd.Context(), http.MethodGet, imagePath(name, rev), nil, &r); err != nil {
				return err
			}
			if !r.Trusted && !yes {
				if err := t.ask(fmt.Sprintf("sign %s@%d, %s, %s?", name, rev, r.ID, signedBy(r))); err != nil {
					return err
				}
			}
			if err := c.Do(cmd.Context(), http.MethodPut, imagePath(name, rev)+"/signature", nil, &r); err != nil {
				return err
			}
			if t.json {
				return t.printJSON(r)
			}
			fmt.Fprintf(t.err, "%s@%d: %s\n", name, rev, signedBy(r))
			return nil
		},
	}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

// signedBy says who signed a revision, and what that is worth.
func signedBy(r api.Revision) string {
	var all []string
	for _, s := range r.Signatures {
		switch {
		case s.State == "trusted":
			all = append(all, "signed by "+s.Name)
		case s.State == "unknown":
			all = append(all, fmt.Sprintf("signed by %s, a key that is not trusted here", s.Key))
		case s.Name != "":
			all = append(all, fmt.Sprintf("a WRONG signature by %s: it was changed in the store", s.Name))
		default:
			all = append(all, fmt.Sprintf("a WRONG signature by %q", s.Key))
		}
	}
	if len(all) == 0 {
		return "not signed"
	}
	return strings.Join(all, "; ")
}
