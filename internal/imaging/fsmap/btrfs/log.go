package btrfs

import (
	"mimeo/internal/imaging/extent"
)

// maxLog bounds what a log leads to: 16 bytes each.
const maxLog = 2 << 20

// Of a file extent item.
const (
	fileExtentLen    = 53
	fileExtentInline = 0
)

// readLog returns the logical addresses of what only the log knows of: its trees, and the data of the files in them.
func (fs *filesystem) readLog() (extent.List, error) {
	if fs.logRoot.logical == 0 {
		return nil, nil
	}
	var list []extent.Extent
	add := func(start, n uint64) error {
		if len(list) == maxLog {
			return damaged("log: more than %d extents are not supported", maxLog)
		}
		list = append(list, extent.Extent{Off: int64(start), Len: int64(n)})
		return nil
	}
	var full error
	blocks := func(logical uint64) {
		if err := add(logical, fs.node); err != nil {
			full = err
		}
	}
	files := &btree{fs: fs, name: "log", owner: treeLog, blocks: blocks, item: func(k key, data []byte) error {
		if k.typ != itemExtentData {
			return nil
		}
		if len(data) < 21 || data[20] != fileExtentInline && len(data) != fileExtentLen {
			return damaged("a file extent of %d bytes", len(data))
		}
		if data[20] == fileExtentInline {
			return nil
		}
		start, n := le.Uint64(data[21:]), le.Uint64(data[29:])
		if start == 0 {
			return nil // a hole
		}
		c := fs.chunks.find(start)
		if c == nil || n == 0 || n > c.end()-start || c.typ&typeData == 0 {
			return damaged("%d bytes of data at %d are not within a chunk", n, start)
		}
		return add(start, n)
	}}
	roots := &btree{fs: fs, name: "log root", owner: treeLog, blocks: blocks, item: func(k key, data []byte) error {
		if k.typ != itemRoot || k.obj != treeLog {
			return nil
		}
		r, err := parseRoot(data)
		if err != nil {
			return err
		}
		return files.walk(r)
	}}
	if err := roots.walk(fs.logRoot); err != nil {
		return nil, err
	}
	return extent.FromUnsorted(list), full
}
