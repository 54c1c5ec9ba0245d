package localcmd

import (
	"encoding/json"
	"errors"
	"runtime"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/storetext"
	"mimeo/internal/imaging/store/dir"
)

// StoreCmd returns "mimeo-agent store".
func StoreCmd() *cobra.Command {
	c := &cobra.Command{Use: "store", Short: "Check, repair, repack or copy a store, and make its keys",
		Long: `Looks after a store in a folder or in S3, without any server.`}
	c.AddCommand(storeCheckCmd(), storeRepairCmd(), storeRepackCmd(), storeCopyCmd(), storeKeyCmd())
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
	var at storeAt
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
			st, err := openStore(cmd.Context(), at, false)
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
			return storetext.CheckError(&c, "mimeo-agent store repair --dry-run --store "+at.place)
		},
	}
	f := cmd.Flags()
	at.flags(f, "the store: dir:PATH or s3://BUCKET/PREFIX")
	f.BoolVar(&readData, "read-data", false, "read every chunk, too")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func storeRepairCmd() *cobra.Command {
	var at storeAt
	var dry, yes, asJSON bool
	cmd := &cobra.Command{
		Use:   "repair --store dir:PATH",
		Short: "Put a damaged store in order, and say which revisions lost what",
		Long: `Reads a whole store. Index files that are missing or wrong are made again from their
packs. A pack with damage is set aside under another name, once everything that is
whole in it has been copied; nothing is deleted. Damaged chunks count as missing then:
the next capture of the same disk stores them anew.

Look first: --dry-run says what would be set aside and changes nothing. Without it,
--yes must be said. No other program may write to the store meanwhile; the store of a
running mimeod is repaired by "mimeo store repair".

Exit codes: 0 every revision is whole; 1 some are not, or it could not go on; 2 the
command line cannot be understood; 3 no such store; 4 refused.`,
		Example: `  mimeo-agent store repair --dry-run --store dir:/mnt/usb/images
  mimeo-agent store repair --yes --store dir:/mnt/usb/images`,
		Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !dry && !yes {
				e := badUsage("repair sets files of the store aside")
				e.Code, e.Hint = "refused", "look first with --dry-run; say --yes if that is what you want"
				return e
			}
			st, err := openStore(cmd.Context(), at, false)
			if err == nil && !dry { // there is a store: opening one for writing would make it
				if err = st.Close(); err == nil {
					st, err = openStore(cmd.Context(), at, true)
				}
			}
			if err != nil {
				return err
			}
			m := newMeter(cmd.ErrOrStderr())
			report, err := st.Repair(cmd.Context(), dry, func(done, total int64) {
				if !asJSON {
					m.show("reading", done, total)
				}
			})
			m.close()
			if err = errors.Join(err, st.Close()); err != nil {
				return err
			}
			r, err := message[api.StoreRepair](report)
			if err != nil {
				return err
			}
			if asJSON {
				if err := printJSON(cmd.OutOrStdout(), r); err != nil {
					return err
				}
			} else {
				storetext.Repair(cmd.OutOrStdout(), &r)
			}
			return storetext.RepairError(&r)
		},
	}
	f := cmd.Flags()
	at.flags(f, "the store: dir:PATH or s3://BUCKET/PREFIX")
	f.BoolVar(&dry, "dry-run", false, "say what would be set aside, and change nothing")
	f.BoolVarP(&yes, "yes", "y", false, "do it")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func storeRepackCmd() *cobra.Command {
	var at storeAt
	var dry, asJSON bool
	var level int
	cmd := &cobra.Command{
		Use:   "repack --store PLACE",
		Short: "Compress what a store holds again, as well as can be",
		Long: `Writes packs anew: chunks compressed with a stronger level, and full packs made of short
ones and of those that are half empty. What was done with it before is passed over.
Every chunk is decoded and compared before its old form goes; stopped at any moment, it
leaves every revision whole. No other program may write to the store meanwhile; the
store of a running mimeod is repacked by "mimeo store repack".

Exit codes: 0 done; 1 it could not go on; 2 the command line cannot be understood; 3 no
such store; 4 refused.`,
		Example: `  mimeo-agent store repack --dry-run --store dir:/mnt/usb/images
  mimeo-agent store repack --store dir:/mnt/usb/images --level 9`,
		Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if level < 1 || level > 22 {
				return badUsage("--level %d: want 1 to 22", level)
			}
			st, err := openStore(cmd.Context(), at, false)
			if err == nil && !dry { // there is a store: opening one for writing would make it
				if err = st.Close(); err == nil {
					st, err = openStore(cmd.Context(), at, true)
				}
			}
			if err != nil {
				return err
			}
			m := newMeter(cmd.ErrOrStderr())
			report, err := st.Repack(cmd.Context(), dir.RepackOptions{DryRun: dry, Level: level, Workers: runtime.NumCPU(), Progress: func(done, total int64) {
				if !asJSON {
					m.show("compressing", done, total)
				}
			}})
			m.close()
			if err = errors.Join(err, st.Close()); err != nil {
				return err
			}
			r, err := message[api.StoreRepack](report)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), r)
			}
			storetext.Repack(cmd.OutOrStdout(), &r)
			return nil
		},
	}
	f := cmd.Flags()
	at.flags(f, "the store: dir:PATH or s3://BUCKET/PREFIX")
	f.BoolVar(&dry, "dry-run", false, "say what would be free, and change nothing")
	f.IntVar(&level, "level", dir.DefaultLevel, "how well to compress: Zstandard's level, 1 to 22")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
