package vfat

import (
	"bytes"
	"fmt"
	"strings"
)

const (
	attrVolume = 0x08
	attrFolder = 0x10
	attrLong   = 0x0f // a piece of a long name
	// maxPending bounds the memory for folders that are still to be read: 16 bytes each.
	maxPending = 4 << 20
)

// folder is one that is still to be read.
type folder struct{ at, parent cluster }

// walk reads all folders. Each file must begin with a chain that nobody else has.
func (v *volume) walk() error {
	var todo []folder
	if v.bits == 32 {
		if err := v.claim(v.root); err != nil {
			return fmt.Errorf("the root: %w", err)
		}
		if v.found != nil {
			if err := v.found(v.root, -1, true); err != nil {
				return fmt.Errorf("the root: %w", err)
			}
		}
		if err := v.readFolder(folder{at: v.root}, &todo); err != nil {
			return fmt.Errorf("the root: %w", err)
		}
	} else {
		b := make([]byte, v.rootLen)
		if err := v.read(b, v.rootAt); err != nil {
			return fmt.Errorf("read the root: %w", err)
		}
		if _, err := v.entries(b, folder{}, 0, &todo); err != nil {
			return fmt.Errorf("the root: %w", err)
		}
	}
	for len(todo) > 0 {
		d := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if err := v.readFolder(d, &todo); err != nil {
			return fmt.Errorf("the folder at cluster %d: %w", d.at, err)
		}
	}
	return nil
}

// claim says that a file begins with cluster n.
func (v *volume) claim(n cluster) error {
	switch {
	case !v.has(n):
		return damaged("a file begins with cluster %d of %d", n, v.clusters)
	case !v.marked.Has(int64(n - firstCluster)):
		return damaged("a file begins with cluster %d, which is marked as free", n)
	case !v.heads.Clear(int64(n - firstCluster)):
		return damaged("a file begins with cluster %d, which belongs to another one or is bad", n)
	}
	return nil
}

// readFolder reads the entries of a folder, and puts the folders in it on todo.
func (v *volume) readFolder(d folder, todo *[]folder) error {
	b := make([]byte, v.clusterSize)
	at := int64(0)
	for n, left := d.at, v.clusters; n != 0; left-- {
		if left == 0 {
			return damaged("it has no end")
		}
		if err := v.read(b, v.dataAt+int64(n-firstCluster)*v.clusterSize); err != nil {
			return fmt.Errorf("read cluster %d: %w", n, err)
		}
		more, err := v.entries(b, d, at, todo)
		if err != nil || !more {
			return err
		}
		if n, err = v.next(n); err != nil {
			return err
		}
		at += int64(len(b))
	}
	return nil
}

// entries looks at the entries of a piece of a folder, at the given byte of it. False says that no more follow.
func (v *volume) entries(b []byte, d folder, at int64, todo *[]folder) (bool, error) {
	inRoot := d.at == v.root
	for ; len(b) >= entryLen; b, at = b[entryLen:], at+entryLen {
		e := b[:entryLen]
		attr := e[11]
		n := v.first(e)
		if !inRoot && at < 2*entryLen {
			if err := v.dots(e, at, d, n); err != nil {
				return false, err
			}
			continue
		}
		switch {
		case e[0] == 0:
			return false, nil
		case e[0] == 0xe5 || attr&0x3f == attrLong: // deleted, or only a name
			continue
		case attr&(attrVolume|attrFolder) == attrVolume:
			if inRoot && v.facts.Label == "" {
				v.facts.Label = label(e[:11])
			}
			continue
		case !goodName(e[:11]):
			return false, damaged("an entry has no name of a file: % x", e[:11])
		case n == 0:
			if attr&attrFolder != 0 {
				return false, damaged("the folder %q has no cluster", strings.TrimRight(string(e[:11]), " "))
			}
			continue // an empty file
		}
		if err := v.claim(n); err != nil {
			return false, err
		}
		if v.found != nil {
			if err := v.found(n, int64(le.Uint32(e[28:])), attr&attrFolder != 0); err != nil {
				return false, err
			}
		}
		if attr&attrFolder == 0 {
			continue
		}
		if len(*todo) == maxPending {
			return false, damaged("it has too many folders")
		}
		*todo = append(*todo, folder{n, d.at})
	}
	return true, nil
}

// dots checks the first two entries of a folder, which lead to itself and to where it is.
func (v *volume) dots(e []byte, at int64, d folder, n cluster) error {
	name, want := ".          ", d.at
	if at > 0 {
		name, want = "..         ", d.parent
		if d.parent == v.root && n == 0 { // as it should be; some write the number of the root
			want = 0
		}
	}
	if string(e[:11]) != name || e[11]&attrFolder == 0 || n != want {
		return damaged("it does not begin as a folder")
	}
	// The first cluster would say so with clusters of any size.
	if at == 0 && d.at > firstCluster {
		v.witness = true
	}
	return nil
}

// goodName tells whether a file may have that name: 8 and 3 characters in the character set of some old system.
func goodName(b []byte) bool {
	for i, c := range b {
		if c < 0x20 && (i > 0 || c != 0x05) || bytes.IndexByte([]byte(`"*/:<>?\|`), c) >= 0 {
			return false
		}
	}
	return b[0] != ' '
}

// label is a name in an entry for the volume.
func label(b []byte) string {
	b = bytes.Clone(b)
	if b[0] == 0x05 { // 0xe5 means deleted
		b[0] = 0xe5
	}
	return strings.ToValidUTF8(strings.TrimRight(string(b), " \x00"), "�")
}

// lost tells of chains that belong to no file. They are captured. Where the table has no copy, nothing else would show
// that it was damaged.
func (v *volume) lost() error {
	n := v.heads.Count()
	switch {
	case n == 0:
		return nil
	case v.copies == 1:
		return damaged("%d chains of clusters belong to no file, and the table has no copy", n)
	}
	v.note("%d chains of clusters belong to no file; they are captured", n)
	return nil
}
