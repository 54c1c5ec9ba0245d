package disk

import (
	"errors"
	"fmt"

	"mimeo/internal/imaging/manifest"
)

// chsBeyond is the address by cylinder, head and sector of what lies too far for one.
var chsBeyond = [3]byte{0xfe, 0xff, 0xff}

// fitMBR lets a partition grow; nothing in an MBR tells the size of the disk.
func fitMBR(d ReaderWriterAt, t manifest.Table, size, sector int64, o Fit) (manifest.Table, error) {
	have, err := ReadTable(d, size, int(sector))
	if err != nil {
		return t, err
	}
	if have.Whole != "" || have.Kind != "mbr" || have.ID != t.ID {
		return t, errors.New("the table on the disk is not the one that was copied to it")
	}
	if o.Grow <= 0 {
		return t, nil
	}
	p, err := find(t, o.Grow)
	if err != nil {
		return t, err
	}
	if isExtended(*p) {
		return t, fmt.Errorf("partition %d is an extended one: let a partition in it grow", p.Number)
	}
	limit := min(size-size%sector, mbrSectorsMax*sector)
	var box *manifest.Partition // the extended partition around p
	if p.Logical {
		for i := range t.Partitions {
			if q := &t.Partitions[i]; isExtended(*q) && !q.Logical && q.Off <= p.Off && p.Off+p.Len <= q.Off+q.Len {
				box = q
			}
		}
		if box == nil {
			return t, fmt.Errorf("partition %d is a logical one, and no extended one is around it", p.Number)
		}
	}
	limit = after(t, *p, limit)
	if box != nil {
		// The table of the next logical partition lies before it, and must not be run over.
		for _, r := range have.Regions {
			if r.Off >= p.Off+p.Len {
				limit = min(limit, r.Off)
			}
		}
		limit = min(limit, after(t, *box, limit))
	}
	n, err := grown(*p, limit, sector, o)
	if err != nil || n == p.Len {
		return t, err
	}
	w := &mbrWriter{scan: &scan{r: d, size: size, sector: sector, t: &Table{}}, d: d}
	if box == nil {
		err = w.setCount(0, p.Number-1, n/sector)
	} else {
		err = w.growLogical(box, *p, n)
	}
	if err != nil {
		return t, err
	}
	p.Len = n
	if box != nil {
		box.Len = max(box.Len, p.Off+p.Len-box.Off)
	}
	return t, nil
}

type mbrWriter struct {
	*scan
	d ReaderWriterAt
}

// setCount writes a new length into an entry of the table at lba.
func (w *mbrWriter) setCount(lba uint64, entry int, count int64) error {
	b, ok, err := w.sectors(lba, 1)
	if err != nil {
		return err
	}
	if !ok || entry < 0 || entry > 3 || count <= 0 || count > mbrSectorsMax {
		return fmt.Errorf("entry %d of the table at sector %d cannot be %d sectors long", entry+1, lba, count)
	}
	e := b[mbrEntries+entry*mbrEntryLen:][:mbrEntryLen]
	le.PutUint32(e[12:], uint32(count))
	copy(e[5:8], chsBeyond[:])
	if _, err := w.d.WriteAt(b, int64(lba)*w.sector); err != nil {
		return fmt.Errorf("write the table at sector %d: %w", lba, err)
	}
	return nil
}

// growLogical writes p's new length where it stands: the extended partition first, then the link that leads to p's
// table, then the table itself. So none ever reaches out of what is around it.
func (w *mbrWriter) growLogical(box *manifest.Partition, p manifest.Partition, n int64) error {
	end := (p.Off + n) / w.sector // in sectors
	first := box.Off / w.sector
	if end > first+box.Len/w.sector {
		if err := w.setCount(0, box.Number-1, end-first); err != nil {
			return err
		}
	}
	chain, err := w.chain(mbrEntry{start: uint32(first), count: uint32(max(end-first, box.Len/w.sector))})
	if err != nil {
		return err
	}
	for i, e := range chain {
		if e.data < 0 || int64(e.lba)+int64(e.entries[e.data].start) != p.Off/w.sector {
			continue
		}
		if i > 0 {
			from := chain[i-1]
			if need := end - int64(e.lba); need > int64(from.entries[from.next].count) {
				if err := w.setCount(from.lba, from.next, need); err != nil {
					return err
				}
			}
		}
		return w.setCount(e.lba, e.data, n/w.sector)
	}
	return fmt.Errorf("no table of a logical partition leads to partition %d", p.Number)
}
