package f2fs

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
	"mimeo/internal/imaging/fsmap/tree"
)

const (
	dirEntries = 214 // of a block of a folder: bits, 3 bytes, then the entries and the names
	dirEntry   = 11  // bytes: hash, number, length of the name, type
	dirSlot    = 8   // bytes of a name
	dirBits    = 27
	dirNames   = dirBits + 3 + dirEntries*dirEntry

	adviseEncrypted = 0x04 // of an inode
	maxBlocksOfFile = 1 << 32
	fileRuns        = 4 << 20 // pieces of a file, at most
	folderBlocks    = 1 << 20 // of a folder, at most
	natCached       = 4096    // blocks of the NAT
)

// Tree reads the files of a filesystem that was unmounted. Its methods may be called from several goroutines.
type Tree struct {
	fs    *filesystem
	newer map[uint32]blockNr // of the journal

	mu  sync.Mutex
	nat map[int64][]byte
}

var _ tree.FS = (*Tree)(nil)

// OpenTree opens the filesystem in the first bytes of a volume of size bytes.
func OpenTree(r io.ReaderAt, size int64) (*Tree, error) {
	fs := &filesystem{r: r, size: size}
	if err := fs.readSuper(); err != nil {
		return nil, err
	}
	if err := fs.readCheckpoint(); err != nil {
		return nil, err
	}
	if err := fs.readJournals(); err != nil {
		return nil, err
	}
	t := &Tree{fs: fs, newer: map[uint32]blockNr{}, nat: map[int64][]byte{}}
	for _, e := range fs.nat {
		t.newer[le.Uint32(e)] = blockNr(le.Uint32(e[9:]))
	}
	return t, nil
}

// Root implements tree.FS.
func (t *Tree) Root() uint64 { return uint64(t.fs.rootNode) }

// node returns a node, and checks that it is the one with that number.
func (t *Tree) node(nid, ino uint32) ([]byte, error) {
	at, err := t.place(nid)
	if err != nil {
		return nil, err
	}
	fs := t.fs
	if at < fs.mainAt || at >= fs.mainAt+blockNr(fs.segments*segBlocks) {
		return nil, damaged("there is no node %d", nid)
	}
	b := make([]byte, blockSize)
	if err := fs.read(b, at); err != nil {
		return nil, fmt.Errorf("read node %d: %w", nid, err)
	}
	if le.Uint32(b[footerOff:]) != nid || le.Uint32(b[footerOff+4:]) != ino {
		return nil, damaged("in block %d is node %d of file %d, and not %d of %d", at, le.Uint32(b[footerOff:]), le.Uint32(b[footerOff+4:]), nid, ino)
	}
	return b, nil
}

// place returns the block of a node.
func (t *Tree) place(nid uint32) (blockNr, error) {
	if at, ok := t.newer[nid]; ok {
		return at, nil
	}
	if nid == 0 || int64(nid) >= t.fs.nids {
		return 0, damaged("there is no node %d", nid)
	}
	i := int64(nid) / natPerBlock
	t.mu.Lock()
	defer t.mu.Unlock()
	b, ok := t.nat[i]
	if !ok {
		if len(t.nat) >= natCached {
			clear(t.nat)
		}
		b = make([]byte, blockSize)
		if err := t.fs.read(b, t.fs.natPlace(i)); err != nil {
			return 0, fmt.Errorf("read the NAT: %w", err)
		}
		t.nat[i] = b
	}
	return blockNr(le.Uint32(b[int64(nid)%natPerBlock*natLen+5:])), nil
}

// inode returns the node of a file.
func (t *Tree) inode(nr uint64) ([]byte, error) {
	if nr > 1<<32-1 {
		return nil, damaged("there is no file %d", nr)
	}
	b, err := t.node(uint32(nr), uint32(nr))
	if err == nil && le.Uint32(b[12:]) == 0 {
		err = damaged("file %d is deleted", nr)
	}
	return b, err
}

