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

// container understands a kind of volume that holds others. open reads the i-th volume of a disk and returns what it holds, in bytes
// of the disk; why it cannot be believed; or an error where the disk could not be read.
type container struct {
	typ  string // as blkid names it
	is   func(head []byte, r io.ReaderAt, size int64) bool
	open func(disk io.ReaderAt, volumes []extent.Extent, i int) (c fact.Container, why string, err error)
}

// containers are looked for in order: a RAID may lie around a physical volume.
var containers = []container{
	{"linux_raid_member", func(_ []byte, r io.ReaderAt, size int64) bool { return md.Is(r, size) }, alone(md.Open)},
	{"LVM2_member", func(head []byte, _ io.ReaderAt, _ int64) bool { return lvm.Is(head) }, lvm.Open},
	{"bsd_disklabel", func(head []byte, _ io.ReaderAt, _ int64) bool { return bsdlabel.Is(head) }, alone(bsdlabel.Open)},
	{"apple_map", func(head []byte, _ io.ReaderAt, _ int64) bool { return applemap.Is(head) }, alone(applemap.Open)},
}

// alone opens a kind of container that has nothing to do with other volumes of the disk.
func alone(open func(r io.ReaderAt, size int64) (fact.Container, string, error)) func(io.ReaderAt, []extent.Extent, int) (fact.Container, string, error) {
	return func(disk io.ReaderAt, volumes []extent.Extent, i int) (fact.Container, string, error) {
		v := volumes[i]
		c, why, err := open(io.NewSectionReader(disk, v.Off, v.Len), v.Len)
		if err != nil || why != "" {
			return c, why, err
		}
		all := c.Meta
		for k, p := range c.Parts {
			all = extent.Union(all, p.All())
			c.Parts[k] = p.Moved(v.Off)
		}
		if all.Valid() != nil || len(all) > 0 && all[len(all)-1].End() > v.Len {
			return fact.Container{UUID: c.UUID}, "the map of what is in it makes no sense", nil
		}
		c.Meta = c.Meta.Shift(v.Off)
		return c, "", nil
	}
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

// Disk is a disk with its volumes, none of which overlap. What is inside one may lie in others, too: a volume group may have several
// physical volumes.
type Disk struct {
	io.ReaderAt
	Volumes []extent.Extent
}

// single is a volume that is looked at by itself.
func single(r io.ReaderAt, size int64) Disk { return Disk{r, []extent.Extent{{Len: size}}} }

// DiskOf returns a disk with the volumes of a manifest.
func DiskOf(r io.ReaderAt, volumes []manifest.Volume) Disk {
	d := Disk{ReaderAt: r}
	for _, v := range volumes {
		d.Volumes = append(d.Volumes, extent.Extent{Off: v.Off, Len: v.Len})
	}
	return d
}

// Volume reads the i-th volume.
func (d Disk) Volume(i int) *io.SectionReader {
	return io.NewSectionReader(d.ReaderAt, d.Volumes[i].Off, d.Volumes[i].Len)
}

// Inside returns the volumes inside a volume of the given type, each with what is on it, and behind each those inside it; none where
// it holds none, or where they are not known.
func Inside(r io.ReaderAt, size int64, typ string) ([]Inner, error) {
	return single(r, size).Inside(0, typ)
}

// Inside returns the volumes inside the i-th volume, which is of the given type, as the function Inside does. Their Spans are in bytes
// of the disk. One that lies in several volumes comes with the one in which it begins.
func (d Disk) Inside(i int, typ string) ([]Inner, error) { return d.inside(i, typ, 1, containers) }

func (d Disk) inside(i int, typ string, depth int, kinds []container) ([]Inner, error) {
	k := slices.IndexFunc(kinds, func(c container) bool { return c.typ == typ })
	if k < 0 || depth > maxInside {
		return nil, nil
	}
	c, why, err := kinds[k].open(d.ReaderAt, d.Volumes, i)
	if err != nil || why != "" {
		return nil, err
	}
	c.Parts = slices.DeleteFunc(c.Parts, func(p fact.Part) bool { return !d.begins(i, p) })
	direct, err := inside(d.ReaderAt, c, depth)
	if err != nil {
		return nil, err
	}
	var out []Inner
	for _, in := range direct {
		out = append(out, in)
		if in.Method != manifest.MethodUsed || in.Striped() {
			continue
		}
		deeper, err := single(in.Reader(d.ReaderAt), in.Size).inside(0, in.Type, depth+1, kinds)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", in.Name, err)
		}
		for _, x := range deeper {
			x.Part = x.Part.Within(in.Part)
			x.Leg = x.Leg || in.Type == "linux_raid_member" // of a RAID on logical volumes, or of a virtual machine
			out = append(out, x)
		}
	}
	return out, nil
}

