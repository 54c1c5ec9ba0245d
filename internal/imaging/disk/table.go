package disk

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/manifest"
)

// Table is a partition table as found on a disk.
type Table struct {
	manifest.Table
	// Whole says why the table cannot be believed; "" where it can. The disk is then captured whole, and Kind is "none".
	Whole string
	// Regions are the bytes that the table itself takes: the MBR, GPT headers and entries (both copies), the sectors of
	// logical partitions with what may lie behind them up to the partition.
	Regions extent.List
	// Extended are the numbers of the MBR partitions that only hold logical ones.
	Extended []int
}

// ReadTable reads the partition table of a disk of size bytes with logical sectors of sector bytes. What is wrong with
// the table goes into its Notes; an error means that the disk could not be read.
//
// GPT is read as UEFI 2.10 chapter 5 has it, from the backup where the primary copy is damaged. MBR partitions are
// numbered as Linux does: logical ones from 5, in the order of their chain.
func ReadTable(r io.ReaderAt, size int64, sector int) (*Table, error) {
	t := &Table{Table: manifest.Table{Kind: "none"}}
	if !goodSector(sector) {
		return nil, fmt.Errorf("read partition table: sectors of %d bytes are not supported", sector)
	}
	if size < int64(sector) {
		t.distrust("the disk is smaller than a sector")
		return t, nil
	}
	s := &scan{r: r, size: size, sector: int64(sector), t: t}
	if err := s.read(); err != nil {
		return nil, fmt.Errorf("read partition table: %w", err)
	}
	if t.Whole == "" {
		t.check(size)
	}
	if t.Whole != "" {
		t.Kind, t.ID, t.Partitions, t.Extended = "none", "", nil, nil
	}
	return t, nil
}

const (
	// bootLen is what is taken at the start of a disk whose table has no partitions.
	bootLen = 1 << 20
	// maxGap bounds what is taken before the first partition. Boot loaders take less than 1 MiB there.
	maxGap = 64 << 20
)

// Volumes returns the partitions that hold something themselves, by their offsets.
func (t *Table) Volumes() []manifest.Partition {
	parts := slices.DeleteFunc(slices.Clone(t.Partitions), func(p manifest.Partition) bool {
		return p.Len == 0 || slices.Contains(t.Extended, p.Number)
	})
	slices.SortFunc(parts, func(a, b manifest.Partition) int { return cmp.Compare(a.Off, b.Off) })
	return parts
}

// Outside returns the bytes outside of all partitions that are to be captured, of a disk of size bytes: the table itself, and all up
// to the first partition. note says where some of that is left out.
func (t *Table) Outside(size int64) (list extent.List, note string) {
	first := min(bootLen, size)
	for i, p := range t.Partitions {
		if i == 0 || p.Off < first {
			first = p.Off
		}
	}
	if first > maxGap {
		note = fmt.Sprintf("the first partition begins at %d: what lies from %d on before it is left out", first, maxGap)
		first = maxGap
	}
	return extent.Union(t.Regions, extent.List{{Off: 0, Len: first}}), note
}

// note keeps what a person should know about the table.
func (t *Table) note(format string, args ...any) {
	if s := fmt.Sprintf(format, args...); !slices.Contains(t.Notes, s) && len(t.Notes) < 64 {
		t.Notes = append(t.Notes, s)
	}
}

// distrust notes why the table cannot be believed.
func (t *Table) distrust(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	if t.Whole == "" {
		t.Whole = s
	}
	t.note("%s", s)
}

// check finds partitions that overlap, lie on the table itself or reach past the end of the disk.
func (t *Table) check(size int64) {
	var prev *manifest.Partition
	byOff := slices.Clone(t.Partitions)
	slices.SortStableFunc(byOff, func(a, b manifest.Partition) int {
		return cmp.Or(cmp.Compare(a.Off, b.Off), cmp.Compare(a.Len, b.Len))
	})
	for i := range byOff {
		p := &byOff[i]
		if p.Off < 0 || p.Len < 0 || p.Off > size || p.Len > size-p.Off {
			t.distrust("partition %d (%d bytes at %d) reaches past the end of the disk of %d bytes", p.Number, p.Len, p.Off, size)
			continue
		}
		if slices.Contains(t.Extended, p.Number) {
			continue
		}
		if prev != nil && p.Off < prev.Off+prev.Len {
			t.distrust("partitions %d and %d overlap", prev.Number, p.Number)
		}
		if prev == nil || p.Off+p.Len > prev.Off+prev.Len {
			prev = p
		}
		if on := t.Regions.Clip(extent.Extent{Off: p.Off, Len: p.Len}); len(on) > 0 {
			t.distrust("partition %d lies on the partition table itself (%v)", p.Number, on[0])
		}
	}
	for _, n := range t.Extended {
		c := t.partition(n)
		for _, p := range t.Partitions {
			if !p.Logical && p.Number != n && p.Off < c.Off+c.Len && c.Off < p.Off+p.Len {
				t.distrust("partitions %d and %d overlap", n, p.Number)
			}
		}
	}
}

func (t *Table) partition(number int) *manifest.Partition {
	for i := range t.Partitions {
		if t.Partitions[i].Number == number {
			return &t.Partitions[i]
		}
	}
	return nil
}

// scan is one reading of a table.
type scan struct {
	r      io.ReaderAt
	size   int64
	sector int64
	t      *Table
}

// sectors reads n sectors from lba on; ok is false where they do not lie on the disk.
func (s *scan) sectors(lba, n uint64) (b []byte, ok bool, err error) {
	total := uint64(s.size / s.sector)
	if lba >= total || n > total-lba || n > maxEntries/512+1 {
		return nil, false, nil
	}
	b = make([]byte, int64(n)*s.sector)
	if m, err := s.r.ReadAt(b, int64(lba)*s.sector); m < len(b) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, false, fmt.Errorf("%d bytes at offset %d: %w", len(b), int64(lba)*s.sector, err)
	}
	return b, true, nil
}

// region notes bytes that belong to the table.
func (s *scan) region(off, n int64) {
	n = min(n, s.size-off)
	if off >= 0 && n > 0 {
		s.t.Regions.Add(extent.Extent{Off: off, Len: n})
	}
}

func (s *scan) read() error {
	first, _, err := s.sectors(0, 1)
	if err != nil {
		return err
	}
	m := parseMBR(first)
	if m.protective() {
		return s.readGPT(m)
	}
	for _, sector := range []int{512, 1024, 2048, 4096} {
		if hasGPTMagic(s.r, sector) {
			s.t.note("remains of a GPT lie on the disk, without the protective MBR that would make it count")
			break
		}
	}
	if sunLabel(first) {
		s.t.distrust("it has a disklabel of Sun, which is not read")
		return nil
	}
	return s.readMBR(m, first)
}

// sunLabel tells whether a sector is a disklabel of Sun (Linux' block/partitions/sun.c). Its first partition begins with the label, so
// that a filesystem in it looks like one on the bare disk.
func sunLabel(b []byte) bool {
	if len(b) < 512 || b[508] != 0xda || b[509] != 0xbe {
		return false
	}
	var sum [2]byte
	for i := 0; i < 512; i += 2 {
		sum[0], sum[1] = sum[0]^b[i], sum[1]^b[i+1]
	}
	return sum == [2]byte{}
}

// hasGPTMagic tells whether the header of a GPT for sectors of that size seems to be there.
func hasGPTMagic(r io.ReaderAt, sector int) bool {
	var b [8]byte
	n, _ := r.ReadAt(b[:], int64(sector))
	return n == len(b) && string(b[:]) == gptMagic
}
