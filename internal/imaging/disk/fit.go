package disk

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"unicode/utf16"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/manifest"
)

// ReaderWriterAt is the disk whose table is written. *Disk is one.
type ReaderWriterAt interface {
	io.ReaderAt
	io.WriterAt
}

// GrowLast, as Fit.Grow, means the partition that lies last on the disk.
const GrowLast = -1

// Fit says how a captured table is fitted to the disk that it was copied to.
type Fit struct {
	// Grow is the number of the partition that grows; 0 means none.
	Grow int
	// Len is the length in bytes that it grows to, in whole sectors; 0 means as far as there is room, to a whole MiB.
	// A length that is less than the partition's is refused.
	Len int64
}

// growAlign is where a partition ends that grows as far as there is room.
const growAlign = 1 << 20

// FitTable makes a table right for the disk of size bytes that it was copied to, and lets a partition grow. t is the
// table as it was captured; the copied bytes (boot code, all that t does not tell) stay as they are on the disk. It
// returns the table as it is now.
//
// Of a GPT the backup goes to the end of the disk, and what says how large the disk is becomes right: in both headers,
// and in a protective MBR that stands alone. A GPT of which only the backup was good when it was captured, and is not
// on this disk, is made anew from t. Old copies of a backup elsewhere are not looked for: WipeTable the disk before.
func FitTable(d ReaderWriterAt, t manifest.Table, size int64, sector int, o Fit) (manifest.Table, error) {
	if !goodSector(sector) {
		return t, fmt.Errorf("fit partition table: sectors of %d bytes are not supported", sector)
	}
	t.Partitions = slices.Clone(t.Partitions)
	if o.Grow == GrowLast {
		o.Grow = lastPartition(t)
	}
	var err error
	switch t.Kind {
	case "gpt":
		t, err = fitGPT(d, t, size, int64(sector), o)
	case "mbr":
		t, err = fitMBR(d, t, size, int64(sector), o)
	case "none":
		if o.Grow > 0 {
			err = errors.New("there is no table, and so no partition that could grow")
		}
	default:
		err = fmt.Errorf("table of unknown kind %q", t.Kind)
	}
	if err != nil {
		return t, fmt.Errorf("fit partition table: %w", err)
	}
	return t, nil
}

// lastPartition returns the number of the partition that lies last; of an extended one and its logical ones, the last
// logical. 0 where there is none, or where the last is an extended partition without logical ones.
func lastPartition(t manifest.Table) int {
	var last manifest.Partition
	for _, p := range t.Partitions {
		if p.Len > 0 && p.Off >= last.Off {
			last = p
		}
	}
	if t.Kind == "mbr" && isExtended(last) {
		return 0
	}
	return last.Number
}

func isExtended(p manifest.Partition) bool { return p.Type == "05" || p.Type == "0f" || p.Type == "85" }

// grown returns the length that partition p gets, where it may reach to limit (bytes of the disk).
func grown(p manifest.Partition, limit, sector int64, o Fit) (int64, error) {
	n := o.Len
	if n == 0 {
		end := limit - limit%growAlign
		return max(end-p.Off, p.Len), nil
	}
	switch {
	case n%sector != 0:
		return 0, fmt.Errorf("partition %d cannot grow to %d bytes: that is no number of whole sectors of %d", p.Number, n, sector)
	case n < p.Len:
		return 0, fmt.Errorf("partition %d has %d bytes and cannot grow to %d", p.Number, p.Len, n)
	case n > limit-p.Off:
		return 0, fmt.Errorf("partition %d cannot grow to %d bytes: there is room for %d", p.Number, n, limit-p.Off)
	}
	return n, nil
}

// after returns where the next partition behind p begins, or limit.
func after(t manifest.Table, p manifest.Partition, limit int64) int64 {
	for _, q := range t.Partitions {
		if q.Number != p.Number && q.Off >= p.Off+p.Len && q.Len > 0 {
			limit = min(limit, q.Off)
		}
	}
	return limit
}

func find(t manifest.Table, number int) (*manifest.Partition, error) {
	for i := range t.Partitions {
		if t.Partitions[i].Number == number {
			return &t.Partitions[i], nil
		}
	}
	return nil, fmt.Errorf("there is no partition %d", number)
}