// File implements tree.FS.
func (t *Tree) File(nr uint64) (tree.File, error) {
	f := tree.File{Inode: nr}
	b, err := t.inode(nr)
	if err != nil {
		return f, err
	}
	f.Mode, f.UID, f.GID, f.Links = uint32(le.Uint16(b)), le.Uint32(b[4:]), le.Uint32(b[8:]), le.Uint32(b[12:])
	f.Modified = time.Unix(int64(le.Uint64(b[48:])), int64(le.Uint32(b[64:]))%1e9)
	size := le.Uint64(b[16:])
	if size > maxBlocksOfFile*blockSize {
		return f, damaged("file %d has %d bytes", nr, size)
	}
	f.Size = int64(size)
	switch f.Type() {
	case tree.Dir:
		f.Size = 0
	case tree.Regular:
		// Of what it has taken, a block is the inode.
		if taken := le.Uint64(b[24:]); b[3]&inlineData == 0 && taken > 0 && taken < maxBlocksOfFile {
			f.Holes = (f.Size+blockSize-1)/blockSize*blockSize - int64(taken-1)*blockSize
		}
	case tree.Link:
		f.Target, err = t.target(nr, b, f.Size)
	case tree.Char, tree.Block:
		from := addrsAt(b)
		if f.Device = le.Uint32(b[from:]); f.Device != 0 {
			f.Device &= 0xffff // as old kernels wrote it
		} else {
			f.Device = le.Uint32(b[from+4:])
		}
	}
	return f, err
}

// addrsAt is where the addresses of an inode begin: behind further attributes, where there are some.
func addrsAt(b []byte) int {
	if b[3]&inlineExtra == 0 {
		return inodeAddrs
	}
	return inodeAddrs + min(int(le.Uint16(b[inodeAddrs:])&^3), footerOff-4*inodeNodes-inodeAddrs-8)
}

// inline returns what lies in an inode itself: behind the first address, in front of attributes.
func (t *Tree) inline(b []byte) []byte {
	from, end := addrsAt(b)+4, footerOff-4*inodeNodes
	if b[3]&inlineXattr != 0 {
		n := 50
		if t.fs.flexible && b[3]&inlineExtra != 0 {
			n = int(le.Uint16(b[inodeAddrs+2:]))
		}
		end -= 4 * n
	}
	if from >= end {
		return nil
	}
	return b[from:end]
}

// target returns where a symbolic link leads.
func (t *Tree) target(nr uint64, b []byte, size int64) (string, error) {
	if size > blockSize {
		return "", damaged("file %d: a symbolic link of %d bytes", nr, size)
	}
	if b[2]&adviseEncrypted != 0 {
		return "", fmt.Errorf("file %d is encrypted", nr)
	}
	r, err := t.content(nr, b, size)
	if err != nil {
		return "", err
	}
	out := make([]byte, size)
	if n, err := r.ReadAt(out, 0); n < len(out) {
		return "", err
	}
	return strings.TrimRight(string(out), "\x00"), nil
}

// Open implements tree.FS.
func (t *Tree) Open(nr uint64) (io.ReaderAt, error) {
	b, err := t.inode(nr)
	switch {
	case err != nil:
		return nil, err
	case uint32(le.Uint16(b))&tree.TypeMask != tree.Regular:
		return nil, fmt.Errorf("file %d is no regular file", nr)
	case b[2]&adviseEncrypted != 0:
		return nil, fmt.Errorf("file %d is encrypted", nr)
	case le.Uint64(b[16:]) > maxBlocksOfFile*blockSize:
		return nil, damaged("file %d has %d bytes", nr, le.Uint64(b[16:]))
	}
	return t.content(nr, b, int64(le.Uint64(b[16:])))
}

// errCompressed says that a file is compressed.
var errCompressed = errors.New("it is compressed, which cannot be read yet")

