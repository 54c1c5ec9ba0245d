package lvm

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
	"mimeo/internal/imaging/fsmap/lvm/thin"
)

// named is what names a volume group, and its text.
type named struct {
	name, id string
	vg       *section
}

func nameGroup(text []byte) (named, error) {
	root, err := parse(string(text))
	if err != nil {
		return named{}, err
	}
	if len(root.order) != 1 {
		return named{}, damaged("its text has %d volume groups", len(root.order))
	}
	vg := root.sub(root.order[0])
	return named{root.order[0], vg.text("id"), vg}, nil
}

// has tells whether the group has a physical volume.
func (n named) has(uuid string) bool {
	pvs := n.vg.sub("physical_volumes")
	return slices.ContainsFunc(pvs.order, func(key string) bool { return pvs.sub(key).text("id") == uuid })
}

// group is a reading of a volume group, as far as it lies on a disk.
type group struct {
	r      io.ReaderAt // the disk
	name   string
	extent int64              // bytes of a physical extent
	here   map[string]*member // by their names in the text
	needed map[string]string  // logical volumes that others name, and one of these
	lvs    *section
	places int64 // of the layouts of RAIDs so far
}

// member is a physical volume of the group on this disk.
type member struct {
	*pv
	start int64 // of the first physical extent, bytes of the disk
	count int64
	taken []bool // physical extents that a logical volume has
}

// group reads the volume group: where the physical extents lie, and which logical volumes have them.
func (p *pv) group(disk io.ReaderAt, text []byte, volumes []*pv) (fact.Container, error) {
	c := fact.Container{UUID: p.uuid}
	n, err := nameGroup(text)
	if err != nil {
		return c, err
	}
	name, vg := n.name, n.vg
	sectors, err := vg.number("extent_size", 1<<40)
	if err != nil || sectors == 0 {
		return c, damaged("volume group %s: extent_size is %q", name, vg.text("extent_size"))
	}
	g := &group{r: disk, name: name, extent: sectors * sector, lvs: vg.sub("logical_volumes"), here: map[string]*member{}}
	pvs := vg.sub("physical_volumes")
	for _, o := range volumes {
		if err := g.take(o, pvs); err != nil {
			return c, err
		}
	}
	own := g.member(p)
	if own == nil {
		return c, damaged("volume group %s does not know this disk", name)
	}
	g.needed = g.relations()
	for _, lv := range g.lvs.order {
		part, err := g.volume(lv)
		if err != nil {
			return c, fmt.Errorf("logical volume %s/%s: %w", name, lv, err)
		}
		if len(part.Spans) > 0 {
			c.Parts = append(c.Parts, part)
		}
	}
	if c.Parts, err = g.raid0s(c.Parts); err != nil {
		return c, err
	}
	if c.Parts, err = g.raids(c.Parts); err != nil {
		return c, err
	}
	if c.Parts, err = g.mirrors(c.Parts); err != nil {
		return c, err
	}
	if err := g.pools(c.Parts); err != nil {
		return c, err
	}
	c.Parts = slices.DeleteFunc(c.Parts, func(part fact.Part) bool { return len(part.All().Clip(p.at)) == 0 })
	if k := len(pvs.order); k > len(g.here) {
		c.Notes = append(c.Notes, fmt.Sprintf("volume group %s lies on %d disks: capture them all", name, k))
		if len(g.here) > 1 {
			c.Notes[0] = fmt.Sprintf("volume group %s has %d physical volumes, and %d are on this disk: capture all its disks", name, k, len(g.here))
		}
	}
	// Before the first extent lie label and metadata, behind the last one may lie more metadata.
	end := own.start + own.count*g.extent
	c.Meta = extent.Union(p.meta, extent.List{{Off: p.at.Off, Len: own.start - p.at.Off}})
	if end < p.at.End() {
		c.Meta = extent.Union(c.Meta, extent.List{{Off: end, Len: min(p.at.End()-end, g.extent)}})
	}
	for _, e := range p.meta {
		if e.Off < end && e.End() > own.start {
			return c, damaged("its metadata lies among the physical extents")
		}
	}
	return c, nil
}

