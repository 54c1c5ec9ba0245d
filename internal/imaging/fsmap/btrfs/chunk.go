package btrfs

import (
	"cmp"
	"slices"

	"mimeo/internal/imaging/extent"
)

// Types of chunks and block groups.
const (
	typeData     = 1 << 0
	typeSystem   = 1 << 1
	typeMetadata = 1 << 2
	typeKinds    = typeData | typeSystem | typeMetadata

	typeRAID0   = 1 << 3
	typeRAID1   = 1 << 4
	typeDup     = 1 << 5
	typeRAID10  = 1 << 6
	typeRAID5   = 1 << 7
	typeRAID6   = 1 << 8
	typeRAID1C3 = 1 << 9
	typeRAID1C4 = 1 << 10
)

const (
	chunkLen   = 48 // bytes of a chunk item, without its stripes
	stripeLen  = 32
	stripeUnit = 64 << 10
	maxChunks  = 1 << 18 // 256 TiB in chunks of 1 GiB; bounds the memory

	// No logical address is beyond that.
	maxLogical = 1 << 62
)

// chunk is a range of logical addresses, and where it lies on this device.
type chunk struct {
	start, length uint64
	typ           uint64
	stripes       uint64   // on all devices
	groups        uint64   // of stripes that hold the same: bytes go to these in turn, stripeUnit each
	size          uint64   // bytes of each stripe
	mine          []stripe // on this device

	hasGroup bool   // there is a block group of it
	used     uint64 // bytes, as its block group says
	found    uint64 // bytes, as the extents say
}

// stripe is a part of a chunk on this device.
type stripe struct {
	off   uint64 // bytes of the device
	group uint64
	seen  bool // the device tree has it, too
}

func (c *chunk) end() uint64 { return c.start + c.length }

// chunks are sorted by start, and do not overlap.
type chunks []*chunk

// find returns the chunk that has a logical address; nil without.
func (cs chunks) find(logical uint64) *chunk {
	i, ok := slices.BinarySearchFunc(cs, logical, func(c *chunk, at uint64) int { return cmp.Compare(c.start, at) })
	if ok {
		return cs[i]
	}
	if i > 0 && logical < cs[i-1].end() {
		return cs[i-1]
	}
	return nil
}

// places returns where n bytes from a logical address on lie on this device, at least one place.
func (cs chunks) places(logical, n uint64) ([]int64, error) {
	c := cs.find(logical)
	if c == nil || n > c.end()-logical {
		return nil, damaged("it lies in no chunk")
	}
	var out []int64
	for _, s := range c.mine {
		from, to := c.share(s.group, logical-c.start), c.share(s.group, logical-c.start+n)
		if to-from == n && c.typ&(typeRAID5|typeRAID6) == 0 {
			out = append(out, int64(s.off+from))
		}
	}
	if out == nil {
		return nil, damaged("it is not on this device: the metadata is on others")
	}
	return out, nil
}

// share returns how many of the first n bytes of a chunk a group of its stripes has.
func (c *chunk) share(group, n uint64) uint64 {
	row := c.groups * stripeUnit
	return n/row*stripeUnit + min(n%row-min(n%row, group*stripeUnit), stripeUnit)
}

// place calls add with where the bytes from a to b of a chunk lie on this device. Of RAID 5 and 6 these are whole rows:
// a parity is of all that is in its row.
func (c *chunk) place(a, b uint64, add func(extent.Extent)) {
	for _, s := range c.mine {
		from, to := c.share(s.group, a), c.share(s.group, b)
		if c.typ&(typeRAID5|typeRAID6) != 0 {
			row := c.groups * stripeUnit
			from, to = a/row*stripeUnit, min((b+row-1)/row*stripeUnit, c.size)
		}
		if from < to {
			add(extent.Extent{Off: int64(s.off + from), Len: int64(to - from)})
		}
	}
}

