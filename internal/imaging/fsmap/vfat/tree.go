package vfat

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf16"

	"mimeo/internal/imaging/fsmap/fact"
	"mimeo/internal/imaging/fsmap/tree"
)

const (
	rootInode  = 1       // where no entry can lie
	folderLen  = 2 << 20 // bytes of a folder, at most ("FAT Directory Structure")
	fileRuns   = 4 << 20 // pieces of a file, at most
	maxName    = 20      // pieces of a long name, of 13 characters each
	attrRO     = 0x01    // read-only
	lowerBase  = 0x08    // the name of 8 characters is written in lower case,
	lowerExt   = 0x10    // and the one of 3: Windows NT keeps it where FAT has nothing
	permFile   = 0o644   // FAT has no owners, and one permission
	permFolder = 0o755
)

// codePage is the upper half of code page 437, which short names are taken to be in.
var codePage = []rune("ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u00a0")

// Tree reads the files of a volume. FAT does not number files: the number of one is where its entry lies, in units of 32
// bytes from the start of the volume. Times are kept as they were on the clock on the wall; they are taken as UTC. Its
// methods may be called from several goroutines.
type Tree struct{ v *volume }

var _ tree.FS = (*Tree)(nil)

// OpenTree opens the filesystem in the first bytes of a volume of size bytes.
func OpenTree(r io.ReaderAt, size int64) (*Tree, error) {
	v := &volume{r: r, size: size}
	if err := v.readBoot(); err != nil {
		return nil, err
	}
	return &Tree{v}, nil
}

// Root implements tree.FS.
func (t *Tree) Root() uint64 { return rootInode }

// entryOf returns the entry of a file.
func (t *Tree) entryOf(inode uint64) ([]byte, error) {
	v := t.v
	if inode > uint64(v.facts.Len/entryLen) || int64(inode)*entryLen < v.rootAt {
		return nil, damaged("there is no file %d", inode)
	}
	e := make([]byte, entryLen)
	if err := v.read(e, int64(inode)*entryLen); err != nil {
		return nil, fmt.Errorf("read file %d: %w", inode, err)
	}
	if !isFile(e) {
		return nil, damaged("there is no file %d", inode)
	}
	return e, nil
}

// isFile tells whether an entry is that of a file or folder, and not one of the two that lead to a folder and to where
// it lies.
func isFile(e []byte) bool {
	return e[0] != 0 && e[0] != 0xe5 && e[0] != '.' && e[11]&0x3f != attrLong && e[11]&(attrVolume|attrFolder) != attrVolume && goodName(e[:11])
}

// File implements tree.FS.
func (t *Tree) File(inode uint64) (tree.File, error) {
	f := tree.File{Inode: inode, Links: 1, Mode: tree.Dir | permFolder}
	if inode == rootInode {
		return f, nil
	}
	e, err := t.entryOf(inode)
	if err != nil {
		return f, err
	}
	f.Modified = when(le.Uint16(e[24:]), le.Uint16(e[22:]))
	if e[11]&attrFolder == 0 {
		f.Mode, f.Size = tree.Regular|permFile, int64(le.Uint32(e[28:]))
	}
	if e[11]&attrRO != 0 {
		f.Mode &^= 0o222
	}
	return f, nil
}

// when is a date and a time of FAT ("Date and Time Formats").
func when(date, clock uint16) time.Time {
	return time.Date(1980+int(date>>9), time.Month(date>>5&15), int(date&31), int(clock>>11), int(clock>>5&63), int(clock&31)*2, 0, time.UTC)
}

// first returns the first cluster of an entry.
func (v *volume) first(e []byte) cluster {
	n := cluster(le.Uint16(e[26:]))
	if v.bits == 32 {
		n |= cluster(le.Uint16(e[20:])) << 16
	}
	return n
}

// eachRun calls fn with where the first size bytes of a chain lie, in order: pieces of the chain, none longer than that.
// A chain that ends before is damage; where size is negative, all of it counts.
func (v *volume) eachRun(n cluster, size int64, fn func(fact.Piece) error) error {
	var p fact.Piece
	left := v.clusters
	for at := int64(0); size < 0 && n != 0 || at < size; at += v.clusterSize {
		if !v.has(n) {
			return damaged("a chain of %d bytes, it should have %d", at, size)
		}
		if left--; left < 0 {
			return damaged("a chain has no end")
		}
		take := v.clusterSize
		if size >= 0 {
			take = min(take, size-at)
		}
		off := v.dataAt + int64(n-firstCluster)*v.clusterSize
		if p.Len > 0 && off == p.Off+p.Len {
			p.Len += take
		} else {
			if p.Len > 0 {
				if err := fn(p); err != nil {
					return err
				}
			}
			p = fact.Piece{Off: off, Len: take, At: at}
		}
		if size >= 0 && at+take >= size {
			break
		}
		var err error
		if n, err = v.next(n); err != nil {
			return err
		}
	}
	if p.Len > 0 {
		return fn(p)
	}
	return nil
}

