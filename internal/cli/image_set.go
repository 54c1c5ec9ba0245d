package cli

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
)

func imageSetCmd(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use: "set NAME KEY=VALUE...", Short: "Say which postscripts run with an image",
		Long: `Names postscripts that run wherever the image is deployed or captured, in all its
revisions. An empty value unsets; without KEY=VALUE, what is set is shown. It may be
said before there is a revision, so that it counts for the first capture.

Keys: postscripts.pre, postscripts.post, postscripts.root, postscripts.first; pre and
post also for one task alone: postscripts.pre.deploy, postscripts.post.capture. They
come after those of the profile and of the node's groups, and before the node's own:
"mimeo postscript explain NODE --image NAME" shows the whole list.`,
		Example: `  mimeo image set rocky9 postscripts.root=motd.sh,cuda.sh
  mimeo image set rocky9 postscripts.pre.deploy=raid.sh
  mimeo image set rocky9 postscripts.root=
  mimeo image set rocky9`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := api.ImageSet{Set: map[string]string{}}
			if err := parseSet(args[1:], req.Set); err != nil {
				return err
			}
			c, err := connect()
			if err != nil {
				return err
			}
			var im api.Image
			path := "/v1/images/" + url.PathEscape(args[0])
			if len(req.Set) == 0 {
				err = c.Do(cmd.Context(), http.MethodGet, path, nil, &im)
			} else {
				err = c.Do(cmd.Context(), http.MethodPatch, path, req, &im)
			}
			if err != nil {
				return err
			}
			if t.json {
				return t.printJSON(im)
			}
			for _, k := range slices.Sorted(maps.Keys(im.Set)) {
				fmt.Fprintf(t.out, "%s=%s\n", k, im.Set[k])
			}
			if len(im.Revisions) == 0 {
				fmt.Fprintf(t.err, "note: there is no image %s yet; this counts from its first capture on\n", im.Name)
			}
			return nil
		},
	}
}