// parseChunk reads a chunk item.
func (s *super) parseChunk(start uint64, b []byte) (*chunk, error) {
	if len(b) < chunkLen {
		return nil, damaged("a chunk item of %d bytes", len(b))
	}
	c := &chunk{start: start, length: le.Uint64(b), typ: le.Uint64(b[24:]), stripes: uint64(le.Uint16(b[44:]))}
	unit, sub := le.Uint64(b[16:]), uint64(le.Uint16(b[46:]))
	switch {
	case c.stripes == 0 || uint64(len(b)) != chunkLen+c.stripes*stripeLen:
		return nil, damaged("%d stripes in a chunk item of %d bytes", c.stripes, len(b))
	case c.length == 0 || c.length%s.sector != 0 || start%s.sector != 0 || start > maxLogical || c.length > maxLogical-start:
		return nil, damaged("a chunk of %d bytes from %d on", c.length, start)
	case unit != stripeUnit:
		return nil, damaged("stripes of %d bytes", unit)
	}
	same, err := c.profile(sub)
	if err != nil {
		return nil, err
	}
	if c.length%c.groups != 0 || c.groups > 1 && c.length/c.groups%stripeUnit != 0 {
		return nil, damaged("%d bytes in %d groups of stripes", c.length, c.groups)
	}
	c.size = c.length / c.groups
	for i := range c.stripes {
		p := b[chunkLen+i*stripeLen:]
		id, off := le.Uint64(p), le.Uint64(p[8:])
		if id != s.dev.id || [16]byte(p[16:32]) != s.dev.uuid {
			continue
		}
		if off%s.sector != 0 || c.size > s.dev.total || off > s.dev.total-c.size {
			return nil, damaged("%d bytes at %d of the device, which has %d", c.size, off, s.dev.total)
		}
		c.mine = append(c.mine, stripe{off: off, group: i / same})
	}
	return c, nil
}

// profile checks the type of a chunk, and returns how many stripes side by side hold the same.
func (c *chunk) profile(sub uint64) (same uint64, err error) {
	n := c.stripes
	same, c.groups = 1, 1
	ok := true
	switch c.typ &^ typeKinds {
	case 0:
		ok = n == 1
	case typeDup, typeRAID1:
		same, ok = n, n == 2
	case typeRAID1C3:
		same, ok = n, n == 3
	case typeRAID1C4:
		same, ok = n, n == 4
	case typeRAID0:
		c.groups = n
	case typeRAID10:
		ok = sub == 2 && n%2 == 0
		same, c.groups = 2, max(n/2, 1)
	case typeRAID5:
		ok = n >= 2
		c.groups = max(n, 2) - 1
	case typeRAID6:
		ok = n >= 3
		c.groups = max(n, 3) - 2
	default:
		ok = false
	}
	if kind := c.typ & typeKinds; kind == 0 || kind&typeSystem != 0 && kind != typeSystem || !ok {
		return 0, damaged("a chunk of type %#x with %d stripes", c.typ, n)
	}
	return same, nil
}

// add puts a chunk in its place.
func (cs *chunks) add(c *chunk) error {
	if n := len(*cs); n > 0 && c.start < (*cs)[n-1].end() {
		return damaged("the chunk at %d lies on the one before", c.start)
	}
	if len(*cs) == maxChunks {
		return damaged("more than %d chunks are not supported", maxChunks)
	}
	*cs = append(*cs, c)
	return nil
}

