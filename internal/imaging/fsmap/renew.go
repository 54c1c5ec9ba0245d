package fsmap

import (
	"fmt"
	"io"
	"time"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
	"mimeo/internal/imaging/fsmap/xfs"
	"mimeo/internal/imaging/manifest"
)

// Volume is what is written.
type Volume interface {
	io.ReaderAt
	io.WriterAt
}

// renewFrom is when rounds of logs begin to be counted.
var renewFrom = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

// Renew prepares the i-th volume of a disk, which was written by its used blocks at the time now for what may lie in its free space: the
// leavings of the same filesystem, from when the disk was in use. Of XFS that is a danger after a crash, and its log is
// made to begin anew, see xfs.RenewLog; also in logical volumes. On a RAID or in a mirror, whose disks must stay equal, only free space
// is written to, see xfs.Forget. All other filesystems stay as they are.
//
// A round of the log for each second since 2020: no disk writes its log around that fast for all of its life. So the
// round is later than any that the disk has seen, whatever was on it in between.
func Renew(disk Volume, volumes []extent.Extent, i int, typ string, now time.Time) error {
	d, v := Disk{disk, volumes}, volumes[i]
	switch typ {
	case "xfs":
		return renewLog(fact.Part{Size: v.Len, Spans: []fact.Span{{Off: v.Off, Len: v.Len}}}, disk, now)
	case "LVM2_member", "linux_raid_member":
	default:
		return nil
	}
	inner, err := d.Inside(i, typ)
	if err != nil {
		return err
	}
	for _, in := range inner {
		if in.Type != "xfs" || in.Method != manifest.MethodUsed {
			continue
		}
		if in.Leg || typ == "linux_raid_member" {
			err = xfs.Forget(fact.Bytes{Part: in.Part, Disk: disk}, in.Size)
		} else {
			err = renewLog(in.Part, disk, now)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", in.Name, err)
		}
	}
	return nil
}

func renewLog(p fact.Part, disk Volume, now time.Time) error {
	return xfs.RenewLog(fact.Bytes{Part: p, Disk: disk}, p.Size, uint32(max(now.Sub(renewFrom)/time.Second, 1)))
}
