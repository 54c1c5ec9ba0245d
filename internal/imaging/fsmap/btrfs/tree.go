package btrfs

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"mimeo/internal/imaging/fsmap/fact"
	"mimeo/internal/imaging/fsmap/tree"
)

const (
	treeFiles = 5   // the subvolume that is the top level
	firstFree = 256 // subvolumes have numbers from here on, and files in each
	treeReloc = 1<<64 - 8

	itemInode    = 1
	itemDirIndex = 96
	itemBackref  = 144 // of a subvolume: where it is

	inodeLen = 160
	dirLen   = 30 // of an entry, without its name

	// The number of a file is the place of its subvolume in the list of all, and its number there.
	inodeBits = 48
	absent    = 1 << 47 // of a number: where a snapshot has a subvolume that was not taken along
	maxVolume = 1 << 16
	fileRuns  = 4 << 20 // pieces of a file, at most
	maxTarget = 4096    // bytes of a symbolic link's target
)

// Tree reads the files of a filesystem as of its last commit: what only a log knows of is not there. Its root is the top
// level, in which all subvolumes and snapshots are. Its methods may be called from several goroutines.
type Tree struct {
	fs      *filesystem
	volumes []subvolume
	sums    ref // the tree of checksums
}

var _ tree.FS = (*Tree)(nil)

// subvolume is a tree of files.
type subvolume struct {
	id     uint64
	root   ref
	dir    uint64 // number of its root directory
	parent uint64 // the subvolume that it is in, and in which directory there
	at     uint64
}

// OpenTree opens the filesystem in the first bytes of a volume of size bytes.
func OpenTree(r io.ReaderAt, size int64) (*Tree, error) {
	fs := &filesystem{r: r, size: size}
	if err := fs.readSuper(); err != nil {
		return nil, err
	}
	fs.left = int(fs.dev.total / fs.node)
	if err := fs.readChunks(); err != nil {
		return nil, err
	}
	t := &Tree{fs: fs}
	if err := t.readVolumes(); err != nil {
		return nil, err
	}
	return t, nil
}

// readVolumes finds all subvolumes.
func (t *Tree) readVolumes() error {
	type place struct{ parent, at uint64 }
	places := map[uint64]place{}
	roots := &btree{fs: t.fs, name: "root", owner: treeRoot, blocks: func(uint64) {}, item: func(k key, b []byte) error {
		files := k.obj == treeFiles || k.obj >= firstFree && k.obj < 1<<63
		switch {
		case k.obj == treeSums && k.typ == itemRoot:
			var err error
			t.sums, err = parseRoot(b)
			return err
		case files && k.typ == itemBackref:
			if len(b) < 18 {
				return damaged("a reference of %d bytes", len(b))
			}
			places[k.obj] = place{k.off, le.Uint64(b)}
		case files && k.typ == itemRoot:
			r, err := parseRoot(b)
			if err != nil {
				return err
			}
			if le.Uint32(b[216:]) == 0 {
				return nil // it is being deleted
			}
			if len(t.volumes) == maxVolume {
				return damaged("there are more than %d subvolumes", maxVolume)
			}
			t.volumes = append(t.volumes, subvolume{id: k.obj, root: r, dir: le.Uint64(b[168:])})
		}
		return nil
	}}
	if err := roots.walk(t.fs.root); err != nil {
		return err
	}
	t.volumes = slices.CompactFunc(t.volumes, func(a, b subvolume) bool { return a.id == b.id })
	for i := range t.volumes {
		p := places[t.volumes[i].id]
		t.volumes[i].parent, t.volumes[i].at = p.parent, p.at
	}
	if len(t.volumes) == 0 || t.volumes[0].id != treeFiles {
		return damaged("root tree: there is no tree of files")
	}
	return nil
}