func fitGPT(d ReaderWriterAt, t manifest.Table, size, sector int64, o Fit) (manifest.Table, error) {
	last := uint64(size/sector) - 1
	s := &scan{r: d, size: size, sector: sector, t: &Table{}}
	g, err := s.loadGPT(1)
	var bad errNoGPT
	if errors.As(err, &bad) || err == nil && !s.same(g, t) {
		g, err = makeGPT(t, sector)
	}
	if err != nil {
		return t, fmt.Errorf("primary GPT: %w", err)
	}
	if g.settle(t, last, sector) != nil {
		// More entries than there is room for, or in an odd place.
		if g, err = makeGPT(t, sector); err != nil {
			return t, err
		}
		if err := g.settle(t, last, sector); err != nil {
			return t, err
		}
	}
	if o.Grow > 0 {
		p, err := find(t, o.Grow)
		if err != nil {
			return t, err
		}
		if p.Len, err = grown(*p, after(t, *p, int64(g.lastUse+1)*sector), sector, o); err != nil {
			return t, err
		}
		e := g.entries[(p.Number-1)*int(g.entryLen):]
		le.PutUint64(e[40:], uint64((p.Off+p.Len)/sector)-1)
	}
	return t, s.storeGPT(d, g, last)
}

// settle lays the primary copy g out for a disk that ends with sector last: where partitions may lie, and the entries before
// that. An error says that the partitions of t leave no room for both copies.
func (g *gpt) settle(t manifest.Table, last uint64, sector int64) error {
	n := g.entriesSectors(sector)
	if last < 2*n+2 {
		return fmt.Errorf("a disk of %d bytes is too small for a GPT", int64(last+1)*sector)
	}
	g.lastUse = last - n - 1
	lowest := g.lastUse
	for _, p := range t.Partitions {
		if end := int64(g.lastUse+1) * sector; p.Off+p.Len > end {
			return fmt.Errorf("partition %d ends at %d, the backup GPT of a disk of %d bytes begins at %d", p.Number, p.Off+p.Len, int64(last+1)*sector, end)
		}
		if p.Len > 0 {
			lowest = min(lowest, uint64(p.Off/sector))
		}
	}
	if g.entriesLBA < 2 || g.entriesLBA > lowest || g.entriesLBA+n > lowest {
		g.entriesLBA = 2
	}
	if end := g.entriesLBA + n; g.firstUsable < end || g.firstUsable > lowest {
		g.firstUsable = end
	}
	if g.firstUsable > lowest {
		return fmt.Errorf("the first partition begins at %d, the entries of the GPT end at %d", int64(lowest)*sector, int64(g.firstUsable)*sector)
	}
	return nil
}

// same tells whether the copy g holds the partitions of t.
func (s *scan) same(g *gpt, t manifest.Table) bool {
	have := &Table{}
	(&scan{r: s.r, size: s.size, sector: s.sector, t: have}).gptPartitions(g)
	return g.id.String() == t.ID && slices.Equal(have.Partitions, t.Partitions)
}