// Open implements tree.FS.
func (t *Tree) Open(inode uint64) (io.ReaderAt, error) {
	if inode == rootInode {
		return nil, fmt.Errorf("file %d is a folder", inode)
	}
	e, err := t.entryOf(inode)
	if err != nil {
		return nil, err
	}
	if e[11]&attrFolder != 0 {
		return nil, fmt.Errorf("file %d is a folder", inode)
	}
	p := &tree.Pieced{Volume: t.v.r, Size: int64(le.Uint32(e[28:]))}
	err = t.v.eachRun(t.v.first(e), p.Size, func(f fact.Piece) error {
		if len(p.Pieces) == fileRuns {
			return damaged("file %d lies in more than %d pieces", inode, fileRuns)
		}
		p.Pieces = append(p.Pieces, f)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("file %d: %w", inode, err)
	}
	return p, nil
}

// Dir implements tree.FS.
func (t *Tree) Dir(inode uint64, fn func(tree.Entry) error) error {
	v := t.v
	n := v.root
	if inode != rootInode {
		e, err := t.entryOf(inode)
		if err != nil {
			return err
		}
		if e[11]&attrFolder == 0 {
			return fmt.Errorf("file %d is no folder", inode)
		}
		if n = v.first(e); n == 0 {
			return damaged("folder %d has no cluster", inode)
		}
	}
	l := &listing{fn: fn}
	if n == 0 {
		if err := l.add(v, v.rootAt, v.rootLen); err != nil {
			return fmt.Errorf("folder %d: %w", inode, err)
		}
		return nil
	}
	err := v.eachRun(n, -1, func(p fact.Piece) error {
		if l.ended {
			return nil
		}
		if p.At+p.Len > folderLen {
			return damaged("it has more than %d bytes", folderLen)
		}
		return l.add(v, p.Off, p.Len)
	})
	if err != nil {
		return fmt.Errorf("folder %d: %w", inode, err)
	}
	return nil
}

// listing puts the names of a folder together.
type listing struct {
	fn    func(tree.Entry) error
	ended bool
	long  []uint16 // of the long name that is under way, 13 for each piece
	left  int      // pieces of it that are still to come
	sum   byte     // of the short name that it belongs to
}

// add reads n bytes of the folder at off of the volume.
func (l *listing) add(v *volume, off, n int64) error {
	b := make([]byte, n)
	if err := v.read(b, off); err != nil {
		return err
	}
	for ; len(b) >= entryLen; b, off = b[entryLen:], off+entryLen {
		e := b[:entryLen]
		switch {
		case e[0] == 0:
			l.ended = true
			return nil
		case e[0] != 0xe5 && e[11]&0x3f == attrLong:
			l.piece(e)
			continue
		case isFile(e):
			name := shortName(e)
			if l.long != nil && l.left == 0 && l.sum == nameSum(e[:11]) {
				name = longName(l.long)
			}
			if name == "" || strings.ContainsAny(name, "/\x00") {
				return damaged("an entry has no name")
			}
			if err := l.fn(tree.Entry{Name: name, Inode: uint64(off / entryLen)}); err != nil {
				return err
			}
		}
		l.long = nil
	}
	return nil
}

// piece takes a piece of a long name ("Long File Name Implementation"): they come last first.
func (l *listing) piece(e []byte) {
	n := int(e[0] & 0x3f)
	switch {
	case n == 0 || n > maxName:
		l.long = nil
		return
	case e[0]&0x40 != 0:
		l.long, l.left, l.sum = make([]uint16, n*13), n, e[13]
	}
	if l.long == nil || n != l.left || l.sum != e[13] {
		l.long = nil
		return
	}
	l.left--
	for i := range 13 {
		at := 1 + 2*i
		if i >= 5 {
			at += 3
		}
		if i >= 11 {
			at += 2
		}
		l.long[l.left*13+i] = le.Uint16(e[at:])
	}
}

// longName is a long name as UTF-8. It ends with a zero, unless it fills its pieces.
func longName(w []uint16) string {
	for i, c := range w {
		if c == 0 {
			w = w[:i]
			break
		}
	}
	return string(utf16.Decode(w))
}

// nameSum is what the pieces of a long name have of the short one.
func nameSum(b []byte) (s byte) {
	for _, c := range b {
		s = s<<7 | s>>1
		s += c
	}
	return s
}

// shortName is the name of 8 and 3 characters.
func shortName(e []byte) string {
	word := func(b []byte, lower bool) string {
		var w strings.Builder
		for _, c := range b {
			switch {
			case c >= 0x80:
				w.WriteRune(codePage[c-0x80])
			default:
				w.WriteByte(c)
			}
		}
		if s := strings.TrimRight(w.String(), " "); lower {
			return strings.ToLower(s)
		} else {
			return s
		}
	}
	base := [8]byte(e[:8])
	if base[0] == 0x05 { // 0xe5 means deleted
		base[0] = 0xe5
	}
	name, ext := word(base[:], e[12]&lowerBase != 0), word(e[8:11], e[12]&lowerExt != 0)
	if ext != "" {
		name += "." + ext
	}
	return name
}