// volume returns the place of a subvolume in the list.
func (t *Tree) volume(id uint64) (int, bool) {
	return slices.BinarySearchFunc(t.volumes, id, func(v subvolume, id uint64) int { return cmp.Compare(v.id, id) })
}

// Root implements tree.FS.
func (t *Tree) Root() uint64 { return t.volumes[0].dir }

// split returns the subvolume of a file, and its number there.
func (t *Tree) split(inode uint64) (subvolume, uint64, error) {
	i := int(inode >> inodeBits)
	if i >= len(t.volumes) {
		return subvolume{}, 0, damaged("there is no subvolume of file %d", inode)
	}
	return t.volumes[i], inode & (1<<inodeBits - 1), nil
}

// items calls fn with the items of a file from one kind on up to another, in ascending order.
func (t *Tree) items(inode uint64, from, to uint8, fn func(k key, b []byte) error) error {
	v, obj, err := t.split(inode)
	if err != nil {
		return err
	}
	fs := *t.fs // each reading has a bound of its own
	fs.left = 1 << 22
	lo, hi := key{obj, from, 0}, key{obj, to, math.MaxUint64}
	b := &btree{fs: &fs, name: fmt.Sprint("subvolume ", v.id), owner: anyFiles, blocks: func(uint64) {},
		want: func(r ref) bool { return r.from.compare(hi) <= 0 && (r.to == key{} || r.to.compare(lo) > 0) },
		item: func(k key, b []byte) error {
			if k.compare(lo) < 0 || k.compare(hi) > 0 {
				return nil
			}
			return fn(k, b)
		}}
	return b.walk(v.root)
}

// node returns the inode item of a file.
func (t *Tree) node(inode uint64) ([]byte, error) {
	var out []byte
	err := t.items(inode, itemInode, itemInode, func(_ key, b []byte) error {
		if len(b) != inodeLen {
			return damaged("an inode of %d bytes", len(b))
		}
		out = slices.Clone(b)
		return nil
	})
	if err == nil && out == nil {
		err = damaged("there is no file %d", inode)
	}
	return out, err
}

// File implements tree.FS.
func (t *Tree) File(inode uint64) (tree.File, error) {
	f := tree.File{Inode: inode}
	if inode&absent != 0 { // as the kernel shows it
		f.Mode, f.Links = tree.Dir|0o755, 1
		return f, nil
	}
	b, err := t.node(inode)
	if err != nil {
		return f, err
	}
	f.Mode, f.UID, f.GID, f.Links = le.Uint32(b[52:]), le.Uint32(b[44:]), le.Uint32(b[48:]), le.Uint32(b[40:])
	f.Modified = time.Unix(int64(le.Uint64(b[136:])), int64(le.Uint32(b[144:]))%1e9)
	size := le.Uint64(b[16:])
	if size > 1<<62 {
		return f, damaged("file %d has %d bytes", inode, size)
	}
	f.Size = int64(size)
	switch f.Type() {
	case tree.Dir:
		f.Size = 0
	case tree.Regular:
		if taken := le.Uint64(b[24:]); taken < 1<<62 { // without what is compressed
			f.Holes = f.Size - int64(taken)
		}
	case tree.Link:
		f.Target, err = t.target(inode, f.Size)
	case tree.Char, tree.Block:
		dev := le.Uint64(b[56:]) // 12 bits of major number above 20 of minor
		major, minor := uint32(dev>>20)&0xfff, uint32(dev)&0xfffff
		f.Device = minor&0xff | major<<8 | (minor&^0xff)<<12
	}
	return f, err
}

// target returns where a symbolic link leads.
func (t *Tree) target(inode uint64, size int64) (string, error) {
	if size > maxTarget {
		return "", damaged("file %d: a symbolic link of %d bytes", inode, size)
	}
	c, err := t.content(inode, size)
	if err != nil {
		return "", err
	}
	b := make([]byte, size)
	if n, err := c.ReadAt(b, 0); n < len(b) {
		return "", err
	}
	return string(b), nil
}

