package lvm

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"mimeo/internal/imaging/fsmap/fact"
)

// Mirrored volumes follow two formats of Linux: the superblock of RAIDs in drivers/md/dm-raid.c (struct dm_raid_superblock), at
// the start of each leg's metadata volume, and the log of old mirrors in drivers/md/dm-log.c (struct log_header_disk).
const (
	raidMagic = 0x64526d44 // "DmRd"
	logMagic  = 0x4d695272 // "MiRr"
	logBits   = 1024       // bytes before a log's bits
	allDone   = 1<<64 - 1  // an offset that is behind everything
)

// mirrors makes volumes that are mirrored readable by the leg that lies on this disk, where that was in sync with the others: it
// holds all of them. More legs on this disk are its twins. To write to one leg alone would make them differ. What is left out of one leg may differ from the other after a deploy; no filesystem reads it.
func (g *group) mirrors(parts []fact.Part) ([]fact.Part, error) {
	for _, name := range g.lvs.order {
		lv := g.lvs.sub(name)
		seg := lv.sub("segment1")
		kind := seg.text("type")
		if kind != "raid1" && kind != "mirror" || lv.text("segment_count") != "1" || seg.text("start_extent") != "0" {
			continue
		}
		count, err := seg.number("extent_count", 1<<40)
		if err != nil {
			return nil, fmt.Errorf("logical volume %s/%s: %w", g.name, name, err)
		}
		size := count * g.extent
		legs, why, err := g.legs(seg, kind, size, parts)
		if err != nil {
			return nil, fmt.Errorf("logical volume %s/%s: %w", g.name, name, err)
		}
		for k, leg := range legs {
			if leg == name || slices.Contains(legs[:k], leg) {
				return nil, fmt.Errorf("logical volume %s/%s: %w", g.name, name, damaged("%s is its leg twice, or it is its own", leg))
			}
			i := slices.IndexFunc(parts, func(p fact.Part) bool { return p.Name == g.name+"/"+leg })
			if i < 0 {
				continue // on another disk
			}
			if why == "" && parts[i].Size == size && together(parts[i]) {
				if first := slices.IndexFunc(parts, func(p fact.Part) bool { return p.Name == g.name+"/"+name }); first >= 0 {
					parts[first].Twins = append(append(parts[first].Twins, parts[i].Spans), parts[i].Twins...)
					parts = slices.Delete(parts, i, i+1)
					continue
				}
				whole, err := g.volume(name)
				if err != nil {
					return nil, err
				}
				if whole.Whole == "its type is "+kind {
					whole.Whole = ""
				}
				parts[i] = fact.Part{Name: whole.Name, UUID: whole.UUID, Size: size, Spans: parts[i].Spans, Twins: parts[i].Twins, Whole: whole.Whole, Leg: true}
				continue
			}
			parts[i].Whole = fmt.Sprintf("it is a leg of the mirror %s/%s", g.name, name)
			if why != "" {
				parts[i].Whole += ", " + why
			}
		}
	}
	return parts, nil
}

// legs returns the names of the legs of a mirrored segment, and why they cannot be believed to be the same.
func (g *group) legs(seg *section, kind string, size int64, parts []fact.Part) (legs []string, why string, err error) {
	own := func(name string) *fact.Part {
		i := slices.IndexFunc(parts, func(p fact.Part) bool { return p.Name == g.name+"/"+name })
		if i < 0 || !together(parts[i]) {
			return nil
		}
		return &parts[i]
	}
	if kind == "raid1" {
		words := seg.values["raids"]
		if len(words)%2 != 0 {
			return nil, "", damaged("a mirror has %d words of legs", len(words))
		}
		for i := 0; i < len(words); i += 2 {
			legs = append(legs, words[i+1])
			if !slices.ContainsFunc(parts, func(p fact.Part) bool { return p.Name == g.name+"/"+words[i+1] }) {
				continue // on another disk, with its metadata
			}
			meta := own(words[i])
			if meta == nil {
				return legs, "whose metadata is not on this disk", nil
			}
			said, err := g.raid(meta, raidShape{devices: len(words) / 2, level: 1}, i/2)
			if err != nil || said != "" {
				return legs, said, err
			}
		}
		return legs, "", nil
	}
	words := seg.values["mirrors"]
	if len(words)%2 != 0 {
		return nil, "", damaged("a mirror has %d words of legs", len(words))
	}
	for i := 0; i < len(words); i += 2 {
		if words[i+1] != "0" {
			return nil, "", nil // moved by LVM, which volume has refused
		}
		legs = append(legs, words[i])
	}
	log := own(seg.text("mirror_log"))
	if log == nil {
		return legs, "whose log is not on this disk", nil
	}
	region, err := strconv.ParseInt(seg.text("region_size"), 10, 64)
	if err != nil || region <= 0 || region > 1<<40 {
		return legs, "", damaged("a mirror's region_size is %.20q", seg.text("region_size"))
	}
	why, err = g.log(log, (size+region*sector-1)/(region*sector))
	return legs, why, err
}

