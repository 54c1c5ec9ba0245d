package ext4

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"mimeo/internal/imaging/fsmap/fact"
	"mimeo/internal/imaging/fsmap/tree"
)

// Tree reads the files of a filesystem as they are after the replay of its journal. Its methods may be called from
// several goroutines.
type Tree struct{ fs *filesystem }

var _ tree.FS = (*Tree)(nil)

// OpenTree opens the filesystem in the first bytes of a volume of size bytes.
func OpenTree(r io.ReaderAt, size int64) (*Tree, error) {
	fs := &filesystem{r: r, size: size}
	if err := fs.readSuper(); err != nil {
		return nil, err
	}
	if err := fs.readJournal(); err != nil {
		return nil, err
	}
	if err := fs.readGroups(newGather(fs.blockSize)); err != nil {
		return nil, err
	}
	return &Tree{fs}, nil
}

// Root implements tree.FS.
func (t *Tree) Root() uint64 { return 2 }

const (
	dirBlocks    = 1 << 20 // of a directory, at most; bounds the work
	fileNodes    = 1 << 20 // blocks of a file's map, at most
	maxLink      = 4096    // bytes of a symbolic link's target
	flagEncrypt  = 0x800
	flagHuge     = 0x40000 // i_blocks counts blocks
	inodeBlocks  = 0x28    // where i_block lies, 60 bytes
	xattrMagic   = 0xea020000
	xattrSystem  = 7 // index of the names that begin with "system."
	inlineInNode = 60
)

// inode returns the bytes of an inode.
func (t *Tree) inode(nr uint64) ([]byte, error) {
	fs := t.fs
	if nr == 0 || nr > uint64(fs.inodes) || (nr-1)/fs.inodesPerGroup >= uint64(len(fs.groups)) {
		return nil, damaged("there is no inode %d", nr)
	}
	at := ((nr - 1) % fs.inodesPerGroup) * fs.inodeSize
	b, err := fs.readMeta(fs.groups[(nr-1)/fs.inodesPerGroup].table + blockNr(at/uint64(fs.blockSize)))
	if err != nil {
		return nil, err
	}
	return b[at%uint64(fs.blockSize):][:fs.inodeSize], nil
}

// readMeta returns a block as it is after the replay of the journal.
func (fs *filesystem) readMeta(n blockNr) ([]byte, error) {
	b, err := fs.readBlock(n)
	if err != nil {
		return nil, err
	}
	return b, fs.log.overlay(fs, n, b)
}

// File implements tree.FS.
func (t *Tree) File(nr uint64) (tree.File, error) {
	b, err := t.inode(nr)
	if err != nil {
		return tree.File{Inode: nr}, err
	}
	f := tree.File{
		Inode: nr, Mode: uint32(le.Uint16(b)), Links: uint32(le.Uint16(b[0x1a:])),
		UID: uint32(le.Uint16(b[2:])) | uint32(le.Uint16(b[0x78:]))<<16, GID: uint32(le.Uint16(b[0x18:])) | uint32(le.Uint16(b[0x7a:]))<<16,
		Modified: modified(b),
	}
	if f.Mode == 0 || f.Links == 0 {
		return f, damaged("inode %d is not in use", nr)
	}
	size := fileSize(b)
	if f.Type() != tree.Regular && f.Type() != tree.Dir {
		size &= 1<<32 - 1
	}
	if size > 1<<62 {
		return f, damaged("inode %d has %d bytes", nr, size)
	}
	f.Size = int64(size)
	if f.Type() == tree.Regular && le.Uint32(b[0x20:])&flagInline == 0 {
		f.Holes = f.Size - t.stored(b)
	}
	switch f.Type() {
	case tree.Link:
		f.Target, err = t.target(b, f.Size)
	case tree.Char, tree.Block:
		f.Device = device(b)
	}
	return f, err
}

// stored returns the bytes that a file takes: i_blocks, in sectors or, as the inode may say, in blocks.
func (t *Tree) stored(b []byte) int64 {
	n := int64(le.Uint32(b[0x1c:])) | int64(le.Uint16(b[0x74:]))<<32
	if le.Uint32(b[0x20:])&flagHuge != 0 {
		return n * t.fs.blockSize
	}
	return n * 512
}

// device returns the number of a device file: the first word of i_block where both parts fit in a byte, else the second.
func device(b []byte) uint32 {
	if n := le.Uint32(b[inodeBlocks:]); n != 0 {
		return n & 0xffff // major and minor, a byte each: that is how the larger ones begin, too
	}
	return le.Uint32(b[inodeBlocks+4:])
}

// modified returns when a file was last written: seconds, and in larger inodes nanoseconds and two more bits.
func modified(b []byte) time.Time {
	sec, nsec := int64(int32(le.Uint32(b[0x10:]))), int64(0)
	if len(b) > 0x8c && le.Uint16(b[0x80:]) >= 0xc {
		extra := le.Uint32(b[0x88:])
		sec, nsec = sec+int64(extra&3)<<32, int64(extra>>2)
	}
	return time.Unix(sec, min(nsec, 999_999_999)).UTC()
}

