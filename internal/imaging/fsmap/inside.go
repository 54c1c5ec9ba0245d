package fsmap

import (
	"fmt"
	"io"
	"slices"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/applemap"
	"mimeo/internal/imaging/fsmap/bsdlabel"
	"mimeo/internal/imaging/fsmap/fact"
	"mimeo/internal/imaging/fsmap/lvm"
	"mimeo/internal/imaging/fsmap/md"
	"mimeo/internal/imaging/manifest"
)

// container understands a kind of volume that holds others. open returns what it holds; why it cannot be believed; or an error where
// the volume could not be read.
type container struct {
	typ  string // as blkid names it
	is   func(head []byte, r io.ReaderAt, size int64) bool
	open func(r io.ReaderAt, size int64) (c fact.Container, why string, err error)
}

// containers are looked for in order: a RAID may lie around a physical volume.
var containers = []container{
	{"linux_raid_member", func(_ []byte, r io.ReaderAt, size int64) bool { return md.Is(r, size) }, md.Open},
	{"LVM2_member", func(head []byte, _ io.ReaderAt, _ int64) bool { return lvm.Is(head) }, lvm.Open},
	{"bsd_disklabel", func(head []byte, _ io.ReaderAt, _ int64) bool { return bsdlabel.Is(head) }, bsdlabel.Open},
	{"apple_map", func(head []byte, _ io.ReaderAt, _ int64) bool { return applemap.Is(head) }, applemap.Open},
}

// Holds tells whether a kind of volume may hold others.
func Holds(typ string) bool {
	return slices.ContainsFunc(containers, func(c container) bool { return c.typ == typ })
}

// Inner is a volume that lies inside another, as a logical volume in a physical one.
type Inner struct {
	fact.Part
	Usage // offsets are bytes of the inner volume
}

// Inside returns the volumes inside a volume of the given type, each with what is on it, and behind each those inside it; none where
// it holds none, or where they are not known.
func Inside(r io.ReaderAt, size int64, typ string) ([]Inner, error) { return insideOf(r, size, typ, 1) }

func insideOf(r io.ReaderAt, size int64, typ string, depth int) ([]Inner, error) {
	i := slices.IndexFunc(containers, func(c container) bool { return c.typ == typ })
	if i < 0 || depth > maxInside {
		return nil, nil
	}
	c, why, err := containers[i].open(r, size)
	if err != nil || why != "" {
		return nil, err
	}
	direct, err := inside(r, c, depth)
	if err != nil {
		return nil, err
	}
	var out []Inner
	for _, in := range direct {
		out = append(out, in)
		if in.Method != manifest.MethodUsed {
			continue
		}
		deeper, err := insideOf(in.Reader(r), in.Size, in.Type, depth+1)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", in.Name, err)
		}
		for _, d := range deeper {
			d.Part = d.Part.Within(in.Part)
			out = append(out, d)
		}
	}
	return out, nil
}

func inside(r io.ReaderAt, c fact.Container, depth int) ([]Inner, error) {
	var out []Inner
	for _, p := range c.Parts {
		in := Inner{Part: p}
		if p.Whole == "" {
			var err error
			if in.Usage, err = mapVolume(p.Reader(r), p.Size, depth); err != nil {
				return nil, fmt.Errorf("%s: %w", p.Name, err)
			}
		} else if p.Only != nil {
			in.Usage = Usage{Type: "unknown", Method: manifest.MethodUsed, Used: p.Only, Notes: []string{p.Whole}}
		} else {
			in.Usage = Usage{Type: "unknown", Reason: p.Whole}.whole(p.Size)
		}
		out = append(out, in)
	}
	return out, nil
}

// mapContainer maps a volume that holds others: what belongs to none of them, and what each has in use.
func mapContainer(k container, head []byte, r io.ReaderAt, size int64, depth int) (Usage, error) {
	u := Usage{Type: k.typ}
	c, why, err := k.open(r, size)
	if err != nil {
		return u, fmt.Errorf("read %s: %w", u.Type, err)
	}
	u.UUID, u.Label = c.UUID, c.Label
	if other := another(head, k.typ); why == "" && other != "" && !startsWith(c) {
		why = "it has the marks of " + other + ", too"
	}
	if why != "" {
		u.Reason = why
		return u.whole(size), nil
	}
	inner, err := inside(r, c, depth+1)
	if err != nil {
		return u, fmt.Errorf("read %s: %w", u.Type, err)
	}
	u.Method, u.Used, u.Notes = manifest.MethodUsed, c.Meta, c.Notes
	for _, in := range inner {
		var list extent.List
		if in.Part.Whole != "" && in.Part.Only == nil {
			list = in.All()
		} else {
			list = in.OuterList(in.Used)
		}
		u.Used = extent.Union(u.Used, list)
		note := fmt.Sprintf("%s: %s, %d of %d MiB captured (%s)", in.Name, in.Type, list.Bytes()>>20, in.Size>>20, in.Method)
		if in.Reason != "" {
			note += ": " + in.Reason
		}
		u.Notes = append(u.Notes, note)
		for _, n := range in.Usage.Notes {
			u.Notes = append(u.Notes, in.Name+": "+n)
		}
	}
	if u.Used.Valid() != nil || len(u.Used) > 0 && u.Used[len(u.Used)-1].End() > size {
		u.Reason = "the map of what is in it makes no sense"
		return u.whole(size), nil
	}
	return u, nil
}

// startsWith tells whether one of the volumes inside begins where the one around it does, so that its marks are seen there.
func startsWith(c fact.Container) bool {
	return slices.ContainsFunc(c.Parts, func(p fact.Part) bool { return len(p.Spans) > 0 && p.Spans[0].Off == 0 })
}
