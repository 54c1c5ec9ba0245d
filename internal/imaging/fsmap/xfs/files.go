package xfs

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
	"mimeo/internal/imaging/fsmap/tree"
)

const (
	flagImmutable = 0x8  // of di_flags: boot loaders write to such files past the filesystem
	flag2Metadata = 0x20 // of di_flags2: the filesystem's own

	envBlock = 1024 // bytes of the file in which GRUB keeps its variables: it writes past the filesystem
)

// Files calls file with the regular files whose every write leaves a mark in their inodes, in ascending order, and other
// with what else has an owner: metadata, and files that are written in other ways. why says why nothing of that may be
// believed, and is empty where it may. An error means that the volume could not be read, or comes from file.
func Files(r io.ReaderAt, size int64, file func(fact.File) error, other func(extent.Extent)) (why string, err error) {
	fs := &filesystem{r: r, size: size}
	err = fs.files(file, other)
	if d := damage(""); errors.As(err, &d) {
		return string(d), nil
	}
	return "", err
}

func (fs *filesystem) files(file func(fact.File) error, other func(extent.Extent)) error {
	if err := fs.readSuper(); err != nil {
		return err
	}
	if err := fs.checkLog(); err != nil {
		return err
	}
	other(fs.logExtent())
	own, err := fs.ownFiles()
	if err != nil {
		return err
	}
	nodes := maxNodes
	var f fact.File
	for group := range fs.agCount {
		heads, _, err := fs.readHeads(group, other)
		if err != nil {
			return prefixed(err, "allocation group %d", group)
		}
		if err := fs.claimTrees(group, heads, other); err != nil {
			return prefixed(err, "allocation group %d", group)
		}
		if err := fs.eachInode(group, heads, other, func(nr uint64, b []byte) error {
			i, err := fs.parseInode(nr, b)
			if err != nil {
				return err
			}
			claim := func(r run) error {
				other(r.at)
				return nil
			}
			if err := fs.walkFork(i, i.attributes(), &nodes, other, claim); err != nil || i.realtime() {
				return err
			}
			flags := be.Uint16(b[90:])
			f = fact.File{Nr: nr, Size: int64(i.size()), Mark: i.mark(f.Mark[:0]), Extents: f.Extents[:0]}
			if i.mode()&tree.TypeMask != tree.Regular || flags&flagImmutable != 0 || i.flags2()&flag2Metadata != 0 || f.Size == envBlock || slices.Contains(own, nr) {
				return fs.walkFork(i, i.content(), &nodes, other, claim)
			}
			if err := fs.walkFork(i, i.content(), &nodes, other, func(r run) error {
				for _, n := range []uint64{r.from, r.n, uint64(r.at.Off)} {
					f.Mark = be.AppendUint64(f.Mark, n)
				}
				if r.unwritten {
					f.Mark = append(f.Mark, 1)
					return nil
				}
				f.Mark = append(f.Mark, 0)
				f.Extents = append(f.Extents, r.at)
				return nil
			}); err != nil || len(f.Extents) == 0 {
				return err
			}
			if err := file(f); err != nil {
				return fmt.Errorf("inode %d: %w", nr, err)
			}
			return nil
		}); err != nil {
			return prefixed(err, "allocation group %d", group)
		}
	}
	return nil
}

// ownFiles are the inodes of files that the filesystem itself writes to, and leaves no mark: of realtime and of quotas.
func (fs *filesystem) ownFiles() ([]uint64, error) {
	b := make([]byte, superLen)
	if err := fs.read(b, 0); err != nil {
		return nil, fmt.Errorf("read superblock: %w", err)
	}
	var list []uint64
	for _, at := range []int{64, 72, 160, 168, 232} {
		list = append(list, be.Uint64(b[at:]))
	}
	return list, nil
}

// mark appends the inode without the time of the last reading, and without what a write of that changes: checksum, count
// of changes and place in the log, and before version 3 the count of writes to the disk.
func (i *inode) mark(to []byte) []byte {
	at := len(to)
	to = append(to, i.raw...)
	b := to[at:]
	clear(b[32:40])
	if b[4] == 3 {
		clear(b[inodeSum : inodeSum+4])
		clear(b[104:120])
	} else {
		clear(b[30:32])
	}
	return to
}
