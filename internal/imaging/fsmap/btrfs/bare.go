package btrfs

import (
	"errors"
	"slices"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
	"mimeo/internal/imaging/fsmap/tree"
)

// inodeNoSums is a flag of an inode: what it holds has no checksums. "chattr +C" sets it.
const inodeNoSums = 1

var _ tree.Summed = (*Tree)(nil)

// Roots implements tree.Summed.
func (t *Tree) Roots() []uint64 {
	var list []uint64
	for i, v := range t.volumes {
		list = append(list, uint64(i)<<inodeBits|v.dir)
	}
	return list
}

// Bare implements tree.Summed. All copies of the file are among the pieces, and room that is set aside and reads as zeros:
// what is swapped out lies in that, too.
func (t *Tree) Bare(inode uint64) ([]fact.Piece, error) {
	b, err := t.node(inode)
	if err != nil {
		return nil, err
	}
	var pieces []fact.Piece
	var logical []extent.Extent
	compressed := false
	if err := t.items(inode, itemExtentData, itemExtentData, func(k key, b []byte) error {
		e, err := parseFileExtent(k.off, b)
		if err != nil {
			return err
		}
		from, n := e.stretch()
		if n == 0 {
			return nil
		}
		compressed = compressed || e.compression != 0
		c := t.fs.chunks.find(from)
		switch {
		case c == nil || n > c.end()-from || c.typ&typeData == 0:
			return damaged("%d bytes of a file at %d lie in no chunk of data", n, from)
		case c.typ&^(typeKinds|typeDup) != 0 || uint64(len(c.mine)) != c.stripes:
			return errors.New("it is not on this device alone")
		case len(logical) == fileRuns:
			return damaged("it lies in more than %d pieces", fileRuns)
		}
		logical = append(logical, extent.Extent{Off: int64(from), Len: int64(n)})
		for _, s := range c.mine {
			pieces = append(pieces, fact.Piece{Off: int64(s.off + from - c.start), Len: int64(n), At: int64(e.at)})
		}
		return nil
	}); err != nil {
		return nil, err
	}
	flags := le.Uint64(b[64:])
	switch {
	case len(pieces) == 0:
		return nil, nil
	case flags&inodeNoSums == 0 || compressed:
		return nil, tree.ErrSummed
	case flags>>32 != 0:
		return nil, errors.New("it is sealed by fs-verity")
	}
	return pieces, t.noSums(extent.FromUnsorted(logical))
}

// noSums makes sure that the tree of checksums has none of these logical addresses.
func (t *Tree) noSums(list extent.List) error {
	if t.sums == (ref{}) {
		return damaged("root tree: there is no tree of checksums")
	}
	fs := *t.fs
	fs.left = 1 << 22
	size := sumSizes[fs.sumKind]
	// meets tells whether any of the list lies between two addresses.
	meets := func(from, to uint64) bool {
		i, _ := slices.BinarySearchFunc(list, from, func(e extent.Extent, at uint64) int {
			if uint64(e.End()) <= at {
				return -1
			}
			return 1
		})
		return i < len(list) && uint64(list[i].Off) < to
	}
	most := fs.node / uint64(size) * fs.sector // that one item is of
	lo, hi := key{objSums, itemSums, 0}, key{objSums, itemSums, maxLogical}
	b := &btree{fs: &fs, name: "checksum", owner: treeSums, blocks: func(uint64) {},
		want: func(r ref) bool {
			from, to := uint64(0), uint64(maxLogical)
			if r.from.compare(lo) > 0 {
				from = min(r.from.off, maxLogical)
			}
			if r.to != (key{}) && r.to.compare(hi) < 0 {
				to = r.to.off
			}
			return meets(from, to+most)
		},
		item: func(k key, b []byte) error {
			n := (uint64(len(b)) + uint64(size) - 1) / uint64(size) * fs.sector
			if k.obj == objSums && k.typ == itemSums && k.off < maxLogical && meets(k.off, k.off+n) {
				return tree.ErrSummed
			}
			return nil
		}}
	return b.walk(t.sums)
}
