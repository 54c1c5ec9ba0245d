package lvm

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
	"mimeo/internal/imaging/fsmap/lvm/thin"
)

// group reads the volume group: where the physical extents lie, and which logical volumes have them.
func (p *pv) group(text []byte) (fact.Container, error) {
	c := fact.Container{UUID: p.uuid}
	root, err := parse(string(text))
	if err != nil {
		return c, err
	}
	if len(root.order) != 1 {
		return c, damaged("its text has %d volume groups", len(root.order))
	}
	name := root.order[0]
	vg := root.sub(name)
	sectors, err := vg.number("extent_size", 1<<40)
	if err != nil || sectors == 0 {
		return c, damaged("volume group %s: extent_size is %q", name, vg.text("extent_size"))
	}
	g := &group{pv: p, name: name, extent: sectors * sector, lvs: vg.sub("logical_volumes")}
	pvs := vg.sub("physical_volumes")
	for _, key := range pvs.order {
		if x := pvs.sub(key); x.text("id") == p.uuid {
			if g.own != "" {
				return c, damaged("volume group %s has this disk twice", name)
			}
			g.own = key
		}
	}
	if g.own == "" {
		return c, damaged("volume group %s does not know this disk", name)
	}
	own := pvs.sub(g.own)
	start, err := own.number("pe_start", p.size/sector)
	if err != nil {
		return c, err
	}
	g.start = start * sector
	if g.count, err = own.number("pe_count", (p.size-g.start)/g.extent); err != nil {
		return c, err
	}
	g.taken = make([]bool, g.count)
	for _, lv := range g.lvs.order {
		for _, seg := range g.lvs.sub(lv).sections {
			if cow := seg.text("cow_store"); cow != "" {
				g.cows = append(g.cows, cow)
			}
		}
	}
	for _, lv := range g.lvs.order {
		part, err := g.volume(lv)
		if err != nil {
			return c, fmt.Errorf("logical volume %s/%s: %w", name, lv, err)
		}
		if len(part.Spans) > 0 {
			c.Parts = append(c.Parts, part)
		}
	}
	if c.Parts, err = g.mirrors(c.Parts); err != nil {
		return c, err
	}
	if err := g.pools(c.Parts); err != nil {
		return c, err
	}
	if len(pvs.order) > 1 {
		c.Notes = append(c.Notes, fmt.Sprintf("volume group %s lies on %d disks: capture them all", name, len(pvs.order)))
	}
	// Before the first extent lie label and metadata, behind the last one may lie more metadata.
	end := g.start + g.count*g.extent
	c.Meta = extent.Union(p.meta, extent.List{{Off: 0, Len: g.start}})
	if end < p.size {
		c.Meta = extent.Union(c.Meta, extent.List{{Off: end, Len: min(p.size-end, g.extent)}})
	}
	for _, e := range p.meta {
		if e.Off < end && e.End() > g.start {
			return c, damaged("its metadata lies among the physical extents")
		}
	}
	return c, nil
}

type group struct {
	*pv
	name   string
	own    string // this disk's name in the text
	extent int64  // bytes of a physical extent
	start  int64  // of the first, bytes
	count  int64
	taken  []bool   // physical extents that a logical volume has
	cows   []string // logical volumes that hold what snapshots keep
	lvs    *section
}

