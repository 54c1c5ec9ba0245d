package ext4

import (
	"fmt"
	"slices"
)

// run is a part of a file that lies in one piece.
type run struct {
	from uint64 // block of the file
	n    uint64
	to   blockNr
}

func length(runs []run) uint64 {
	if len(runs) == 0 {
		return 0
	}
	last := runs[len(runs)-1]
	return last.from + last.n
}

// readMapped reads a block of a file.
func (fs *filesystem) readMapped(runs []run, block uint64, b []byte) error {
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
		return damaged("its journal has no block %d", block)
	}
	return fs.read(b, int64(runs[i].to+blockNr(block-runs[i].from))*fs.blockSize)
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
	bytes := uint64(le.Uint32(b[4:])) | uint64(le.Uint32(b[0x6c:]))<<32
	n := bytes / uint64(fs.blockSize)
	if n == 0 || n > maxJournal {
		return nil, damaged("its journal has %d blocks", n)
	}
	m := &mapping{fs: fs, want: n}
	if le.Uint32(b[0x20:])&0x80000 != 0 {
		err = m.extents(b[0x28:0x64], -1)
	} else {
		err = m.blockMap(b[0x28:0x64])
	}
	if err != nil {
		return nil, err
	}
	if length(m.runs) < n {
		return nil, damaged("its journal has %d blocks, its inode leads to %d", n, length(m.runs))
	}
	return m.runs, nil
}

// mapping collects the runs of a file without holes.
type mapping struct {
	fs    *filesystem
	want  uint64 // blocks of the file
	runs  []run
	nodes int // blocks read, which bounds the work
}

func (m *mapping) add(from uint64, n uint64, to blockNr) error {
	if from != length(m.runs) {
		return damaged("its journal has a hole at block %d", length(m.runs))
	}
	if to == 0 || to >= m.fs.blocks || n > uint64(m.fs.blocks-to) {
		return damaged("its journal is said to lie at block %d", to)
	}
	if k := len(m.runs); k > 0 && m.runs[k-1].to+blockNr(m.runs[k-1].n) == to {
		m.runs[k-1].n += n
		return nil
	}
	m.runs = append(m.runs, run{from, n, to})
	return nil
}

func (m *mapping) node(n blockNr) ([]byte, error) {
	if m.nodes++; m.nodes > maxJournal/256 {
		return nil, damaged("the map of its journal is too large")
	}
	b, err := m.fs.readBlock(n)
	if _, ok := err.(damage); err != nil && !ok {
		err = fmt.Errorf("read the map of the journal: %w", err)
	}
	return b, err
}

// extents reads a node of an extent tree; depth is what its parent demands, -1 at the root.
func (m *mapping) extents(b []byte, depth int) error {
	count, level := int(le.Uint16(b[2:])), int(le.Uint16(b[6:]))
	if le.Uint16(b) != 0xf30a || level > 5 || depth >= 0 && level != depth || 12+12*count > len(b) {
		return damaged("the extent tree of its journal is damaged")
	}
	for i := range count {
		e := b[12+12*i:][:12]
		if level == 0 {
			n, to := uint64(le.Uint16(e[4:])), blockNr(le.Uint32(e[8:]))|blockNr(le.Uint16(e[6:]))<<32
			if n == 0 || n > 32768 {
				return damaged("its journal has an extent that was never written")
			}
			if err := m.add(uint64(le.Uint32(e)), n, to); err != nil {
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
	for i := range 12 {
		if err := m.indirect(blockNr(le.Uint32(b[4*i:])), 0); err != nil {
			return err
		}
	}
	for level := 1; level <= 3; level++ {
		if err := m.indirect(blockNr(le.Uint32(b[4*(11+level):])), level); err != nil {
			return err
		}
	}
	return nil
}

func (m *mapping) indirect(n blockNr, level int) error {
	if length(m.runs) >= m.want {
		return nil
	}
	if level == 0 {
		return m.add(length(m.runs), 1, n)
	}
	b, err := m.node(n)
	if err != nil {
		return err
	}
	for ; len(b) >= 4; b = b[4:] {
		if err := m.indirect(blockNr(le.Uint32(b)), level-1); err != nil {
			return err
		}
	}
	return nil
}
