package lvm

import (
	"fmt"
	"slices"
	"strings"

	"mimeo/internal/imaging/fsmap/fact"
)

// raidKind is how a kind of RAID lays chunks out. The numbers of levels and layouts are those of drivers/md/dm-raid.c and
// drivers/md/raid5.h; the places are those of raid5_compute_sector in drivers/md/raid5.c and of raid10_find_phys in raid10.c.
type raidKind struct {
	level, layout uint32
	parity        int
	// place returns the image that has the k-th chunk of data of a row, of which there are d; n is the number of images.
	place func(row int64, k, d, n int) int
	// period is after how many rows the places are the same again.
	period func(n int) int64
}

// raidKinds are those of LVM2's lib/metadata/segtype.h, but for RAID1, in which a leg is the whole.
var raidKinds = map[string]raidKind{
	"raid4":      {5, 4, 1, func(_ int64, k, _, _ int) int { return k + 1 }, always},
	"raid5_n":    {5, 5, 1, straight, always},
	"raid5":      {5, 2, 1, leftSymmetric, byImages},
	"raid5_ls":   {5, 2, 1, leftSymmetric, byImages},
	"raid5_rs":   {5, 3, 1, rightSymmetric, byImages},
	"raid5_la":   {5, 0, 1, leftAsymmetric, byImages},
	"raid5_ra":   {5, 1, 1, rightAsymmetric, byImages},
	"raid6":      {6, 8, 2, zeroRestart, byImages},
	"raid6_zr":   {6, 8, 2, zeroRestart, byImages},
	"raid6_nr":   {6, 9, 2, nRestart, byImages},
	"raid6_nc":   {6, 10, 2, leftSymmetric, byImages},
	"raid6_n_6":  {6, 5, 2, straight, always},
	"raid6_ls_6": {6, 18, 2, lastIsQ(leftSymmetric), byImagesButOne},
	"raid6_rs_6": {6, 19, 2, lastIsQ(rightSymmetric), byImagesButOne},
	"raid6_la_6": {6, 16, 2, lastIsQ(leftAsymmetric), byImagesButOne},
	"raid6_ra_6": {6, 17, 2, lastIsQ(rightAsymmetric), byImagesButOne},
}

func always(int) int64 { return 1 }

func byImages(n int) int64 { return int64(n) }

func byImagesButOne(n int) int64 { return int64(n - 1) }

func straight(_ int64, k, _, _ int) int { return k }

// left and right are the images that have the parity of a row.
func left(row int64, n int) int { return n - 1 - int(row%int64(n)) }

func right(row int64, n int) int { return int(row % int64(n)) }

func leftSymmetric(row int64, k, _, n int) int { return (left(row, n) + 1 + k) % n }

func rightSymmetric(row int64, k, _, n int) int { return (right(row, n) + 1 + k) % n }

func leftAsymmetric(row int64, k, _, n int) int { return besides(left(row, n), 1, k, n) }

func rightAsymmetric(row int64, k, _, n int) int { return besides(right(row, n), 1, k, n) }

func zeroRestart(row int64, k, _, n int) int { return besides(right(row, n), 2, k, n) }

func nRestart(row int64, k, _, n int) int { return besides(left(row+1, n), 2, k, n) }

// besides returns the k-th of n images that has no parity, where that begins with one of them, and goes on with the first.
func besides(parity, count, k, n int) int {
	if over := parity + count - n; over > 0 {
		return k + over
	}
	if k >= parity {
		return k + count
	}
	return k
}

// lastIsQ is a layout of RAID5 on all images but the last, which has the second parity.
func lastIsQ(place func(row int64, k, d, n int) int) func(row int64, k, d, n int) int {
	return func(row int64, k, d, n int) int { return place(row, k, d, n-1) }
}

