package f2fs

import (
	"bytes"
	"fmt"

	"mimeo/internal/imaging/extent"
)

// The logs to which new blocks go: data that is hot, warm or cold, then nodes likewise.
const (
	logs     = 6
	dataLogs = 3
	hotData  = 0
	coldData = 2
	hotNode  = 3
	warmNode = 4

	flagUnmounted = 0x0001
	flagCompact   = 0x0004
	flagError     = 0x0008
	flagFsck      = 0x0010
	flagSum       = 0x0040 // nodes have the version and checksum of the checkpoint before them,
	flagLow       = 0x0200 // or only the lower half of that counts
	flagLargeNAT  = 0x0400
	flagQuota     = 0x0800
	flagDisabled  = 0x1000
	flagDisabled2 = 0x2000
	flagResizing  = 0x4000

	sumsLow  = 192           // the checksum may be there, in front of the bitmaps,
	sumsHigh = blockSize - 4 // or there

	allocReuse = 1 // a log that fills the holes of a used segment
)

// checkpoint is the state that a mount starts with.
type checkpoint struct {
	at         blockNr
	blocks     int64 // of the pack
	version    uint64
	valid      uint64 // blocks in use
	free       int64  // segments
	flags      uint32
	sum        uint32 // its checksum
	sums       int64  // block of the pack where the summaries begin
	nodes      int64
	sitCurrent []byte // a bit for each block of the SIT: the second copy counts
	natCurrent []byte
	seg        [logs]int64 // where new blocks go
	next       [logs]int64 // the block of the segment that is next
	reuse      [logs]bool
}

// readCheckpoint reads both packs, and takes the newer one. After a crash while one was written, it is damaged; but one
// may never have been written since the filesystem was made larger.
func (fs *filesystem) readCheckpoint() error {
	var packs [2][]byte
	for i := range packs {
		b, err := fs.readPack(fs.cpAt + blockNr(i*segBlocks))
		if err != nil {
			return fmt.Errorf("checkpoint %d: %w", i+1, err)
		}
		packs[i] = b
	}
	i := 0
	switch {
	case packs[0] == nil && packs[1] == nil:
		return damaged("there is no checkpoint")
	case packs[0] == nil, packs[1] != nil && int64(le.Uint64(packs[1])-le.Uint64(packs[0])) > 0:
		i = 1
	}
	return fs.takeCheckpoint(packs[i], fs.cpAt+blockNr(i*segBlocks))
}

// readPack returns the first block of a pack; nil where it is empty. The last block is its copy.
func (fs *filesystem) readPack(at blockNr) ([]byte, error) {
	first, err := fs.readHead(at)
	if err != nil || first == nil {
		return nil, err
	}
	n := int64(le.Uint32(first[136:]))
	if n < 2 || n > segBlocks {
		return nil, damaged("it has %d blocks", n)
	}
	last, err := fs.readHead(at + blockNr(n) - 1)
	if err != nil {
		return nil, err
	}
	if last == nil {
		return nil, damaged("it has no end")
	}
	if le.Uint64(first) != le.Uint64(last) {
		return nil, damaged("it begins with version %d and ends with %d", le.Uint64(first), le.Uint64(last))
	}
	return first, nil
}

func (fs *filesystem) readHead(at blockNr) ([]byte, error) {
	b := make([]byte, blockSize)
	if err := fs.read(b, at); err != nil {
		return nil, err
	}
	if len(bytes.TrimLeft(b, "\x00")) == 0 {
		return nil, nil
	}
	off := int64(le.Uint32(b[164:]))
	if off < sumsLow || off > sumsHigh || off%4 != 0 {
		return nil, damaged("its checksum lies at byte %d", off)
	}
	sum := crc(superMagic, b[:off])
	if off < sumsHigh {
		sum = crc(sum, b[off+4:])
	}
	if sum != le.Uint32(b[off:]) {
		return nil, damaged("its checksum is wrong")
	}
	return b, nil
}

