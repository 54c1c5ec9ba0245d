package localcmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/store/dir"
	"mimeo/internal/imaging/store/keys"
)

func storeKeyCmd() *cobra.Command {
	c := &cobra.Command{Use: "key", Short: "Make keys for encrypted stores, and say which open one",
		Long: `An encrypted store is opened by a key file or a passphrase, any of those that were
added to it. A store is encrypted from its making on: name a key when it is made, by the
first capture, a copy, or mimeod's first start. Without all of its keys nobody can read
it: keep a copy of the key file elsewhere, or add a passphrase that you write down.`,
		Example: `  mimeo-agent store key new /etc/mimeo/store.key
  mimeo-agent capture /dev/sda --store dir:/srv/images --store-key /etc/mimeo/store.key --image rocky9`}
	c.AddCommand(keyNewCmd(), keyListCmd(), keyAddCmd(), keyRemoveCmd())
	return c
}

func keyNewCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "new FILE",
		Short: "Make a key file",
		Long: `Writes a new random key to a file that is not there yet, readable by its owner alone.

Exit codes: 0 the file is there; 1 it could not be written; 2 the command line cannot be
understood; 4 there is such a file.`,
		Example: `  mimeo-agent store key new /etc/mimeo/store.key`,
		Args:    exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			err := keys.NewFile(args[0])
			if errors.Is(err, os.ErrExist) {
				return &api.Error{Code: "refused", Message: args[0] + " is there already", Hint: "a key that is lost takes its store with it: choose another name"}
			} else if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "made a key: %s\nkeep a copy of it elsewhere: without it, nobody can read what it encrypts\n", args[0])
			return err
		},
	}
}

func keyListCmd() *cobra.Command {
	var at storeAt
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list --store PLACE --store-key FILE",
		Short: "List what opens a store",
		Long: `Lists the key files and passphrases that open a store, by their IDs. The one that was
named with --store-key is marked. mimeod may run meanwhile.

Exit codes: 0 they are listed; 1 it could not go on; 2 the command line cannot be
understood; 3 no such store; 4 the key does not open it.`,
		Example: `  mimeo-agent store key list --store dir:/srv/images --store-key /etc/mimeo/store.key`,
		Args:    exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withKeys(cmd.Context(), at, false, func(st *dir.Store, by keys.Secret) error {
				list, err := st.Keys(cmd.Context(), by)
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(cmd.OutOrStdout(), list)
				}
				return printKeys(cmd.OutOrStdout(), list)
			})
		},
	}
	at.flags(cmd.Flags(), "the store: dir:PATH or s3://BUCKET/PREFIX")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printKeys(w io.Writer, list []dir.KeyInfo) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ID\tKIND\tADDED\t")
	for _, k := range list {
		mark := ""
		if k.Used {
			mark = "this one"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", k.ID, k.Kind, k.Created.Local().Format(time.DateTime), mark)
	}
	return t.Flush()
}

func keyAddCmd() *cobra.Command {
	var at storeAt
	var file string
	cmd := &cobra.Command{
		Use:   "add --new FILE --store PLACE --store-key FILE",
		Short: "Let another key file or passphrase open a store",
		Long: `Lets another key file, or the passphrase in the first line of a file, open a store, too.
What the store holds is not written anew. No other program may write to the store
meanwhile: stop mimeod.

Exit codes: 0 it opens the store; 1 it could not go on; 2 the command line cannot be
understood; 3 no such store; 4 the key does not open it, or another program has it.`,
		Example: `  mimeo-agent store key add --new /root/passphrase --store dir:/srv/images --store-key /etc/mimeo/store.key`,
		Args:    exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return badUsage("--new FILE is missing: what shall open the store?")
			}
			by, err := storeAt{key: file}.secret()
			if err != nil {
				return err
			}
			return withKeys(cmd.Context(), at, true, func(st *dir.Store, _ keys.Secret) error {
				id, err := st.AddKey(cmd.Context(), by)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "added: %s, a %s\n", id, by.Kind())
				return err
			})
		},
	}
	at.flags(cmd.Flags(), "the store: dir:PATH or s3://BUCKET/PREFIX")
	cmd.Flags().StringVar(&file, "new", "", "`FILE` with the key, or the passphrase in its first line")
	return cmd
}

func keyRemoveCmd() *cobra.Command {
	var at storeAt
	cmd := &cobra.Command{
		Use:   "remove ID --store PLACE --store-key FILE",
		Short: "Let a key file or passphrase open a store no more",
		Long: `Takes away what opens a store, by the ID that "list" shows; not the last one. Whoever has
had it, and a copy of the store's folder "keys", can still read what is captured from now
on: where that may be, copy the store to a new one. No other program may write to the
store meanwhile: stop mimeod.

Exit codes: 0 it opens the store no more; 1 it could not go on; 2 the command line cannot
be understood; 3 no such store or ID; 4 refused.`,
		Example: `  mimeo-agent store key remove 0123456789abcdef --store dir:/srv/images --store-key /etc/mimeo/new.key`,
		Args:    exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withKeys(cmd.Context(), at, true, func(st *dir.Store, by keys.Secret) error {
				list, err := st.Keys(cmd.Context(), by)
				if err != nil {
					return err
				}
				for _, k := range list {
					if k.ID == args[0] && k.Used {
						return &api.Error{Code: "refused", Message: k.ID + " is what --store-key names", Hint: "name one that shall stay, so that you know that it opens the store"}
					}
				}
				err = st.RemoveKey(cmd.Context(), args[0])
				if errors.Is(err, fs.ErrNotExist) {
					return &api.Error{Code: "not_found", Message: "no key has the ID " + args[0], Hint: "mimeo-agent store key list shows them"}
				} else if err != nil {
					return err
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "removed: %s\n", args[0])
				return err
			})
		},
	}
	at.flags(cmd.Flags(), "the store: dir:PATH or s3://BUCKET/PREFIX")
	return cmd
}

// withKeys opens an encrypted store that is there.
func withKeys(ctx context.Context, at storeAt, write bool, fn func(*dir.Store, keys.Secret) error) error {
	by, err := at.secret()
	if err != nil {
		return err
	}
	st, err := openStore(ctx, at, false)
	if err == nil && write { // opening one for writing would make it
		if err = st.Close(); err == nil {
			st, err = openStore(ctx, at, true)
		}
	}
	if err != nil {
		return err
	}
	if !st.Encrypted() {
		err = &api.Error{Code: "refused", Message: at.place + " is not encrypted", Hint: "a store is encrypted from its making on: copy it to a new one with \"mimeo-agent store copy --to PLACE --to-key FILE\""}
	} else {
		err = fn(st, by)
	}
	return errors.Join(err, st.Close())
}
