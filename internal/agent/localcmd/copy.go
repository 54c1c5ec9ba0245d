package localcmd

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/storetext"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/mirror"
)

func storeCopyCmd() *cobra.Command {
	var at, to storeAt
	var dry, asJSON bool
	cmd := &cobra.Command{
		Use:   "copy [NAME[@REV] ...] --store PLACE --to PLACE",
		Short: "Send to a second store what it lacks",
		Long: `Copies revisions from one store to another, all of them or those that are named, with
the same numbers and signatures. Only chunks that the other store lacks are sent, each
checked against its name. The other store is made where there is none; what it has
beyond is left alone. After an interruption, the same command goes on where it was.

PLACE is dir:PATH or s3://BUCKET/PREFIX. A running mimeod may write to the store that is
copied; the other one must be free.

Exit codes: 0 the other store has all of it; 1 some of it could not be copied; 2 the
command line cannot be understood; 3 no such store; 4 refused.`,
		Example: `  mimeo-agent store copy --store dir:/var/lib/mimeo/store --to s3://backup/mimeo
  mimeo-agent store copy rocky9 debian12@3 --store dir:/srv/images --to dir:/mnt/usb/images --dry-run`,
		RunE: func(cmd *cobra.Command, refs []string) (err error) {
			only, err := wanted(refs)
			if err != nil {
				return err
			}
			if to.place == "" || to.place == at.place {
				return badUsage("--to is missing: where shall the copy be?")
			}
			boundMemory()
			ctx := cmd.Context()
			from, err := openStore(ctx, at, false)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, from.Close()) }()
			second, err := openStore(ctx, to, !dry)
			if err != nil {
				return err
			}
			m := newMeter(cmd.ErrOrStderr())
			r, err := mirror.Run(ctx, from, second, mirror.Options{Only: only, DryRun: dry, Progress: func(r store.Revision, done, total int64) {
				if !asJSON {
					m.show("copying "+r.String(), done, total)
				}
			}})
			m.close()
			if err = errors.Join(err, second.Close()); err != nil {
				return err
			}
			if len(refs) > 0 && len(r.Copied)+len(r.Problems)+r.There == 0 {
				return &api.Error{Code: "not_found", Message: fmt.Sprintf("nothing in %s is named %s", at.place, strings.Join(refs, " or ")), Hint: "look at what there is: mimeo-agent store check --store " + at.place}
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), r)
			} else {
				storetext.Copied(cmd.OutOrStdout(), &api.StoreCopied{Copied: r.Copied, There: r.There, Chunks: r.Chunks, Stored: r.Stored, Problems: r.Problems}, dry)
			}
			if err == nil && len(r.Problems) > 0 {
				err = &api.Error{Code: "failed", Message: fmt.Sprintf("%d revisions could not be copied", len(r.Problems)), Hint: "look at the store: mimeo-agent store check --store " + at.place}
			}
			return err
		},
	}
	f := cmd.Flags()
	at.flags(f, "the store that is copied: dir:PATH or s3://BUCKET/PREFIX")
	f.StringVar(&to.place, "to", "", "the other store: dir:PATH or s3://BUCKET/PREFIX")
	f.StringVar(&to.key, "to-key", "", "file with the key or passphrase of the other store, where that is, or shall be, encrypted")
	f.BoolVar(&dry, "dry-run", false, "say what would be sent, and send nothing")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// wanted reads NAME and NAME@REV; none means all.
func wanted(refs []string) (func(store.Revision) bool, error) {
	type ref struct {
		name string
		rev  int
	}
	var list []ref
	for _, text := range refs {
		name, rev, err := manifest.ParseRef(text)
		if err != nil {
			return nil, badUsage("%v", err)
		}
		list = append(list, ref{name, rev})
	}
	if len(list) == 0 {
		return nil, nil
	}
	return func(r store.Revision) bool {
		return slices.ContainsFunc(list, func(w ref) bool { return w.name == r.Image && (w.rev == 0 || w.rev == r.Rev) })
	}, nil
}
