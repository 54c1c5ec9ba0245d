package ntfs

import (
	"bytes"
	"fmt"
)

// walkRead is how much of the MFT is read at a time. It is a multiple of the size of records.
const walkRead = 1 << 20

// walked is what the files say.
type walked struct {
	clusters cluster // that files have
	bad      cluster // of them, those that cannot be used
	hiberfil uint64  // the record of hiberfil.sys; 0 for none
}

// walk reads all records of the MFT. Those in use must be good, and every cluster that they speak of must be marked as
// used in $Bitmap. No attribute list is followed: records that go on with another are records in use themselves.
func (v *volume) walk() (walked, error) {
	var w walked
	count := v.mft.init / v.recordSize
	buf := make([]byte, walkRead)
	for first := int64(0); first < count; {
		n := min(int64(len(buf))/v.recordSize, count-first)
		b := buf[:n*v.recordSize]
		if err := v.mft.read(b, first*v.recordSize); err != nil {
			return w, fmt.Errorf("read the MFT: %w", err)
		}
		for i := range n {
			if err := v.check(&w, b[i*v.recordSize:(i+1)*v.recordSize], first+i); err != nil {
				return w, about(err, uint64(first+i))
			}
		}
		first += n
	}
	// Where it begins, whatever $Boot says.
	free, err := v.marked.clear(0, 1)
	if err == nil && free >= 0 {
		err = unmarked(free)
	}
	return w, err
}

func unmarked(n int64) error {
	return damaged("cluster %d is in use and not marked as such in $Bitmap; run chkdsk /f", n)
}

// check holds one record against $Bitmap.
func (v *volume) check(w *walked, b []byte, n int64) error {
	rec, err := parse(b, n)
	if err != nil {
		if n >= recReserved && n < recFirst && len(bytes.TrimLeft(b, "\x00")) == 0 {
			return nil
		}
		free, err2 := v.records.clear(n, 1)
		if err2 != nil {
			return err2
		}
		if free < 0 || n <= recBadClus {
			return err
		}
		return nil // what was never written
	}
	if !rec.inUse {
		if n <= recBadClus {
			return damaged("it is not in use")
		}
		return nil
	}
	return rec.each(func(a *attr) error {
		if a.resident {
			if w.hiberfil == 0 && a.isFile("hiberfil.sys") {
				if w.hiberfil = uint64(n); rec.base != 0 {
					w.hiberfil = rec.base
				}
			}
			return nil
		}
		return v.runs(a, func(r run) error {
			if r.lcn == hole {
				return nil
			}
			if w.clusters += r.n; w.clusters > v.clusters {
				return damaged("files have more clusters than there are, %d: some belong to two files; run chkdsk /f", v.clusters)
			}
			if n == recBadClus && len(a.name) > 0 {
				w.bad += r.n
			}
			free, err := v.marked.clear(int64(r.lcn), int64(r.n))
			if err == nil && free >= 0 {
				err = unmarked(free)
			}
			return err
		})
	})
}