// makeGPT makes a GPT from t alone: of 128 entries, of more where t needs them, and of fewer where the first partition
// begins so early.
func makeGPT(t manifest.Table, sector int64) (*gpt, error) {
	g := &gpt{raw: make([]byte, sector), myLBA: 1, entriesLBA: 2, count: 128, entryLen: 128}
	var err error
	if g.id, err = parseGUID(t.ID); err != nil {
		return nil, fmt.Errorf("disk: %w", err)
	}
	for _, p := range t.Partitions {
		if p.Number < 1 || p.Number > maxEntries/128 {
			return nil, fmt.Errorf("partition %d cannot stand in a GPT", p.Number)
		}
		if room := (p.Off/sector - 2) * sector / 128; room > 0 && p.Len > 0 {
			g.count = min(g.count, uint32(min(room, maxEntries/128)))
		}
	}
	for _, p := range t.Partitions {
		g.count = max(g.count, uint32(p.Number))
	}
	g.entries = make([]byte, g.count*g.entryLen)
	g.firstUsable = 2 + g.entriesSectors(sector)
	for _, p := range t.Partitions {
		if p.Off%sector != 0 || p.Len%sector != 0 || p.Len <= 0 || uint64(p.Off/sector) < g.firstUsable {
			return nil, fmt.Errorf("partition %d (%d bytes at %d) does not fit in a new GPT", p.Number, p.Len, p.Off)
		}
		e := g.entries[(p.Number-1)*128:]
		kind, err := parseGUID(p.Type)
		if err != nil {
			return nil, fmt.Errorf("partition %d: type: %w", p.Number, err)
		}
		id, err := parseGUID(p.UUID)
		if err != nil {
			return nil, fmt.Errorf("partition %d: %w", p.Number, err)
		}
		copy(e, kind[:])
		copy(e[16:], id[:])
		le.PutUint64(e[32:], uint64(p.Off/sector))
		le.PutUint64(e[40:], uint64((p.Off+p.Len)/sector)-1)
		le.PutUint64(e[48:], p.Attrs)
		for i, u := range utf16.Encode([]rune(p.Name)) {
			if i < 36 {
				le.PutUint16(e[56+2*i:], u)
			}
		}
	}
	copy(g.raw, gptMagic)
	le.PutUint32(g.raw[8:], 0x10000) // revision 1.0
	le.PutUint32(g.raw[12:], gptHeaderLen)
	copy(g.raw[56:], g.id[:])
	le.PutUint32(g.raw[80:], g.count)
	le.PutUint32(g.raw[84:], g.entryLen)
	return g, nil
}

// header returns a copy's sector as it is to be written.
func (g *gpt) header(my, other, entries uint64) []byte {
	b := slices.Clone(g.raw)
	le.PutUint64(b[24:], my)
	le.PutUint64(b[32:], other)
	le.PutUint64(b[40:], g.firstUsable)
	le.PutUint64(b[48:], g.lastUse)
	le.PutUint64(b[72:], entries)
	le.PutUint32(b[88:], crc32.ChecksumIEEE(g.entries))
	le.PutUint32(b[16:], 0)
	le.PutUint32(b[16:], crc32.ChecksumIEEE(b[:le.Uint32(b[12:])]))
	return b
}

// storeGPT writes both copies and the protective MBR, the backup first. Each is synced before the next where d has a
// method Sync, so that at any time one copy is good.
func (s *scan) storeGPT(d io.WriterAt, g *gpt, last uint64) error {
	backup := last - g.entriesSectors(s.sector)
	pmbr, err := s.protectiveMBR(last)
	if err != nil {
		return err
	}
	for _, w := range []struct {
		what string
		lba  uint64
		b    []byte
	}{
		{"entries of the backup GPT", backup, g.entries},
		{"header of the backup GPT", last, g.header(last, 1, backup)},
		{"entries of the primary GPT", g.entriesLBA, g.entries},
		{"header of the primary GPT", 1, g.header(1, last, g.entriesLBA)},
		{"protective MBR", 0, pmbr},
	} {
		if _, err := d.WriteAt(w.b, int64(w.lba)*s.sector); err != nil {
			return fmt.Errorf("write the %s at sector %d: %w", w.what, w.lba, err)
		}
		if durable, ok := d.(interface{ Sync() error }); ok {
			if err := durable.Sync(); err != nil {
				return fmt.Errorf("make the %s durable: %w", w.what, err)
			}
		}
	}
	return nil
}

// protectiveMBR returns the first sector with a protective MBR as large as the disk. A hybrid one stays as it is: how
// large its protective entry must be is a matter of the entries beside it.
func (s *scan) protectiveMBR(last uint64) ([]byte, error) {
	b, _, err := s.sectors(0, 1)
	if err != nil {
		return nil, err
	}
	m := parseMBR(b)
	if !m.protective() {
		clear(b[mbrEntries:510])
		b[510], b[511] = 0x55, 0xaa
		copy(b[mbrEntries:], []byte{0, 0, 2, 0, typeGPT, 0xff, 0xff, 0xff, 1, 0, 0, 0}) // UEFI 2.10, table 5.4
		m = parseMBR(b)
	}
	if m.others() > 0 {
		return b, nil
	}
	for i, e := range m.entries {
		if e.kind == typeGPT {
			p := b[mbrEntries+i*mbrEntryLen:]
			le.PutUint32(p[8:], 1)
			le.PutUint32(p[12:], uint32(min(last, mbrSectorsMax)))
			break
		}
	}
	return b, nil
}

