package cli

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
)

func backupCmd(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use: "backup FILE", Short: "Keep what the management node knows in one file",
		Long: `Writes the inventory, keys, profiles, postscripts and configuration into FILE, while
mimeod goes on. Not in it: the store (copy its folder), stateless images (build them
again), logs of consoles.

FILE holds the passwords of all BMCs, and the key that opens them: keep it as safe as
the management node. It is readable by you alone. "mimeod restore FILE" makes a
management node of it.`,
		Example: `  mimeo backup /srv/backup/mimeo-$(date +%F).tar.gz
  tar tzf mimeo.tar.gz`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			c, err := connect()
			if err != nil {
				return err
			}
			if _, err := os.Lstat(args[0]); err == nil {
				return &api.Error{Code: "refused", Message: args[0] + " is there already", Hint: "name another file: backups are not overwritten"}
			}
			f, err := os.CreateTemp(filepath.Dir(args[0]), ".mimeo-backup-*") // of mode 600
			if err != nil {
				return err
			}
			defer func() {
				if err != nil {
					os.Remove(f.Name())
				}
			}()
			err = c.Receive(cmd.Context(), http.MethodPut, "/v1/backup", f)
			if err = errors.Join(err, f.Sync()); err == nil {
				err = os.Link(f.Name(), args[0]) // unlike a rename it overwrites nothing
			}
			st, serr := f.Stat()
			if err = errors.Join(err, serr, f.Close()); err != nil {
				return fmt.Errorf("backup: %w", err)
			}
			if err := os.Remove(f.Name()); err != nil {
				return err
			}
			if t.json {
				return t.printJSON(map[string]any{"file": args[0], "bytes": st.Size()})
			}
			fmt.Fprintf(t.out, "%s: %s; the store is not in it\n", args[0], size(st.Size()))
			return nil
		},
	}
}