// content returns what a file holds, in size bytes.
func (t *Tree) content(nr uint64, b []byte, size int64) (io.ReaderAt, error) {
	if b[3]&inlineData != 0 {
		in := t.inline(b)
		if size > int64(len(in)) {
			return nil, damaged("file %d has %d bytes, of which %d fit into its inode", nr, size, len(in))
		}
		return strings.NewReader(string(in[:size])), nil
	}
	p := &tree.Pieced{Volume: t.fs.r, Size: size}
	err := t.eachRun(b, (size+blockSize-1)/blockSize, func(f fact.Piece) error {
		if len(p.Pieces) == fileRuns {
			return damaged("it lies in more than %d pieces", fileRuns)
		}
		p.Pieces = append(p.Pieces, f)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("file %d: %w", nr, err)
	}
	if n := len(p.Pieces); n > 0 {
		p.Pieces[n-1].Len = min(p.Pieces[n-1].Len, size-p.Pieces[n-1].At)
	}
	return p, nil
}

// run joins blocks that lie side by side.
type run struct {
	fact.Piece
	fn func(fact.Piece) error
}

func (r *run) add(at, file int64) error {
	if r.Len > 0 && at == r.Off+r.Len && file == r.At+r.Len {
		r.Len += blockSize
		return nil
	}
	err := r.end()
	r.Piece = fact.Piece{Off: at, Len: blockSize, At: file}
	return err
}

func (r *run) end() error {
	if r.Len == 0 {
		return nil
	}
	return r.fn(r.Piece)
}

// eachRun calls fn with where the first n blocks of a file lie, in order, without holes.
func (t *Tree) eachRun(b []byte, n int64, fn func(fact.Piece) error) error {
	r := &run{fn: fn}
	ino := le.Uint32(b[footerOff+4:])
	done := int64(0)
	addrs := func(list []byte) error {
		for ; len(list) >= 4 && done < n; list, done = list[4:], done+1 {
			switch at := le.Uint32(list); at {
			case 0, blockReserved:
			case blockCompressed:
				return errCompressed
			default:
				if k := int64(at) - int64(t.fs.mainAt); k < 0 || k >= t.fs.segments*segBlocks {
					return damaged("it has block %d", at)
				}
				if err := r.add(int64(at)*blockSize, done*blockSize); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if err := addrs(t.fs.inodeBlocks(b)); err != nil {
		return err
	}
	// Two nodes with blocks, two with such nodes, one with nodes of these.
	for i, depth := range []int{0, 0, 1, 1, 2} {
		if done >= n {
			break
		}
		if err := t.below(le.Uint32(b[footerOff-4*inodeNodes+4*i:]), ino, depth, &done, n, addrs); err != nil {
			return err
		}
	}
	return r.end()
}

// below reads a node with blocks, or, at a greater depth, with numbers of other nodes. Where there is none, there is a
// hole.
func (t *Tree) below(nid, ino uint32, depth int, done *int64, n int64, addrs func([]byte) error) error {
	if nid == 0 {
		hole := int64(perNode)
		for range depth {
			hole *= perNode
		}
		*done = min(*done+hole, n)
		return nil
	}
	b, err := t.node(nid, ino)
	if err != nil {
		return err
	}
	if depth == 0 {
		return addrs(b[:perNode*4])
	}
	for i := 0; i < perNode && *done < n; i++ {
		if err := t.below(le.Uint32(b[4*i:]), ino, depth-1, done, n, addrs); err != nil {
			return err
		}
	}
	return nil
}

// Dir implements tree.FS.
func (t *Tree) Dir(nr uint64, fn func(tree.Entry) error) error {
	b, err := t.inode(nr)
	if err != nil {
		return err
	}
	switch {
	case uint32(le.Uint16(b))&tree.TypeMask != tree.Dir:
		return fmt.Errorf("file %d is no folder", nr)
	case b[2]&adviseEncrypted != 0:
		return fmt.Errorf("folder %d is encrypted", nr)
	case b[3]&inlineNames != 0:
		// As many entries as have room: for each a bit, the entry, and a piece of a name.
		in := t.inline(b)
		n := len(in) * 8 / ((dirEntry+dirSlot)*8 + 1)
		names := len(in) - n*dirSlot
		return entries(nr, in[:(n+7)/8], in[names-n*dirEntry:names], in[names:], fn)
	}
	n := (le.Uint64(b[16:]) + blockSize - 1) / blockSize
	if n > folderBlocks {
		return damaged("folder %d has %d blocks", nr, n)
	}
	buf := make([]byte, blockSize)
	return t.eachRun(b, int64(n), func(p fact.Piece) error {
		for at := p.Off; at < p.Off+p.Len; at += blockSize {
			if err := t.fs.read(buf, blockNr(at/blockSize)); err != nil {
				return fmt.Errorf("read folder %d: %w", nr, err)
			}
			if err := entries(nr, buf[:dirBits], buf[dirBits+3:dirNames], buf[dirNames:], fn); err != nil {
				return err
			}
		}
		return nil
	})
}

// entries calls fn with the entries of a folder that are in use.
func entries(nr uint64, used, list, names []byte, fn func(tree.Entry) error) error {
	for i := 0; i < len(list)/dirEntry; {
		if used[i/8]>>(i%8)&1 == 0 {
			i++
			continue
		}
		e := list[i*dirEntry:]
		n := int(le.Uint16(e[8:]))
		if n == 0 || n > 255 || i*dirSlot+n > len(names) {
			return damaged("folder %d: a name of %d bytes", nr, n)
		}
		name := string(names[i*dirSlot:][:n])
		i += (n + dirSlot - 1) / dirSlot
		if name == "." || name == ".." {
			continue
		}
		if strings.ContainsAny(name, "/\x00") {
			return damaged("folder %d: the name %q", nr, name)
		}
		if err := fn(tree.Entry{Name: name, Inode: uint64(le.Uint32(e[4:]))}); err != nil {
			return err
		}
	}
	return nil
}

// Pieces adds where the content of files lies. What is damaged is passed over; an error means that the volume could not
// be read.
func Pieces(r io.ReaderAt, size int64, add func(fact.Piece)) error {
	t, err := OpenTree(r, size)
	if err == nil {
		err = t.fs.readSegments()
	}
	if err == nil {
		err = t.pieces(add)
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

// pieces looks for inodes in all segments for nodes.
func (t *Tree) pieces(add func(fact.Piece)) error {
	buf := make([]byte, maxRead*blockSize)
	fs := t.fs
	for seg, typ := range fs.types {
		if typ < hotNode {
			continue
		}
		end := int64(seg+1) * segBlocks
		for n := fs.valid.Next(int64(seg)*segBlocks, end, true); n < end; n = fs.valid.Next(n, end, true) {
			to := min(fs.valid.Next(n, end, false), n+maxRead)
			b := buf[:(to-n)*blockSize]
			if err := fs.read(b, fs.mainAt+blockNr(n)); err != nil {
				return fmt.Errorf("read nodes: %w", err)
			}
			for node := range slices.Chunk(b, blockSize) {
				size := le.Uint64(node[16:])
				if le.Uint32(node[footerOff:]) != le.Uint32(node[footerOff+4:]) || uint32(le.Uint16(node))&tree.TypeMask != tree.Regular ||
					node[3]&inlineData != 0 || size > maxBlocksOfFile*blockSize {
					continue
				}
				err := t.eachRun(node, int64((size+blockSize-1)/blockSize), func(p fact.Piece) error {
					add(p)
					return nil
				})
				if err != nil && !isDamage(err) && !errors.Is(err, errCompressed) {
					return err
				}
			}
			n = to
		}
	}
	return nil
}

// Claims adds every block that something of the filesystem says is its own: what lies in front of the main area, nodes,
// and what files have. In a sound filesystem no two of them overlap. why says why not all could be told, or is empty.
func Claims(r io.ReaderAt, size int64, add func(extent.Extent)) (why string, err error) {
	fs := &filesystem{r: r, size: size, claimed: func(block int64) {
		add(extent.Extent{Off: block * blockSize, Len: blockSize})
	}}
	_, err = fs.used()
	if isDamage(err) {
		return err.Error(), nil
	}
	add(extent.Extent{Len: int64(fs.mainAt) * blockSize})
	return "", err
}
