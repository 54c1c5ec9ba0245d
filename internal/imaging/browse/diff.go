package browse

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"

	"mimeo/internal/imaging/fsmap/tree"
)

// Kinds of Change.
const (
	Added    = "added"
	Removed  = "removed"
	Modified = "modified" // the content, where a link leads, or which device it is
	Changed  = "changed"  // mode, owner or type, with the same content
)

// Change is a file that differs between two volumes.
type Change struct {
	Path  string
	Kind  string
	Old   tree.File // zero where it was added
	New   tree.File // zero where it was removed
	Bytes int64     // of content that differ, in blocks of 4 KiB; the size where it was added or removed
}

// Diff calls fn with what differs between the files of two volumes, in the order of their paths. Times do not count. Of
// files with several names each name counts. What cannot be read of either is an error.
func Diff(a, b *Volume, fn func(Change) error) error {
	ra, err := a.File(a.Root())
	if err != nil {
		return err
	}
	rb, err := b.File(b.Root())
	if err != nil {
		return err
	}
	d := &diff{a: a, b: b, fn: fn}
	return d.both("/", ra, rb)
}

type diff struct {
	a, b  *Volume
	fn    func(Change) error
	depth int
}

// side calls fn with all of a tree that the other side does not have.
func (d *diff) side(v *Volume, kind, name string, f tree.File) error {
	return tree.Walk(v, name, f, func(name string, f tree.File, err error) error {
		if err != nil {
			return err
		}
		c := Change{Path: name, Kind: kind}
		if f.Type() == tree.Regular {
			c.Bytes = f.Size
		}
		if kind == Added {
			c.New = f
		} else {
			c.Old = f
		}
		return d.fn(c)
	})
}

// both compares two files of the same path.
func (d *diff) both(name string, fa, fb tree.File) error {
	if fa.Type() != fb.Type() {
		if err := d.side(d.a, Removed, name, fa); err != nil {
			return err
		}
		return d.side(d.b, Added, name, fb)
	}
	c := Change{Path: name, Old: fa, New: fb}
	switch fa.Type() {
	case tree.Regular:
		n, err := d.content(fa, fb)
		if err != nil {
			return &tree.PathError{Path: name, Err: err}
		}
		if c.Bytes = n; n > 0 || fa.Size != fb.Size {
			c.Kind = Modified
		}
	case tree.Link:
		if fa.Target != fb.Target {
			c.Kind = Modified
		}
	case tree.Char, tree.Block:
		if fa.Device != fb.Device {
			c.Kind = Modified
		}
	}
	if c.Kind == "" && (fa.Mode != fb.Mode || fa.UID != fb.UID || fa.GID != fb.GID) {
		c.Kind = Changed
	}
	if c.Kind != "" {
		if err := d.fn(c); err != nil {
			return err
		}
	}
	if !fa.IsDir() {
		return nil
	}
	return d.dirs(name, fa, fb)
}

// maxDepth is how deep directories may lie in each other.
const maxDepth = 512

func (d *diff) dirs(name string, fa, fb tree.File) error {
	if d.depth++; d.depth > maxDepth {
		return &tree.PathError{Path: name, Err: errors.New("directories lie in each other too deep")}
	}
	defer func() { d.depth-- }()
	la, err := tree.List(d.a, fa.Inode)
	if err != nil {
		return &tree.PathError{Path: name, Err: err}
	}
	lb, err := tree.List(d.b, fb.Inode)
	if err != nil {
		return &tree.PathError{Path: name, Err: err}
	}
	for len(la) > 0 || len(lb) > 0 {
		inA := len(lb) == 0 || len(la) > 0 && la[0].Name <= lb[0].Name
		inB := len(la) == 0 || len(lb) > 0 && lb[0].Name <= la[0].Name
		var ga, gb tree.File
		var below string
		if inA {
			below = path.Join(name, la[0].Name)
			if ga, err = d.a.File(la[0].Inode); err != nil {
				return &tree.PathError{Path: below, Err: err}
			}
			la = la[1:]
		}
		if inB {
			below = path.Join(name, lb[0].Name)
			if gb, err = d.b.File(lb[0].Inode); err != nil {
				return &tree.PathError{Path: below, Err: err}
			}
			lb = lb[1:]
		}
		switch {
		case inA && inB:
			err = d.both(below, ga, gb)
		case inA:
			err = d.side(d.a, Removed, below, ga)
		default:
			err = d.side(d.b, Added, below, gb)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// content returns how many bytes of two files differ. Files of the same chunks are not read.
func (d *diff) content(fa, fb tree.File) (int64, error) {
	ra, err := d.a.Open(fa.Inode)
	if err != nil {
		return 0, err
	}
	rb, err := d.b.Open(fb.Inode)
	if err != nil {
		return 0, err
	}
	if fa.Size == fb.Size {
		sa, ok := d.a.spans(ra)
		sb, ok2 := d.b.spans(rb)
		if ok && ok2 && slices.Equal(sa, sb) {
			return 0, nil
		}
	}
	const step, block = 1 << 20, 4 << 10
	bufA, bufB := make([]byte, step), make([]byte, step)
	var differ int64
	for off := int64(0); off < max(fa.Size, fb.Size); off += step {
		na, err := read(ra, bufA, off)
		if err != nil {
			return 0, err
		}
		nb, err := read(rb, bufB, off)
		if err != nil {
			return 0, err
		}
		n := max(na, nb)
		for at := 0; at < n; at += block {
			x, y := bufA[min(at, na):min(at+block, na)], bufB[min(at, nb):min(at+block, nb)]
			if !bytes.Equal(x, y) {
				differ += int64(max(len(x), len(y)))
			}
		}
	}
	return differ, nil
}

// read reads as much as there is.
func read(r io.ReaderAt, b []byte, off int64) (int, error) {
	n, err := r.ReadAt(b, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return n, fmt.Errorf("read at offset %d: %w", off, err)
	}
	return n, nil
}
