package agent

import (
	"context"
	"errors"
	"fmt"

	"mimeo/internal/agent/hwinfo"
	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/capture"
	"mimeo/internal/imaging/disk"
	"mimeo/internal/imaging/layout"
	"mimeo/internal/imaging/leaveout"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/shrink"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/tool"
)

// capture reads the chosen disk into the server's store and stages the manifest. The disk is opened for this alone: as
// long as it is, the kernel mounts nothing of it.
func (j *job) capture(ctx context.Context) (err error) {
	d, err := openSource(j.disk)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	j.report.enter(api.PhaseMapping)
	src := capture.Source{ReaderAt: d, Disk: d.info}
	var notes []string
	unchanged := func() error { return nil }
	if j.task.Shrink {
		small, err := shrink.Run(ctx, capture.Source{ReaderAt: d, Disk: d.info}, shrink.Options{Say: func(format string, args ...any) { j.report.say(fmt.Sprintf(format, args...)) }})
		if err != nil {
			return shrinkError(j.disk, err)
		}
		src, notes = capture.Source{ReaderAt: small, Disk: small.Info()}, small.Notes
		unchanged = small.Recheck
	}
	lay, err := layout.Plan(src)
	var plan capture.Plan
	if err == nil {
		plan, err = capture.NewPlan(src, lay, leaveout.Rules{Patterns: j.task.LeaveOut, Swap: !j.task.KeepAll})
	}
	if err != nil {
		return &api.Error{Code: "disk", Message: fmt.Sprintf("look at what disk %s holds: %v", j.disk.Name, err),
			Hint: "nothing was changed; a disk whose partition table is damaged can be looked at from mimeo boot NODE shell"}
	}
	plan.Warnings = append(notes, plan.Warnings...)
	for _, v := range plan.Volumes {
		j.report.say(describe(v))
	}
	for _, w := range plan.Warnings {
		j.report.say("warning: " + w)
	}
	j.report.enter(api.PhaseCapturing)
	opts := capture.Options{
		Source:   manifest.Source{Node: string(j.task.Node), Job: j.task.Job, Agent: j.Version, Arch: string(hwinfo.Arch())},
		Recheck:  func(context.Context) error { return errors.Join(disk.InUse(j.disk.Path), unchanged()) },
		Progress: func(p capture.Progress) { j.captured(p.Counts, p.Done, p.Total) },
	}
	res, err := capture.Run(ctx, src, plan, j.store, opts)
	if err != nil {
		return j.captureError(err)
	}
	j.manifest = res.ID.String()
	j.captured(res.Counts, res.Counts.Read, res.Counts.Read)
	return nil
}

// shrinkError says why the disk cannot be captured as a smaller one.
func shrinkError(d hwinfo.Disk, err error) error {
	e := &api.Error{Code: "failed", Message: fmt.Sprintf("disk %s: %v; nothing was changed on it", d.Name, err)}
	var no *shrink.Error
	name, missing := tool.MissingPackage(err)
	switch {
	case missing:
		e.Code, e.Hint = "no_tool", "the stateless image's profile needs the package "+name
	case errors.Is(err, shrink.ErrScratch):
		e.Code, e.Hint = "no_memory", "the node has too little memory to shrink this disk; shrink it on the node itself, or capture it as it is"
	case errors.As(err, &no):
		e.Code, e.Hint = "refused", "mend that on the node, or capture without --shrink"
	}
	return e
}

// describe says what a volume is and how it is captured.
func describe(v manifest.Volume) string {
	where := "whole disk"
	if v.Partition > 0 {
		where = fmt.Sprintf("partition %d", v.Partition)
	}
	s := fmt.Sprintf("%s: %s, %d of %d MiB captured (%s)", where, v.Type, v.Used>>20, v.Len>>20, v.Method)
	if v.Reason != "" {
		s += ": " + v.Reason
	}
	return s
}

// captured passes the numbers on.
func (j *job) captured(c capture.Counts, done, total int64) {
	counts := map[string]int64{"used": total, "read": c.Read, "zero": c.Zero, "new": c.New, "sent": c.Sent, "stored": c.Stored, "reused": c.Reused}
	j.counts = counts
	j.report.numbers(done, total, counts)
}

// captureError says what to do next.
func (j *job) captureError(err error) error {
	e := &api.Error{Code: "failed", Message: fmt.Sprintf("capture disk %s: %v", j.disk.Name, err)}
	var read *capture.ReadError
	switch {
	case errors.As(err, &read):
		e.Code, e.Hint = "disk_read", "the disk has bad sectors: look at it with smartctl; no revision was made"
	case errors.Is(err, store.ErrFull):
		e.Code, e.Hint = "store_full", "make room on the store's disk, then start the job again: what is stored already is not sent again"
	case errors.Is(err, capture.ErrChanged):
		e.Code, e.Hint = "disk_changed", "something wrote to the disk during the capture; start the job again"
	default:
		e.Hint = "start the job again: what is stored already is not sent again"
	}
	return e
}
