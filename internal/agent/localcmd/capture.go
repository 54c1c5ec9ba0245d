package localcmd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/capture"
	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/layout"
	"mimeo/internal/imaging/leaveout"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/shrink"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/dir"
	"mimeo/internal/imaging/tool"
)

// captureFlags are what "mimeo-agent capture" can be told.
type captureFlags struct {
	store   storeAt
	image   string
	codec   string
	chunk   int
	workers int
	leave   []string
	all     bool
	shrink  bool
	force   bool
	json    bool
}

// captured is what "mimeo-agent capture --json" prints. Fields are only ever added.
type captured struct {
	Image    string   `json:"image"`
	Rev      int      `json:"rev"`
	ID       string   `json:"id"` // of the manifest
	DiskSize int64    `json:"disk_size"`
	Used     int64    `json:"used"`   // bytes of the disk that the image holds
	Zero     int64    `json:"zero"`   // of these, all zero
	New      int64    `json:"new"`    // of these, in chunks that the store did not hold
	Stored   int64    `json:"stored"` // bytes that the store grew by
	Reused   int64    `json:"reused"` // of the used, in chunks that were there
	Seconds  float64  `json:"seconds"`
	Warnings []string `json:"warnings"`
}

// CaptureCmd returns "mimeo-agent capture". version goes into the manifest.
func CaptureCmd(version string) *cobra.Command {
	var f captureFlags
	cmd := &cobra.Command{
		Use:   "capture DISK --store dir:PATH --image NAME",
		Short: "Read what a disk holds into a store, as a new revision of an image",
		Long: `Reads the partition table and the blocks in use of a disk or image file into a
store in a folder, and publishes them as the next revision of the image. No
server is needed. What the store holds already is not stored again; a capture
that was interrupted goes on where it was when it is run again.

The disk must not change meanwhile: a mounted one is refused. The store is made
where there is none.

Swap files (but for their header), page files and hibernation files are captured
as zeros, and so are files that --leave-out names: their names, sizes and owners
stay. That is for ext2, ext3, ext4, XFS, NTFS, FAT, exFAT and F2FS, and on btrfs for
files without checksums, as swap files are and what was made with "chattr +C".

With --shrink the image is that of a smaller disk: ext and NTFS filesystems are made
smaller by their own tools, and what lies behind them moves up. That is done on a
view of the disk, in memory; the disk itself is only read.

A store in S3 takes AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the file that
AWS_SHARED_CREDENTIALS_FILE names (~/.aws/credentials), AWS_ENDPOINT_URL,
AWS_REGION and AWS_CA_BUNDLE. Packs on their way lie in the user's cache folder.

Prints the revision, and the bytes in use, new, and stored.

Exit codes: 0 done; 1 failed; 2 the command line cannot be understood;
4 refused; 130 interrupted.`,
		Example: `  mimeo-agent capture /dev/sda --store dir:/mnt/images --image rocky9
  mimeo-agent capture disk.img --store dir:images --image golden --json
  AWS_ENDPOINT_URL=https://minio.example:9000 mimeo-agent capture /dev/sda \
    --store s3://images/site-a --image rocky9
  mimeo-agent capture /dev/sda --store dir:/mnt/images --image small --shrink`,
		Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runCapture(cmd, args[0], version, f) },
	}
	fl := cmd.Flags()
	f.store.flags(fl, "where the image is kept: dir:PATH or s3://BUCKET/PREFIX")
	fl.StringVar(&f.image, "image", "", "name of the image")
	fl.StringVar(&f.codec, "codec", "zstd", "how chunks are compressed: zstd (smallest), s2 (fastest), auto")
	fl.IntVar(&f.chunk, "chunk-size", chunk.DefaultSize>>10, "KiB of a chunk, a power of two; images share chunks of the same size only")
	fl.IntVar(&f.workers, "workers", 0, "goroutines that hash and compress (default one a core)")
	fl.StringArrayVar(&f.leave, "leave-out", nil, "`PATTERN` of files to capture as zeros, as /tmp, '/home/*/.cache', '*.iso'; may be given several times")
	fl.BoolVar(&f.all, "keep-all", false, "capture swap, page and hibernation files, too")
	fl.BoolVar(&f.shrink, "shrink", false, "capture the disk as a smaller one: its ext and NTFS filesystems just large enough")
	fl.BoolVar(&f.force, "force", false, "capture even a disk that is in use: the image may not be consistent")
	fl.BoolVar(&f.json, "json", false, "print JSON, whose fields stay as they are")
	return cmd
}

func (f captureFlags) options(version string) (capture.Options, error) {
	o := capture.Options{
		Source:    manifest.Source{Agent: version},
		ChunkSize: f.chunk << 10,
		Workers:   f.workers,
	}
	switch f.codec {
	case "zstd":
		o.Codec = capture.Zstd
	case "s2":
		o.Codec = capture.S2
	case "auto":
		o.Codec = capture.Auto
	default:
		return o, badUsage("--codec %s: want zstd, s2 or auto", f.codec)
	}
	return o, nil
}