// readChunks reads the chunk tree, which lies in the chunks that the superblock tells itself.
func (fs *filesystem) readChunks() error {
	boot, err := fs.bootChunks()
	if err != nil {
		return err
	}
	fs.chunks = boot
	var all chunks
	dev := fs.dev
	found := false
	var devices uint64
	t := fs.tree("chunk", treeChunk, func(k key, data []byte) error {
		switch {
		case k.typ == itemDev && k.obj == objDevItems:
			if len(data) != devItemLen {
				return damaged("a device item of %d bytes", len(data))
			}
			devices++
			if d := parseDevice(data); d.id == dev.id {
				if d != dev {
					return damaged("the device has %d of %d bytes given to chunks, the superblock says %d of %d", d.used, d.total, dev.used, dev.total)
				}
				found = true
			}
		case k.typ == itemChunk && k.obj == objFirstChunk:
			c, err := fs.parseChunk(k.off, data)
			if err != nil {
				return err
			}
			return all.add(c)
		}
		return nil
	})
	if err := t.walk(fs.chunkRoot); err != nil {
		return err
	}
	switch {
	case !found:
		return damaged("chunk tree: it does not know this device (%d)", dev.id)
	case devices != fs.devices:
		return damaged("chunk tree: %d devices, the superblock says %d", devices, fs.devices)
	}
	for _, b := range boot {
		c := all.find(b.start)
		if c == nil || c.start != b.start || c.length != b.length || c.typ != b.typ || !slices.Equal(c.mine, b.mine) {
			return damaged("chunk tree: the system chunk at %d is not that of the superblock", b.start)
		}
	}
	fs.chunks = all
	return nil
}

// bootChunks reads the system chunks in the superblock.
func (fs *filesystem) bootChunks() (chunks, error) {
	var list chunks
	for b := fs.array; len(b) > 0; {
		if len(b) < 17+chunkLen {
			return nil, damaged("superblock: %d bytes are left of the system chunks", len(b))
		}
		k, n := parseKey(b), chunkLen+int(le.Uint16(b[17+44:]))*stripeLen
		if b = b[17:]; k.obj != objFirstChunk || k.typ != itemChunk || n > len(b) {
			return nil, damaged("superblock: system chunk %v of %d bytes", k, n)
		}
		c, err := fs.parseChunk(k.off, b[:n])
		if err != nil {
			return nil, damaged("superblock: system chunk %v: %v", k, err)
		}
		if c.typ&typeSystem == 0 {
			return nil, damaged("superblock: chunk %v is not one of the system", k)
		}
		list, b = append(list, c), b[n:]
	}
	slices.SortFunc(list, func(a, b *chunk) int { return cmp.Compare(a.start, b.start) })
	for i := range list {
		if i > 0 && list[i].start < list[i-1].end() {
			return nil, damaged("superblock: system chunks lie on each other")
		}
	}
	return list, nil
}

// checkDevice holds the device tree, which says what of the device is given to chunks, against the chunks.
func (fs *filesystem) checkDevice(root ref) error {
	var end, used uint64
	t := fs.tree("device", treeDev, func(k key, data []byte) error {
		if k.typ != itemDevExtent || k.obj != fs.dev.id {
			return nil
		}
		if len(data) != 48 {
			return damaged("a device extent of %d bytes", len(data))
		}
		start, n := le.Uint64(data[16:]), le.Uint64(data[24:])
		c := fs.chunks.find(start)
		if c == nil || c.start != start {
			return damaged("it is of chunk %d, which there is not", start)
		}
		i := slices.IndexFunc(c.mine, func(s stripe) bool { return s.off == k.off })
		if i < 0 || c.mine[i].seen || c.size != n {
			return damaged("%d bytes are not the part of chunk %d that lies here", n, start)
		}
		if k.off < end {
			return damaged("it lies on the one before, which ends at %d", end)
		}
		c.mine[i].seen = true
		end = k.off + n
		used += n
		return nil
	})
	if err := t.walk(root); err != nil {
		return err
	}
	for _, c := range fs.chunks {
		for _, s := range c.mine {
			if !s.seen {
				return damaged("device tree: it does not have what lies at %d, of chunk %d", s.off, c.start)
			}
		}
	}
	if used != fs.dev.used {
		return damaged("device tree: %d bytes are given to chunks, the superblock says %d", used, fs.dev.used)
	}
	return nil
}
