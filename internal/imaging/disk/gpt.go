package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"unicode/utf16"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/manifest"
)

const (
	gptMagic   = "EFI PART"
	maxEntries = manifest.EntriesMax
	// gptHeaderLen is the part of a header that has a meaning (UEFI 2.10, table 5.5).
	gptHeaderLen = 92
	// hybridGap is where before the first partition a hybrid MBR may have partitions of its own: it is captured in any case.
	hybridGap = 1 << 20
)

// guid is a GUID as it lies on disk: its first three fields are little-endian.
type guid [16]byte

func (g guid) String() string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(g[:4]), le.Uint16(g[4:6]), le.Uint16(g[6:8]), g[8:10], g[10:])
}

// parseGUID reads what String wrote.
func parseGUID(s string) (g guid, err error) {
	var a uint32
	var b, c uint16
	var d, e []byte
	if _, err := fmt.Sscanf(strings.ToLower(s), "%08x-%04x-%04x-%4x-%12x", &a, &b, &c, &d, &e); err != nil || len(s) != 36 || len(d) != 2 || len(e) != 6 {
		return g, fmt.Errorf("%q is no GUID", s)
	}
	le := binary.LittleEndian
	le.PutUint32(g[:4], a)
	le.PutUint16(g[4:6], b)
	le.PutUint16(g[6:8], c)
	copy(g[8:10], d)
	copy(g[10:], e)
	return g, nil
}

// gpt is one copy of a GPT.
type gpt struct {
	raw                  []byte // the header's sector
	myLBA, otherLBA      uint64
	firstUsable, lastUse uint64
	id                   guid
	entriesLBA           uint64
	count, entryLen      uint32
	entries              []byte
}

// entriesSectors returns how many sectors the entries take.
func (g *gpt) entriesSectors(sector int64) uint64 {
	return (uint64(len(g.entries)) + uint64(sector) - 1) / uint64(sector)
}

var le = binary.LittleEndian

// errNoGPT is a reason why there is no good copy of a GPT at some place.
type errNoGPT string

func (e errNoGPT) Error() string { return string(e) }

// loadGPT reads and checks the copy whose header is at lba. An errNoGPT says what is wrong with it; other errors are
// those of the disk.
func (s *scan) loadGPT(lba uint64) (*gpt, error) {
	b, ok, err := s.sectors(lba, 1)
	switch {
	case err != nil:
		return nil, err
	case !ok:
		return nil, errNoGPT("it does not lie on the disk")
	case string(b[:8]) != gptMagic:
		return nil, errNoGPT("there is no header")
	}
	n := le.Uint32(b[12:])
	if n < gptHeaderLen || int64(n) > s.sector {
		return nil, errNoGPT(fmt.Sprintf("its header says that it is %d bytes long", n))
	}
	head := bytes.Clone(b[:n])
	le.PutUint32(head[16:], 0)
	if crc32.ChecksumIEEE(head) != le.Uint32(b[16:]) {
		return nil, errNoGPT("the checksum of its header is wrong")
	}
	g := &gpt{
		raw: b, myLBA: le.Uint64(b[24:]), otherLBA: le.Uint64(b[32:]), firstUsable: le.Uint64(b[40:]), lastUse: le.Uint64(b[48:]),
		id: guid(b[56:72]), entriesLBA: le.Uint64(b[72:]), count: le.Uint32(b[80:]), entryLen: le.Uint32(b[84:]),
	}
	if g.myLBA != lba {
		return nil, errNoGPT(fmt.Sprintf("its header belongs at sector %d", g.myLBA))
	}
	if g.entryLen < 128 || g.entryLen%8 != 0 || uint64(g.count)*uint64(g.entryLen) > maxEntries {
		return nil, errNoGPT(fmt.Sprintf("%d entries of %d bytes are not supported", g.count, g.entryLen))
	}
	if g.count == 0 {
		return nil, errNoGPT("it has no entries")
	}
	total := uint64(g.count) * uint64(g.entryLen)
	sectors := (total + uint64(s.sector) - 1) / uint64(s.sector)
	if g.entriesLBA < 1 || g.entriesLBA <= lba && lba < g.entriesLBA+sectors {
		return nil, errNoGPT(fmt.Sprintf("its entries at sector %d would lie on its header", g.entriesLBA))
	}
	if b, ok, err = s.sectors(g.entriesLBA, sectors); err != nil {
		return nil, err
	} else if !ok {
		return nil, errNoGPT("its entries do not lie on the disk")
	}
	if g.entries = b[:total]; crc32.ChecksumIEEE(g.entries) != le.Uint32(g.raw[88:]) {
		return nil, errNoGPT("the checksum of its entries is wrong")
	}
	return g, nil
}

// odd says what of a copy with right checksums makes no sense, for which kernels and firmware pass it over; "" where all does.
func (g *gpt) odd(last uint64, sector int64) string {
	end := g.entriesLBA + g.entriesSectors(sector)
	if g.firstUsable > g.lastUse || g.lastUse > last {
		return fmt.Sprintf("partitions may lie in sectors %d to %d, the disk ends with sector %d", g.firstUsable, g.lastUse, last)
	}
	if g.myLBA == 1 && end > g.firstUsable || end > g.firstUsable && g.entriesLBA <= g.lastUse {
		return fmt.Sprintf("its entries (sectors %d to %d) lie where partitions may, in sectors %d to %d", g.entriesLBA, end-1, g.firstUsable, g.lastUse)
	}
	return ""
}

