package localcmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/deploy"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/sign"
	"mimeo/internal/imaging/tool"
)

// deployFlags are what "mimeo-agent deploy" can be told.
type deployFlags struct {
	store   storeAt
	trust   string
	last    string
	grow    string
	workers int
	force   bool
	whole   bool
	discard bool
	verify  bool
	json    bool
}

// deployed is what "mimeo-agent deploy --json" prints. Fields are only ever added.
type deployed struct {
	Image     string  `json:"image"`
	Rev       int     `json:"rev"`
	ID        string  `json:"id"`   // of the manifest
	Used      int64   `json:"used"` // bytes of the disk that the image holds
	Written   int64   `json:"written"`
	Skipped   int64   `json:"skipped"` // the disk had them already
	Trusted   int64   `json:"trusted"` // not read and not written: as the last deploy left it, by --trust-last
	Zeroed    int64   `json:"zeroed"`
	Fetched   int64   `json:"fetched"`             // read from the store, compressed
	Discarded int64   `json:"discarded,omitempty"` // given back
	Grown     string  `json:"grown,omitempty"`
	Seconds   float64 `json:"seconds"`

	Untrusted []string `json:"untrusted,omitempty"` // with --trust-last: why something, or all, was read nonetheless
}

// DeployCmd returns "mimeo-agent deploy".
func DeployCmd() *cobra.Command {
	var f deployFlags
	cmd := &cobra.Command{
		Use:   "deploy NAME[@REV] DISK --store dir:PATH",
		Short: "Write an image onto a disk",
		Long: `Writes a revision of an image (the newest where none is named) from a store in a
folder onto a disk or image file. No server is needed. An image file that is not
there is made, as large as the captured disk.

A disk that is smaller than the image needs, has other sectors, or is mounted is
refused, and so is one that is not empty, unless --force is given: then all that
it holds is lost. The disk is read first, and only what differs is written. The
partition table comes last: a disk that was half written does not boot.

On a larger disk the last volume grows: partition and filesystem; of LVM the physical
volume, and the only logical volume with a filesystem. --grow names another one, by
its partition's number, name or UUID, by its label or UUID, or as GROUP/VOLUME; with
a GPT, partitions behind it then lie at the end of the disk.

With --trust-last, the disk is known to hold the revision that is named, and files that
nobody wrote to since are neither read nor written, where both revisions have the same
there. That is told by the disk's own metadata, which is read: of ext2, ext3, ext4, XFS,
btrfs and NTFS, after a clean shutdown; all else is read as ever. It does not see what
was written past the filesystem (dd, a boot loader, bit rot), by a clock set back to the
very moment, or what a power cut kept from the metadata. --verify leaves out what was
trusted, and the report says how much that was.

With --trust, a revision that is not signed by a key of that file is refused: whoever
can write to the store could have changed it.

Exit codes: 0 done; 1 failed; 2 the command line cannot be understood; 3 no such
image; 4 refused, and the disk is as it was; 130 interrupted.`,
		Example: `  mimeo-agent deploy rocky9 /dev/sda --store dir:/mnt/images
  mimeo-agent deploy golden@2 copy.img --store dir:images --verify
  mimeo-agent deploy rocky9 /dev/sda --store dir:/mnt/images --grow rl/home
  mimeo-agent deploy rocky9@5 /dev/sda --store dir:/mnt/images --force --trust-last rocky9@4
  mimeo-agent deploy rocky9 /dev/sda --store dir:/mnt/images --trust site-a.key`,
		Args: exactly(2),
		RunE: func(cmd *cobra.Command, args []string) error { return runDeploy(cmd, args[0], args[1], f) },
	}
	fl := cmd.Flags()
	f.store.flags(fl, "where the image is kept: dir:PATH or s3://BUCKET/PREFIX")
	fl.StringVar(&f.trust, "trust", "", "write only what is signed by a key in this `FILE`, one a line, as \"mimeo key show\" prints it")
	fl.StringVar(&f.last, "trust-last", "", "do not read what files hold that nobody wrote to since `NAME@REV` was written to this disk")
	fl.StringVar(&f.grow, "grow", deploy.GrowLast, "on a larger disk: last (the last volume), none, or the `VOLUME` that grows")
	fl.IntVar(&f.workers, "workers", 0, "goroutines that fetch and check (default two more than cores)")
	fl.BoolVar(&f.force, "force", false, "write onto a disk that is not empty; all that it holds is lost")
	fl.BoolVar(&f.whole, "whole", false, "write all, without reading first what the disk holds")
	fl.BoolVar(&f.discard, "discard", false, "give back the blocks that the image leaves free (TRIM); in a file, punch holes")
	fl.BoolVar(&f.verify, "verify", false, "read all back before the partition table is written")
	fl.BoolVar(&f.json, "json", false, "print JSON, whose fields stay as they are")
	return cmd
}