// guards tells whether a protective MBR covers a disk that ends with sector last; of a hybrid one nothing is asked.
func (m mbr) guards(last uint64) bool {
	for _, e := range m.entries {
		if e.kind == typeGPT {
			return m.others() > 0 || e.start == 1 && (uint64(e.count) == last || e.count == mbrSectorsMax)
		}
	}
	return false
}

// SoundGPT tells whether a disk has both copies of its GPT, the same in both, each at its place, and a protective MBR that
// covers the disk. FitTable mends one that has not.
func SoundGPT(r io.ReaderAt, size int64, sector int) (bool, error) {
	if !goodSector(sector) || size < int64(sector) {
		return false, fmt.Errorf("a disk of %d bytes with sectors of %d is not supported", size, sector)
	}
	s := &scan{r: r, size: size, sector: int64(sector), t: &Table{}}
	last := uint64(s.size/s.sector) - 1
	first, _, err := s.sectors(0, 1)
	if err != nil || !parseMBR(first).guards(last) {
		return false, err
	}
	var copies [2]*gpt
	for i, lba := range []uint64{1, last} {
		g, err := s.loadGPT(lba)
		var bad errNoGPT
		if errors.As(err, &bad) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		copies[i] = g
	}
	a, b := copies[0], copies[1]
	for _, g := range copies {
		if g.odd(last, int64(sector)) != "" || g.outside(int64(sector)) {
			return false, nil
		}
	}
	if a.firstUsable != b.firstUsable || a.lastUse != b.lastUse {
		return false, nil
	}
	return a.otherLBA == last && b.otherLBA == 1 && a.id == b.id && bytes.Equal(a.entries, b.entries), nil
}

// tableAreas returns where tables lie on a disk of that size: both GPTs with their usual 16 KiB of entries.
func tableAreas(size, sector int64) (primary, backup extent.Extent) {
	entries := (int64(128*128) + sector - 1) / sector * sector
	primary = extent.Extent{Off: sector, Len: min(sector+entries, max(size-sector, 0))}
	n := min(entries+sector, max(size-sector, 0))
	end := size - size%sector
	return primary, extent.Extent{Off: max(end-n, sector), Len: min(n, max(end-sector, 0))}
}

// WipeTable makes every partition table on the disk unreadable: zeros over the entries and the signature of the MBR,
// over the primary GPT, and over the backup GPT at the end and wherever the primary one says that it lies. The boot
// code stays. What was written is not synced.
func WipeTable(d ReaderWriterAt, size int64, sector int) error {
	if !goodSector(sector) || size < int64(sector) {
		return fmt.Errorf("wipe partition table: a disk of %d bytes with sectors of %d is not supported", size, sector)
	}
	t, err := ReadTable(d, size, sector)
	if err != nil {
		return err
	}
	primary, backup := tableAreas(size, int64(sector))
	areas := []extent.Extent{backup, primary}
	if s := (&scan{r: d, size: size, sector: int64(sector), t: &Table{}}); t.Kind == "gpt" {
		for _, lba := range []uint64{1, uint64(size/int64(sector)) - 1} {
			g, err := s.loadGPT(lba)
			var bad errNoGPT
			if errors.As(err, &bad) {
				continue
			}
			if err != nil {
				return err
			}
			areas = append(areas, extent.Extent{Off: int64(g.entriesLBA) * int64(sector), Len: int64(len(g.entries))})
			if other, err := s.loadGPT(g.otherLBA); err == nil {
				areas = append(areas, extent.Extent{Off: int64(g.otherLBA) * int64(sector), Len: int64(sector)},
					extent.Extent{Off: int64(other.entriesLBA) * int64(sector), Len: int64(len(other.entries))})
			}
		}
	}
	areas = append(areas, extent.Extent{Off: mbrEntries, Len: 512 - mbrEntries})
	for _, e := range areas {
		// Block devices write whole sectors from the page cache; a part of a sector is fine.
		if _, err := d.WriteAt(make([]byte, e.Len), e.Off); err != nil {
			return fmt.Errorf("wipe partition table: write %d zeros at offset %d: %w", e.Len, e.Off, err)
		}
	}
	return nil
}
