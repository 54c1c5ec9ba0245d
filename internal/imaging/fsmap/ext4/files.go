package ext4

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
)

const (
	flagImmutable = 0x10     // boot loaders write to such files past the filesystem
	flagEAInode   = 0x200000 // holds an attribute of files: its times are something else

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
	if len(fs.facts.Notes) > 0 {
		return damage(fs.facts.Notes[0])
	}
	if !fs.clean() {
		return damaged("it was not unmounted cleanly")
	}
	if err := fs.readJournal(); err != nil {
		return err
	}
	if fs.log != nil {
		return damaged("it was not unmounted cleanly")
	}
	meta := newGather(fs.blockSize)
	if err := fs.readGroups(meta); err != nil {
		return err
	}
	for _, e := range meta.es {
		other(e)
	}
	own := fs.ownFiles()
	nodes := maxNodes
	block := func(n blockNr) { other(fs.bytes(n, 1)) }
	var f fact.File
	return fs.eachInode(func(nr uint64, b []byte) error {
		mode := le.Uint16(b)
		acl := blockNr(le.Uint32(b[0x68:])) | blockNr(le.Uint16(b[0x76:]))<<32
		if mode != 0 && acl != 0 && acl < fs.blocks {
			block(acl)
		}
		switch mode & 0xf000 {
		case 0, regularFile, 0x4000, 0xa000: // reserved ones without a type, files, directories, links
		default:
			return nil
		}
		flags := le.Uint32(b[0x20:])
		f = fact.File{Nr: nr, Size: int64(fileSize(b)), Mark: mark(f.Mark[:0], b), Extents: f.Extents[:0]}
		marked := nr >= fs.firstInode && mode&0xf000 == regularFile && flags&(flagImmutable|flagEAInode) == 0 && f.Size != envBlock && !slices.Contains(own, nr)
		err := fs.walkInode(b, &nodes, block, func(r run) error {
			e := fs.bytes(r.to, blockNr(r.n))
			if !marked {
				other(e)
				return nil
			}
			for _, n := range []uint64{r.from, r.n, uint64(r.to)} {
				f.Mark = le.AppendUint64(f.Mark, n)
			}
			if r.unwritten {
				f.Mark = append(f.Mark, 1)
				return nil
			}
			f.Mark = append(f.Mark, 0)
			f.Extents = append(f.Extents, e)
			return nil
		})
		if err != nil {
			if d := damage(""); errors.As(err, &d) {
				return damaged("inode %d: %s", nr, d)
			}
			return err
		}
		if len(f.Extents) == 0 {
			return nil
		}
		if err := file(f); err != nil {
			return fmt.Errorf("inode %d: %w", nr, err)
		}
		return nil
	})
}

// ownFiles are the inodes of files that the filesystem itself writes to, and leaves no mark: journal, quotas, and the
// file of orphans.
func (fs *filesystem) ownFiles() []uint64 {
	var list []uint64
	for _, at := range []int{0xe0, 0x240, 0x244, 0x26c, 0x280} {
		list = append(list, uint64(le.Uint32(fs.raw[at:])))
	}
	return list
}

// mark appends inode b without the time of the last reading, and without the checksum, which covers that.
func mark(to, b []byte) []byte {
	at := len(to)
	to = append(to, b...)
	b = to[at:]
	clear(b[0x08:0x0c])
	clear(b[0x7c:0x7e])
	if len(b) > 128 {
		extra := int(le.Uint16(b[0x80:]))
		if extra >= 4 {
			clear(b[0x82:0x84])
		}
		if extra >= 0x90-0x80 {
			clear(b[0x8c:0x90])
		}
	}
	return to
}
