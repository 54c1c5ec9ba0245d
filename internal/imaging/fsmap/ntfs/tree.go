package ntfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf16"

	"mimeo/internal/imaging/fsmap/tree"
)

// Tree reads the files of a volume. NTFS has no owners and permissions as Unix knows them: files are 0644, or 0444
// where they are read-only, directories 0755, and all belong to 0. Its methods may be called from several goroutines.
type Tree struct{ v *volume }

var _ tree.FS = (*Tree)(nil)

// OpenTree opens the filesystem in the first bytes of a volume of size bytes.
func OpenTree(r io.ReaderAt, size int64) (*Tree, error) {
	v := &volume{r: r, size: size}
	if err := v.readBoot(); err != nil {
		return nil, err
	}
	return &Tree{v}, v.readMFT()
}

// Root implements tree.FS.
func (t *Tree) Root() uint64 { return recRoot }

// More types of attributes, and what lies in them.
const (
	attrStandard   = 0x10
	attrIndexRoot  = 0x90
	attrIndexAlloc = 0xa0
	attrReparse    = 0xc0

	recordIsDir = 2

	fileReadOnly = 0x1
	fileSystem   = 0x4

	spaceDOS = 2 // namespace of short names, which stand beside the long one

	tagMount   = 0xa0000003
	tagSymlink = 0xa000000c
	tagLinux   = 0xa000001d // a symbolic link of Linux within Windows
	tagWOF     = 0x80000017 // compressed by the system, into a stream of its own

	epoch = 116444736000000000 // 1970 in units of 100 ns since 1601
)

// maxRecords bounds how many records a file may take.
const maxRecords = 1 << 16

// eachAttr calls fn with all attributes of a file: those of its record, and of those that its attribute list names.
func (t *Tree) eachAttr(n uint64, fn func(a *attr) error) (record, error) {
	rec, err := t.v.readRecord(n)
	if err != nil {
		return rec, err
	}
	if rec.base != 0 {
		return rec, about(damaged("it goes on with record %d", rec.base), n)
	}
	list := stream{v: t.v, size: -1}
	err = rec.each(func(a *attr) error {
		if a.typ == attrList && list.size < 0 {
			return list.append(a)
		}
		return fn(a)
	})
	if err != nil || list.size < 0 {
		return rec, about(err, n)
	}
	if list.size > maxList || list.mapped() < list.init {
		return rec, about(damaged("its attribute list has %d bytes", list.size), n)
	}
	b := make([]byte, list.size)
	if err := list.read(b, 0); err != nil {
		return rec, fmt.Errorf("read the attribute list of %w", about(err, n))
	}
	seen := map[uint64]bool{n: true}
	for len(b) >= 0x1a {
		size := int(le.Uint16(b[4:]))
		if size < 0x1a || size > len(b) {
			return rec, about(damaged("its attribute list has an entry of %d bytes", size), n)
		}
		ref := le.Uint64(b[0x10:]) & refMask
		b = b[size:]
		if seen[ref] {
			continue
		}
		seen[ref] = true
		ext, err := t.v.readRecord(ref)
		if err != nil {
			return rec, err
		}
		if ext.base != n || len(seen) > maxRecords {
			return rec, about(damaged("it is no part of record %d", n), ref)
		}
		if err := ext.each(fn); err != nil {
			return rec, about(err, ref)
		}
	}
	return rec, nil
}

