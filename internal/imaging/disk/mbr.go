package disk

import (
	"bytes"
	"fmt"

	"mimeo/internal/imaging/manifest"
)

// mbr is the table in the first sector of a disk, or of a logical partition.
type mbr struct {
	signed  bool
	id      uint32 // disk signature at 440, Windows' and Linux' name of the disk
	entries [4]mbrEntry
}

type mbrEntry struct {
	flag, kind   byte
	start, count uint32 // sectors; start counts from the disk, or from the extended partition
}

const (
	mbrEntries    = 446
	mbrEntryLen   = 16
	typeGPT       = 0xee
	typeLDM       = 0x42
	maxLogical    = 256     // as many as Linux takes
	logicalGap    = 1 << 20 // bytes behind a logical partition's table that are kept, up to the partition
	mbrSectorsMax = 1<<32 - 1
)

func extendedType(k byte) bool { return k == 0x05 || k == 0x0f || k == 0x85 }

func parseMBR(b []byte) (m mbr) {
	if len(b) < 512 || b[510] != 0x55 || b[511] != 0xaa {
		return m
	}
	m.signed, m.id = true, le.Uint32(b[440:])
	for i := range m.entries {
		e := b[mbrEntries+i*mbrEntryLen:]
		m.entries[i] = mbrEntry{flag: e[0], kind: e[4], start: le.Uint32(e[8:]), count: le.Uint32(e[12:])}
	}
	return m
}

// protective tells whether the MBR stands in front of a GPT.
func (m mbr) protective() bool {
	for _, e := range m.entries {
		if e.kind == typeGPT && m.signed {
			return true
		}
	}
	return false
}

// others counts the partitions of a hybrid MBR.
func (m mbr) others() (n int) {
	for _, e := range m.entries {
		if e.kind != typeGPT && e.kind != 0 && e.count > 0 {
			n++
		}
	}
	return n
}

// plausible tells a table from the boot code of a filesystem on a bare disk, which has the same signature. Where it seems to be one
// that cannot be believed, why says so.
func (m mbr) plausible() (used int, ok bool, why string) {
	end := uint64(0) // of what begins with the table itself
	for i, e := range m.entries {
		switch {
		case e.flag&^0x80 != 0:
			return 0, false, ""
		case e.count == 0:
		case e.start == 0:
			// The image of a CD that can be started from a disk. What else is there may lie in it.
			end = max(end, uint64(e.count))
			why = fmt.Sprintf("partition %d begins with the table itself", i+1)
		case e.kind != 0:
			used++
		}
	}
	if end > 0 {
		for _, e := range m.entries {
			if e.count > 0 && uint64(e.start)+uint64(e.count) > end {
				return used, false, why
			}
		}
		return used, false, ""
	}
	for i, e := range m.entries {
		if e.kind == 0 && e.count > 0 && used > 0 {
			return used, false, fmt.Sprintf("partition %d (%d sectors from %d on) has no type", i+1, e.count, e.start)
		}
	}
	return used, m.signed, ""
}

// bootSector tells whether a sector is the first of a FAT, exFAT or NTFS filesystem, and of which.
func bootSector(b []byte) string {
	switch {
	case len(b) < 512:
	case string(b[3:11]) == "NTFS    ":
		return "NTFS"
	case string(b[3:11]) == "EXFAT   ":
		return "exFAT"
	case bytes.HasPrefix(b[54:], []byte("FAT1")), bytes.HasPrefix(b[82:], []byte("FAT32")):
		return "FAT"
	}
	return ""
}

// readMBR reads a table without GPT.
func (s *scan) readMBR(m mbr, first []byte) error {
	if !m.signed {
		return nil
	}
	used, ok, why := m.plausible()
	if used > 0 && why != "" {
		s.t.distrust("%s", why)
	}
	if used == 0 || !ok {
		return nil
	}
	if fs := bootSector(first); fs != "" {
		s.t.distrust("the first sector is that of a %s filesystem and a partition table at the same time", fs)
		return nil
	}
	t := s.t
	t.Kind, t.ID = "mbr", fmt.Sprintf("%08x", m.id)
	s.region(0, s.sector)
	for i, e := range m.entries {
		if e.kind == 0 || e.count == 0 {
			continue
		}
		if e.kind == typeLDM {
			t.distrust("partition %d is part of a Windows dynamic disk, which keeps its own table elsewhere", i+1)
		}
		s.add(i+1, e, 0, false)
	}
	for i, e := range m.entries {
		if !extendedType(e.kind) || e.count == 0 {
			continue
		}
		t.Extended = append(t.Extended, i+1)
		if err := s.logical(i+1, e); err != nil {
			return err
		}
	}
	return nil
}