// raids puts volumes with parity (RAID 4, 5, 6) and striped mirrors (RAID 10) together, where all images lie on this disk and are in
// sync.
func (g *group) raids(parts []fact.Part) ([]fact.Part, error) {
	index := places(parts)
	for _, name := range g.lvs.order {
		lv := g.lvs.sub(name)
		seg := lv.sub("segment1")
		typ := seg.text("type")
		kind, known := raidKinds[typ]
		ten := typ == "raid10" || typ == "raid10_near"
		if !known && !ten || lv.text("segment_count") != "1" || seg.text("start_extent") != "0" {
			continue
		}
		whole, err := g.volume(name)
		if err != nil {
			return nil, fmt.Errorf("logical volume %s/%s: %w", g.name, name, err)
		}
		if whole.Whole == "its type is "+typ {
			whole.Whole = ""
		}
		words := seg.values["raids"]
		images, why, err := g.images(seg, words, parts, index)
		if err == nil && why == "" {
			if ten {
				why, err = g.ten(&whole, seg, images)
			} else {
				why, err = g.rows(&whole, seg, kind, images)
			}
			for i := 0; i < len(words) && err == nil && why == ""; i += 2 {
				at := index[g.name+"/"+words[i]] // images has looked
				why, err = g.inSync(&parts[at], len(images), i/2, kind, seg)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("logical volume %s/%s: %w", g.name, name, err)
		}
		if why != "" {
			for i := 1; i < len(words); i += 2 {
				if at, ok := index[g.name+"/"+words[i]]; ok {
					parts[at].Whole = fmt.Sprintf("it is an image of the RAID %s/%s, %s", g.name, name, why)
				}
			}
			continue
		}
		whole.Leg = true
		gone := map[string]bool{}
		for i := 1; i < len(words); i += 2 {
			gone[g.name+"/"+words[i]] = true
		}
		parts = append(slices.DeleteFunc(parts, func(p fact.Part) bool { return gone[p.Name] }), whole)
		index = places(parts)
	}
	return parts, nil
}

// places tells where each part is.
func places(parts []fact.Part) map[string]int {
	index := make(map[string]int, len(parts))
	for i, p := range parts {
		index[p.Name] = i
	}
	return index
}

// maxImages is how many there may be: MAX_RAID_DEVICES of drivers/md/dm-raid.c.
const maxImages = 253

// images returns what a RAID's disks hold. All must lie on this disk and be equally long.
func (g *group) images(seg *section, words []string, parts []fact.Part, index map[string]int) (images []fact.Part, why string, err error) {
	n := len(words) / 2
	if count, err := seg.number("device_count", maxImages); err != nil || len(words)%2 != 0 || int64(n) != count || n < 2 {
		return nil, "", damaged("a RAID of %.20q disks has %d words of images", seg.text("device_count"), len(words))
	}
	if len(seg.values["data_offset"])+len(seg.values["reshape_count"]) > 0 {
		return nil, "which is being reshaped, or was", nil
	}
	seen := map[string]bool{}
	for _, w := range words {
		if seen[w] {
			return nil, "", damaged("a RAID has the image %s twice", w)
		}
		seen[w] = true
		if slices.ContainsFunc(g.lvs.sub(w).values["status"], func(s string) bool { return s == "REBUILD" || strings.HasPrefix(s, "RESHAPE") }) {
			return nil, "of which an image is being rebuilt", nil
		}
	}
	for i := 1; i < len(words); i += 2 {
		at, ok := index[g.name+"/"+words[i]]
		meta, ok2 := index[g.name+"/"+words[i-1]]
		if !ok || !ok2 || !together(parts[at]) || !together(parts[meta]) || parts[at].Striped() || len(parts[at].Twins) > 0 {
			return nil, "of which others lie on other disks", nil
		}
		image := parts[at]
		image.Spans = slices.Clone(image.Spans)
		if len(images) > 0 && image.Size != images[0].Size {
			return nil, "whose images are not equally long", nil
		}
		images = append(images, image)
	}
	return images, "", nil
}

// rows lays a volume out over images with parity.
func (g *group) rows(whole *fact.Part, seg *section, kind raidKind, images []fact.Part) (why string, err error) {
	n, d := len(images), len(images)-kind.parity
	if d < 1 || kind.period(n) < 1 {
		return "", damaged("a RAID of %d disks has %d of parity", n, kind.parity)
	}
	size, err := g.stripe(seg)
	if err != nil {
		return "", err
	}
	if whole.Size != images[0].Size*int64(d) || images[0].Size%size != 0 {
		return "whose images are not as long as they should be", nil
	}
	whole.Rows = &fact.Rows{Images: images, Columns: []fact.Span{{Len: whole.Size, Stripes: &fact.Stripes{Offs: make([]int64, d), Size: size}}}}
	whole.Spans, why = g.spread(images, size, kind.period(n), d, func(row int64, k int) int { return kind.place(row, k, d, n) })
	return why, nil
}

// ten lays a volume out over mirrors: each two images in a row have the same.
func (g *group) ten(whole *fact.Part, seg *section, images []fact.Part) (why string, err error) {
	copies := int64(2)
	if len(seg.values["data_copies"]) > 0 {
		if copies, err = seg.number("data_copies", 16); err != nil {
			return "", err
		}
	}
	d := len(images) / 2
	size, err := g.stripe(seg)
	if err != nil {
		return "", err
	}
	if copies != 2 || len(images)%2 != 0 {
		return "whose layout is not known", nil
	}
	if whole.Size != images[0].Size*int64(d) || images[0].Size%size != 0 {
		return "whose images are not as long as they should be", nil
	}
	if whole.Spans, why = g.spread(images, size, 1, d, func(_ int64, k int) int { return 2 * k }); why != "" {
		return why, nil
	}
	twin, why := g.spread(images, size, 1, d, func(_ int64, k int) int { return 2*k + 1 })
	whole.Twins = [][]fact.Span{twin}
	return why, nil
}

// stripe returns the bytes of a chunk.
func (g *group) stripe(seg *section) (int64, error) {
	size, err := seg.number("stripe_size", 1<<30)
	if err != nil || size == 0 {
		return 0, damaged("its stripes have %.20q sectors", seg.text("stripe_size"))
	}
	return size * sector, nil
}

// maxPlaces bounds the memory of all layouts of a group: 8 bytes each.
const maxPlaces = 1 << 20

// spread lays rows of d chunks of size bytes out over images, of which place says which one has the k-th of a row. The places are
// the same again after so many rows.
func (g *group) spread(images []fact.Part, size, period int64, d int, place func(row int64, k int) int) (out []fact.Span, why string) {
	length, at := images[0].Size, make([]int, len(images)) // at is the span of each image
	for pos := int64(0); pos < length; {
		// How far all images go on in one piece.
		n, offs := length-pos, make([]int64, len(images))
		for i, p := range images {
			for p.Spans[at[i]].At+p.Spans[at[i]].Len <= pos {
				at[i]++
			}
			s := p.Spans[at[i]]
			n = min(n, s.At+s.Len-pos)
			offs[i] = s.Off + pos - s.At
		}
		if n%size != 0 {
			return nil, "whose stripes are broken up"
		}
		for rows := n / size; rows > 0; {
			// Whole periods, then what is left of one.
			take, step := rows/period*period, period
			if take == 0 {
				take, step = rows, rows
			}
			if g.places += step * int64(d); g.places > maxPlaces {
				return nil, "which lies in too many pieces"
			}
			st := &fact.Stripes{Size: size, Step: step * size}
			for r := range step {
				for k := range d {
					st.Offs = append(st.Offs, offs[place(pos/size+r, k)]+r*size)
				}
			}
			out = append(out, fact.Span{At: pos * int64(d), Len: take * size * int64(d), Stripes: st})
			for i := range offs {
				offs[i] += take * size
			}
			pos, rows = pos+take*size, rows-take
		}
	}
	return out, ""
}

// inSync looks whether an image was in sync, by the superblock in its metadata volume.
func (g *group) inSync(meta *fact.Part, devices, position int, kind raidKind, seg *section) (why string, err error) {
	stripe, err := g.stripe(seg)
	if err != nil {
		return "", err
	}
	want := raidShape{devices: devices, level: kind.level, layout: kind.layout, stripe: stripe / sector}
	if strings.HasPrefix(seg.text("type"), "raid10") {
		want.level, want.layout = 10, nearTwo
	}
	return g.raid(meta, want, position)
}
