package fsmap

import (
	"fmt"
	"io"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
	"mimeo/internal/imaging/fsmap/lvm"
	"mimeo/internal/imaging/manifest"
)

// Inner is a volume that lies inside another, as a logical volume in a physical one.
type Inner struct {
	fact.Part
	Usage // offsets are bytes of the inner volume
}

// Inside returns the volumes inside a volume of the given type, each with what is on it; none where it holds none, or
// where they are not known.
func Inside(r io.ReaderAt, size int64, typ string) ([]Inner, error) {
	if typ != "LVM2_member" {
		return nil, nil
	}
	c, why, err := lvm.Open(r, size)
	if err != nil || why != "" {
		return nil, err
	}
	return inside(r, c, 1)
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
		} else {
			in.Usage = Usage{Type: "unknown", Reason: p.Whole}.whole(p.Size)
		}
		out = append(out, in)
	}
	return out, nil
}

// mapContainer maps a volume that holds others: what belongs to none of them, and what each has in use.
func mapContainer(r io.ReaderAt, size int64, depth int) (Usage, error) {
	u := Usage{Type: "LVM2_member"}
	c, why, err := lvm.Open(r, size)
	if err != nil {
		return u, fmt.Errorf("read %s: %w", u.Type, err)
	}
	u.UUID = c.UUID
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
		if in.Part.Whole != "" {
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
		u.Reason = "the map of its logical volumes makes no sense"
		return u.whole(size), nil
	}
	return u, nil
}