// raidShape is what the metadata of a RAID must say of it.
type raidShape struct {
	devices       int
	level, layout uint32 // the layout of RAID1 does not count
	stripe        int64  // sectors of a chunk; nor does this
}

// nearTwo is the layout of a RAID10 that keeps two copies of a chunk side by side.
const nearTwo = 1<<8 | 2

// raid looks whether an image of a RAID, one of RAID1's legs for one, was in sync, by the superblock in its metadata volume.
func (g *group) raid(meta *fact.Part, is raidShape, position int) (why string, err error) {
	b, err := readPart(meta, g.r, 0, sector)
	if err != nil {
		return "", err
	}
	more := le.Uint32(b[4:])&1 != 0 // it has the fields of version 1.9
	switch {
	case le.Uint32(b) != raidMagic:
		return "which was never used", nil
	case le.Uint32(b[8:]) != uint32(is.devices) || le.Uint32(b[12:]) != uint32(position) || le.Uint32(b[48:]) != is.level ||
		is.level != 1 && (le.Uint32(b[52:]) != is.layout || int64(le.Uint32(b[56:])) != is.stripe):
		return "whose metadata is of another RAID", nil
	case le.Uint32(b[4:])&^1 != 0 || le.Uint32(b[60:]) != 0, more && le.Uint32(b[144:]) != 0:
		return "whose metadata has features that are not known", nil
	case more && le.Uint64(b[96:])|le.Uint64(b[104:]) != 0:
		return "whose data begins further in", nil
	case le.Uint64(b[24:]) != 0, more && le.Uint64(b[120:])|le.Uint64(b[128:])|le.Uint64(b[136:]) != 0:
		return "of which a leg has failed", nil
	case le.Uint64(b[32:]) != allDone || le.Uint64(b[40:]) != allDone:
		return "which is not in sync", nil
	}
	return "", nil
}

// log looks whether all of a mirror's regions were in sync.
func (g *group) log(log *fact.Part, regions int64) (why string, err error) {
	b, err := readPart(log, g.r, 0, 16)
	if err != nil {
		return "", err
	}
	if le.Uint32(b) != logMagic || le.Uint32(b[4:]) != 2 || le.Uint64(b[8:]) != uint64(regions) {
		return "whose log is none of it", nil
	}
	if regions <= 0 || regions > 8*(log.Size-logBits) {
		return "whose log is too short", nil
	}
	bits := make([]byte, min(64<<10, (regions+31)/32*4))
	for at := int64(0); at < regions; at += int64(len(bits)) * 8 {
		part := bits[:min(int64(len(bits)), (regions-at+31)/32*4)]
		if n, err := log.Reader(g.r).ReadAt(part, logBits+at/8); n < len(part) {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return "", err
		}
		for i := range int64(len(part) / 4) {
			left := regions - at - 32*i
			want := uint32(1<<32 - 1)
			if left < 32 {
				want >>= 32 - left
			}
			if binary.LittleEndian.Uint32(part[4*i:])&want != want {
				return "which is not in sync", nil
			}
		}
	}
	return "", nil
}

// readPart reads n bytes of a part.
func readPart(p *fact.Part, r io.ReaderAt, off int64, n int) ([]byte, error) {
	b := make([]byte, n)
	if int64(n) > p.Size-off {
		return nil, damaged("%s is too short", strings.TrimSpace(p.Name))
	}
	if got, err := p.Reader(r).ReadAt(b, off); got < n {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("%s: %w", p.Name, err)
	}
	return b, nil
}