func runCapture(cmd *cobra.Command, path, version string, f captureFlags) (err error) {
	ctx, start := cmd.Context(), time.Now()
	opts, err := f.options(version)
	if err != nil {
		return err
	}
	if f.image == "" {
		return badUsage("--image NAME is missing: what should the image be called?")
	}
	if err := manifest.ValidName(f.image); err != nil {
		return &api.Error{Code: "bad_usage", Message: err.Error()}
	}
	if err := (leaveout.Rules{Patterns: f.leave}).Check(); err != nil {
		return &api.Error{Code: "bad_usage", Message: err.Error()}
	}
	boundMemory()
	d, err := openSource(path, f.force)
	if err != nil {
		return err
	}
	defer d.Close()
	m := newMeter(cmd.ErrOrStderr())
	defer m.close()
	m.show("mapping", 0, 0)
	src := capture.Source{ReaderAt: d, Disk: d.Info()}
	var notes []string
	unchanged := func() error { return nil }
	if f.shrink {
		small, err := shrink.Run(ctx, d, shrink.Options{})
		if err != nil {
			return shrinkError(path, err)
		}
		src, notes = capture.Source{ReaderAt: small, Disk: small.Info()}, small.Notes
		unchanged = small.Recheck
	}
	st, err := openStore(ctx, f.store, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	if !f.force {
		opts.Recheck = func(context.Context) error { return errors.Join(inUse(path), unchanged()) }
	}
	out, err := captureInto(ctx, src, path, localStore{st}, f.image, leaveout.Rules{Patterns: f.leave, Swap: !f.all}, notes, opts, m)
	if err != nil {
		return err
	}
	m.close()
	out.Seconds = time.Since(start).Seconds()
	return out.say(cmd, f.json)
}

// taker is a store that takes an image.
type taker interface {
	store.Writer
	// publish makes the manifest that a capture staged the next revision of an image.
	publish(ctx context.Context, image string, res *capture.Result) (store.Revision, error)
}

type localStore struct{ *dir.Store }

func (s localStore) publish(ctx context.Context, image string, res *capture.Result) (store.Revision, error) {
	return s.Publish(ctx, image, res.ID)
}

// captureInto captures a disk, which path names for people, and makes a revision of it.
func captureInto(ctx context.Context, src capture.Source, path string, st taker, image string, rules leaveout.Rules, notes []string, opts capture.Options, m *meter) (captured, error) {
	found, err := layout.Plan(src)
	if err != nil {
		return captured{}, fmt.Errorf("look at what %s holds: %w", path, err)
	}
	plan, err := capture.NewPlan(src, found, rules)
	if err != nil {
		return captured{}, fmt.Errorf("look at what %s holds: %w", path, err)
	}
	plan.Warnings = append(notes, plan.Warnings...)
	opts.Progress = func(p capture.Progress) { m.show(p.Phase, p.Done, p.Total) }
	res, err := capture.Run(ctx, src, plan, st, opts)
	if err != nil {
		return captured{}, captureError(path, err)
	}
	rev, err := st.publish(ctx, image, res)
	if err != nil {
		return captured{}, fmt.Errorf("publish %s: %w", image, err)
	}
	return captured{
		Image: image, Rev: rev.Rev, ID: res.ID.String(), DiskSize: res.Manifest.Disk.Size, Used: res.Counts.Read,
		Zero: res.Counts.Zero, New: res.Counts.New, Stored: res.Counts.Stored, Reused: res.Counts.Reused,
		Warnings: append([]string{}, res.Manifest.Warnings...),
	}, nil
}

// say prints what was captured.
func (c captured) say(cmd *cobra.Command, asJSON bool) error {
	if asJSON {
		return printJSON(cmd.OutOrStdout(), c)
	}
	for _, w := range c.Warnings {
		fmt.Fprintln(cmd.ErrOrStderr(), "mimeo-agent: warning:", w)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s@%d: %s of %s in use, %s new, stored as %s, in %s\n", c.Image, c.Rev, size(c.Used), size(c.DiskSize),
		size(c.New), size(c.Stored), span(time.Duration(c.Seconds*float64(time.Second))))
	return nil
}

// shrinkError says why the disk cannot be captured as a smaller one.
func shrinkError(path string, err error) error {
	e := &api.Error{Code: "failed", Message: fmt.Sprintf("%s: %v; nothing was changed on it", path, err)}
	var no *shrink.Error
	name, missing := tool.MissingPackage(err)
	switch {
	case missing:
		e.Hint = "install " + name
	case errors.Is(err, shrink.ErrScratch):
		e.Hint = "use a machine with more memory, or capture without --shrink"
	case errors.As(err, &no):
		e.Code, e.Hint = "refused", "mend that, or capture without --shrink"
	}
	return e
}

// captureError says what to do next.
func captureError(path string, err error) error {
	e := &api.Error{Code: "failed", Message: fmt.Sprintf("capture %s: %v", path, err)}
	var read *capture.ReadError
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &read):
		e.Hint = "the disk has bad sectors: look at \"smartctl -a\" of it; no image was published"
	case errors.Is(err, store.ErrFull):
		e.Hint = "make room where the store is and run the same command again; it goes on from what is stored"
	case errors.Is(err, capture.ErrChanged):
		e.Hint = "unmount its filesystems and stop what writes to it, then run the same command again"
	}
	return e
}