// relations finds the logical volumes that others name: origins of snapshots and of thin volumes, what snapshots keep, pools. A
// snapshot reads from its origin what that has deleted since; and what is written into an origin, the others see.
func (g *group) relations() map[string]string {
	out := map[string]string{}
	for _, lv := range g.lvs.order {
		for _, seg := range g.lvs.sub(lv).sections {
			for key, words := range seg.values {
				if key == "type" || key == "stripes" || key == "thin_pool" || key == "origin" && seg.text("type") == "thin" {
					continue // a thin volume stands for itself, when it has been made from another
				}
				for _, w := range words {
					if w != lv && g.lvs.sections[w] != nil && (out[w] == "" || lv < out[w]) {
						out[w] = lv
					}
				}
			}
		}
	}
	return out
}

// take takes a physical volume into the group, where the text knows it.
func (g *group) take(p *pv, pvs *section) error {
	known := ""
	for _, key := range pvs.order {
		if x := pvs.sub(key); x.text("id") == p.uuid {
			if known != "" || g.here[key] != nil {
				return damaged("volume group %s has this disk twice", g.name)
			}
			known = key
		}
	}
	if known == "" {
		return nil
	}
	own := pvs.sub(known)
	start, err := own.number("pe_start", p.size/sector)
	if err != nil {
		return err
	}
	m := &member{pv: p, start: p.at.Off + start*sector}
	if m.count, err = own.number("pe_count", (p.size-start*sector)/g.extent); err != nil {
		return err
	}
	m.taken = make([]bool, m.count)
	g.here[known] = m
	return nil
}

