package agent

import (
	"context"
	"errors"
	"fmt"
	"io"

	"mimeo/internal/agent/hwinfo"
	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/deploy"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/sign"
)

// deploy writes an image onto the chosen disk and gives the system on it its own identity.
func (j *job) deploy(ctx context.Context) error {
	id, err := chunk.ParseID(j.task.Manifest)
	if err != nil {
		return fmt.Errorf("the task's manifest: %w", err)
	}
	if err := j.mustBeSigned(ctx, id); err != nil {
		return err
	}
	m, err := j.store.Manifest(ctx, id)
	if err != nil {
		return fmt.Errorf("read the contents of image %s: %w", j.task.Image, err)
	}
	if m, err = j.write(ctx, m); err != nil {
		return err
	}
	return j.finish(ctx, m)
}

// mustBeSigned refuses a manifest unless the store has a signature of it, as this revision of this image, by a key of the
// task. The task came from the server whose key is pinned; what the store says is not believed.
func (j *job) mustBeSigned(ctx context.Context, id manifest.ID) error {
	refused := func(hint, format string, args ...any) error {
		return &api.Error{Code: "untrusted", Message: fmt.Sprintf(format, args...) + "; nothing was written to the disk", Hint: hint}
	}
	var keys sign.Keys
	for _, t := range j.task.Trust {
		k, err := sign.ParseKey(t.Key)
		if err != nil {
			return fmt.Errorf("the task's keys: %w", err)
		}
		keys = append(keys, sign.Key{Name: t.Name, Public: k})
	}
	what := store.Revision{Image: j.task.Image, Rev: j.task.Rev, ID: id}
	if len(keys) == 0 {
		return refused("build the stateless image again, so that agent and server are of one version: mimeo stateless build", "the task names no key by which %s must be signed", what)
	}
	r, err := store.Find(ctx, j.store, what.Image, what.Rev)
	if err != nil {
		return fmt.Errorf("read who signed %s: %w", what, err)
	}
	if r.ID != id {
		return refused("somebody has changed it in the store since the job was made: see who can write there, and bring the store back from a copy", "%s is %s in the store, and the job was made for %s", what, r.ID, id)
	}
	what.Signatures = r.Signatures
	if err := keys.Check(what); err != nil {
		return refused(fmt.Sprintf(`"mimeo image show %s" says who signed it; sign it with "mimeo image sign %s" if you know where it comes from, then start the job again`, what, what), "%v", err)
	}
	return nil
}

// write writes the image, and returns its manifest with the volumes where they lie now. The disk is closed when it returns,
// so that its partitions can be used.
func (j *job) write(ctx context.Context, m *manifest.Manifest) (image *manifest.Manifest, err error) {
	d, err := openSink(j.disk, m)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if !j.task.Force {
		if err := mustBeEmpty(d, j.disk); err != nil {
			return nil, err
		}
	}
	j.report.enter(api.PhaseMapping)
	opts := deploy.Options{
		Compare: j.task.Compare, Grow: j.growth(), Discard: j.task.Discard,
		Progress: func(p deploy.Progress) { j.written(p.Counts, m, p.Done, p.Total) },
		// The server knows before the first write: from then on a cancel leaves half an image, and says so.
		Commit: func(ctx context.Context) error { return j.report.told(ctx, api.PhaseWriting) },
	}
	if opts.Last, err = j.last(ctx); err != nil {
		return nil, err
	}
	res, err := deploy.Run(ctx, j.store, m, d, opts)
	if res != nil {
		j.touched = res.Touched
		j.written(res.Counts, m, m.Content.Used, m.Content.Used)
	}
	if err != nil {
		return nil, j.deployError(err)
	}
	j.table = res.Table
	for _, why := range res.Untrusted {
		j.report.say("trust-last: " + why)
	}
	if res.Repaired {
		j.report.say("the captured GPT was damaged: both copies and the protective MBR are made anew")
	}
	if res.CannotDiscard {
		j.report.say(fmt.Sprintf("disk %s cannot discard: blocks that the image leaves free stay as they were", j.disk.Name))
	}
	return res.Image, nil
}

