package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/storetext"
)

func storeCmd(t *terminal) *cobra.Command {
	c := &cobra.Command{Use: "store", Short: "Look after the store that keeps all images: check, stats, gc, repack, repair, copy",
		Long: `The store keeps the chunks of all images and revisions, each once. These commands
look after it as a whole. Captures and deploys go on beside them.`}
	c.AddCommand(storeCheckCmd(t), storeStatsCmd(t), storeGCCmd(t), storeRepairCmd(t), storeRepackCmd(t), storeCopyCmd(t))
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

func storeStatsCmd(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use: "stats [IMAGE]", Short: "Show what each image and revision takes in the store",
		Long: `Shows of the whole store, or of one image, how large the disks are, how much of
them is in use, and what that takes in the store: compressed, each chunk counted
once. UNIQUE is what no other revision (of an image: no other image) has: what
"mimeo image rm" and "mimeo store gc" would free. SHARED others have, too.`,
		Example: `  mimeo store stats
  mimeo store stats rocky9`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			path := "/v1/maintenance/usage"
			if len(args) > 0 {
				path += "?image=" + url.QueryEscape(args[0])
			}
			var u api.StoreUsage
			if err := c.Do(cmd.Context(), http.MethodGet, path, nil, &u); err != nil {
				return err
			}
			if t.json {
				return t.printJSON(u)
			}
			rows := [][]string{{"IMAGE", "DISK", "IN USE", "STORED", "UNIQUE", "SHARED"}}
			for _, im := range u.Images {
				rows = append(rows, []string{im.Image, size(im.DiskSize), size(im.Used), size(im.Stored), size(im.Unique), size(im.Shared)})
				for _, r := range im.Revisions {
					row := []string{fmt.Sprintf("  %s@%d", r.Image, r.Rev), size(r.DiskSize), size(r.Used), size(r.Stored), size(r.Unique), size(r.Shared)}
					if r.Error != "" {
						row = append(row, "cannot be read: "+r.Error)
					}
					rows = append(rows, row)
				}
			}
			table(t.out, rows)
			fmt.Fprintf(t.out, "\nall %d revisions: %s of %s in use, kept in %d packs of %s; %s of these no revision names\n", u.Revisions, size(u.Used), size(u.DiskSize), u.Packs, size(u.PackBytes), size(u.Unnamed))
			return nil
		},
	}
}

func storeGCCmd(t *terminal) *cobra.Command {
	var dry, yes bool
	var grace time.Duration
	c := &cobra.Command{
		Use: "gc", Short: "Free what no revision needs any more",
		Long: `Removes from the store what no revision names: what "mimeo image rm" and retention
rules left behind, and what captures stored that were cut off. Captures and deploys
go on; what they need stays. Packs of which a quarter or more is garbage are written
anew without it.

Look first: --dry-run says what would be freed and changes nothing. Without it, the
same is shown and asked about. Stopped at any moment, by Ctrl-C or a power cut, it
leaves every revision whole; the next time it goes on.

What a capture that was cut off has stored is kept for --grace, so that its second
try does not send it again.`,
		Example: `  mimeo store gc --dry-run
  mimeo store gc
  mimeo store gc --yes --grace 0      # what captures left that were cut off, too`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if grace < 0 {
				return usagef("--grace %s: want 0 or more", grace)
			}
			path := fmt.Sprintf("/v1/maintenance/garbage?grace_ms=%d", grace.Milliseconds())
			var r api.StoreGC
			if dry || !yes {
				if err := t.maintain(cmd.Context(), http.MethodGet, path, "looking for garbage", &r); err != nil {
					return err
				}
			}
			if !dry {
				if !yes {
					storetext.GC(t.err, &r)
					if r.Freed == 0 && r.Manifests == 0 {
						fmt.Fprintln(t.err, "there is nothing to free")
						return nil
					}
					if err := t.ask("free it?"); err != nil {
						return err
					}
				}
				r = api.StoreGC{}
				if err := t.maintain(cmd.Context(), http.MethodDelete, path, "removing garbage", &r); err != nil {
					return err
				}
			}
			if t.json {
				return t.printJSON(r)
			}
			storetext.GC(t.out, &r)
			return nil
		},
	}
	f := c.Flags()
	f.BoolVar(&dry, "dry-run", false, "say what would be freed, and change nothing")
	f.BoolVarP(&yes, "yes", "y", false, "do not ask")
	f.DurationVar(&grace, "grace", 24*time.Hour, "how long to keep what captures stored that were cut off")
	return c
}

