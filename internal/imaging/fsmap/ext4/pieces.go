package ext4

import (
	"errors"
	"fmt"
	"io"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
)

// maxNodes bounds the blocks of extent trees that Pieces reads.
const maxNodes = 4 << 20

const (
	flagInodeUninit = 0x1 // of a group: its inode table was never written
	regularFile     = 0x8000
)

// Pieces adds where regular files lie. It reads the inode tables in their order on the disk, and the extent trees of
// files that do not fit in their inodes. Files whose inodes make no sense are passed over. Where the filesystem cannot
// be read it stops early; what it found is then still right.
func Pieces(r io.ReaderAt, size int64, add func(fact.Piece)) error {
	fs := &filesystem{r: r, size: size}
	err := fs.pieces(add)
	var d damage
	if errors.As(err, &d) {
		return nil
	}
	return err
}

func (fs *filesystem) pieces(add func(fact.Piece)) error {
	if err := fs.readSuper(); err != nil {
		return err
	}
	if err := fs.readGroups(newGather(fs.blockSize)); err != nil {
		return err
	}
	nodes := maxNodes
	return fs.eachInode(func(nr uint64, b []byte) error {
		if nr < fs.firstInode || le.Uint16(b)&0xf000 != regularFile {
			return nil
		}
		err := fs.walkInode(b, &nodes, nil, func(r run) error {
			if !r.unwritten {
				add(fact.Piece{Off: int64(r.to) * fs.blockSize, Len: int64(r.n) * fs.blockSize, At: int64(r.from) * fs.blockSize})
			}
			return nil
		})
		if d := damage(""); errors.As(err, &d) && nodes >= 0 {
			return nil
		}
		return err
	})
}

// Claims adds every stretch of the volume that something of the filesystem says is its own: the metadata of fixed place,
// and what each inode leads to, with the blocks of its map and its attributes. In a sound filesystem no two of them
// overlap, but for attributes that files share. why says why not all could be told, or is empty.
func Claims(r io.ReaderAt, size int64, add func(extent.Extent)) (why string, err error) {
	fs := &filesystem{r: r, size: size}
	why, err = fs.claims(add)
	if d := damage(""); errors.As(err, &d) {
		return string(d), nil
	}
	return why, err
}

func (fs *filesystem) claims(add func(extent.Extent)) (why string, err error) {
	if err := fs.readSuper(); err != nil {
		return "", err
	}
	if err := fs.readJournal(); err != nil {
		return "", err
	}
	if fs.log != nil {
		return "it was not unmounted cleanly", nil
	}
	meta := newGather(fs.blockSize)
	if err := fs.readGroups(meta); err != nil {
		return "", err
	}
	for _, e := range meta.es {
		add(e)
	}
	nodes := maxNodes
	block := func(n blockNr) { add(fs.bytes(n, 1)) }
	err = fs.eachInode(func(nr uint64, b []byte) error {
		acl := blockNr(le.Uint32(b[0x68:])) | blockNr(le.Uint16(b[0x76:]))<<32
		if le.Uint16(b) != 0 && acl != 0 && acl < fs.blocks {
			block(acl)
		}
		switch le.Uint16(b) & 0xf000 {
		case 0, regularFile, 0x4000, 0xa000: // reserved ones without a type, files, directories, links
		default:
			return nil
		}
		err := fs.walkInode(b, &nodes, block, func(r run) error {
			add(fs.bytes(r.to, blockNr(r.n)))
			return nil
		})
		if d := damage(""); errors.As(err, &d) && nodes >= 0 {
			why = fmt.Sprintf("inode %d: %s", nr, d)
			return nil
		}
		return err
	})
	return why, err
}

// eachInode calls fn with all inodes that were ever written, in their order on the disk.
func (fs *filesystem) eachInode(fn func(nr uint64, b []byte) error) error {
	table := make([]byte, 0, 1<<20)
	for i := range fs.groups {
		g := &fs.groups[i]
		left := fs.inodesPerGroup - min(fs.inodesPerGroup, g.unusedInodes)
		off := int64(g.table) * fs.blockSize
		for nr := uint64(i)*fs.inodesPerGroup + 1; left > 0; {
			n := min(left, uint64(cap(table))/fs.inodeSize)
			table = table[:n*fs.inodeSize]
			if err := fs.read(table, off); err != nil {
				return err
			}
			off += int64(len(table))
			left -= n
			for b := table; len(b) > 0; b, nr = b[fs.inodeSize:], nr+1 {
				if err := fn(nr, b[:fs.inodeSize]); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// walkInode visits the runs of inode b, if it is in use and has blocks. Of damaged maps it visits what comes before the
// damage.
func (fs *filesystem) walkInode(b []byte, nodes *int, seen func(blockNr), visit func(run) error) error {
	size, flags := fileSize(b), le.Uint32(b[0x20:])
	kind := le.Uint16(b) & 0xf000
	if le.Uint16(b[0x1a:]) == 0 && kind != 0 || size == 0 || size > 1<<62 || flags&flagInline != 0 {
		return nil
	}
	if kind == 0xa000 && flags&flagExtents == 0 && size < 60 {
		return nil // the link lies in the inode
	}
	m := &mapping{fs: fs, blocks: (size + uint64(fs.blockSize) - 1) / uint64(fs.blockSize), nodes: *nodes, seen: seen, visit: visit}
	err := m.walk(b)
	*nodes = m.nodes
	return err
}