// begins tells whether a part begins in the i-th volume. One that cannot be looked into has no place of its own.
func (d Disk) begins(i int, p fact.Part) bool {
	begins := p.Whole != ""
	p.Outer(0, 1, func(_, off, _ int64) { begins = d.Volumes[i].Off <= off && off < d.Volumes[i].End() })
	return begins
}

func inside(r io.ReaderAt, c fact.Container, depth int) ([]Inner, error) {
	var out []Inner
	for _, p := range c.Parts {
		in := Inner{Part: p}
		if p.Whole == "" {
			var err error
			if in.Usage, err = single(p.Reader(r), p.Size).mapVolume(0, depth); err != nil {
				return nil, fmt.Errorf("%s: %w", p.Name, err)
			}
		} else if p.Only != nil {
			in.Usage = Usage{Type: "unknown", Method: manifest.MethodUsed, Used: p.Only, Notes: []string{p.Whole}}
			if err := in.Usage.views(p, p.Reader(r), depth); err != nil {
				return nil, fmt.Errorf("%s: %w", p.Name, err)
			}
		} else {
			in.Usage = Usage{Type: "unknown", Reason: p.Whole}.whole(p.Size)
		}
		out = append(out, in)
	}
	return out, nil
}

// maxShared bounds the memory of what is in use of a part by its views: 16 bytes each.
const maxShared = fact.MaxExtents

// views leaves out what all views that have it call free. What no view has stays.
func (u *Usage) views(p fact.Part, r io.ReaderAt, depth int) error {
	var used, had extent.List
	var notes []string
	for _, v := range p.Views {
		all := v.All()
		list, note := all, v.Whole
		if v.Whole == "" {
			w, err := single(v.Reader(r), v.Size).mapVolume(0, depth)
			if err != nil {
				return fmt.Errorf("%s: %w", v.Name, err)
			}
			switch {
			case w.Method == manifest.MethodWhole:
				note = w.Type + ": " + w.Reason
			case w.renews:
				// Into blocks that are shared nothing can be written.
				note = w.Type + ", whose log cannot begin anew in a thin volume"
			default:
				list, note = extent.Union(v.Covers(w.Used), v.Behind()), w.Type
			}
		}
		notes = append(notes, fmt.Sprintf("%s: %d of %d MiB captured (%s)", v.Name, list.Bytes()>>20, all.Bytes()>>20, note))
		used, had = extent.Union(used, list), extent.Union(had, all)
		if len(used) > maxShared || len(had) > maxShared {
			u.Notes = append(u.Notes, "its volumes are not looked into: they lie in too many pieces")
			return nil
		}
	}
	if len(p.Views) > 0 {
		u.Used, u.Notes = extent.Union(used, extent.Subtract(p.Only, had)), append(u.Notes, notes...)
	}
	return nil
}

// open reads the i-th volume as one that holds others.
func (d Disk) open(k container, head []byte, i int) (c fact.Container, why string, err error) {
	c, why, err = k.open(d.ReaderAt, d.Volumes, i)
	if other := another(head, k.typ); err == nil && why == "" && other != "" && !startsWith(c, d.Volumes[i].Off) {
		why = "it has the marks of " + other + ", too"
	}
	return c, why, err
}

// disputed tells why another volume that has some of a part will be captured in another way than the i-th: what is captured as
// zeros on one must be so on all.
func (d Disk) disputed(k container, i int, p fact.Part) (why string, err error) {
	all := p.All()
	for j, v := range d.Volumes {
		if j == i || len(all.Clip(v)) == 0 {
			continue
		}
		head, err := d.head(j)
		if err != nil {
			return "", fmt.Errorf("the volume at %d: %w", v.Off, err)
		}
		first := slices.IndexFunc(containers, func(c container) bool { return c.is(head, d.Volume(j), v.Len) })
		if first < 0 || containers[first].typ != k.typ {
			return fmt.Sprintf("whole, as the volume at %d does not pass for %s", v.Off, k.typ), nil
		}
		if _, why, err = d.open(k, head, j); err != nil || why != "" {
			return fmt.Sprintf("whole, as the volume at %d is: %s", v.Off, why), err
		}
	}
	return "", nil
}

