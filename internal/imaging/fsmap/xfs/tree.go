package xfs

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"mimeo/internal/imaging/fsmap/fact"
	"mimeo/internal/imaging/fsmap/tree"
)

// Tree reads the files of a filesystem that was unmounted. Its methods may be called from several goroutines.
type Tree struct{ fs *filesystem }

var _ tree.FS = (*Tree)(nil)

// OpenTree opens the filesystem in the first bytes of a volume of size bytes.
func OpenTree(r io.ReaderAt, size int64) (*Tree, error) {
	fs := &filesystem{r: r, size: size}
	if err := fs.readSuper(); err != nil {
		return nil, err
	}
	if err := fs.checkLog(); err != nil {
		return nil, err
	}
	if !fs.dirV2 {
		return nil, damaged("superblock: folders of version 1 are not supported")
	}
	return &Tree{fs}, nil
}

const (
	fileNodes = 1 << 20 // blocks of a file's map, at most
	fileRuns  = 4 << 20 // pieces of a file, at most
	dirBytes  = 4 << 30 // of a folder, at most; bounds the work
	maxLink   = 1024    // bytes of a symbolic link's target

	linkMagic = 0x58534c4d // XSLM
	linkHead  = 56
)

// Root implements tree.FS.
func (t *Tree) Root() uint64 { return t.fs.rootInode }

// inode returns the inode of that number, which must be in use.
func (t *Tree) inode(nr uint64) (*inode, error) {
	fs := t.fs
	if nr>>(fs.agLog+fs.inodeLog) >= uint64(fs.agCount) {
		return nil, damaged("there is no inode %d", nr)
	}
	group, at, ok := fs.split(nr >> fs.inodeLog)
	if !ok {
		return nil, damaged("there is no inode %d", nr)
	}
	b := make([]byte, fs.inodeSize)
	if err := fs.read(b, fs.bytes(group, at, 1).Off+int64(nr&(1<<fs.inodeLog-1))*fs.inodeSize); err != nil {
		return nil, fmt.Errorf("read inode %d: %w", nr, err)
	}
	i, err := fs.parseInode(nr, b)
	if err != nil {
		return nil, err
	}
	if i.mode() == 0 || i.links() == 0 {
		return nil, damaged("inode %d is not in use", nr)
	}
	return i, nil
}

// File implements tree.FS.
func (t *Tree) File(nr uint64) (tree.File, error) {
	i, err := t.inode(nr)
	if err != nil {
		return tree.File{Inode: nr}, err
	}
	f := i.file()
	if i.size() > 1<<62 {
		return f, damaged("inode %d has %d bytes", nr, i.size())
	}
	f.Size = int64(i.size())
	switch f.Type() {
	case tree.Regular:
		f.Holes = f.Size - int64(min(i.blocks(), 1<<62/uint64(t.fs.blockSize)))*t.fs.blockSize
	case tree.Link:
		f.Target, err = t.target(i)
	case tree.Char, tree.Block:
		f.Device = i.device()
	}
	return f, err
}

// target returns where a symbolic link leads: short ones lie in the inode.
func (t *Tree) target(i *inode) (string, error) {
	fs, size, f := t.fs, int(min(i.size(), maxLink+1)), i.content()
	switch {
	case size > maxLink:
		return "", damaged("inode %d: a symbolic link of %d bytes", i.nr, i.size())
	case f.format == formatLocal && size > len(f.b):
		return "", damaged("inode %d: a link of %d bytes is said to lie in it", i.nr, size)
	case f.format == formatLocal:
		return string(f.b[:size]), nil
	}
	var out []byte
	m := &mapping{fs: fs, inode: i.nr, nodes: fileNodes, visit: func(r run) error {
		if len(out) >= size {
			return nil
		}
		b := make([]byte, min(r.at.Len, 64<<10))
		if err := fs.read(b, r.at.Off); err != nil {
			return err
		}
		if fs.version == 5 {
			n := be.Uint32(b[8:])
			if be.Uint32(b) != linkMagic || be.Uint32(b[4:]) != uint32(len(out)) || be.Uint64(b[32:]) != i.nr || n > uint32(len(b)-linkHead) {
				return damaged("inode %d: the block of its link is one of another", i.nr)
			}
			b = b[linkHead:][:n]
		}
		out = append(out, b...)
		return nil
	}}
	if err := m.walk(f); err != nil {
		return "", err
	}
	if len(out) < size {
		return "", damaged("inode %d: a link of %d bytes, of which %d are there", i.nr, size, len(out))
	}
	return string(out[:size]), nil
}

// Open implements tree.FS.
func (t *Tree) Open(nr uint64) (io.ReaderAt, error) {
	i, err := t.inode(nr)
	switch {
	case err != nil:
		return nil, err
	case i.mode()&tree.TypeMask != tree.Regular:
		return nil, fmt.Errorf("inode %d is no regular file", nr)
	case i.realtime():
		return nil, errors.New("what the file holds lies on another device, for realtime")
	case i.content().format != formatExtents && i.content().format != formatTree:
		return nil, damaged("inode %d: a file cannot lie in it", nr)
	}
	return t.pieced(i, false)
}