func runDeploy(cmd *cobra.Command, ref, path string, f deployFlags) (err error) {
	ctx, start := cmd.Context(), time.Now()
	boundMemory()
	st, err := openStore(ctx, f.store, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	rev, err := findRevision(ctx, st, ref)
	if err != nil {
		return err
	}
	if err := mustBeSigned(f.trust, rev); err != nil {
		return err
	}
	m, err := st.Manifest(ctx, rev.ID)
	if err != nil {
		return fmt.Errorf("read the contents of %s: %w", rev, err)
	}
	last, err := findLast(ctx, st, f)
	if err != nil {
		return err
	}
	if _, _, _, err := m.Grows(f.grow); err != nil {
		return deployError(path, &deploy.Result{}, err)
	}
	t, err := openTarget(path, m)
	if err != nil {
		return err
	}
	defer t.Close()
	if !f.force {
		if what, err := t.holds(); err != nil {
			return fmt.Errorf("look at what %s holds: %w", path, err)
		} else if what != "" {
			return &api.Error{Code: "refused", Message: fmt.Sprintf("%s is not empty: it holds %s", path, what),
				Hint: "if all of that may be lost, say --force"}
		}
	}
	bar := newMeter(cmd.ErrOrStderr())
	defer bar.close()
	res, err := deploy.Run(ctx, st, m, t, deploy.Options{
		Workers: f.workers, Compare: !f.whole && !t.fresh, Verify: f.verify, Grow: f.grow, Discard: f.discard, Last: last,
		Progress: func(p deploy.Progress) { bar.show(p.Phase, p.Done, p.Total) },
	})
	if err != nil {
		return deployError(path, res, err)
	}
	bar.close()
	// From here on the kernel and the filesystems' tools use the disk.
	diskSize := t.Size()
	if err := t.Close(); err != nil {
		return fmt.Errorf("close %s: %w", path, err)
	}
	out := deployed{
		Image: rev.Image, Rev: rev.Rev, ID: rev.ID.String(), Used: m.Content.Used, Written: res.Written, Skipped: res.Skipped,
		Trusted: res.Trusted, Zeroed: res.Zeroed, Fetched: res.Fetched, Discarded: res.Discarded, Untrusted: res.Untrusted,
	}
	for _, why := range res.Untrusted {
		fmt.Fprintln(cmd.ErrOrStderr(), "mimeo-agent: note: trust-last:", why)
	}
	if res.Repaired {
		fmt.Fprintln(cmd.ErrOrStderr(), "mimeo-agent: note: the captured GPT was damaged: both copies and the protective MBR are made anew")
	}
	if res.CannotDiscard {
		fmt.Fprintf(cmd.ErrOrStderr(), "warning: %s cannot discard: blocks that the image leaves free stay as they were\n", path)
	}
	grown, err := growVolume(ctx, cmd.ErrOrStderr(), path, diskSize, res.Image, res.Table, f.grow)
	if err != nil {
		return err
	}
	for _, g := range grown {
		out.Grown = strings.TrimPrefix(out.Grown+"; "+fmt.Sprintf("%s from %d to %d bytes", g.What, g.From, g.To), "; ")
	}
	out.Seconds = time.Since(start).Seconds()
	if f.json {
		return printJSON(cmd.OutOrStdout(), out)
	}
	trusted := ""
	if last != nil {
		trusted = size(out.Trusted) + " trusted, not read, "
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s on %s: %s written, %s there already, %sin %s\n", rev, path, size(out.Written), size(out.Skipped), trusted, span(time.Since(start)))
	return nil
}

// findLast returns what the disk was last written with, nil where that is not to be trusted.
func findLast(ctx context.Context, st store.Reader, f deployFlags) (*manifest.Manifest, error) {
	if f.last == "" {
		return nil, nil
	}
	if f.whole {
		return nil, &api.Error{Code: "bad_usage", Message: "--whole writes all, and --trust-last as little as can be", Hint: "leave one of them out"}
	}
	rev, err := findRevision(ctx, st, f.last)
	if err != nil {
		return nil, err
	}
	if err := mustBeSigned(f.trust, rev); err != nil {
		return nil, err
	}
	m, err := st.Manifest(ctx, rev.ID)
	if err != nil {
		return nil, fmt.Errorf("read the contents of %s: %w", rev, err)
	}
	return m, nil
}

// mustBeSigned refuses a revision that no key in file has signed; "" asks for no signature.
func mustBeSigned(file string, r store.Revision) error {
	if file == "" {
		return nil
	}
	keys, err := readKeys(file)
	if err != nil {
		return err
	}
	if err := keys.Check(r); err != nil {
		return &api.Error{Code: "refused", Message: err.Error() + "; nothing was written to the disk", Hint: "if you know whose image it is, add the key to " + file + ", or go without --trust"}
	}
	return nil
}

// readKeys reads the file that --trust names.
func readKeys(file string) (sign.Keys, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, &api.Error{Code: "bad_usage", Message: fmt.Sprintf("--trust: %v", err)}
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("--trust: %w", err)
	}
	keys, err := sign.ParseKeys(string(b))
	if err != nil {
		return nil, &api.Error{Code: "bad_usage", Message: fmt.Sprintf("--trust %s: %v", file, err), Hint: "\"mimeo key show\" on the management node that made the image prints its key"}
	}
	return keys, nil
}

// findRevision returns the revision that ref names, the newest where it names none.
func findRevision(ctx context.Context, st store.Reader, ref string) (store.Revision, error) {
	name, number, err := manifest.ParseRef(ref)
	if err != nil {
		return store.Revision{}, &api.Error{Code: "bad_usage", Message: err.Error()}
	}
	revs, err := st.Revisions(ctx, name)
	if err != nil {
		return store.Revision{}, err
	}
	if len(revs) == 0 {
		e := &api.Error{Code: "not_found", Message: fmt.Sprintf("the store has no image %s", name)}
		if all, err := st.Images(ctx); err == nil && len(all) > 0 {
			e.Hint = fmt.Sprintf("it has: %s", list(all))
		}
		return store.Revision{}, e
	}
	if number == 0 {
		return revs[len(revs)-1], nil
	}
	for _, r := range revs {
		if r.Rev == number {
			return r, nil
		}
	}
	var have []string
	for _, r := range revs {
		have = append(have, r.String())
	}
	return store.Revision{}, &api.Error{Code: "not_found", Message: fmt.Sprintf("the store has no revision %s@%d", name, number), Hint: "it has: " + list(have)}
}

// deployError says what became of the disk, and what to do next.
func deployError(path string, res *deploy.Result, err error) error {
	e := &api.Error{Code: "failed", Message: fmt.Sprintf("deploy onto %s: %v", path, err)}
	var small *deploy.SizeError
	var sector *deploy.SectorError
	var grow *manifest.GrowError
	var missing *store.MissingError
	var damaged *store.DamagedError
	switch {
	case errors.As(err, &small):
		e.Code, e.Hint = "refused", "take a larger disk, or capture the image again with --shrink"
	case errors.As(err, &sector):
		e.Code = "refused"
	case errors.As(err, &grow):
		e.Code, e.Hint = "refused", "name another volume with --grow, or say --grow none"
	case errors.As(err, &missing), errors.As(err, &damaged):
		e.Hint = "\"mimeo-agent store repair --dry-run\" says what the store has lost; once it is repaired, a new capture of the same disk mends it, or deploy another revision"
	case errors.Is(err, unix.ENOSPC):
		e.Hint = "make room where it lies, and run the same command again with --force; what is written already is not written again"
	}
	if !res.Touched {
		e.Message += "; nothing was written to the disk"
	} else {
		e.Message += "; the disk holds a part of the image and no partition table"
		if e.Hint == "" {
			e.Hint = "run the same command again with --force; what is written already is not written again"
		}
	}
	if errors.Is(err, context.Canceled) {
		e.Code = "interrupted"
	}
	return e
}

// growVolume grows what lies in the volume that grew, and returns what did. What cannot grow is told, and no failure: it
// works as it is.
func growVolume(ctx context.Context, errw io.Writer, path string, size int64, m *manifest.Manifest, now manifest.Table, grow string) ([]deploy.Grown, error) {
	g, err := deploy.GrowVolume(ctx, path, size, m, now, grow)
	for _, n := range g.Notes {
		fmt.Fprintln(errw, "mimeo-agent: note:", n)
	}
	if err == nil {
		return g.Grown, nil
	}
	e := &api.Error{Code: "failed", Message: fmt.Sprintf("the image is on the disk, but what should grow on it did not: %v", err)}
	if name, missing := tool.MissingPackage(err); missing {
		e.Hint = "install " + name + " and deploy again, which writes only what differs, or deploy with --grow none"
	}
	return nil, e
}
