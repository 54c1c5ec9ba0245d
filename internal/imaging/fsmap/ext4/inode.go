package ext4

import (
	"fmt"
	"slices"
)

// run is a part of a file that lies in one piece.
type run struct {
	from      uint64 // block of the file
	n         uint64
	to        blockNr
	unwritten bool // reads as zeros, whatever lies there
}

// Flags of an inode.
const (
	flagExtents = 0x80000
	flagInline  = 0x10000000
)

func length(runs []run) uint64 {
	if len(runs) == 0 {
		return 0
	}
	last := runs[len(runs)-1]
	return last.from + last.n
}

// find returns the run that has a block of a file.
func find(runs []run, block uint64) (run, bool) {
	i, ok := slices.BinarySearchFunc(runs, block, func(r run, n uint64) int {
		switch {
		case r.from > n:
			return 1
		case r.from+r.n <= n:
			return -1
		}
		return 0
	})
	if !ok {
		return run{}, false
	}
	return runs[i], true
}

// readMapped reads a block of a file.
func (fs *filesystem) readMapped(runs []run, block uint64, b []byte) error {
	r, ok := find(runs, block)
	if !ok {
		return damaged("its journal has no block %d", block)
	}
	return fs.read(b, int64(r.to+blockNr(block-r.from))*fs.blockSize)
}

// journalRuns returns where the journal lies: inode 8, in group 0.
func (fs *filesystem) journalRuns() ([]run, error) {
	const number = 8
	perBlock := uint64(fs.blockSize) / uint64(fs.descSize)
	desc, err := fs.readBlock(fs.descriptorBlock(0, perBlock))
	if err != nil {
		return nil, err
	}
	table := blockNr(le.Uint32(desc[8:]))
	if fs.descSize >= 64 {
		table |= blockNr(le.Uint32(desc[0x28:])) << 32
	}
	off := (number - 1) * fs.inodeSize
	if fs.inodesPerGroup < number {
		return nil, damaged("its journal has no inode")
	}
	b, err := fs.readBlock(table + blockNr(off/uint64(fs.blockSize)))
	if err != nil {
		return nil, err
	}
	b = b[off%uint64(fs.blockSize):][:fs.inodeSize]
	if le.Uint16(b)&0xf000 != 0x8000 {
		return nil, damaged("its journal is no regular file")
	}
	n := fileSize(b) / uint64(fs.blockSize)
	if n == 0 || n > maxJournal {
		return nil, damaged("its journal has %d blocks", n)
	}
	var runs []run
	m := &mapping{fs: fs, blocks: n, nodes: maxJournal / 256, visit: func(r run) error {
		if r.from != length(runs) {
			return damaged("it has a hole at block %d", length(runs))
		}
		if r.unwritten {
			return damaged("block %d was never written", r.from)
		}
		runs = append(runs, r)
		return nil
	}}
	if err := m.walk(b); err != nil {
		if d, ok := err.(damage); ok {
			return nil, damaged("its journal: %s", d)
		}
		return nil, fmt.Errorf("read the map of the journal: %w", err)
	}
	if length(runs) < n {
		return nil, damaged("its journal has %d blocks, its inode leads to %d", n, length(runs))
	}
	return runs, nil
}

// fileSize returns the bytes of a regular file; b is its inode.
func fileSize(b []byte) uint64 {
	return uint64(le.Uint32(b[4:])) | uint64(le.Uint32(b[0x6c:]))<<32
}

// mapping walks the map of one file, from its first block to its last.
type mapping struct {
	fs     *filesystem
	blocks uint64 // of the file; what its map has beyond these does not count
	nodes  int    // blocks of the map that may still be read, which bounds the work
	visit  func(run) error
	seen   func(blockNr) // called with each block of the map itself; nil means nobody asks

	last run // not yet visited, as the next may lengthen it
}

// walk visits the runs of the file whose inode is b.
func (m *mapping) walk(b []byte) (err error) {
	if le.Uint32(b[0x20:])&flagExtents != 0 {
		err = m.extents(b[0x28:0x64], -1)
	} else {
		err = m.blockMap(b[0x28:0x64])
	}
	if err != nil || m.last.n == 0 {
		return err
	}
	return m.visit(m.last)
}

func (m *mapping) add(r run) error {
	next := m.last.from + m.last.n
	if r.from < next {
		return damaged("the map of its blocks goes back at block %d", r.from)
	}
	if r.from >= m.blocks {
		return nil
	}
	r.n = min(r.n, m.blocks-r.from)
	if r.to == 0 || r.to >= m.fs.blocks || r.n > uint64(m.fs.blocks-r.to) {
		return damaged("it is said to lie at block %d", r.to)
	}
	if m.last.n > 0 && r.from == next && m.last.to+blockNr(m.last.n) == r.to && r.unwritten == m.last.unwritten {
		m.last.n += r.n
		return nil
	}
	done := m.last
	if m.last = r; done.n == 0 {
		return nil
	}
	return m.visit(done)
}

func (m *mapping) node(n blockNr) ([]byte, error) {
	if m.nodes--; m.nodes < 0 {
		return nil, damaged("the map of its blocks is too large")
	}
	if m.seen != nil {
		m.seen(n)
	}
	return m.fs.readMeta(n)
}

// extents reads a node of an extent tree; depth is what its parent demands, -1 at the root.
func (m *mapping) extents(b []byte, depth int) error {
	count, level := int(le.Uint16(b[2:])), int(le.Uint16(b[6:]))
	if le.Uint16(b) != 0xf30a || level > 5 || depth >= 0 && level != depth || 12+12*count > len(b) {
		return damaged("its extent tree is damaged")
	}
	for i := range count {
		e := b[12+12*i:][:12]
		if level == 0 {
			const most = 32768 // longer ones were never written, and are that much shorter
			r := run{from: uint64(le.Uint32(e)), n: uint64(le.Uint16(e[4:])), to: blockNr(le.Uint32(e[8:])) | blockNr(le.Uint16(e[6:]))<<32}
			if r.n == 0 {
				return damaged("its extent tree has an extent without blocks")
			}
			if r.n > most {
				r.n, r.unwritten = r.n-most, true
			}
			if err := m.add(r); err != nil {
				return err
			}
			continue
		}
		child, err := m.node(blockNr(le.Uint32(e[4:])) | blockNr(le.Uint16(e[8:]))<<32)
		if err != nil {
			return err
		}
		if err := m.extents(child, level-1); err != nil {
			return err
		}
	}
	return nil
}

// blockMap reads twelve direct blocks, then one, two and three levels of blocks of numbers.
func (m *mapping) blockMap(b []byte) error {
	at, span := uint64(0), uint64(1)
	for i := range 15 {
		level := max(0, i-11)
		if level > 0 {
			span *= uint64(m.fs.blockSize / 4)
		}
		if err := m.indirect(blockNr(le.Uint32(b[4*i:])), level, at, span); err != nil {
			return err
		}
		at += span
	}
	return nil
}

// indirect reads what maps span blocks of the file from at on.
func (m *mapping) indirect(n blockNr, level int, at, span uint64) error {
	switch {
	case n == 0 || at >= m.blocks:
		return nil
	case level == 0:
		return m.add(run{from: at, n: 1, to: n})
	}
	b, err := m.node(n)
	if err != nil {
		return err
	}
	span /= uint64(m.fs.blockSize / 4)
	for ; len(b) >= 4; b = b[4:] {
		if err := m.indirect(blockNr(le.Uint32(b)), level-1, at, span); err != nil {
			return err
		}
		at += span
	}
	return nil
}