// takeCheckpoint reads the numbers of a checkpoint.
func (fs *filesystem) takeCheckpoint(b []byte, at blockNr) error {
	c := &fs.cp
	c.at = at
	c.version, c.valid = le.Uint64(b), le.Uint64(b[16:])
	c.free, c.nodes = int64(le.Uint32(b[32:])), int64(le.Uint32(b[144:]))
	c.flags = le.Uint32(b[132:])
	c.sum = le.Uint32(b[le.Uint32(b[164:]):])
	c.blocks, c.sums = int64(le.Uint32(b[136:])), int64(le.Uint32(b[140:]))
	for i := range logs {
		if i < dataLogs {
			c.seg[i], c.next[i] = int64(le.Uint32(b[84+4*i:])), int64(le.Uint16(b[116+2*i:]))
		} else {
			n := i - dataLogs
			c.seg[i], c.next[i] = int64(le.Uint32(b[36+4*n:])), int64(le.Uint16(b[68+2*n:]))
		}
		c.reuse[i] = b[176+i] == allocReuse
	}
	switch {
	case c.flags&flagUnmounted == 0:
		return damaged("it was not unmounted cleanly; mount it once")
	case c.flags&(flagError|flagFsck) != 0:
		return damaged("Linux found errors on it; run fsck.f2fs")
	case c.flags&(flagDisabled|flagDisabled2) != 0:
		return damaged("its checkpoints are switched off")
	case c.flags&flagResizing != 0:
		return damaged("it was being resized")
	}
	if c.flags&flagQuota != 0 {
		fs.note("its quota must be checked by fsck.f2fs")
	}
	sit, nat := int64(le.Uint32(b[156:])), int64(le.Uint32(b[160:]))
	if sit*8 < fs.sitBlocks || nat*8 < fs.natBlocks || sit > blockSize || nat > blockSize {
		return damaged("checkpoint: bitmaps of %d and %d bytes for %d and %d blocks", sit, nat, fs.sitBlocks, fs.natBlocks)
	}
	sitAt, natAt := int64(sumsLow), sumsLow+sit
	if c.flags&flagLargeNAT != 0 { // the checksum is in front of them
		natAt = sumsLow + 4
		sitAt = natAt + nat
	}
	sums := int64(le.Uint32(b[164:]))
	for _, end := range []int64{sitAt + sit, natAt + nat} {
		if end > blockSize || sums >= natAt && sums < end {
			return damaged("checkpoint: bitmaps of %d and %d bytes have no room", sit, nat)
		}
	}
	c.sitCurrent, c.natCurrent = b[sitAt:sitAt+sit], b[natAt:natAt+nat]
	// Summaries of the logs lie in front of the last block; of all of them, after an unmount.
	if last := c.blocks - 1; c.sums < 1 || c.sums >= last || c.flags&flagCompact == 0 && c.sums+logs > last {
		return damaged("checkpoint: summaries in block %d of %d", c.sums, c.blocks)
	}
	return nil
}

// bit returns a bit of a bitmap of F2FS, the highest of a byte first.
func bit(b []byte, i int64) bool { return b[i/8]>>(7-i%8)&1 != 0 }

// checkLogs holds the places where new blocks go against the SIT: they must be free.
func (fs *filesystem) checkLogs() error {
	for i := range logs {
		seg, next := fs.cp.seg[i], fs.cp.next[i]
		if seg >= fs.segments || next >= segBlocks {
			return damaged("checkpoint: log %d goes on at block %d of segment %d of %d", i, next, seg, fs.segments)
		}
		end := int64(segBlocks)
		if fs.cp.reuse[i] {
			end = next + 1
		}
		if n := fs.valid.Next(seg*segBlocks+next, seg*segBlocks+end, true); n < seg*segBlocks+end {
			return damaged("block %d is in use, and new ones would be written over it", int64(fs.mainAt)+n)
		}
	}
	return nil
}

// checkRecovery looks at the block where the next node would be. After a crash, files that were synced since the
// checkpoint begin there, in blocks that the SIT calls free; an unmount before that leaves its mark all the same. That
// block is captured in any case: a node of an older life of the disk could pass for such a file, if the same checkpoint
// is written to it a second time. Linux 6.1 would not take it up after an unmount; other versions may.
func (fs *filesystem) checkRecovery() (extent.List, error) {
	at := fs.mainAt + blockNr(fs.cp.seg[warmNode]*segBlocks+fs.cp.next[warmNode])
	b := make([]byte, blockSize)
	if err := fs.read(b, at); err != nil {
		return nil, fmt.Errorf("read the next node: %w", err)
	}
	version, mine := le.Uint64(b[footerOff+12:]), fs.cp.version
	switch {
	case fs.cp.flags&flagLow != 0:
		version, mine = version<<32, mine<<32
	case fs.cp.flags&flagSum != 0:
		mine |= uint64(fs.cp.sum) << 32
	}
	if version == mine {
		return nil, damaged("files were written since its last checkpoint; mount it once")
	}
	return extent.List{{Off: int64(at) * blockSize, Len: blockSize}}, nil
}
