package ntfs

import (
	"errors"
	"fmt"
	"io"

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
	count := v.mft.init / v.recordSize
	buf := make([]byte, walkRead)
	for first := int64(0); first < count; {
		n := min(int64(len(buf))/v.recordSize, count-first)
		b := buf[:n*v.recordSize]
		if err := v.mft.read(b, first*v.recordSize); err != nil {
			return fmt.Errorf("read the MFT: %w", err)
		}
		for i := range n {
			// What the system keeps for itself differs between volumes.
			if rec, err := parse(b[i*v.recordSize:(i+1)*v.recordSize], first+i); err == nil && rec.inUse && first+i >= recFirst {
				v.recordPieces(rec, add)
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
