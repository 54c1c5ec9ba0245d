package ntfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
)

// readTimeAt is where attribute attrStandard has the time of the last reading.
const readTimeAt = 24

// Files that are written past the filesystem, or held open for as long as Windows runs, so that their times may not tell:
// memory and crash dumps, what boot loaders write, registry, logs, databases, disks of virtual machines. Names that begin
// with $ are the filesystem's own, those with { of shadow copies.
var (
	unmarkedNames = []string{"pagefile.sys", "swapfile.sys", "hiberfil.sys", "ldlinux.sys", "dumpstack.log.tmp", "bcd", "system", "software", "sam", "security",
		"default", "components", "drivers", "bbi", "elam", "schema"}
	unmarkedEnds = []string{".dat", ".hve", ".log", ".log1", ".log2", ".blf", ".regtrans-ms", ".etl", ".evtx", ".edb", ".jrs", ".chk", ".dmp", ".vhd", ".vhdx", ".avhdx"}
)

// Files calls file with the files whose every write leaves a mark in their records, in ascending order, and other with
// what else has an owner: the filesystem's own, folders, files of several records, and those that are written in other
// ways. The mark has the place in the log of the record's last change. why says why nothing of that may be believed, and
// is empty where it may. An error means that the volume could not be read, or comes from file.
func Files(r io.ReaderAt, size int64, file func(fact.File) error, other func(extent.Extent)) (why string, err error) {
	v := &volume{r: r, size: size}
	err = v.files(file, other)
	if d := damage(""); errors.As(err, &d) {
		return err.Error(), nil
	}
	return "", err
}

func (v *volume) files(file func(fact.File) error, other func(extent.Extent)) error {
	for _, read := range []func() error{v.readBoot, v.readMFT, v.readVolume, v.readLog} {
		if err := read(); err != nil {
			return err
		}
	}
	if v.dirty {
		return damaged("it is marked as dirty: Windows will run chkdsk at the next start")
	}
	other(extent.Extent{Len: bootLen})
	var f fact.File
	return v.eachRecord(func(n int64, rec record, err error) error {
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
		f = fact.File{Nr: uint64(n), Extents: f.Extents[:0]}
		marked := n >= recFirst && rec.base == 0
		if err := rec.each(func(a *attr) error {
			switch {
			case a.typ == attrStandard && a.resident && len(a.value) >= readTimeAt+8:
				clear(a.value[readTimeAt : readTimeAt+8])
			case a.typ == attrList:
				marked = false
			case a.typ == attrFileName && a.resident:
				marked = marked && !unmarkedName(a.value)
			case a.typ == attrData && !a.resident && len(a.name) == 0:
				f.Size = a.size
			}
			if a.resident {
				return nil
			}
			return v.runs(a, func(r run) error {
				if r.lcn == hole {
					return nil
				}
				e := extent.Extent{Off: int64(r.lcn) * v.clusterSize, Len: int64(r.n) * v.clusterSize}
				if a.typ == attrData {
					f.Extents = append(f.Extents, e)
				} else {
					other(e)
				}
				return nil
			})
		}); err != nil {
			return about(err, uint64(n))
		}
		if !marked {
			for _, e := range f.Extents {
				other(e)
			}
			return nil
		}
		// The update sequence counts writes of the record.
		at := int(le.Uint16(rec.b[4:]))
		clear(rec.b[at : at+2*int(le.Uint16(rec.b[6:]))])
		f.Mark = rec.b
		if len(f.Extents) == 0 {
			return nil
		}
		if err := file(f); err != nil {
			return fmt.Errorf("MFT record %d: %w", n, err)
		}
		return nil
	})
}

// unmarkedName tells whether a file's name, the value of its attribute, is one of those whose times may not tell.
func unmarkedName(value []byte) bool {
	if len(value) < 0x42 || len(value) < 0x42+2*int(value[0x40]) {
		return true
	}
	name := string(bytes.ToLower(narrow(value[0x42:][:2*int(value[0x40])])))
	return name == "" || name[0] == '$' || name[0] == '{' || slices.Contains(unmarkedNames, name) ||
		slices.ContainsFunc(unmarkedEnds, func(end string) bool { return strings.HasSuffix(name, end) })
}
