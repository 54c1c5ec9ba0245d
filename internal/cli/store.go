package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/storetext"
)

func storeCmd(t *terminal) *cobra.Command {
	c := &cobra.Command{Use: "store", Short: "Check the store that keeps all images",
		Long: `The store keeps the chunks of all images and revisions, each once. These commands
look after it as a whole. Captures and deploys go on beside them.`}
	c.AddCommand(storeCheckCmd(t))
	return c
}

// maintain asks for work on the whole store, shows how far it is, and reads its result.
func (t *terminal) maintain(ctx context.Context, method, path, doing string, result any) error {
	c, err := connect()
	if err != nil {
		return err
	}
	var last api.StoreProgress
	var said time.Time
	live := isTTY(t.err)
	err = c.Stream(ctx, method, path, nil, func(data []byte) error {
		last = api.StoreProgress{}
		if err := json.Unmarshal(data, &last); err != nil {
			return err
		}
		if every := map[bool]time.Duration{true: time.Second, false: 10 * time.Second}[live]; !t.json && !last.Finished && last.Total > 0 && time.Since(said) > every {
			said = time.Now()
			end := "\n"
			if live {
				end = "\r"
			}
			fmt.Fprintf(t.err, "%s: %3d %%  %s of %s   %s", doing, last.Done*100/last.Total, size(last.Done), size(last.Total), end)
		}
		return nil
	})
	if live && !said.IsZero() {
		fmt.Fprintln(t.err)
	}
	switch {
	case err != nil:
		return err
	case last.Error != nil:
		return last.Error
	case !last.Finished:
		return &api.Error{Code: "failed", Message: doing + ": the server's answer broke off", Hint: "try again"}
	}
	return json.Unmarshal(last.Result, result)
}

func storeCheckCmd(t *terminal) *cobra.Command {
	var readData bool
	c := &cobra.Command{
		Use: "check", Short: "Check that the store is whole, and say which revisions are not",
		Long: `Holds packs, index, manifests and revisions against each other: seconds to minutes.
With --read-data it also reads every chunk back and checks it against its name,
which takes as long as reading the whole store from its disk.

Nothing is changed. What is found to be damaged is stored anew by the next capture
that has the same data. Exit code 1 says that something is wrong.

On a store that no mimeod serves just now: mimeo-agent store check --store dir:PATH`,
		Example: `  mimeo store check
  mimeo store check --read-data
  mimeo store check --json | jq '.revisions[] | select(.missing + .damaged > 0)'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			path := "/v1/maintenance/check"
			if readData {
				path += "?read_data=1"
			}
			var r api.StoreCheck
			if err := t.maintain(cmd.Context(), http.MethodPost, path, "checking the store", &r); err != nil {
				return err
			}
			if t.json {
				if err := t.printJSON(r); err != nil {
					return err
				}
			} else {
				storetext.Check(t.out, &r, readData)
			}
			return storetext.CheckError(&r, "mimeo store repair --dry-run")
		},
	}
	c.Flags().BoolVar(&readData, "read-data", false, "read every chunk, too")
	return c
}
