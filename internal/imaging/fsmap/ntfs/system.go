package ntfs

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf16"
)

// readMFT finds out where the MFT lies by its own first record, and holds its first records against the mirror.
func (v *volume) readMFT() error {
	b := make([]byte, v.recordSize)
	// The first record may not lie in pieces: nothing says where these are.
	at := int64(v.mftAt) * v.clusterSize
	if at+v.recordSize > int64(v.clusters)*v.clusterSize {
		return damaged("the MFT starts at the very end of the filesystem")
	}
	if err := v.read(b, at); err != nil {
		return fmt.Errorf("read MFT record 0: %w", err)
	}
	rec, err := parse(b, recMFT)
	if err == nil && (!rec.inUse || rec.base != 0 || !rec.named("$mft")) {
		err = damaged("it is not that of the MFT")
	}
	if err != nil {
		return about(err, recMFT)
	}
	// Records may be read as soon as a part is known that they lie in.
	grow := func(s stream) {
		s.init = min(s.init, s.mapped())
		v.mft = s
	}
	s, err := v.openIn(rec, recMFT, attrData, grow)
	if err != nil {
		return about(err, recMFT)
	}
	if len(s.runs) == 0 || s.runs[0].lcn != v.mftAt || int64(s.runs[0].n)*v.clusterSize < v.recordSize {
		return damaged("the MFT does not start where the boot sector says")
	}
	if s.init/v.recordSize <= recBadClus {
		return damaged("the MFT has %d bytes", s.init)
	}
	v.mft = s
	use, err := v.open(recMFT, attrBitmap)
	if err != nil {
		return err
	}
	if use.size*8 < v.mft.init/v.recordSize {
		return damaged("the bitmap of the MFT has %d bytes, there are %d records", use.size, v.mft.init/v.recordSize)
	}
	v.records = bitmap{s: use}
	return v.readMirror()
}

// readMirror compares the first four records with their copies in $MFTMirr.
func (v *volume) readMirror() error {
	s, err := v.openFile(recMirror, "$mftmirr")
	if err != nil {
		return err
	}
	const records = 4
	if len(s.runs) == 0 || s.runs[0].lcn != v.mirrorAt || s.init < records*v.recordSize {
		return damaged("$MFTMirr is not where the boot sector says, or has only %d bytes", s.init)
	}
	for n := range int64(records) {
		a, b := make([]byte, v.recordSize), make([]byte, v.recordSize)
		if err := v.mft.read(a, n*v.recordSize); err != nil {
			return err
		}
		if err := s.read(b, n*v.recordSize); err != nil {
			return err
		}
		ra, err := parse(a, n)
		if err != nil {
			return about(err, uint64(n))
		}
		rb, err := parse(b, n)
		if err != nil {
			return fmt.Errorf("the copy in $MFTMirr of %w", about(err, uint64(n)))
		}
		// The update sequence is one for each copy.
		for _, b := range [][]byte{a, b} {
			off := int(le.Uint16(b[4:]))
			clear(b[off : off+2*int(le.Uint16(b[6:]))])
		}
		if !bytes.Equal(ra.b, rb.b) {
			return damaged("MFT record %d differs from its copy in $MFTMirr", n)
		}
	}
	return nil
}

// openFile opens the content of a file of the system.
func (v *volume) openFile(n uint64, name string) (stream, error) {
	rec, err := v.readRecord(n)
	if err != nil {
		return stream{}, err
	}
	if !rec.named(name) {
		return stream{}, damaged("MFT record %d is not that of %s", n, name)
	}
	return v.open(n, attrData)
}

// Flags of $VOLUME_INFORMATION.
const (
	volumeDirty  = 0x1
	volumeChkdsk = 0x4000
)

// readVolume reads the label, the version and the flags.
func (v *volume) readVolume() error {
	rec, err := v.readRecord(recVolume)
	if err != nil {
		return err
	}
	if !rec.named("$volume") {
		return damaged("MFT record %d is not that of $volume", recVolume)
	}
	found := false
	err = rec.each(func(a *attr) error {
		switch {
		case a.typ == attrVolumeName && a.resident:
			v.facts.Label = text(a.value)
		case a.typ == attrVolumeInfo && a.resident && len(a.value) >= 12:
			found = true
			major, minor, flags := a.value[8], a.value[9], le.Uint16(a.value[10:])
			if major < 1 || major > 3 {
				return damaged("NTFS version %d.%d is unknown", major, minor)
			}
			if flags&volumeChkdsk != 0 {
				return damaged("chkdsk is at work on it")
			}
			if v.dirty = flags&volumeDirty != 0; v.dirty {
				v.note("it is marked as dirty: Windows will run chkdsk at the next start")
			}
		}
		return nil
	})
	if err == nil && !found {
		err = damaged("it does not tell the version")
	}
	return about(err, recVolume)
}

// text makes UTF-16 readable, and drops white space at the end as blkid does.
func text(b []byte) string {
	u := make([]uint16, len(b)/2)
	for i := range u {
		u[i] = le.Uint16(b[2*i:])
	}
	s, _, _ := strings.Cut(string(utf16.Decode(u)), "\x00")
	return strings.TrimRight(s, " \t\n\r\v\f")
}

// readMap opens $Bitmap, and checks that it has a bit for every cluster.
func (v *volume) readMap() error {
	s, err := v.openFile(recBitmap, "$bitmap")
	if err != nil {
		return err
	}
	// It is rounded up to 8 bytes; some programs round up to a cluster.
	need := (int64(v.clusters) + 7) / 8
	if s.size < need || s.size > need+max(8, v.clusterSize) {
		return damaged("$Bitmap has %d bytes, %d clusters need %d", s.size, v.clusters, need)
	}
	if s.init < need {
		return damaged("of the %d bytes of $Bitmap only %d were written", need, s.init)
	}
	v.marked = bitmap{s: s}
	return nil
}

// readHibernation notes when a Windows sleeps in hiberfil.sys, which is in record n; 0 for none.
func (v *volume) readHibernation(n uint64) error {
	if n == 0 {
		return nil
	}
	b := make([]byte, 4)
	s, err := v.open(n, attrData)
	if err == nil && s.size >= int64(len(b)) {
		err = s.read(b, 0)
	}
	switch d := damage(""); {
	case errors.As(err, &d):
		// Such as a sparse one, which no Windows has made.
		v.note("whether Windows sleeps in hiberfil.sys is not known: %v", err)
		return nil
	case err != nil:
		return fmt.Errorf("read hiberfil.sys: %w", err)
	}
	// "wake" is what is left after it woke up, and zeros where it never slept.
	switch strings.ToLower(string(b)) {
	case "hibr", "rstr":
		v.note("a hibernated Windows sleeps in hiberfil.sys, or one that was shut down with fast startup: the copy wakes up with what " +
			"it had open, and must not be changed before that; shut down with 'shutdown /s /f /t 0' for a clean image")
	}
	return nil
}