// member returns a physical volume of the group.
func (g *group) member(p *pv) *member {
	for _, m := range g.here {
		if m.pv == p {
			return m
		}
	}
	return nil
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
	case g.needed[name] != "":
		part.Whole = fmt.Sprintf("another volume needs it, too (%s)", g.needed[name])
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
			if key != "stripes" && slices.ContainsFunc(words, func(w string) bool { return g.here[w] != nil }) {
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
		if n := int64(len(stripes) / 2); n > 1 {
			if per = length / n; per*n != length {
				return part, damaged("%d extents lie on %d stripes", length, n)
			}
		}
		var offs []int64
		for k := 0; k < len(stripes); k += 2 {
			m := g.here[stripes[k]]
			if m == nil {
				part.Whole = cmp.Or(part.Whole, "it lies on other disks, too")
				continue
			}
			at, err := strconv.ParseInt(stripes[k+1], 10, 64)
			if err != nil || at < 0 || at > m.count || per > m.count-at {
				return part, damaged("a segment has %d extents at %s, there are %d", per, stripes[k+1], m.count)
			}
			for j := at; j < at+per; j++ {
				if m.taken[j] {
					return part, damaged("extent %d belongs to two logical volumes", j)
				}
				m.taken[j] = true
			}
			offs = append(offs, m.start+at*g.extent)
		}
		if per > 0 {
			spans, err := g.lay(seg, len(stripes)/2, fact.Span{At: from * g.extent, Len: per * g.extent}, offs)
			if err != nil {
				return part, err
			}
			part.Spans = append(part.Spans, spans...)
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

// lay lays a segment out over its stripes; one has s.Len bytes at each of offs. Where some are elsewhere, only what is here is known.
func (g *group) lay(seg *section, stripes int, s fact.Span, offs []int64) ([]fact.Span, error) {
	if stripes <= 1 || len(offs) < stripes {
		var out []fact.Span
		for _, off := range offs {
			out = append(out, fact.Span{At: s.At, Off: off, Len: s.Len})
		}
		return out, nil
	}
	size, err := g.stripe(seg)
	if err != nil {
		return nil, err
	}
	if s.Len%size != 0 {
		return nil, damaged("its stripes have %q sectors", seg.text("stripe_size"))
	}
	s.Stripes = &fact.Stripes{Offs: offs, Size: size}
	s.Len *= int64(stripes)
	return []fact.Span{s}, nil
}

// raid0s puts striped volumes together whose stripes are volumes of their own, as MD drives them.
func (g *group) raid0s(parts []fact.Part) ([]fact.Part, error) {
	for _, name := range g.lvs.order {
		lv := g.lvs.sub(name)
		seg := lv.sub("segment1")
		words := seg.values["raid0_lvs"]
		if kind := seg.text("type"); kind == "raid0_meta" {
			words = nil
			for i, w := range seg.values["raids"] {
				if i%2 == 1 {
					words = append(words, w)
				}
			}
		} else if kind != "raid0" {
			continue
		}
		whole, err := g.volume(name)
		if err != nil {
			return nil, fmt.Errorf("logical volume %s/%s: %w", g.name, name, err)
		}
		if whole.Whole == "its type is "+seg.text("type") {
			whole.Whole = ""
		}
		size, err := seg.number("stripe_size", 1<<30)
		if err != nil || size == 0 || lv.text("segment_count") != "1" {
			return nil, damaged("logical volume %s/%s: its stripes have %q sectors", g.name, name, seg.text("stripe_size"))
		}
		whole.Spans = g.weave(parts, words, size*sector, whole.Size)
		if whole.Spans == nil {
			continue // the stripes are parts of another, and stay whole
		}
		parts = append(slices.DeleteFunc(parts, func(p fact.Part) bool {
			return slices.ContainsFunc(words, func(w string) bool { return p.Name == g.name+"/"+w })
		}), whole)
	}
	return parts, nil
}

// weave lays a volume of total bytes out over others, size bytes on each in turns; nil where not all of these are here.
func (g *group) weave(parts []fact.Part, names []string, size, total int64) (out []fact.Span) {
	var images []fact.Part
	for i, name := range names {
		at := slices.IndexFunc(parts, func(p fact.Part) bool { return p.Name == g.name+"/"+name })
		if at < 0 || slices.Contains(names[:i], name) || !together(parts[at]) || parts[at].Striped() || parts[at].Size != total/int64(len(names)) {
			return nil
		}
		images = append(images, parts[at])
	}
	if len(images) == 0 || total%int64(len(images)) != 0 {
		return nil
	}
	out, _ = g.spread(images, size, 1, len(images), func(_ int64, k int) int { return k })
	return out
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
			if data.Views, why, err = g.thins(name, *meta, data.Size, chunk*sector, list); err != nil {
				return err
			}
			if why != "" {
				data.Whole += "; its volumes are not looked into: " + why
			}
		}
	}
	return nil
}

// thins returns the volumes of a thin pool, of whose data used is in use.
func (g *group) thins(pool string, meta fact.Part, dataSize, chunk int64, used extent.List) (views []fact.View, why string, err error) {
	transaction, err := g.lvs.sub(pool).sub("segment1").number("transaction_id", 1<<62)
	if err != nil {
		return nil, err.Error(), nil
	}
	known := map[int64]fact.View{} // by their numbers
	for _, name := range g.lvs.order {
		lv := g.lvs.sub(name)
		seg := lv.sub("segment1")
		if seg.text("thin_pool") != pool {
			continue
		}
		v := fact.View{Name: g.name + "/" + name}
		id, err1 := seg.number("device_id", 1<<24-1)
		count, err2 := seg.number("extent_count", 1<<62/g.extent)
		if _, twice := known[id]; err1 != nil || err2 != nil || twice || lv.text("segment_count") != "1" || seg.text("type") != "thin" {
			return nil, fmt.Sprintf("what the volume group says of %s is not known", v.Name), nil
		}
		v.Size = count * g.extent
		switch status := lv.values["status"]; {
		case seg.text("external_origin") != "":
			v.Whole = "it has an origin that lies elsewhere"
		case g.needed[name] != "":
			v.Whole = fmt.Sprintf("another volume needs it, too (%s)", g.needed[name])
		case !slices.Contains(status, "VISIBLE"), slices.Contains(status, "LOCKED"):
			v.Whole = "it is a part of another"
		}
		known[id] = v
	}
	list, why, err := thin.Devices(meta.Reader(g.r), meta.Size, dataSize, chunk, transaction, used)
	for _, d := range list {
		v, ok := known[d.ID]
		if !ok {
			v = fact.View{Name: fmt.Sprintf("device %d", d.ID), Whole: "the volume group does not know it"}
		}
		v.Spans = d.Spans
		views = append(views, v)
	}
	return views, why, err
}

// together tells whether all of a part lies on this disk, piece by piece, and puts the pieces in order.
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