// File implements tree.FS.
func (t *Tree) File(n uint64) (tree.File, error) {
	f := tree.File{Inode: n}
	var attributes uint32
	var target string
	link := false
	rec, err := t.eachAttr(n, func(a *attr) error {
		switch {
		case a.typ == attrStandard && a.resident && len(a.value) >= 0x24:
			f.Modified, attributes = when(le.Uint64(a.value[8:])), le.Uint32(a.value[0x20:])
		case a.typ == attrFileName && a.resident && len(a.value) >= 0x42 && a.value[0x41] != spaceDOS:
			f.Links++
		case a.typ == attrData && len(a.name) == 0 && a.resident:
			f.Size = int64(len(a.value))
		case a.typ == attrData && len(a.name) == 0 && a.low == 0:
			f.Size = a.size
		case a.typ == attrReparse && a.resident:
			target, link = reparse(a.value)
		}
		return nil
	})
	if err != nil {
		return f, err
	}
	if f.Size < 0 {
		return f, about(damaged("it has %d bytes", f.Size), n)
	}
	switch {
	case link:
		f.Mode, f.Target, f.Size = tree.Link|0o777, target, int64(len(target))
	case le.Uint16(rec.b[0x16:])&recordIsDir != 0:
		f.Mode, f.Size = tree.Dir|0o755, 0
	default:
		f.Mode = tree.Regular | 0o644
		if attributes&fileReadOnly != 0 {
			f.Mode = tree.Regular | 0o444
		}
		if attributes&fileSystem != 0 && f.Size > int64(len(interix)) && f.Size < 8192 {
			if to, ok := t.interixLink(n, f.Size); ok {
				f.Mode, f.Target, f.Size = tree.Link|0o777, to, int64(len(to))
			}
		}
	}
	return f, nil
}

// when makes a time of one of NTFS: units of 100 ns since 1601.
func when(t uint64) time.Time {
	n := int64(t) - epoch
	return time.Unix(n/1e7, n%1e7*100).UTC()
}

// wide is UTF-16 as text.
func wide(b []byte) string {
	u := make([]uint16, len(b)/2)
	for i := range u {
		u[i] = le.Uint16(b[2*i:])
	}
	return string(utf16.Decode(u))
}

// reparse returns where a reparse point leads, where it is a link.
func reparse(b []byte) (target string, link bool) {
	if len(b) < 8 || int(le.Uint16(b[4:])) > len(b)-8 {
		return "", false
	}
	tag, b := le.Uint32(b), b[8:]
	names := 8
	switch tag {
	case tagLinux:
		if len(b) < 4 {
			return "", false
		}
		return string(b[4:]), true
	case tagSymlink:
		names = 12
	case tagMount:
	default:
		return "", false
	}
	if len(b) < names {
		return "", false
	}
	// The name that is meant for people, else the one that the system follows.
	text := b[names:]
	for _, at := range []int{4, 0} {
		off, n := int(le.Uint16(b[at:])), int(le.Uint16(b[at+2:]))
		if n > 0 && off+n <= len(text) {
			return unixPath(wide(text[off : off+n])), true
		}
	}
	return "", false
}