// Dir implements tree.FS.
func (t *Tree) Dir(inode uint64, fn func(tree.Entry) error) error {
	if inode&absent != 0 {
		return nil
	}
	v, obj, err := t.split(inode)
	if err != nil {
		return err
	}
	return t.items(inode, itemDirIndex, itemDirIndex, func(_ key, b []byte) error {
		if len(b) < dirLen {
			return damaged("an entry of %d bytes", len(b))
		}
		to, name := parseKey(b), string(b[dirLen:])
		if int(le.Uint16(b[25:]))+int(le.Uint16(b[27:])) != len(name) || le.Uint16(b[27:]) == 0 {
			return damaged("an entry of %d bytes, with a name of %d", len(b), le.Uint16(b[27:]))
		}
		name = name[:le.Uint16(b[27:])]
		if name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
			return damaged("an entry with the name %q", name)
		}
		e := tree.Entry{Name: name, Inode: inode&^(1<<inodeBits-1) | to.obj}
		switch {
		case to.obj >= absent:
			return damaged("%q leads to file %d", name, to.obj)
		case to.typ == itemRoot:
			e.Inode |= absent
			if i, ok := t.volume(to.obj); ok && t.volumes[i].parent == v.id && t.volumes[i].at == obj {
				e.Inode = uint64(i)<<inodeBits | t.volumes[i].dir
			}
		case to.typ != itemInode:
			return damaged("%q leads to an item of kind %d", name, to.typ)
		}
		return fn(e)
	})
}

// Open implements tree.FS.
func (t *Tree) Open(inode uint64) (io.ReaderAt, error) {
	if inode&absent != 0 {
		return nil, fmt.Errorf("file %d is a directory", inode)
	}
	b, err := t.node(inode)
	switch {
	case err != nil:
		return nil, err
	case le.Uint32(b[52:])&tree.TypeMask != tree.Regular:
		return nil, fmt.Errorf("file %d is no regular file", inode)
	case le.Uint64(b[16:]) > 1<<62:
		return nil, damaged("file %d has %d bytes", inode, le.Uint64(b[16:]))
	}
	return t.content(inode, int64(le.Uint64(b[16:])))
}

// Pieces adds where the content of files lies, compressed or not. Trees that are damaged are passed over; an error means
// that the volume could not be read.
func Pieces(r io.ReaderAt, size int64, add func(fact.Piece)) error {
	t, err := OpenTree(r, size)
	seen := map[uint64]bool{}
	for i := 0; err == nil && i < len(t.volumes); i++ {
		if err = t.pieces(i, seen, add); isDamage(err) {
			err = nil
		}
	}
	if isDamage(err) {
		return nil
	}
	return err
}

func isDamage(err error) bool {
	var d damage
	return errors.As(err, &d)
}

// pieces reads a subvolume, but for the blocks in seen: it shares them with those before.
func (t *Tree) pieces(i int, seen map[uint64]bool, add func(fact.Piece)) error {
	v := t.volumes[i]
	fs := *t.fs
	b := &btree{fs: &fs, name: fmt.Sprint("subvolume ", v.id), owner: anyFiles, blocks: func(uint64) {},
		want: func(r ref) bool {
			if seen[r.logical] {
				return false
			}
			if len(seen) < maxBlocksChecked {
				seen[r.logical] = true
			}
			return true
		},
		item: func(k key, b []byte) error {
			if k.typ != itemExtentData {
				return nil
			}
			e, err := parseFileExtent(k.off, b)
			if err != nil || e.disk == 0 {
				return err
			}
			from, n := e.stretch()
			places, err := fs.chunks.places(from, n)
			if err != nil {
				return nil // on another device
			}
			for _, at := range places {
				add(fact.Piece{Off: at, Len: int64(n), At: int64(k.off)})
			}
			return nil
		}}
	return b.walk(v.root)
}
