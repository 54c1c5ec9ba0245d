package nilfs2

import "fmt"

const (
	logMagic = 0x1eaffa11
	logHead  = 64
	flagRoot = 4
	rootHead = 16
)

// inode is where a file's blocks are told of: six numbers, or the root of a tree.
type inode struct{ bmap [56]byte }

// segmentEnd returns the block behind the segment that has a block.
func (fs *filesystem) segmentEnd(block int64) int64 {
	return (block/fs.perSegment + 1) * fs.perSegment
}

// readLog reads the last log and the root at its end, and returns the first block of the segment that comes next.
func (fs *filesystem) readLog() (next uint64, err error) {
	if fs.lastLog < uint64(fs.first) || fs.lastLog >= uint64(fs.segments*fs.perSegment) {
		return 0, damaged("superblock: the last log lies at block %d", fs.lastLog)
	}
	at := int64(fs.lastLog)
	head := make([]byte, fs.block)
	if err := fs.read(head, at*fs.block); err != nil {
		return 0, fmt.Errorf("read the last log: %w", err)
	}
	n := int64(le.Uint32(head[40:]))
	if le.Uint32(head[8:]) != logMagic || le.Uint64(head[16:]) != fs.lastSeq || le.Uint16(head[14:])&flagRoot == 0 || n < 2 || at+n > fs.segmentEnd(at) {
		return 0, damaged("the last log, at block %d, is not what the superblock says", at)
	}
	sum := crc(fs.seed, head[4:])
	b := make([]byte, fs.block)
	for i := int64(1); i < n; i++ {
		if err := fs.read(b, (at+i)*fs.block); err != nil {
			return 0, fmt.Errorf("read the last log: %w", err)
		}
		sum = crc(sum, b)
	}
	if sum != le.Uint32(head) {
		return 0, damaged("the checksum of the last log is wrong")
	}
	// The root is the last block.
	length := int64(le.Uint16(b[4:]))
	if length < rootHead+3*fs.inodeLen || length > fs.block || crc(fs.seed, b[4:length]) != le.Uint32(b) {
		return 0, damaged("the checksum of the root is wrong")
	}
	copy(fs.dat.bmap[:], b[rootHead+56:])
	copy(fs.sufile.bmap[:], b[rootHead+2*fs.inodeLen+56:])

	next = le.Uint64(head[32:])
	after, seq := uint64(at+n), fs.lastSeq
	if at+n+2 > fs.segmentEnd(at) {
		after, seq = next, seq+1
	}
	if after >= uint64(fs.segments*fs.perSegment) {
		return 0, damaged("the last log goes on at block %d", after)
	}
	if err := fs.read(b, int64(after)*fs.block); err != nil {
		return 0, fmt.Errorf("read what follows the last log: %w", err)
	}
	sums := int64(le.Uint32(b[48:]))
	if le.Uint32(b[8:]) == logMagic && le.Uint64(b[16:]) == seq && (sums < logHead || sums > fs.block || crc(fs.seed, b[8:sums]) == le.Uint32(b[4:])) {
		return 0, damaged("logs were written behind the one that the superblock knows of; mount and unmount it")
	}
	return next, nil
}
