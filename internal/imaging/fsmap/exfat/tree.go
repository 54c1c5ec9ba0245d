package exfat

import (
	"fmt"
	"io"
	"math"
	"strings"
	"time"
	"unicode/utf16"

	"mimeo/internal/imaging/fsmap/fact"
	"mimeo/internal/imaging/fsmap/tree"
)

const (
	rootInode = 1       // where no entry lies: of the boot sector
	plain     = 1       // of the number of a file: the folder that it is in has no chain
	fileRuns  = 4 << 20 // pieces of a file, at most
	attrRO    = 0x01

	permFile   = 0o644 // exFAT has no owners, and one permission
	permFolder = 0o755
)

// Tree reads the files of a volume. exFAT does not number files: the number of one is where its entry lies, in units of
// 16 bytes from the start of the volume, and, as the lowest bit, whether what follows the entry lies beside it. Times of which the zone is
// not kept are taken as UTC. Its methods may be called from several goroutines.
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

// set returns the entries of a file.
func (t *Tree) set(inode uint64) ([]byte, error) {
	v := t.v
	at := int64(min(inode>>1, math.MaxInt64/entryLen)) * entryLen
	end := v.place(v.clusters + firstCluster)
	if at < v.heapAt || at >= end {
		return nil, damaged("there is no file %d", inode)
	}
	set := make([]byte, entryLen)
	if err := v.read(set, at); err != nil {
		return nil, fmt.Errorf("read file %d: %w", inode, err)
	}
	if set[0] != typeFile || set[1] < 2 {
		return nil, damaged("there is no file %d", inode)
	}
	n := firstCluster + cluster((at-v.heapAt)/v.clusterSize)
	for range set[1] {
		if at += entryLen; (at-v.heapAt)%v.clusterSize == 0 {
			if n++; inode&plain == 0 {
				e, err := v.entry(n - 1)
				if err != nil {
					return nil, err
				}
				n = cluster(e)
			}
			if !v.has(n) {
				return nil, damaged("the entries of file %d end too early", inode)
			}
			at = v.place(n)
		}
		set = append(set, make([]byte, entryLen)...)
		if err := v.read(set[len(set)-entryLen:], at); err != nil {
			return nil, fmt.Errorf("read file %d: %w", inode, err)
		}
	}
	if err := checkFile(set); err != nil {
		return nil, fmt.Errorf("file %d: %w", inode, err)
	}
	return set, nil
}

// checkFile checks the set of entries of a file.
func checkFile(set []byte) error {
	switch s := set[entryLen:]; {
	case sum(set) != le.Uint16(set[2:]):
		return damaged("the checksum of a set of entries is wrong")
	case s[0] != typeStream || len(set) < 3*entryLen || set[2*entryLen] != typeName:
		return damaged("a file without a stream or name")
	case le.Uint64(s[24:]) > 1<<62 || le.Uint64(s[8:]) > le.Uint64(s[24:]):
		return damaged("a file of %d bytes, of which %d are valid", le.Uint64(s[24:]), le.Uint64(s[8:]))
	}
	return nil
}

// name is the name of a file.
func name(set []byte) string {
	left := int(set[entryLen+3]) // characters
	var w []uint16
	for e := set[2*entryLen:]; len(e) > 0 && e[0] == typeName; e = e[entryLen:] {
		for i := 2; i < entryLen && left > 0; i, left = i+2, left-1 {
			w = append(w, le.Uint16(e[i:]))
		}
	}
	return string(utf16.Decode(w))
}

// File implements tree.FS.
func (t *Tree) File(inode uint64) (tree.File, error) {
	f := tree.File{Inode: inode, Links: 1, Mode: tree.Dir | permFolder}
	if inode == rootInode {
		return f, nil
	}
	set, err := t.set(inode)
	if err != nil {
		return f, err
	}
	attr := le.Uint16(set[4:])
	if attr&attrFolder == 0 {
		f.Mode, f.Size = tree.Regular|permFile, int64(le.Uint64(set[entryLen+24:]))
	}
	if attr&attrRO != 0 {
		f.Mode &^= 0o222
	}
	f.Modified = when(le.Uint32(set[12:]), set[21], set[23])
	return f, nil
}

// when is a time, with hundredths of two seconds and the zone in quarters of an hour (specification, section 7.4.8).
func when(stamp uint32, hundredths, zone byte) time.Time {
	w := time.Date(1980+int(stamp>>25), time.Month(stamp>>21&15), int(stamp>>16&31), int(stamp>>11&31), int(stamp>>5&63), int(stamp&31)*2,
		int(min(hundredths, 199))*10_000_000, time.UTC)
	if zone&0x80 != 0 {
		w = w.Add(-time.Duration(int8(zone<<1)>>1) * 15 * time.Minute)
	}
	return w
}

// Open implements tree.FS.
func (t *Tree) Open(inode uint64) (io.ReaderAt, error) {
	if inode == rootInode {
		return nil, fmt.Errorf("file %d is a folder", inode)
	}
	set, err := t.set(inode)
	if err != nil {
		return nil, err
	}
	if le.Uint16(set[4:])&attrFolder != 0 {
		return nil, fmt.Errorf("file %d is a folder", inode)
	}
	e := set[entryLen : 2*entryLen]
	p := &tree.Pieced{Volume: t.v.r, Size: int64(le.Uint64(e[24:]))}
	valid := int64(le.Uint64(e[8:])) // what is behind reads as zeros
	s := streamOf(e, e[1])
	if s.first == 0 {
		if valid > 0 {
			return nil, damaged("file %d: %d bytes without a cluster", inode, valid)
		}
		return p, nil
	}
	err = t.v.eachPiece(s, valid, func(f fact.Piece) error {
		if len(p.Pieces) == fileRuns {
			return damaged("it lies in more than %d pieces", fileRuns)
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
	s := t.v.rootStream()
	if inode != rootInode {
		set, err := t.set(inode)
		if err != nil {
			return err
		}
		if le.Uint16(set[4:])&attrFolder == 0 {
			return fmt.Errorf("file %d is no folder", inode)
		}
		if s = streamOf(set[entryLen:2*entryLen], set[entryLen+1]); s.first == 0 || s.size == 0 {
			return nil
		}
	}
	err := t.v.eachSet(s, func(set []byte, at int64) error {
		if set[0] != typeFile {
			return nil
		}
		if err := checkFile(set); err != nil {
			return err
		}
		e := tree.Entry{Name: name(set), Inode: uint64(at/entryLen) << 1}
		if e.Name == "" || e.Name == "." || e.Name == ".." || strings.ContainsAny(e.Name, "/\x00") {
			return damaged("an entry has no name")
		}
		if s.plain {
			e.Inode |= plain
		}
		return fn(e)
	})
	if err != nil {
		return fmt.Errorf("folder %d: %w", inode, err)
	}
	return nil
}
