package ext4

import (
	"errors"
	"io"

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
				if nr < fs.firstInode {
					continue
				}
				if err := fs.filePieces(b[:fs.inodeSize], &nodes, add); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// filePieces adds where the file of inode b lies.
func (fs *filesystem) filePieces(b []byte, nodes *int, add func(fact.Piece)) error {
	size := fileSize(b)
	if le.Uint16(b)&0xf000 != regularFile || le.Uint16(b[0x1a:]) == 0 || size == 0 || le.Uint32(b[0x20:])&flagInline != 0 {
		return nil
	}
	if size > 1<<62 {
		return nil
	}
	m := &mapping{fs: fs, blocks: (size + uint64(fs.blockSize) - 1) / uint64(fs.blockSize), nodes: *nodes, visit: func(r run) error {
		if !r.unwritten {
			add(fact.Piece{Off: int64(r.to) * fs.blockSize, Len: int64(r.n) * fs.blockSize, At: int64(r.from) * fs.blockSize})
		}
		return nil
	}}
	err := m.walk(b)
	*nodes = m.nodes
	if d := damage(""); errors.As(err, &d) && m.nodes >= 0 {
		return nil
	}
	return err
}
