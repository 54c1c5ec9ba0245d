package cli

import (
	"fmt"
	"net/http"
	"slices"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
)

func keyCmd(t *terminal) *cobra.Command {
	c := &cobra.Command{Use: "key", Short: "Show the keys whose signed images are deployed"}
	c.AddCommand(keyShowCmd(t), keyListCmd(t))
	return c
}

func keyShowCmd(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use: "show", Short: "Print the public key of the management node",
		Long: `Prints the public key (Ed25519, base64) by which the management node signs what it
captures, and the certificates of wipes.

Another management node that is to deploy images of this one, from a copy of its store,
names the key under "trust" in its configuration. "mimeo-agent deploy --trust FILE" takes
a file with it.`,
		Example: `  mimeo key show
  mimeo key show > site-a.key`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			keys, err := trustedKeys(cmd)
			if err != nil {
				return err
			}
			i := slices.IndexFunc(keys, func(k api.TrustedKey) bool { return k.Own })
			if i < 0 {
				return &api.Error{Code: "failed", Message: "the server names no key of its own"}
			}
			if t.json {
				return t.printJSON(keys[i])
			}
			fmt.Fprintln(t.out, keys[i].Key)
			return nil
		},
	}
}

func keyListCmd(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the keys whose signatures count", Aliases: []string{"ls"},
		Long: `Lists the public keys whose signatures of images count: the management node's own, and
those under "trust" in its configuration. An image that none of them has signed is not
deployed; "mimeo image show NAME" says who signed it.`,
		Example: "  mimeo key list",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			keys, err := trustedKeys(cmd)
			if err != nil {
				return err
			}
			if t.json {
				return t.printJSON(keys)
			}
			rows := [][]string{{"KEY", "OF"}}
			for _, k := range keys {
				rows = append(rows, []string{k.Key, k.Name})
			}
			table(t.out, rows)
			return nil
		},
	}
}

func trustedKeys(cmd *cobra.Command) (keys []api.TrustedKey, err error) {
	c, err := connect()
	if err != nil {
		return nil, err
	}
	return keys, c.Do(cmd.Context(), http.MethodGet, "/v1/keys", nil, &keys)
}