// target returns where a symbolic link leads: short ones lie in the inode.
func (t *Tree) target(b []byte, size int64) (string, error) {
	flags := le.Uint32(b[0x20:])
	switch {
	case size > maxLink:
		return "", damaged("a symbolic link has %d bytes", size)
	case flags&flagEncrypt != 0:
		return "", errors.New("the link is encrypted")
	case flags&(flagExtents|flagInline) == 0 && size < inlineInNode:
		return string(b[inodeBlocks:][:size]), nil
	}
	r, err := t.content(b, size)
	if err != nil {
		return "", err
	}
	buf := make([]byte, size)
	if n, err := r.ReadAt(buf, 0); int64(n) < size {
		return "", err
	}
	return string(buf), nil
}

// Open implements tree.FS.
func (t *Tree) Open(nr uint64) (io.ReaderAt, error) {
	f, err := t.File(nr)
	if err != nil {
		return nil, err
	}
	if f.Type() != tree.Regular {
		return nil, fmt.Errorf("inode %d is no regular file", nr)
	}
	b, err := t.inode(nr)
	if err != nil {
		return nil, err
	}
	if le.Uint32(b[0x20:])&flagEncrypt != 0 {
		return nil, errors.New("the file is encrypted")
	}
	return t.content(b, f.Size)
}

// content returns the bytes of a file or directory.
func (t *Tree) content(b []byte, size int64) (io.ReaderAt, error) {
	fs := t.fs
	if le.Uint32(b[0x20:])&flagInline != 0 {
		data := append(bytes.Clone(b[inodeBlocks:][:inlineInNode]), inlineRest(b)...)
		if size > int64(len(data)) {
			return nil, damaged("%d bytes are said to lie in an inode", size)
		}
		return bytes.NewReader(data[:size]), nil
	}
	p := &tree.Pieced{Volume: fs.r, Size: size}
	m := &mapping{fs: fs, blocks: uint64(size+fs.blockSize-1) / uint64(fs.blockSize), nodes: fileNodes, visit: func(r run) error {
		if !r.unwritten {
			p.Pieces = append(p.Pieces, fact.Piece{Off: int64(r.to) * fs.blockSize, Len: int64(r.n) * fs.blockSize, At: int64(r.from) * fs.blockSize})
		}
		return nil
	}}
	return p, m.walk(b)
}

// inlineRest returns what of a file's inline data lies in the attribute "system.data" behind the inode's fields.
func inlineRest(b []byte) []byte {
	if len(b) <= 0x82 {
		return nil
	}
	at := 0x80 + int(le.Uint16(b[0x80:]))
	if at+4 > len(b) || le.Uint32(b[at:]) != xattrMagic {
		return nil
	}
	values := b[at+4:]
	for e := values; len(e) >= 16 && le.Uint32(e) != 0; {
		n := int(e[0])
		off, size := int(le.Uint16(e[2:])), int(le.Uint32(e[8:]))
		if 16+n > len(e) {
			return nil
		}
		if e[1] == xattrSystem && string(e[16:16+n]) == "data" && le.Uint32(e[4:]) == 0 && size >= 0 && off <= len(values) && size <= len(values)-off {
			return values[off:][:size]
		}
		e = e[min(len(e), (16+n+3)&^3):]
	}
	return nil
}

// Dir implements tree.FS. The blocks of a hashed directory's index look like empty ones, so that all are read alike.
func (t *Tree) Dir(nr uint64, fn func(tree.Entry) error) error {
	b, err := t.inode(nr)
	if err != nil {
		return err
	}
	if le.Uint16(b)&tree.TypeMask != tree.Dir {
		return fmt.Errorf("inode %d is no directory", nr)
	}
	encrypted := le.Uint32(b[0x20:])&flagEncrypt != 0
	if le.Uint32(b[0x20:])&flagInline != 0 {
		// The first four bytes are the parent's inode.
		for _, part := range [][]byte{b[inodeBlocks+4:][:inlineInNode-4], inlineRest(b)} {
			if err := entries(part, encrypted, fn); err != nil {
				return err
			}
		}
		return nil
	}
	fs := t.fs
	n := fileSize(b) / uint64(fs.blockSize)
	if n > dirBlocks {
		return damaged("directory %d has %d blocks", nr, n)
	}
	m := &mapping{fs: fs, blocks: n, nodes: fileNodes, visit: func(r run) error {
		for i := range r.n {
			block, err := fs.readMeta(r.to + blockNr(i))
			if err != nil {
				return err
			}
			if err := entries(block, encrypted, fn); err != nil {
				return err
			}
		}
		return nil
	}}
	return m.walk(b)
}

// entries reads the records of a directory's block.
func entries(b []byte, encrypted bool, fn func(tree.Entry) error) error {
	for len(b) >= 8 {
		inode, n, name := uint64(le.Uint32(b)), int(le.Uint16(b[4:])), int(b[6])
		if n == 65535 || n == 0 { // of blocks of 64 KiB
			n = 65536
		}
		if n < 8 || n > len(b) || 8+name > n || n%4 != 0 {
			return damaged("a directory's record of %d bytes holds a name of %d", n, name)
		}
		e := tree.Entry{Name: string(b[8:][:name]), Inode: inode}
		b = b[n:]
		if inode == 0 || name == 0 || e.Name == "." || e.Name == ".." {
			continue
		}
		if encrypted {
			e.Name = "encrypted-" + hex.EncodeToString([]byte(e.Name))
		} else if strings.ContainsAny(e.Name, "/\x00") {
			return damaged("a file is called %q", e.Name)
		}
		if err := fn(e); err != nil {
			return err
		}
	}
	return nil
}
