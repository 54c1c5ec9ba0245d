// Package btrfs tells which bytes of a device of a btrfs filesystem are in use.
//
// It follows the "On-disk Format" of btrfs' own documentation. The superblock has the chunks in which the chunk tree
// lies; that has all chunks: where logical addresses lie on this device. The root tree leads to the extent tree, which
// has each range of logical addresses in use, and to the device tree, which has what of the device belongs to chunks.
//
// All of these must agree, with checksums, generations and bounds: the sum of extents with the used bytes of each block
// group, these with the superblock; chunks with block groups and with the device tree; gaps between extents with the
// free-space tree, where there is one that counts. Otherwise the answer is that the volume must be captured whole.
//
// After a crash there may be a log: trees of what was synced since the last commit. Their blocks, and the data that they
// lead to, are in no extent tree; they count as used, too.
package btrfs

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
)

// reserved is what btrfs keeps away from at the start of a device: for the superblock and boot loaders.
const reserved = 1 << 20

// Is tells whether a volume that starts with head may be a device of such a filesystem. Those made for zones have their
// superblock at the start.
func Is(head []byte) bool {
	at := func(off int64) bool {
		return int64(len(head)) >= off+8 && string(head[off:off+8]) == superMagic
	}
	return at(superOff[0]+magicAt) || at(magicAt)
}

// damage is a reason why the map cannot be trusted. It is no error of the disk.
type damage string

func (d damage) Error() string { return string(d) }

func damaged(format string, args ...any) error { return damage(fmt.Sprintf(format, args...)) }

// Used returns what the filesystem in the first bytes of a volume of size bytes is, and the extents in use, in bytes of
// the volume. Facts.Whole says why the extents do not count where they cannot be trusted. An error means that the volume
// could not be read.
func Used(r io.ReaderAt, size int64) (fact.Facts, extent.List, error) {
	fs := &filesystem{r: r, size: size}
	fs.facts.Type = "btrfs"
	used, err := fs.used()
	var d damage
	if errors.As(err, &d) {
		fs.facts.Whole = string(d)
		return fs.facts, nil, nil
	}
	return fs.facts, used, err
}

// filesystem is one reading of a device.
type filesystem struct {
	r     io.ReaderAt
	size  int64
	facts fact.Facts

	super
	chunks    chunks
	left      int      // tree blocks that may still be read
	blocks    []uint64 // logical addresses of tree blocks that must be in extents
	badCopies int      // of tree blocks
}

// tree returns a tree whose blocks must be in extents.
func (fs *filesystem) tree(name string, owner uint64, item func(k key, data []byte) error) *btree {
	return &btree{fs: fs, name: name, owner: owner, blocks: fs.expect, item: item}
}

// expect remembers that a tree block must be in an extent.
func (fs *filesystem) expect(logical uint64) {
	if len(fs.blocks) < maxBlocksChecked {
		fs.blocks = append(fs.blocks, logical)
	}
}

func (fs *filesystem) used() (extent.List, error) {
	if err := fs.readSuper(); err != nil {
		return nil, err
	}
	fs.left = int(fs.dev.total / fs.node)
	if err := fs.readChunks(); err != nil {
		return nil, err
	}
	roots, err := fs.readRoots()
	if err != nil {
		return nil, err
	}
	if err := fs.checkDevice(roots[treeDev]); err != nil {
		return nil, err
	}
	logical, err := fs.readExtents(roots)
	if err != nil {
		return nil, err
	}
	if err := fs.checkBlocks(logical); err != nil {
		return nil, err
	}
	log, err := fs.readLog()
	if err != nil {
		return nil, err
	}
	if fs.logRoot.logical != 0 {
		fs.facts.Notes = append(fs.facts.Notes, "it was not unmounted cleanly: its log is captured, and is replayed when the copy is mounted; until then what only the log knows of is not among its files")
	}
	if fs.badCopies > 0 {
		fs.facts.Notes = append(fs.facts.Notes, fmt.Sprintf("%d blocks of metadata are damaged, and have a good copy: btrfs scrub it", fs.badCopies))
	}
	list := fs.place(extent.Union(logical, log))
	list = extent.Union(list, extent.List{{Off: 0, Len: reserved}})
	for _, off := range superOff {
		list.Add(extent.Extent{Off: off, Len: superLen})
	}
	return list.Clip(extent.Extent{Len: fs.facts.Len}), nil
}

// readRoots returns the roots of the trees that tell what is in use. The roots of all trees must be in extents.
func (fs *filesystem) readRoots() (map[uint64]ref, error) {
	roots := map[uint64]ref{}
	t := fs.tree("root", treeRoot, func(k key, data []byte) error {
		if k.typ != itemRoot {
			return nil
		}
		r, err := parseRoot(data)
		if err != nil {
			return err
		}
		fs.expect(r.logical)
		switch k.obj {
		case treeExtent, treeDev, treeFreeSpace, treeBlockGroup:
			if k.off == 0 {
				roots[k.obj] = r
			}
		}
		return nil
	})
	if err := t.walk(fs.root); err != nil {
		return nil, err
	}
	need := map[uint64]string{treeExtent: "extents", treeDev: "devices"}
	if fs.compatRO&roBlockGroupTree != 0 {
		need[treeBlockGroup] = "block groups"
	}
	if fs.freeSpaceCounts() {
		need[treeFreeSpace] = "free space"
	}
	for id, what := range need {
		if _, ok := roots[id]; !ok {
			return nil, damaged("root tree: there is no tree of %s", what)
		}
	}
	return roots, nil
}

// parseRoot reads a root item: where the tree begins.
func parseRoot(b []byte) (ref, error) {
	if len(b) < 239 {
		return ref{}, damaged("a root item of %d bytes", len(b))
	}
	r := ref{logical: le.Uint64(b[176:]), gen: le.Uint64(b[160:]), level: b[238]}
	if r.level >= maxLevel {
		return r, damaged("a tree of %d levels", r.level)
	}
	return r, nil
}

// checkBlocks makes sure that the blocks of trees are in extents.
func (fs *filesystem) checkBlocks(logical extent.List) error {
	slices.Sort(fs.blocks)
	i := 0
	for _, at := range fs.blocks {
		for i < len(logical) && uint64(logical[i].End()) <= at {
			i++
		}
		if i == len(logical) || at < uint64(logical[i].Off) || at+fs.node > uint64(logical[i].End()) {
			return damaged("the tree block %d is in no extent", at)
		}
	}
	fs.blocks = nil
	return nil
}

// place returns where logical addresses lie on this device.
func (fs *filesystem) place(logical extent.List) extent.List {
	var es []extent.Extent
	i := 0
	for _, c := range fs.chunks {
		for i < len(logical) && uint64(logical[i].End()) <= c.start {
			i++
		}
		for j := i; j < len(logical) && uint64(logical[j].Off) < c.end(); j++ {
			from, to := max(uint64(logical[j].Off), c.start), min(uint64(logical[j].End()), c.end())
			c.place(from-c.start, to-c.start, func(e extent.Extent) { es = append(es, e) })
		}
	}
	var g fact.Gather
	for _, e := range extent.FromUnsorted(es) {
		g.Add(e)
	}
	return g.List()
}
