// Package ntfs tells which bytes of an NTFS volume are in use.
//
// It follows the NTFS documentation of the Linux-NTFS project: the boot sector leads to the MFT, its record 6 is $Bitmap,
// with one bit a cluster. NTFS has no checksums and no count of free clusters, so the map is held against the files: every
// record of the MFT is read, and all clusters that any file has must be marked as used. Where they are not, where a
// record in use is damaged, or where Windows still has something in its log, the answer is that the volume must be
// captured whole.
package ntfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
)

var le = binary.LittleEndian

// damage is a reason why the map cannot be trusted. It is no error of the disk.
type damage string

func (d damage) Error() string { return string(d) }

func damaged(format string, args ...any) error { return damage(fmt.Sprintf(format, args...)) }

// Used returns what the filesystem in the first bytes of a volume of size bytes is, and the extents in use, in bytes of
// the volume. Facts.Whole says why the extents do not count where they cannot be trusted. An error means that the volume
// could not be read.
func Used(r io.ReaderAt, size int64) (fact.Facts, extent.List, error) {
	v := &volume{r: r, size: size}
	v.facts.Type = "ntfs"
	used, err := v.used()
	var d damage
	if errors.As(err, &d) {
		v.facts.Whole = err.Error()
		return v.facts, nil, nil
	}
	return v.facts, used, err
}

// volume is one reading of a volume.
type volume struct {
	r     io.ReaderAt
	size  int64
	facts fact.Facts

	boot
	mft     stream // the records
	records bitmap // which records are in use
	marked  bitmap // which clusters are in use: $Bitmap
	dirty   bool   // Windows will look at it at the next start
}

func (v *volume) used() (extent.List, error) {
	if err := v.readBoot(); err != nil {
		return nil, err
	}
	if err := v.readMFT(); err != nil {
		return nil, err
	}
	if err := v.readVolume(); err != nil {
		return nil, err
	}
	if err := v.readMap(); err != nil {
		return nil, err
	}
	// A log to be replayed explains all that the walk may find, but first it should be told what sleeps there.
	var d damage
	logged := v.readLog()
	if logged != nil && !errors.As(logged, &d) {
		return nil, logged
	}
	w, err := v.walk()
	if err == nil {
		err = v.readHibernation(w.hiberfil)
	}
	if err != nil && !errors.As(err, &d) {
		return nil, err
	}
	if logged != nil {
		return nil, logged
	}
	if err != nil {
		return nil, err
	}
	used, marked, err := v.scan()
	if err != nil {
		return nil, err
	}
	switch {
	case w.clusters > marked:
		return nil, damaged("files have %d clusters, %d are marked as used: some belong to two files; run chkdsk /f", w.clusters, marked)
	case w.clusters < marked:
		v.note("%d clusters are marked as used and belong to no file; they are captured", marked-w.clusters)
	}
	if w.bad > 0 {
		v.note("it has %d bad clusters, which are this disk's", w.bad)
	}
	around, err := v.outside()
	if err != nil {
		return nil, err
	}
	return extent.Union(used, around), nil
}

func (v *volume) note(format string, args ...any) {
	v.facts.Notes = append(v.facts.Notes, fmt.Sprintf(format, args...))
}

// read fills b with what lies at off.
func (v *volume) read(b []byte, off int64) error {
	n, err := v.r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%d bytes at offset %d: %w", len(b), off, err)
}
