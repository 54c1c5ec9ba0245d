package disk

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"

	"mimeo/internal/imaging/manifest"
)

// ReplaceTable writes where the partitions of t lie, onto a disk of size bytes that has them elsewhere or longer: same
// numbers, same kind of table. All else that the table says stays. Of a GPT both copies are written, for a disk of that
// size. Of an MBR, logical partitions may only change their length, or move together with the extended one around them,
// whose sectors must lie at the new place already. Hybrid MBRs are refused.
func ReplaceTable(d ReaderWriterAt, t manifest.Table, size int64, sector int) error {
	if !goodSector(sector) {
		return fmt.Errorf("write partition table: sectors of %d bytes are not supported", sector)
	}
	s := &scan{r: d, size: size, sector: int64(sector), t: &Table{}}
	for _, p := range t.Partitions {
		if p.Off%s.sector != 0 || p.Len%s.sector != 0 || p.Off < s.sector || p.Len < 0 || p.Len > size-p.Off {
			return fmt.Errorf("write partition table: partition %d (%d bytes at %d) does not lie on a disk of %d bytes", p.Number, p.Len, p.Off, size)
		}
	}
	var err error
	switch t.Kind {
	case "gpt":
		err = s.replaceGPT(d, t)
	case "mbr":
		err = s.replaceMBR(d, t)
	default:
		err = fmt.Errorf("a table of kind %q has no partitions", t.Kind)
	}
	if err != nil {
		return fmt.Errorf("write partition table: %w", err)
	}
	return nil
}

func (s *scan) replaceGPT(d ReaderWriterAt, t manifest.Table) error {
	first, _, err := s.sectors(0, 1)
	if err != nil {
		return err
	}
	if parseMBR(first).others() > 0 {
		return errors.New("the MBR beside the GPT is a hybrid one, which says where partitions lie, too")
	}
	g, err := s.loadGPT(1)
	var bad errNoGPT
	if errors.As(err, &bad) {
		g, err = makeGPT(t, s.sector)
	}
	if err != nil {
		return fmt.Errorf("primary GPT: %w", err)
	}
	last := uint64(s.size/s.sector) - 1
	if err := g.settle(t, last, s.sector); err != nil {
		return err
	}
	for _, p := range t.Partitions {
		if p.Number < 1 || p.Number > int(g.count) || p.Len == 0 || uint64(p.Off/s.sector) < g.firstUsable || uint64((p.Off+p.Len)/s.sector) > g.lastUse+1 {
			return fmt.Errorf("partition %d (%d bytes at %d) does not fit in between the copies of the GPT", p.Number, p.Len, p.Off)
		}
		e := g.entries[(p.Number-1)*int(g.entryLen):]
		le.PutUint64(e[32:], uint64(p.Off/s.sector))
		le.PutUint64(e[40:], uint64((p.Off+p.Len)/s.sector)-1)
	}
	return s.storeGPT(d, g, last)
}

func (s *scan) replaceMBR(d ReaderWriterAt, t manifest.Table) error {
	w := &mbrWriter{scan: s, d: d}
	var extended []manifest.Partition
	for _, p := range t.Partitions {
		if p.Logical {
			continue
		}
		if err := w.setPlace(p); err != nil {
			return err
		}
		if isExtended(p) {
			extended = append(extended, p)
		}
	}
	for _, box := range extended {
		chain, err := w.chain(mbrEntry{start: uint32(box.Off / s.sector), count: uint32(box.Len / s.sector)})
		if err != nil {
			return err
		}
		for _, e := range chain {
			if e.data < 0 {
				continue
			}
			off := (int64(e.lba) + int64(e.entries[e.data].start)) * s.sector
			i := slices.IndexFunc(t.Partitions, func(p manifest.Partition) bool { return p.Logical && p.Off == off })
			if i < 0 {
				return fmt.Errorf("the logical partition at %d is none of the table's", off)
			}
			if err := w.setCount(e.lba, e.data, t.Partitions[i].Len/s.sector); err != nil {
				return err
			}
		}
	}
	return nil
}

// setPlace writes where a primary partition lies.
func (w *mbrWriter) setPlace(p manifest.Partition) error {
	start, count := p.Off/w.sector, p.Len/w.sector
	if p.Number < 1 || p.Number > 4 || start+count > mbrSectorsMax || count < 1 {
		return fmt.Errorf("partition %d (%d sectors from %d on) cannot stand in an MBR", p.Number, count, start)
	}
	b, ok, err := w.sectors(0, 1)
	if err != nil || !ok {
		return fmt.Errorf("read the MBR: %w", cmp.Or(err, io.ErrUnexpectedEOF))
	}
	e := b[mbrEntries+(p.Number-1)*mbrEntryLen:][:mbrEntryLen]
	if le.Uint32(e[8:]) != uint32(start) {
		copy(e[1:4], chsBeyond[:])
	}
	if le.Uint32(e[8:]) != uint32(start) || le.Uint32(e[12:]) != uint32(count) {
		copy(e[5:8], chsBeyond[:])
	}
	le.PutUint32(e[8:], uint32(start))
	le.PutUint32(e[12:], uint32(count))
	if _, err := w.d.WriteAt(b, 0); err != nil {
		return fmt.Errorf("write the MBR: %w", err)
	}
	return nil
}
