package xfs

import (
	"errors"
	"fmt"
	"io"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
	"mimeo/internal/imaging/fsmap/tree"
)

// maxNodes bounds the blocks of files' maps that Pieces and Claims read.
const maxNodes = 4 << 20

const (
	inodesMagic = 0x58414749 // "XAGI"
	inodesSum   = 312
	chunkInodes = 64 // of a record of the tree of inodes
)

// Pieces adds where regular files lie. It reads the inodes of one allocation group after the other in their order on the
// disk, and the maps of files that do not fit in their inodes. Files whose inodes make no sense are passed over, and so
// are groups whose trees make none.
func Pieces(r io.ReaderAt, size int64, add func(fact.Piece)) error {
	fs := &filesystem{r: r, size: size}
	var d damage
	if err := fs.readSuper(); errors.As(err, &d) {
		return nil
	} else if err != nil {
		return err
	}
	nodes := maxNodes
	for group := range fs.agCount {
		heads, _, err := fs.readHeads(group, func(extent.Extent) {})
		if err == nil {
			err = fs.eachInode(group, heads, nil, func(nr uint64, b []byte) error {
				i, err := fs.parseInode(nr, b)
				if err != nil || i.mode()&tree.TypeMask != tree.Regular || i.realtime() {
					return nil
				}
				blocks := (i.size() + uint64(fs.blockSize) - 1) / uint64(fs.blockSize)
				err = fs.walkFork(i, i.content(), &nodes, nil, func(r run) error {
					if r.from < blocks && !r.unwritten {
						n := int64(min(r.n, blocks-r.from))
						add(fact.Piece{Off: r.at.Off, Len: n * fs.blockSize, At: int64(r.from) * fs.blockSize})
					}
					return nil
				})
				if errors.As(err, &d) && nodes >= 0 {
					return nil
				}
				return err
			})
		}
		if err != nil && !errors.As(err, &d) {
			return err
		}
		if nodes < 0 {
			break
		}
	}
	return nil
}

// Claims adds every stretch of the volume that something of the filesystem says is its own: headers, trees, inodes, the
// log, and what each inode leads to, with the blocks of its maps and its attributes. In a sound filesystem no two of
// them overlap, but for files that share extents. why says why not all could be told, or is empty.
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
	if err := fs.checkLog(); err != nil {
		return "", err
	}
	add(fs.logExtent())
	nodes := maxNodes
	for group := range fs.agCount {
		heads, _, err := fs.readHeads(group, add)
		if err != nil {
			return "", prefixed(err, "allocation group %d", group)
		}
		if err := fs.claimTrees(group, heads, add); err != nil {
			return "", prefixed(err, "allocation group %d", group)
		}
		if err := fs.eachInode(group, heads, add, func(nr uint64, b []byte) error {
			i, err := fs.parseInode(nr, b)
			if err != nil {
				return err
			}
			forks := []fork{i.attributes()}
			if !i.realtime() {
				forks = append(forks, i.content())
			}
			for _, f := range forks {
				if err := fs.walkFork(i, f, &nodes, add, func(r run) error {
					add(r.at)
					return nil
				}); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return "", prefixed(err, "allocation group %d", group)
		}
	}
	return "", nil
}

// claimTrees adds the blocks of a group's trees, but for that of inodes.
func (fs *filesystem) claimTrees(group uint32, heads []byte, add func(extent.Extent)) error {
	f, i := heads[fs.sectorSize:], heads[2*fs.sectorSize:]
	none := func([]byte) error { return nil }
	for _, t := range []struct {
		is    bool
		kind  kind
		place []byte // the root, and the levels behind it or where they are
		level []byte
	}{
		{true, byPlace, f[16:], f[28:]},
		{true, byLength, f[20:], f[32:]},
		{fs.rmap, owners, f[24:], f[36:]},
		{fs.reflink, refcounts, f[88:], f[92:]},
		{fs.finobt, noInodes, i[328:], i[332:]},
	} {
		if !t.is {
			continue
		}
		if _, err := fs.walk(t.kind, group, agBlock(be.Uint32(t.place)), be.Uint32(t.level), add, none); err != nil {
			return err
		}
	}
	return nil
}

// eachInode calls fn with all inodes of a group that are in use, in their order on the disk. seen, where it is not nil, is
// told where the inodes and their tree lie.
func (fs *filesystem) eachInode(group uint32, heads []byte, seen func(extent.Extent), fn func(nr uint64, b []byte) error) error {
	h := heads[2*fs.sectorSize : 3*fs.sectorSize]
	if err := fs.checkHead(h, group, inodesMagic, inodesSum, 8, 296, false); err != nil {
		return prefixed(err, "header of inodes")
	}
	buf := make([]byte, chunkInodes*fs.inodeSize)
	length, next := uint64(fs.groupLen(group)), uint64(0)
	_, err := fs.walk(inodes, group, agBlock(be.Uint32(h[20:])), be.Uint32(h[24:]), seen, func(b []byte) error {
		first, free, holes := uint64(be.Uint32(b)), be.Uint64(b[8:]), uint16(0)
		if fs.sparse {
			holes = be.Uint16(b[4:])
		}
		if first < next || first+chunkInodes > length<<fs.inodeLog && holes == 0 {
			return damaged("its records are in no order at inode %d", first)
		}
		next = first + chunkInodes
		// A hole is of four inodes. What lies between holes is read at once.
		for from := uint64(0); from < chunkInodes; {
			to := from
			for to < chunkInodes && holes>>(to/4)&1 == 0 {
				to += 4
			}
			if to == from {
				from += 4
				continue
			}
			e := extent.Extent{Off: fs.bytes(group, 0, 1).Off + int64(first+from)*fs.inodeSize, Len: int64(to-from) * fs.inodeSize}
			if first+to > length<<fs.inodeLog {
				return damaged("inode %d lies behind the group", first+to)
			}
			if seen != nil {
				seen(e)
			}
			if err := fs.read(buf[:e.Len], e.Off); err != nil {
				return fmt.Errorf("read inodes: %w", err)
			}
			for n := from; n < to; n++ {
				if free>>n&1 == 0 {
					nr := uint64(group)<<(fs.agLog+fs.inodeLog) | (first + n)
					if err := fn(nr, buf[int64(n-from)*fs.inodeSize:][:fs.inodeSize]); err != nil {
						return err
					}
				}
			}
			from = to
		}
		return nil
	})
	return err
}

// walkFork visits the runs of a fork. Of damaged maps it visits what comes before the damage.
func (fs *filesystem) walkFork(i *inode, f fork, nodes *int, seen func(extent.Extent), visit func(run) error) error {
	m := &mapping{fs: fs, inode: i.nr, nodes: *nodes, seen: seen, visit: visit}
	err := m.walk(f)
	*nodes = m.nodes
	return err
}