// container maps a volume that holds others: what belongs to none of them, and what each has in use.
func (d Disk) container(k container, head []byte, i, depth int) (Usage, error) {
	u, v := Usage{Type: k.typ}, d.Volumes[i]
	c, why, err := d.open(k, head, i)
	if err != nil {
		return u, fmt.Errorf("read %s: %w", u.Type, err)
	}
	u.UUID, u.Label = c.UUID, c.Label
	if why != "" {
		u.Reason = why
		return u.whole(v.Len), nil
	}
	inner, err := inside(d.ReaderAt, c, depth+1)
	if err != nil {
		return u, fmt.Errorf("read %s: %w", u.Type, err)
	}
	u.Method, u.Used, u.Notes = manifest.MethodUsed, c.Meta, c.Notes
	data := slices.Clone([]extent.Extent(c.Meta)) // what is no zeros, whatever else is said of it
	for _, in := range inner {
		list, zeros := in.All(), extent.List(nil)
		byUse, why := in.Part.Whole == "" || in.Part.Only != nil, ""
		if byUse && in.renews && (in.Striped() || len(in.Twins) > 0) && in.Rows == nil && in.Type != "xfs" {
			byUse, why = false, "whole, as there is an XFS in it whose log cannot begin anew"
		} else if byUse && in.Rows != nil {
			if why, err = d.disputed(k, i, in.Part); err != nil {
				return u, fmt.Errorf("read %s: %w", u.Type, err)
			}
			byUse = why == ""
		}
		if byUse {
			if list, zeros = in.Captured(in.Used); in.Rows == nil && len(in.Twins) == 0 {
				zeros = in.OuterList(in.Zeros)
			}
		}
		data = append(data, extent.Subtract(list, zeros)...)
		// Where all else is zeros nothing is left over that a log could take for its own.
		u.Used, u.renews = extent.Union(u.Used, extent.Union(list, zeros).Clip(v)), u.renews || byUse && in.renews && in.Rows == nil
		u.Zeros = extent.Union(u.Zeros, zeros.Clip(v))
		if !d.begins(i, in.Part) {
			continue // it is told of where it begins
		}
		n := min(list.Bytes(), in.Size) // without copies and parity
		if byUse && (in.Rows != nil || len(in.Twins) > 0) {
			n = in.Used.Bytes()
		}
		note := fmt.Sprintf("%s: %s, %d of %d MiB captured (%s)", in.Name, in.Type, n>>20, in.Size>>20, in.Method)
		switch {
		case why != "":
			note += ", " + why
		case byUse && in.Rows != nil:
			note += fmt.Sprintf(", with their parity, %d MiB of the volume group; the rest of it as zeros, for parity that is right", list.Bytes()>>20)
		case byUse && len(in.Twins) > 0:
			note += ", with their copies"
		}
		if in.Reason != "" {
			note += ": " + in.Reason
		}
		u.Notes = append(u.Notes, note)
		for _, n := range in.Usage.Notes {
			u.Notes = append(u.Notes, in.Name+": "+n)
		}
	}
	u.Zeros = extent.Subtract(u.Zeros, extent.FromUnsorted(data))
	u.Used, u.Zeros = u.Used.Clip(v).Shift(-v.Off), u.Zeros.Clip(v).Shift(-v.Off)
	if u.Used.Valid() != nil || u.Zeros.Valid() != nil {
		u.Reason = "the map of what is in it makes no sense"
		return u.whole(v.Len), nil
	}
	return u, nil
}

// startsWith tells whether one of the volumes inside begins at off, where the one around it does, so that its marks are seen there.
func startsWith(c fact.Container, off int64) bool {
	return slices.ContainsFunc(c.Parts, func(p fact.Part) bool { return len(p.Spans) > 0 && p.Spans[0].Stripes == nil && p.Spans[0].Off == off })
}