// volume tells where a logical volume lies on this disk.
func (g *group) volume(name string) (fact.Part, error) {
	lv := g.lvs.sub(name)
	part := fact.Part{Name: g.name + "/" + name, UUID: lv.text("id")}
	n, err := lv.number("segment_count", 1<<20)
	if err != nil {
		return part, err
	}
	switch status := lv.values["status"]; {
	case !slices.Contains(status, "VISIBLE"):
		part.Whole = "it is a part of another"
	case slices.Contains(status, "LOCKED"):
		part.Whole = "it is being moved"
	case slices.Contains(g.cows, name):
		part.Whole = "it is a snapshot"
	}
	for i := range n {
		seg := lv.sub("segment" + strconv.FormatInt(i+1, 10))
		from, err := seg.number("start_extent", 1<<40)
		if err != nil {
			return part, err
		}
		length, err := seg.number("extent_count", 1<<40)
		if err != nil {
			return part, err
		}
		kind := seg.text("type")
		if kind != "striped" {
			part.Whole = cmp.Or(part.Whole, "its type is "+kind)
		}
		for key, words := range seg.values {
			if key != "stripes" && slices.Contains(words, g.own) {
				return part, damaged("a segment of type %s lies on this disk in a way that is not known (%s)", kind, key)
			}
		}
		stripes := seg.values["stripes"]
		if len(stripes)%2 != 0 {
			return part, damaged("a segment has %d words of stripes", len(stripes))
		}
		if kind == "striped" && len(stripes) == 0 {
			return part, damaged("a segment lies nowhere")
		}
		per := length // extents on each stripe
		if len(stripes) > 2 {
			part.Whole = cmp.Or(part.Whole, "it is striped over several places")
			if per = length / int64(len(stripes)/2); per*int64(len(stripes)/2) != length {
				return part, damaged("%d extents lie on %d stripes", length, len(stripes)/2)
			}
		}
		for k := 0; k < len(stripes); k += 2 {
			if stripes[k] != g.own {
				part.Whole = cmp.Or(part.Whole, "it lies on other disks, too")
				continue
			}
			at, err := strconv.ParseInt(stripes[k+1], 10, 64)
			if err != nil || at < 0 || at > g.count || per > g.count-at {
				return part, damaged("a segment has %d extents at %s, there are %d", per, stripes[k+1], g.count)
			}
			for j := at; j < at+per; j++ {
				if g.taken[j] {
					return part, damaged("extent %d belongs to two logical volumes", j)
				}
				g.taken[j] = true
			}
			if per > 0 {
				part.Spans = append(part.Spans, fact.Span{At: from * g.extent, Off: g.start + at*g.extent, Len: per * g.extent})
			}
		}
		part.Size = max(part.Size, (from+length)*g.extent)
	}
	if part.Whole != "" {
		return part, nil
	}
	slices.SortFunc(part.Spans, func(a, b fact.Span) int { return cmp.Compare(a.At, b.At) })
	at := int64(0)
	for _, s := range part.Spans {
		if s.At != at {
			return part, damaged("its segments have a gap or an overlap at extent %d", at/g.extent)
		}
		at += s.Len
	}
	return part, nil
}

// pools finds out what is in use of the data of thin pools.
func (g *group) pools(parts []fact.Part) error {
	find := func(name string) *fact.Part {
		i := slices.IndexFunc(parts, func(p fact.Part) bool { return p.Name == g.name+"/"+name })
		if i < 0 {
			return nil
		}
		return &parts[i]
	}
	for _, name := range g.lvs.order {
		seg := g.lvs.sub(name).sub("segment1")
		if seg.text("type") != "thin-pool" {
			continue
		}
		data, meta := find(seg.text("pool")), find(seg.text("metadata"))
		chunk, err := seg.number("chunk_size", 1<<22)
		if data == nil || meta == nil || err != nil {
			continue // elsewhere, or in a way that is not known: it stays whole
		}
		data.Whole = fmt.Sprintf("it has the data of the thin pool %s/%s", g.name, name)
		if !together(*data) || !together(*meta) {
			continue
		}
		list, why, err := thin.Used(meta.Reader(g.r), meta.Size, data.Size, chunk*sector)
		switch {
		case err != nil:
			return err
		case why != "":
			data.Whole += ": " + why
		default:
			data.Only = append(extent.List{}, list...)
		}
	}
	return nil
}

// together tells whether all of a part lies on this disk, piece by piece.
func together(p fact.Part) bool {
	slices.SortFunc(p.Spans, func(a, b fact.Span) int { return cmp.Compare(a.At, b.At) })
	at := int64(0)
	for _, s := range p.Spans {
		if s.At != at {
			return false
		}
		at += s.Len
	}
	return at == p.Size
}