func storeRepairCmd(t *terminal) *cobra.Command {
	var dry, yes bool
	c := &cobra.Command{
		Use: "repair", Short: "Put a damaged store in order, and say which revisions lost what",
		Long: `Reads the whole store. Index files that are missing or wrong are made again from
their packs. A pack with damage is set aside under another name, once everything that
is whole in it has been copied; nothing is deleted. Damaged chunks count as missing
then: the next capture of the same disk stores them anew, and every revision that
shares them is whole again.

Look first: --dry-run says what would be set aside and changes nothing. Captures and
deploys go on. Exit code 1 says that some revisions are not whole.`,
		Example: `  mimeo store repair --dry-run
  mimeo store repair`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			method := http.MethodGet
			if !dry {
				method = http.MethodPut
				if !yes {
					if err := t.ask("read the whole store and set what is damaged aside?"); err != nil {
						return err
					}
				}
			}
			var r api.StoreRepair
			if err := t.maintain(cmd.Context(), method, "/v1/maintenance/repair", "reading the store", &r); err != nil {
				return err
			}
			if t.json {
				if err := t.printJSON(r); err != nil {
					return err
				}
			} else {
				storetext.Repair(t.out, &r)
			}
			return storetext.RepairError(&r)
		},
	}
	c.Flags().BoolVar(&dry, "dry-run", false, "say what would be set aside, and change nothing")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

func storeCopyCmd(t *terminal) *cobra.Command {
	var dry bool
	c := &cobra.Command{
		Use: "copy", Short: "Send to the second store what it lacks, now",
		Long: `Copies to the second store, which the configuration of mimeod names as copy.to, the
revisions that it lacks, with their numbers and signatures. mimeod does so by itself
soon after each capture ("mimeo status" shows how that stands); this does it at once,
as after the second store was away, and waits for it. Ctrl-C stops it; what was sent
by then is not sent again.

Exit code 1 says that some revisions could not be copied.`,
		Example: `  mimeo store copy --dry-run
  mimeo store copy
  mimeo store copy --json | jq .problems`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			method := http.MethodPost
			if dry {
				method = http.MethodGet
			}
			var r api.StoreCopied
			if err := t.maintain(cmd.Context(), method, "/v1/maintenance/copy", "copying", &r); err != nil {
				return err
			}
			if t.json {
				if err := t.printJSON(r); err != nil {
					return err
				}
			} else {
				fmt.Fprintf(t.out, "to %s\n", r.To)
				storetext.Copied(t.out, &r, dry)
			}
			if len(r.Problems) > 0 {
				return &api.Error{Code: "failed", Message: fmt.Sprintf("%d revisions could not be copied", len(r.Problems)), Hint: "look at both stores: mimeo store check, mimeo-agent store check --store " + r.To}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&dry, "dry-run", false, "say what would be sent, and send nothing")
	return c
}

func storeRepackCmd(t *terminal) *cobra.Command {
	var dry, yes bool
	var level int
	c := &cobra.Command{
		Use: "repack", Short: "Compress what was captured again, as well as can be",
		Long: `Writes packs of the store anew: chunks compressed with a stronger level, which a
capture has no time for, and full packs made of short ones and of those that are half
empty. It keeps half of the processors busy, where nobody else needs them. What was done
with it before is passed over. Captures and deploys go on, and every chunk is decoded
and compared before its old form goes.

Look first: --dry-run compresses a few hundred chunks and says what would be free.
Stopped at any moment, by Ctrl-C or a power cut, it leaves every revision whole, and
what is done stays done. mimeod does it by itself at times when no job runs, where its
configuration says so (repack). "mimeo store gc" frees what no revision needs.`,
		Example: `  mimeo store repack --dry-run
  mimeo store repack
  mimeo store repack --level 9`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if level < 1 || level > 22 {
				return usagef("--level %d: want 1 to 22", level)
			}
			path := fmt.Sprintf("/v1/maintenance/repack?level=%d", level)
			var r api.StoreRepack
			if dry || !yes {
				if err := t.maintain(cmd.Context(), http.MethodGet, path, "trying", &r); err != nil {
					return err
				}
			}
			if !dry {
				if !yes {
					storetext.Repack(t.err, &r)
					if r.Packs == 0 {
						return nil
					}
					if err := t.ask("do it?"); err != nil {
						return err
					}
				}
				r = api.StoreRepack{}
				if err := t.maintain(cmd.Context(), http.MethodPost, path, "compressing again", &r); err != nil {
					return err
				}
			}
			if t.json {
				return t.printJSON(r)
			}
			storetext.Repack(t.out, &r)
			return nil
		},
	}
	f := c.Flags()
	f.BoolVar(&dry, "dry-run", false, "say what would be free, and change nothing")
	f.BoolVarP(&yes, "yes", "y", false, "do not ask")
	f.IntVar(&level, "level", 19, "how well to compress: Zstandard's level, 1 to 22")
	return c
}
