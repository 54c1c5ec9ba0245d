package fsmap

import (
	"fmt"
	"io"
	"slices"
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

// firstRenewed is before any deploy that renewed a log.
var firstRenewed = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// round returns the round of a log that begins anew at a time: one for each second since 2020. No disk writes its log
// around that fast for all of its life, so the round is later than any that the disk has seen, whatever was on it in between,
// where the clocks were right.
func round(t time.Time) uint32 { return uint32(max(t.Sub(renewFrom)/time.Second, 1)) }

// Renewal is what must be done for a filesystem that is written by its used blocks, because of what may lie in its free space: the
// leavings of the same filesystem, from when the disk was in use. Of XFS that is a danger after a crash, see xfs.Log. All
// other filesystems are well as they are.
type Renewal struct {
	Log extent.List // in bytes of the disk: where the log lies that begins anew; nobody else need write it

	part fact.Part
	log  *xfs.Log // nil where it stays, and free space is looked through
}

// Renewals returns the renewals for the i-th volume, also for what is inside it, as in logical volumes, and in partitions in these. On a
// RAID or in a mirror, whose disks must stay equal, only free space is written to.
func (d Disk) Renewals(i int, typ string) ([]Renewal, error) {
	v := d.Volumes[i]
	if typ == "xfs" {
		r, err := d.renewal(fact.Part{Size: v.Len, Spans: []fact.Span{{Off: v.Off, Len: v.Len}}}, false)
		return []Renewal{r}, err
	}
	if !Holds(typ) {
		return nil, nil
	}
	inner, err := d.inside(i, typ, 1, append(slices.Clip(containers), tables))
	if err != nil {
		return nil, err
	}
	var list []Renewal
	for _, in := range inner {
		if in.Type != "xfs" || in.Method != manifest.MethodUsed || in.Rows != nil { // with parity its free space is zeros
			continue
		}
		r, err := d.renewal(in.Part, in.Leg || typ == "linux_raid_member")
		if err != nil {
			return nil, fmt.Errorf("%s: %w", in.Name, err)
		}
		list = append(list, r)
	}
	return list, nil
}

func (d Disk) renewal(p fact.Part, mirrored bool) (r Renewal, err error) {
	r.part = p
	if mirrored {
		return r, nil
	}
	if r.log, err = xfs.ReadLog(p.Reader(d.ReaderAt), p.Size); r.log != nil {
		r.Log = p.OuterList(extent.List{r.log.Extent})
	}
	return r, err
}

// left returns the round of the log that is on the disk: whoever deployed before may have had a clock that was ahead. It is a hint,
// 0 where there is none, or it cannot be read, or nobody's clock was so far ahead.
func (r Renewal) left(v xfs.Volume) uint32 {
	const most = 1 << 31 // so that the log can still go round
	if left, err := r.log.Left(v); err == nil && left < most {
		return left
	}
	return 0
}

// Clears returns how many bytes Do reads at most, to look through free space; 0 where it does not.
func (r Renewal) Clears() int64 {
	if r.log != nil {
		return 0
	}
	return r.part.Size * int64(1+len(r.part.Twins))
}

// Do is called when all else is written. With look, the log that is on the disk may go on: the volume lay there before, as it should.
func (r Renewal) Do(disk Volume, now time.Time, look bool) error {
	v := fact.Bytes{Part: r.part, Disk: disk}
	err := r.do(v, now, look)
	if err != nil && r.part.Name != "" {
		return fmt.Errorf("%s: %w", r.part.Name, err)
	}
	return err
}

func (r Renewal) do(v fact.Bytes, now time.Time, look bool) error {
	if r.log == nil {
		var twins []xfs.Volume
		for _, spans := range r.part.Twins {
			twins = append(twins, fact.Bytes{Part: fact.Part{Size: r.part.Size, Spans: spans}, Disk: v.Disk})
		}
		return xfs.Forget(v, r.part.Size, twins...)
	}
	if look {
		if ok, err := r.log.Continue(v, round(firstRenewed)); ok || err != nil {
			return err
		}
	}
	return r.log.Restart(v, max(round(now), r.left(v)+1))
}
