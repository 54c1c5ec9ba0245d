package btrfs

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Heads of tree blocks, of the on-disk format's "Structures", and what follows them.
const (
	headLen = 101
	itemLen = 25 // in a leaf
	ptrLen  = 33 // in a node
)

// Trees, by the number that owns their blocks.
const (
	treeRoot       = 1
	treeExtent     = 2
	treeChunk      = 3
	treeDev        = 4
	treeFreeSpace  = 10
	treeBlockGroup = 11
	treeLog        = 1<<64 - 6
	anyFiles       = 0 // stands for all subvolumes
)

// Kinds of items.
const (
	itemExtentData   = 108
	itemRoot         = 132
	itemExtent       = 168
	itemMetadata     = 169
	itemBlockGroup   = 192
	itemSpaceInfo    = 198
	itemSpaceExtent  = 199
	itemSpaceBitmap  = 200
	itemDevExtent    = 204
	itemDev          = 216
	itemChunk        = 228
	objDevItems      = 1
	objFirstChunk    = 256
	readAhead        = 4 << 20 // bytes of leaves that are read at once
	maxBlocksChecked = 4 << 20 // tree blocks that are held against the extent tree, 8 bytes each
)

// key is what items of a tree are sorted by.
type key struct {
	obj uint64
	typ uint8
	off uint64
}

func parseKey(b []byte) key { return key{le.Uint64(b), b[8], le.Uint64(b[9:])} }

func (k key) compare(o key) int {
	return cmp.Or(cmp.Compare(k.obj, o.obj), cmp.Compare(k.typ, o.typ), cmp.Compare(k.off, o.off))
}

func (k key) String() string { return fmt.Sprintf("(%d %d %d)", k.obj, k.typ, k.off) }

// ref is what is said of a tree block by whom leads to it.
type ref struct {
	logical uint64
	gen     uint64
	level   uint8
	child   bool // from and to are known
	from    key  // of the first item
	to      key  // items come before it; zero for the last block of a tree
}

// btree is one tree, while it is read.
type btree struct {
	fs     *filesystem
	name   string
	owner  uint64
	blocks func(logical uint64) // is told of each block
	want   func(r ref) bool     // tells which blocks to read, but for the first; nil for all
	item   func(k key, data []byte) error
}

// walk reads a tree, and calls item with each item in ascending order.
//
// It comes to an end whatever the blocks say: levels descend, and each block begins with the key that its parent says, so
// none is met twice at a level; and there is a bound to all blocks of the filesystem.
func (t *btree) walk(root ref) error {
	bs, err := t.read([]ref{root})
	if err != nil {
		return err
	}
	return t.block(bs[0], root)
}