// outside tells whether a partition lies where the copy says that none may.
func (g *gpt) outside(sector int64) bool {
	t := &Table{}
	(&scan{sector: sector, t: t}).gptPartitions(g)
	return slices.ContainsFunc(t.Partitions, func(p manifest.Partition) bool {
		first := uint64(p.Off / sector)
		return first < g.firstUsable || first+uint64(p.Len/sector) > g.lastUse+1
	})
}

// readGPT reads a GPT behind a protective MBR.
func (s *scan) readGPT(m mbr) error {
	t := s.t
	s.region(0, s.sector)
	if n := m.others(); n > 0 {
		t.note("hybrid MBR: %d partitions stand in the MBR as well; the GPT is what counts", n)
	}
	last := uint64(s.size/s.sector) - 1
	primary, err := s.copyAt(1, "primary")
	if err != nil {
		return err
	}
	if !m.guards(last) && (primary == nil || primary.otherLBA == last) {
		t.note("the protective MBR does not cover the disk, which ends with sector %d", last)
	}
	backupLBA := last
	if primary != nil && primary.otherLBA != last {
		t.note("the backup GPT belongs at sector %d, and the disk ends with sector %d: the disk has changed its size", primary.otherLBA, last)
		if primary.otherLBA > 1 {
			backupLBA = primary.otherLBA
		}
	}
	backup, err := s.copyAt(backupLBA, "backup")
	if err != nil {
		return err
	}
	g := primary
	switch {
	case primary == nil && backup == nil:
		for _, sector := range []int{512, 1024, 2048, 4096} {
			if int64(sector) != s.sector && hasGPTMagic(s.r, sector) {
				t.distrust("the GPT was made for sectors of %d bytes, the disk has %d", sector, s.sector)
			}
		}
		t.distrust("there is a protective MBR, but neither copy of the GPT can be read")
		return nil
	case primary == nil:
		t.note("the primary GPT is damaged: the backup at the end of the disk is what was read")
		g = backup
	case backup != nil && primary.odd(last, s.sector) != "" && backup.odd(last, s.sector) == "":
		t.note("the primary GPT is damaged (%s): the backup at the end of the disk is what was read", primary.odd(last, s.sector))
		g = backup
	case backup != nil && !bytes.Equal(primary.entries, backup.entries):
		t.note("the two copies of the GPT differ: the primary one is what was read")
	}
	t.Kind, t.ID = "gpt", g.id.String()
	if why := g.odd(last, s.sector); why != "" {
		t.note("of the GPT that was read something makes no sense: %s", why)
	}
	s.gptPartitions(g)
	s.hybrid(m)
	return nil
}

// hybrid looks for partitions of a hybrid MBR that the GPT does not have: they would be lost.
func (s *scan) hybrid(m mbr) {
	var all []extent.Extent
	first := s.size
	for _, p := range s.t.Partitions {
		all = append(all, extent.Extent{Off: p.Off, Len: p.Len})
		first = min(first, p.Off)
	}
	known := extent.FromUnsorted(append(all, extent.Extent{Len: min(first, hybridGap)}))
	for i, e := range m.entries {
		if e.kind == typeGPT || e.kind == 0 || e.count == 0 {
			continue
		}
		if x := (extent.Extent{Off: int64(e.start) * s.sector, Len: int64(e.count) * s.sector}); !known.ContainsAll(x) {
			s.t.distrust("partition %d of the hybrid MBR (sectors %d to %d) is none of the GPT's", i+1, e.start, uint64(e.start)+uint64(e.count)-1)
		}
	}
}

// copyAt reads one copy of the GPT; nil where it is not good.
func (s *scan) copyAt(lba uint64, which string) (*gpt, error) {
	g, err := s.loadGPT(lba)
	var bad errNoGPT
	if errors.As(err, &bad) {
		s.t.note("the %s GPT at sector %d is not good: %s", which, lba, bad)
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s GPT: %w", which, err)
	}
	s.region(int64(lba)*s.sector, s.sector)
	s.region(int64(g.entriesLBA)*s.sector, int64(g.entriesSectors(s.sector))*s.sector)
	return g, nil
}

// gptPartitions turns the entries into partitions (UEFI 2.10, table 5.6).
func (s *scan) gptPartitions(g *gpt) {
	for i := range int(g.count) {
		e := g.entries[i*int(g.entryLen):][:g.entryLen]
		if guid(e[:16]) == (guid{}) {
			continue
		}
		first, end := le.Uint64(e[32:]), le.Uint64(e[40:])
		if first > end || end >= uint64(1)<<62/uint64(s.sector) {
			s.t.distrust("partition %d is said to reach from sector %d to %d", i+1, first, end)
			continue
		}
		if first < g.firstUsable || end > g.lastUse {
			s.t.note("partition %d lies outside of sectors %d to %d, where the GPT wants partitions", i+1, g.firstUsable, g.lastUse)
		}
		s.t.Partitions = append(s.t.Partitions, manifest.Partition{
			Number: i + 1, Off: int64(first) * s.sector, Len: int64(end-first+1) * s.sector, Type: guid(e[:16]).String(),
			UUID: guid(e[16:32]).String(), Name: gptName(e[56:128]), Attrs: le.Uint64(e[48:]),
		})
	}
}

// gptName reads UTF-16 up to the first zero.
func gptName(b []byte) string {
	var u []uint16
	for ; len(b) >= 2; b = b[2:] {
		c := le.Uint16(b)
		if c == 0 {
			break
		}
		u = append(u, c)
	}
	return string(utf16.Decode(u))
}