func (s *scan) add(number int, e mbrEntry, base uint64, logical bool) {
	s.t.Partitions = append(s.t.Partitions, manifest.Partition{
		Number: number, Off: int64(base+uint64(e.start)) * s.sector, Len: int64(e.count) * s.sector, Type: fmt.Sprintf("%02x", e.kind),
		UUID: fmt.Sprintf("%s-%02x", s.t.ID, number), Bootable: e.flag&0x80 != 0, Logical: logical,
	})
}

// ebr is the sector of a logical partition: its table names the partition, and the next such sector.
type ebr struct {
	lba  uint64
	data int // entry of the partition, -1 without
	next int // entry of the link, -1 at the end of the chain
	mbr
}

// logical follows the chain of an extended partition as Linux does: the partition's own start counts from its sector,
// the next sector's from the start of the extended partition.
func (s *scan) logical(container int, ext mbrEntry) error {
	chain, err := s.chain(ext)
	if err != nil {
		return err
	}
	t := s.t
	number := 5
	for _, p := range t.Partitions {
		number = max(number, p.Number+1)
	}
	for _, e := range chain {
		for i, d := range e.entries {
			if d.kind == 0 || d.count == 0 || extendedType(d.kind) {
				continue
			}
			start := e.lba + uint64(d.start)
			end := uint64(ext.start) + uint64(ext.count)
			if d.start == 0 || start+uint64(d.count) > end {
				// Linux trusts the first two entries and drops the others in silence.
				t.distrust("a logical partition (sectors %d to %d) does not lie in the extended partition %d, which ends with sector %d",
					start, start+uint64(d.count)-1, container, end-1)
				continue
			}
			if i != e.data {
				t.note("the table at sector %d has more than one logical partition", e.lba)
			}
			s.add(number, d, e.lba, true)
			number++
		}
		s.region(int64(e.lba)*s.sector, s.sector)
	}
	s.gaps(chain)
	return nil
}

// gaps adds what may lie behind the tables of the chain, up to their partitions. Where a partition was deleted and another
// made in its place, a table may stand far before its own partition, with others in between.
func (s *scan) gaps(chain []ebr) {
	for _, e := range chain {
		if e.data < 0 {
			continue
		}
		off := int64(e.lba) * s.sector
		end := off + min(int64(e.entries[e.data].start)*s.sector, logicalGap)
		for _, p := range s.t.Partitions {
			if p.Off > off {
				end = min(end, p.Off)
			}
		}
		s.region(off, end-off)
	}
}

// chain reads the tables of the logical partitions. What is wrong with it is noted, and makes the whole table one that
// is not believed.
func (s *scan) chain(ext mbrEntry) ([]ebr, error) {
	var out []ebr
	seen := map[uint64]bool{}
	begin, end := uint64(ext.start), uint64(ext.start)+uint64(ext.count)
	for lba := begin; ; {
		if seen[lba] {
			s.t.distrust("the chain of logical partitions comes back to sector %d", lba)
			return out, nil
		}
		if len(out) == maxLogical {
			s.t.distrust("the chain of logical partitions is longer than %d", maxLogical)
			return out, nil
		}
		seen[lba] = true
		b, ok, err := s.sectors(lba, 1)
		if err != nil {
			return nil, fmt.Errorf("logical partition: %w", err)
		}
		if !ok || lba >= end {
			s.t.distrust("the chain of logical partitions leads to sector %d, outside of the extended partition", lba)
			return out, nil
		}
		m := parseMBR(b)
		if !m.signed {
			if lba == begin {
				s.t.note("the extended partition at sector %d holds no table of logical partitions", lba)
				s.region(int64(lba)*s.sector, s.sector)
			} else {
				s.t.distrust("the chain of logical partitions leads to sector %d, where there is no table", lba)
			}
			return out, nil
		}
		e := ebr{lba: lba, data: -1, next: -1, mbr: m}
		for i, x := range m.entries {
			switch {
			case x.kind == 0 || x.count == 0:
			case extendedType(x.kind):
				if e.next < 0 {
					e.next = i
				}
			case e.data < 0:
				e.data = i
			}
		}
		out = append(out, e)
		if e.next < 0 {
			return out, nil
		}
		lba = begin + uint64(m.entries[e.next].start)
	}
}
