package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"mimeo/internal/agent/hwinfo"
	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/disk"
	"mimeo/internal/imaging/erase"
)

// stillAt is how often a command that a disk works at by itself is a line of the job's log: its numbers may not move.
const stillAt = 5 * time.Minute

// victim is a disk that is wiped.
type victim struct {
	hwinfo.Disk
	open *erase.Disk
	plan erase.Plan
}

// victims are the disks that the task names: the one that the rule chooses, or, where the task says so, all that are
// fixed.
func (j *job) victims(disks []hwinfo.Disk) ([]victim, error) {
	if !j.task.AllDisks {
		d, err := hwinfo.ChooseDisk(j.task.Disk, disks)
		return []victim{{Disk: d}}, err
	}
	var out []victim
	for _, d := range disks {
		if !d.Removable && !d.ReadOnly {
			out = append(out, victim{Disk: d})
		}
	}
	if len(out) == 0 {
		_, err := hwinfo.ChooseDisk(j.task.Disk, nil) // says that there is none
		return nil, err
	}
	return out, nil
}

// wipe erases the disks of the task. Before the first byte of any is changed all are open, nobody else uses them, and
// it is known that each can do what was asked for.
func (j *job) wipe(ctx context.Context) (err error) {
	method := erase.Method(j.task.Method)
	if !method.Valid() {
		return fmt.Errorf("wipe method %q is not known to this agent", j.task.Method)
	}
	defer func() {
		for _, v := range j.wiping {
			if v.open != nil {
				err = errors.Join(err, v.open.Close())
			}
		}
	}()
	for i := range j.wiping {
		v := &j.wiping[i]
		if v.open, err = erase.Open(v.Path, v.Name, v.Bus, disk.Options{}); err != nil {
			return openError(v.Disk, err)
		}
		if v.plan, err = v.open.Plan(method); err != nil {
			return j.wipeError(err)
		}
		for _, n := range v.plan.Notes {
			j.report.say(fmt.Sprintf("disk %s: not %s", v.Name, n))
		}
		j.report.say(fmt.Sprintf("disk %s will be wiped: %s", v.Describe(), v.plan))
	}
	// The server knows before the first write: from then on a cancel leaves a disk that is wiped in part, and says so.
	if err := j.report.told(ctx, api.PhaseWriting); err != nil {
		return err
	}
	j.touched = true
	for _, v := range j.wiping {
		if err := v.open.Tables(ctx); err != nil {
			return j.wipeError(err)
		}
	}
	j.report.say("partition tables are gone: nothing boots from here any more")
	j.proof = &api.WipeReport{Agent: j.Version, Build: j.Build}
	for _, v := range j.wiping {
		if err := j.wipeOne(ctx, v); err != nil {
			return j.wipeError(err)
		}
	}
	return nil
}

// wipeOne erases and checks one disk.
func (j *job) wipeOne(ctx context.Context, v victim) error {
	said := time.Now()
	r, err := v.open.Run(ctx, v.plan, func(p erase.Progress) {
		if p.Checking {
			j.report.enter(api.PhaseFinishing)
		} else {
			j.report.enter(api.PhaseWriting)
		}
		j.report.numbers(p.Done, p.Total, nil)
		if time.Since(said) > stillAt {
			said = time.Now()
			j.report.say(fmt.Sprintf("disk %s: %s: at it for %s", v.Name, p.Doing, p.Elapsed.Round(time.Second)))
		}
	})
	if err != nil {
		return err
	}
	j.counts["wiped"] += r.Bytes
	j.counts["checked"] += r.Check.Read
	j.proof.Disks = append(j.proof.Disks, api.Wiped{Disk: v.Disk.Disk, Asked: j.task.Method, Method: string(r.Method), Command: r.Command, Notes: r.Notes,
		Start: r.Start.Truncate(time.Millisecond), End: r.End.Truncate(time.Millisecond), Verified: r.Check.Text, Read: r.Check.Read, Samples: r.Check.Samples})
	j.report.say(fmt.Sprintf("disk %s is wiped: %s; %s", v.Name, r.Command, r.Check.Text))
	return nil
}

// wipeError says what became of the disk, and what to do next.
func (j *job) wipeError(err error) error {
	if errors.Is(err, errCancelled) || errors.Is(err, errGone) {
		return err
	}
	e := &api.Error{Code: "wipe", Message: err.Error(), Hint: "a disk that cannot be wiped is destroyed, or wiped by its maker's program"}
	var cannot *erase.CannotError
	if errors.As(err, &cannot) {
		e.Code, e.Hint = "cannot_wipe", `"--method auto" takes what the disk can do, and says what that was`
	}
	if j.touched {
		e.Message += "; its partition table is gone, and what else it held may be there still"
	} else {
		e.Message += "; nothing was written to the disk"
	}
	return e
}