// unixPath makes slashes of a path of Windows, and leaves the drive out.
func unixPath(s string) string {
	s = strings.TrimPrefix(s, `\??\`)
	if len(s) > 2 && s[1] == ':' && s[2] == '\\' {
		s = s[2:]
	}
	return strings.ReplaceAll(s, `\`, "/")
}

// interix is how the links begin that Interix and ntfs-3g make, in the content of files of the system.
const interix = "IntxLNK\x01"

func (t *Tree) interixLink(n uint64, size int64) (string, bool) {
	r, err := t.open(n)
	if err != nil {
		return "", false
	}
	b := make([]byte, size)
	if got, _ := r.ReadAt(b, 0); int64(got) < size || !bytes.HasPrefix(b, []byte(interix)) {
		return "", false
	}
	return wide(b[len(interix):]), true
}

// Dir implements tree.FS. All blocks of the index that are in use are read, in their order on the disk.
func (t *Tree) Dir(n uint64, fn func(tree.Entry) error) error {
	var block int64
	var root []byte
	index := func(a *attr) bool { return wide(a.name) == "$I30" }
	if _, err := t.eachAttr(n, func(a *attr) error {
		if a.typ == attrIndexRoot && a.resident && index(a) {
			root = bytes.Clone(a.value)
		}
		return nil
	}); err != nil {
		return err
	}
	if len(root) < 0x20 {
		return about(damaged("it is no directory"), n)
	}
	if block = int64(le.Uint32(root[8:])); block < 512 || block > 1<<20 || block&(block-1) != 0 {
		return about(damaged("its index has blocks of %d bytes", block), n)
	}
	if err := indexEntries(root[0x10:], fn); err != nil {
		return about(err, n)
	}
	alloc, err := t.gather(n, attrIndexAlloc, "$I30")
	if errors.Is(err, errNone) {
		return nil
	}
	if err != nil {
		return about(err, n)
	}
	used, err := t.gather(n, attrBitmap, "$I30")
	if err != nil {
		return about(err, n)
	}
	bits := make([]byte, min(used.size, alloc.size/block/8+8))
	if err := readWhole(used, bits); err != nil {
		return about(err, n)
	}
	r, err := alloc.reader()
	if err != nil {
		return about(err, n)
	}
	b := make([]byte, block)
	for i := int64(0); i < alloc.size/block && i/8 < int64(len(bits)); i++ {
		if bits[i/8]>>(i%8)&1 == 0 {
			continue
		}
		if got, err := r.ReadAt(b, i*block); int64(got) < block {
			return about(err, n)
		}
		if string(b[:4]) != "INDX" {
			return about(damaged("block %d of its index starts with %q", i, b[:4]), n)
		}
		if err := fixup(b); err != nil {
			return about(fmt.Errorf("block %d of its index: %w", i, err), n)
		}
		if err := indexEntries(b[0x18:], fn); err != nil {
			return about(err, n)
		}
	}
	return nil
}

func readWhole(c content, b []byte) error {
	r, err := c.reader()
	if err != nil {
		return err
	}
	if n, err := r.ReadAt(b, 0); n < len(b) {
		return err
	}
	return nil
}

// indexEntries reads the entries behind the header of an index.
func indexEntries(b []byte, fn func(tree.Entry) error) error {
	from, to := int64(le.Uint32(b)), int64(le.Uint32(b[4:]))
	if from < 0x10 || to < from || to > int64(len(b)) {
		return damaged("an index has entries from %d to %d of %d bytes", from, to, len(b))
	}
	const last = 2
	for b = b[from:to]; len(b) >= 0x10; {
		n, key, flags := int(le.Uint16(b[8:])), int(le.Uint16(b[0xa:])), le.Uint16(b[0xc:])
		if n < 0x10 || n > len(b) || 0x10+key > n {
			return damaged("an index has an entry of %d bytes with a name of %d", n, key)
		}
		if flags&last != 0 {
			return nil
		}
		e, name := b[:n], b[0x10:0x10+key]
		b = b[n:]
		inode := le.Uint64(e) & refMask
		if key < 0x42 || 0x42+2*int(name[0x40]) > key || name[0x41] == spaceDOS {
			continue
		}
		entry := tree.Entry{Name: wide(name[0x42 : 0x42+2*int(name[0x40])]), Inode: inode}
		if inode < recFirst || entry.Name == "." { // what the system keeps for itself
			continue
		}
		if strings.ContainsAny(entry.Name, "/\x00") {
			return damaged("a file is called %q", entry.Name)
		}
		if err := fn(entry); err != nil {
			return err
		}
	}
	return nil
}

// Open implements tree.FS.
func (t *Tree) Open(n uint64) (io.ReaderAt, error) {
	f, err := t.File(n)
	if err != nil {
		return nil, err
	}
	if f.Type() != tree.Regular {
		return nil, fmt.Errorf("MFT record %d is no regular file", n)
	}
	return t.open(n)
}

func (t *Tree) open(n uint64) (io.ReaderAt, error) {
	wof := false
	if _, err := t.eachAttr(n, func(a *attr) error {
		wof = wof || a.typ == attrReparse && a.resident && len(a.value) >= 4 && le.Uint32(a.value) == tagWOF
		return nil
	}); err != nil {
		return nil, err
	}
	if wof {
		return nil, errors.New("the file is compressed by Windows (compact), which is not supported")
	}
	c, err := t.gather(n, attrData, "")
	if errors.Is(err, errNone) {
		return bytes.NewReader(nil), nil
	}
	if err != nil {
		return nil, about(err, n)
	}
	r, err := c.reader()
	return r, about(err, n)
}
