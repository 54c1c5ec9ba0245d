package ntfs

import (
	"errors"
	"fmt"
	"io"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
)

// Pieces adds where the content of files lies, named streams included. It reads the MFT in its order. Records that make
// no sense are passed over; an error means that the volume could not be read.
func Pieces(r io.ReaderAt, size int64, add func(fact.Piece)) error {
	v := &volume{r: r, size: size}
	err := v.readBoot()
	if err == nil {
		err = v.readMFT()
	}
	if err == nil {
		err = v.pieces(add)
	}
	if d := damage(""); errors.As(err, &d) {
		return nil
	}
	return err
}

func (v *volume) pieces(add func(fact.Piece)) error {
	return v.eachRecord(func(n int64, rec record, err error) error {
		// What the system keeps for itself differs between volumes.
		if err == nil && rec.inUse && n >= recFirst {
			v.recordPieces(rec, add)
		}
		return nil
	})
}

// Claims adds every stretch of the volume that a record says is its own: files, directories, and what the system keeps
// for itself, the MFT and the map among it. In a sound filesystem no two of them overlap. why says why not all could be
// told, or is empty.
func Claims(r io.ReaderAt, size int64, add func(extent.Extent)) (why string, err error) {
	v := &volume{r: r, size: size}
	if err = v.readBoot(); err == nil {
		err = v.readMFT()
	}
	if err == nil {
		err = v.eachRecord(func(n int64, rec record, err error) error {
			if err != nil { // what was never written, or is damaged
				free, err2 := v.records.clear(n, 1)
				if err2 == nil && free < 0 && (n < recReserved || n >= recFirst) {
					err2 = err
				}
				return about(err2, uint64(n))
			}
			if !rec.inUse {
				return nil
			}
			return about(rec.each(func(a *attr) error {
				if a.resident {
					return nil
				}
				return v.runs(a, func(r run) error {
					if r.lcn != hole {
						add(extent.Extent{Off: int64(r.lcn) * v.clusterSize, Len: int64(r.n) * v.clusterSize})
					}
					return nil
				})
			}), uint64(n))
		})
	}
	if d := damage(""); errors.As(err, &d) {
		return err.Error(), nil
	}
	return "", err
}

// eachRecord calls fn with all records of the MFT, or with what is wrong with them.
func (v *volume) eachRecord(fn func(n int64, rec record, err error) error) error {
	count := v.mft.init / v.recordSize
	buf := make([]byte, walkRead)
	for first := int64(0); first < count; {
		n := min(int64(len(buf))/v.recordSize, count-first)
		b := buf[:n*v.recordSize]
		if err := v.mft.read(b, first*v.recordSize); err != nil {
			return fmt.Errorf("read the MFT: %w", err)
		}
		for i := range n {
			rec, err := parse(b[i*v.recordSize:(i+1)*v.recordSize], first+i)
			if err := fn(first+i, rec, err); err != nil {
				return err
			}
		}
		first += n
	}
	return nil
}

// recordPieces adds the runs of the streams of a record. A part of a stream that another record began tells by itself
// where in the stream it belongs.
func (v *volume) recordPieces(rec record, add func(fact.Piece)) {
	_ = rec.each(func(a *attr) error {
		if a.resident || a.typ != attrData {
			return nil
		}
		return v.runs(a, func(r run) error {
			if r.lcn != hole {
				add(fact.Piece{Off: int64(r.lcn) * v.clusterSize, Len: int64(r.n) * v.clusterSize, At: int64(r.vcn) * v.clusterSize})
			}
			return nil
		})
	})
}