// last returns what the last deploy left on the disk; nil where that is not asked for or not known, which it says.
func (j *job) last(ctx context.Context) (*manifest.Manifest, error) {
	if j.task.Last == nil {
		return nil, nil
	}
	d := j.task.Last.Deploy
	why := ""
	switch {
	case d == nil:
		why = "of no deploy onto this node is known that all of it is still there"
	case d.Disk.Size != j.disk.Size || d.Disk.Serial != j.disk.Serial || d.Disk.WWN != j.disk.WWN:
		why = fmt.Sprintf("the last deploy was onto another disk, %s of %d bytes with the serial number %q", d.Disk.Name, d.Disk.Size, d.Disk.Serial)
	default:
		id, err := chunk.ParseID(d.Manifest)
		if err != nil {
			return nil, fmt.Errorf("the task's manifest of the last deploy: %w", err)
		}
		m, err := j.store.Manifest(ctx, id)
		if err == nil || ctx.Err() != nil {
			return m, ctx.Err()
		}
		why = fmt.Sprintf("%s@%d, the image of the last deploy, cannot be read: %v", d.Image, d.Rev, err)
	}
	j.report.say("trust-last: reads everything, because " + why)
	return nil, nil
}

// mustBeEmpty refuses a disk whose first MiB is not all zero: partition tables and filesystems leave something there.
func mustBeEmpty(r io.ReaderAt, d hwinfo.Disk) error {
	b := make([]byte, min(1<<20, d.Size))
	if _, err := io.ReadFull(io.NewSectionReader(r, 0, d.Size), b); err != nil {
		return fmt.Errorf("see whether disk %s is empty: %w", d.Name, err)
	}
	if chunk.IsZero(b) {
		return nil
	}
	return &api.Error{Code: "refused", Message: fmt.Sprintf("disk %s is not empty, and the task does not say that it may be overwritten", d.Describe()),
		Hint: "empty it, or start the job with leave to overwrite it"}
}

// written passes the numbers on.
func (j *job) written(c deploy.Counts, m *manifest.Manifest, done, total int64) {
	counts := map[string]int64{"used": m.Content.Used, "written": c.Written, "skipped": c.Skipped, "zeroed": c.Zeroed, "fetched": c.Fetched}
	if j.task.Last != nil {
		counts["trusted"] = c.Trusted
	}
	if j.task.Discard {
		counts["discarded"] = c.Discarded
	}
	j.counts = counts
	j.report.numbers(done, total, counts)
}

// deployError says what became of the disk, and what to do next.
func (j *job) deployError(err error) error {
	e := &api.Error{Code: "failed", Message: fmt.Sprintf("deploy onto disk %s: %v", j.disk.Name, err)}
	var small *deploy.SizeError
	var sector *deploy.SectorError
	var grow *manifest.GrowError
	var missing *store.MissingError
	var damaged *store.DamagedError
	switch {
	case errors.As(err, &small):
		e.Code, e.Hint = "disk_too_small", "choose a larger disk of the node by its disk rule, or capture the image again with --shrink"
	case errors.As(err, &sector):
		e.Code, e.Hint = "sector_size", "capture an image from a disk with the same sectors"
	case errors.As(err, &grow):
		e.Code, e.Hint = "refused", "name another volume with --grow, or say --grow none; \"mimeo image show\" lists the volumes"
	case errors.As(err, &missing), errors.As(err, &damaged), errors.Is(err, chunk.ErrHash):
		e.Code, e.Hint = "store_damaged", fmt.Sprintf("see what is lost with \"mimeo image verify %s\"; capture the image again, or deploy another revision", j.task.Image)
	}
	if j.touched {
		e.Message += "; the disk holds a part of the image and no partition table"
	} else {
		e.Message += "; nothing was written to the disk"
	}
	return e
}
