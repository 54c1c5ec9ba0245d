package localcmd

import (
	"encoding/json"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/storetext"
)

// StoreCmd returns "mimeo-agent store".
func StoreCmd() *cobra.Command {
	c := &cobra.Command{Use: "store", Short: "Check a store in a folder",
		Long: `Looks after a store in a folder, without any server.`}
	c.AddCommand(storeCheckCmd())
	return c
}

// message makes what package dir reports the API's message of the same fields, for which there are words.
func message[T any](report any) (out T, err error) {
	b, err := json.Marshal(report)
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	return out, err
}

func storeCheckCmd() *cobra.Command {
	var place string
	var readData, asJSON bool
	cmd := &cobra.Command{
		Use:   "check --store dir:PATH",
		Short: "Check that a store is whole, and say which revisions are not",
		Long: `Holds packs, index, manifests and revisions of a store against each other. With
--read-data it also reads every chunk back and checks it against its name, which
takes as long as reading the whole store from its disk. Nothing is changed; another
program, mimeod too, may write to the store meanwhile.

Exit codes: 0 all is whole; 1 something is damaged or missing, or the check could
not go on; 2 the command line cannot be understood; 3 no such store.`,
		Example: `  mimeo-agent store check --store dir:/var/lib/mimeo/store
  mimeo-agent store check --store dir:/mnt/usb/images --read-data`,
		Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			st, err := openStore(place, false)
			if err != nil {
				return err
			}
			defer st.Close()
			m := newMeter(cmd.ErrOrStderr())
			r, err := st.Check(cmd.Context(), readData, func(done, total int64) {
				if !asJSON {
					m.show("checking", done, total)
				}
			})
			m.close()
			if err != nil {
				return err
			}
			c, err := message[api.StoreCheck](r)
			if err != nil {
				return err
			}
			if asJSON {
				if err := printJSON(cmd.OutOrStdout(), c); err != nil {
					return err
				}
			} else {
				storetext.Check(cmd.OutOrStdout(), &c, readData)
			}
			return storetext.CheckError(&c, "mimeo-agent store repair --dry-run --store "+place)
		},
	}
	f := cmd.Flags()
	f.StringVar(&place, "store", "", "the store: dir:PATH")
	f.BoolVar(&readData, "read-data", false, "read every chunk, too")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