// pieced returns the content of a file or folder. Of a folder, whose content behind its size is an index, only what is
// in front of it counts.
func (t *Tree) pieced(i *inode, unwritten bool) (*tree.Pieced, error) {
	size := i.size()
	if size > 1<<62 {
		return nil, damaged("inode %d has %d bytes", i.nr, size)
	}
	bs := t.fs.blockSize
	p := &tree.Pieced{Volume: t.fs.r, Size: int64(size)}
	m := &mapping{fs: t.fs, inode: i.nr, nodes: fileNodes, visit: func(r run) error {
		if r.from >= (size+uint64(bs)-1)/uint64(bs) || r.unwritten && !unwritten {
			return nil
		}
		if len(p.Pieces) == fileRuns {
			return damaged("inode %d lies in more than %d pieces", i.nr, fileRuns)
		}
		p.Pieces = append(p.Pieces, fact.Piece{Off: r.at.Off, Len: r.at.Len, At: int64(r.from) * bs})
		return nil
	}}
	return p, m.walk(i.content())
}

// Folders, of the kernel's xfs_da_format.h.
const (
	blockMagic4 = 0x58443242 // XD2B: a folder of one block, with its index
	blockMagic5 = 0x58444233 // XDB3
	dataMagic4  = 0x58443244 // XD2D: a block of names
	dataMagic5  = 0x58444433 // XDD3
	dataHead4   = 16
	dataHead5   = 64
	freeTag     = 0xffff
)

// Dir implements tree.FS.
func (t *Tree) Dir(nr uint64, fn func(tree.Entry) error) error {
	i, err := t.inode(nr)
	if err != nil {
		return err
	}
	if i.mode()&tree.TypeMask != tree.Dir {
		return fmt.Errorf("inode %d is no directory", nr)
	}
	f := i.content()
	if f.format == formatLocal {
		if i.size() > uint64(len(f.b)) {
			return damaged("inode %d: a folder of %d bytes is said to lie in it", nr, i.size())
		}
		return t.short(nr, f.b[:i.size()], fn)
	}
	if i.size() > dirBytes {
		return damaged("inode %d: a folder of %d bytes", nr, i.size())
	}
	p, err := t.pieced(i, true)
	if err != nil {
		return err
	}
	size := t.fs.blockSize << t.fs.dirLog
	b := make([]byte, size)
	next := int64(0) // block of the folder that was not read yet
	for _, piece := range p.Pieces {
		for n := max(next, piece.At/size); n*size < min(piece.At+piece.Len, p.Size); n++ {
			if _, err := p.ReadAt(b, n*size); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			if err := t.block(nr, b, fn); err != nil {
				return err
			}
			next = n + 1
		}
	}
	return nil
}

// short reads a folder that lies in its inode.
func (t *Tree) short(nr uint64, b []byte, fn func(tree.Entry) error) error {
	if len(b) < 6 {
		return damaged("inode %d: a folder of %d bytes", nr, len(b))
	}
	count, width := int(b[0]), 4
	if b[1] > 0 {
		width = 8
	}
	if len(b) < 2+width {
		return damaged("inode %d: a folder of %d bytes", nr, len(b))
	}
	for b = b[2+width:]; count > 0; count-- {
		n, kind := 0, 0
		if t.fs.ftype {
			kind = 1
		}
		if len(b) >= 1 {
			n = int(b[0])
		}
		if n == 0 || len(b) < 3+n+kind+width {
			return damaged("inode %d: a name of %d bytes in %d", nr, n, len(b))
		}
		at := b[3+n+kind:]
		inode := uint64(be.Uint32(at))
		if width == 8 {
			inode = be.Uint64(at)
		}
		if err := t.entry(b[3:3+n], inode, fn); err != nil {
			return err
		}
		b = at[width:]
	}
	return nil
}

// block reads a block of a folder.
func (t *Tree) block(nr uint64, b []byte, fn func(tree.Entry) error) error {
	at, end := dataHead4, len(b)
	switch be.Uint32(b) {
	case dataMagic4, blockMagic4:
		if t.fs.version == 5 {
			return damaged("inode %d: a block of another version", nr)
		}
	case dataMagic5, blockMagic5:
		if t.fs.version == 4 || !checked(b, 4) || be.Uint64(b[40:]) != nr {
			return damaged("inode %d: a block of its names is damaged, or of another", nr)
		}
		at = dataHead5
	default:
		return damaged("inode %d: a block of its names is none", nr)
	}
	if m := be.Uint32(b); m == blockMagic4 || m == blockMagic5 {
		n := int64(be.Uint32(b[len(b)-8:]))
		if n > int64(len(b)-8-at)/8 {
			return damaged("inode %d: an index of %d names in a block", nr, n)
		}
		end -= 8 + 8*int(n)
	}
	kind := 0
	if t.fs.ftype {
		kind = 1
	}
	for at+8 <= end {
		e := b[at:end]
		if be.Uint16(e) == freeTag {
			n := int(be.Uint16(e[2:]))
			if n == 0 || n%8 != 0 || n > len(e) {
				return damaged("inode %d: %d free bytes in a block of its names", nr, n)
			}
			at += n
			continue
		}
		if len(e) < 16 {
			return damaged("inode %d: %d bytes are left in a block of its names", nr, len(e))
		}
		n := int(e[8])
		size := (9 + n + kind + 2 + 7) &^ 7
		if n == 0 || size > len(e) || int(be.Uint16(e[size-2:])) != at {
			return damaged("inode %d: a name of %d bytes in a block", nr, n)
		}
		if err := t.entry(e[9:9+n], be.Uint64(e), fn); err != nil {
			return err
		}
		at += size
	}
	return nil
}

func (t *Tree) entry(name []byte, inode uint64, fn func(tree.Entry) error) error {
	e := tree.Entry{Name: string(name), Inode: inode}
	switch {
	case e.Name == "." || e.Name == "..":
		return nil
	case strings.ContainsAny(e.Name, "/\x00"):
		return damaged("a file is called %q", e.Name)
	}
	return fn(e)
}