func (t *btree) block(b []byte, r ref) error {
	if r.level == 0 {
		return t.leaf(b, r)
	}
	children, err := t.children(b, r)
	if err != nil {
		return err
	}
	most := 1
	if r.level == 1 {
		most = int(readAhead / t.fs.node)
	}
	if t.want != nil {
		children = slices.DeleteFunc(children, func(r ref) bool { return !t.want(r) })
	}
	for part := range slices.Chunk(children, most) {
		bs, err := t.read(part)
		if err != nil {
			return err
		}
		for i, b := range bs {
			if err := t.block(b, part[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *btree) damaged(r ref, format string, args ...any) error {
	return damaged("%s tree, block %d: %s", t.name, r.logical, fmt.Sprintf(format, args...))
}

// children returns what a node leads to.
func (t *btree) children(b []byte, r ref) ([]ref, error) {
	n := int(le.Uint32(b[0x60:]))
	if n == 0 || n > (len(b)-headLen)/ptrLen {
		return nil, t.damaged(r, "%d pointers in a node of %d bytes", n, len(b))
	}
	list := make([]ref, n)
	for i := range list {
		p := b[headLen+i*ptrLen:]
		list[i] = ref{logical: le.Uint64(p[17:]), gen: le.Uint64(p[25:]), level: r.level - 1, child: true, from: parseKey(p), to: r.to}
		if i > 0 {
			list[i-1].to = list[i].from
		}
		if err := t.order(r, i, list[i].from, list[max(i-1, 0)].from); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// order checks the key of entry i of a block.
func (t *btree) order(r ref, i int, k, before key) error {
	switch {
	case i == 0 && r.child && k != r.from:
		return t.damaged(r, "it starts with key %v, its parent says %v", k, r.from)
	case i > 0 && k.compare(before) <= 0:
		return t.damaged(r, "key %v comes after %v", k, before)
	case r.to != key{} && k.compare(r.to) >= 0:
		return t.damaged(r, "key %v belongs to the next block, from %v on", k, r.to)
	}
	return nil
}

// leaf calls item with the items of a leaf. Their data lies from the end of the block towards its start, without gaps.
func (t *btree) leaf(b []byte, r ref) error {
	n := int(le.Uint32(b[0x60:]))
	if n > (len(b)-headLen)/itemLen || n == 0 && r.child {
		return t.damaged(r, "%d items in a leaf of %d bytes", n, len(b))
	}
	body := b[headLen:]
	end, before := uint64(len(body)), key{}
	for i := range n {
		p := body[i*itemLen:]
		k, off, size := parseKey(p), uint64(le.Uint32(p[17:])), uint64(le.Uint32(p[21:]))
		if err := t.order(r, i, k, before); err != nil {
			return err
		}
		if off+size != end || off < uint64(n)*itemLen {
			return t.damaged(r, "item %v: %d bytes at %d, where %d is the end", k, size, off, end)
		}
		if err := t.item(k, body[off:end]); err != nil {
			var d damage
			if errors.As(err, &d) {
				return t.damaged(r, "item %v: %v", k, err)
			}
			return err
		}
		end, before = off, k
	}
	return nil
}

// read returns tree blocks, checked. Those that lie side by side are read at once.
func (t *btree) read(refs []ref) ([][]byte, error) {
	fs := t.fs
	if fs.left -= len(refs); fs.left < 0 {
		return nil, damaged("the trees have more blocks than the device")
	}
	places := make([]int64, len(refs))
	order := make([]int, len(refs))
	for i, r := range refs {
		all, err := fs.chunks.places(r.logical, fs.node)
		if err != nil {
			return nil, t.damaged(r, "%v", err)
		}
		places[i], order[i] = all[0], i
		t.blocks(r.logical)
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(places[a], places[b]) })
	out := make([][]byte, len(refs))
	node := int64(fs.node)
	for i := 0; i < len(order); {
		n := 1
		for i+n < len(order) && places[order[i+n]] == places[order[i]]+int64(n)*node {
			n++
		}
		buf := make([]byte, int64(n)*node)
		if err := fs.read(buf, places[order[i]]); err != nil {
			return nil, fmt.Errorf("read the %s tree: %w", t.name, err)
		}
		for j, at := range order[i : i+n] {
			b, err := t.check(buf[int64(j)*node:][:node:node], refs[at])
			if err != nil {
				return nil, err
			}
			out[at] = b
		}
		i += n
	}
	return out, nil
}

// check returns a tree block if it is what it should be, or else another copy of it that is.
func (t *btree) check(b []byte, r ref) ([]byte, error) {
	first := t.checkHead(b, r)
	if first == nil {
		return b, nil
	}
	all, err := t.fs.chunks.places(r.logical, t.fs.node)
	if err != nil {
		return nil, err
	}
	for _, at := range all[1:] {
		if err := t.fs.read(b, at); err != nil {
			return nil, fmt.Errorf("read the %s tree: %w", t.name, err)
		}
		if t.checkHead(b, r) == nil {
			t.fs.badCopies++
			return b, nil
		}
	}
	return nil, first
}

// owns tells whether blocks of the tree may be those of owner. Subvolumes share blocks, also while they are moved.
func (t *btree) owns(owner uint64) bool {
	if t.owner == anyFiles {
		return owner == treeFiles || owner >= firstFree && owner < 1<<63 || owner == treeReloc
	}
	return owner == t.owner
}

func (t *btree) checkHead(b []byte, r ref) error {
	fs := t.fs
	switch {
	case !sumOK(fs.sumKind, b):
		return t.damaged(r, "the checksum is wrong")
	case !bytes.Equal(b[0x20:0x30], fs.metaID[:]):
		return t.damaged(r, "it is one of another filesystem")
	case le.Uint64(b[0x30:]) != r.logical:
		return t.damaged(r, "it is that of %d", le.Uint64(b[0x30:]))
	case le.Uint64(b[0x50:]) != r.gen:
		return t.damaged(r, "it is of generation %d, not %d", le.Uint64(b[0x50:]), r.gen)
	case !t.owns(le.Uint64(b[0x58:])):
		return t.damaged(r, "it is of tree %d", int64(le.Uint64(b[0x58:])))
	case b[0x64] != r.level:
		return t.damaged(r, "it is of level %d, not %d", b[0x64], r.level)
	}
	return nil
}

// read fills b with what lies at off of the device.
func (fs *filesystem) read(b []byte, off int64) error {
	n, err := fs.r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%d bytes at offset %d: %w", len(b), off, err)
}
