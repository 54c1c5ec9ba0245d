package btrfs

import (
	"errors"
	"io"

	"mimeo/internal/imaging/extent"
)

const (
	treeDataReloc = 1<<64 - 9
	itemDataRef   = 178 // in an extent item: a file that has it
)

// Claims adds every stretch of the device that something of the filesystem says is its own: what each file has, once for
// each subvolume and snapshot that it is in; all that is in no extent of data; and once more, extents of data that belong to
// more than one file by the extent tree. why says why not all could be told, or is empty.
func Claims(r io.ReaderAt, size int64, add func(extent.Extent)) (why string, err error) {
	fs := &filesystem{r: r, size: size}
	err = fs.claims(add)
	if d := damage(""); errors.As(err, &d) {
		return string(d), nil
	}
	return "", err
}

func (fs *filesystem) claims(add func(extent.Extent)) error {
	if err := fs.readSuper(); err != nil {
		return err
	}
	if fs.logRoot.logical != 0 {
		return damaged("it was not unmounted cleanly")
	}
	fs.left = 2 * int(fs.dev.total/fs.node) // a shared block is read twice
	if err := fs.readChunks(); err != nil {
		return err
	}
	add(extent.Extent{Len: reserved})
	for _, off := range superOff {
		add(extent.Extent{Off: off, Len: superLen})
	}
	file := func(k key, b []byte) error {
		if k.typ != itemExtentData {
			return nil
		}
		e, err := parseFileExtent(k.off, b)
		if err != nil {
			return err
		}
		from, n := e.stretch()
		if n == 0 {
			return nil
		}
		c := fs.chunks.find(from)
		if c == nil || n > c.end()-from {
			return damaged("%d bytes of a file at %d lie in no chunk", n, from)
		}
		c.place(from-c.start, from-c.start+n, add)
		return nil
	}
	// Subvolumes share blocks of their trees. All below a block that is met twice is shared; meeting it more often tells
	// nothing new.
	met, full := map[uint64]uint8{}, false
	want := func(r ref) bool {
		if full = full || len(met) == maxBlocksChecked; full || met[r.logical] == 2 {
			return false
		}
		met[r.logical]++
		return true
	}
	var extents ref
	trees := &btree{fs: fs, owner: anyFiles, name: "file", blocks: func(uint64) {}, want: want, item: file}
	if err := fs.walkTree("root", treeRoot, fs.root, func(k key, b []byte) error {
		if k.typ != itemRoot {
			return file(k, b) // the free space is kept in files of this tree, in version 1
		}
		r, err := parseRoot(b)
		if err != nil {
			return err
		}
		switch {
		case k.obj == treeExtent:
			extents = r
		case k.obj == treeReloc || k.obj == treeLog:
			return damaged("a balance has not come to its end")
		case k.obj == treeDataReloc:
			return fs.walkTree("relocation", treeDataReloc, r, file)
		case k.obj == treeFiles || k.obj >= firstFree && k.obj < 1<<63:
			if want(r) { // one that is being deleted, too
				return trees.walk(r)
			}
		}
		return nil
	}); err != nil {
		return err
	}
	if full {
		return damaged("its files' trees have more than %d blocks", maxBlocksChecked)
	}
	return fs.claimOthers(extents, add)
}

// claimOthers adds all that is in no extent of data, and extents of data that are not one file's alone.
func (fs *filesystem) claimOthers(root ref, add func(extent.Extent)) error {
	cs := fs.chunks
	if len(cs) == 0 {
		return damaged("chunk tree: there are no chunks")
	}
	i, at := 0, cs[0].start
	upTo := func(end uint64) {
		cs[i].place(at-cs[i].start, end-cs[i].start, add)
		at = end
	}
	next := func() {
		upTo(cs[i].end())
		if i++; i < len(cs) {
			at = cs[i].start
		}
	}
	if err := fs.walkTree("extent", treeExtent, root, func(k key, b []byte) error {
		if k.typ != itemExtent || len(b) < 24 || le.Uint64(b[16:])&extentData == 0 {
			return nil
		}
		for i < len(cs) && cs[i].end() <= k.obj {
			next()
		}
		if i == len(cs) || k.obj < at || k.off > cs[i].end()-k.obj {
			return damaged("an extent of %d bytes is not within a chunk, or lies on the one before", k.off)
		}
		upTo(k.obj)
		if at += k.off; !ownedOnce(b) {
			at = k.obj
			upTo(k.obj + k.off)
		}
		return nil
	}); err != nil {
		return err
	}
	for i < len(cs) {
		next()
	}
	return nil
}

// ownedOnce tells whether all that refers to an extent of data is one file in one tree, however often.
func ownedOnce(b []byte) bool {
	return len(b) == 53 && b[24] == itemDataRef && le.Uint64(b) == uint64(le.Uint32(b[49:]))
}
