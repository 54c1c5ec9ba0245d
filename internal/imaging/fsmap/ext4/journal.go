package ext4

import (
	"encoding/binary"
	"fmt"
	"slices"

	"mimeo/internal/imaging/extent"
)

var be = binary.BigEndian

// The journal's numbers, of the kernel's Documentation/filesystems/ext4/journal.rst. The journal is big-endian.
const (
	journalMagic = 0xc03b3998

	recordDescriptor, recordCommit, recordSuperV1, recordSuperV2, recordRevoke = 1, 2, 3, 4, 5

	journal64Bit, journalCsum2, journalCsum3, journalFastCommit = 0x2, 0x8, 0x10, 0x20
	journalKnown                                                = 0x1 | journal64Bit | 0x4 | journalCsum2 | journalCsum3 // and revokes, asynchronous commits

	journalCompatCsum = 0x1
	commitSum         = 0x10      // where a commit has its checksum
	journalRead       = 256 << 10 // bytes read at once

	tagEscaped, tagSameUUID, tagLast = 0x1, 0x2, 0x8

	maxJournal = 16 << 20 // blocks: more than mke2fs makes
)

// replay is what a journal will do to the filesystem when it is mounted.
type replay struct {
	journal []run              // where the journal lies
	blocks  map[blockNr]copied // the last committed copy of each block
	touched extent.List        // the journal, and all blocks that it may write
}

// copied is a block's copy in the journal.
type copied struct {
	at      uint32 // block of the journal
	escaped bool   // its first four bytes were the magic number, and are zero in the journal
}

// has tells whether a replay changes block n. A nil replay changes nothing.
func (l *replay) has(n blockNr) bool {
	if l == nil {
		return false
	}
	_, ok := l.blocks[n]
	return ok
}

// overlay changes b, read from block first on, to what it will be after the replay.
func (l *replay) overlay(fs *filesystem, first blockNr, b []byte) error {
	for ; l != nil && len(b) > 0; first, b = first+1, b[fs.blockSize:] {
		c, ok := l.blocks[first]
		if !ok {
			continue
		}
		if err := fs.readMapped(l.journal, uint64(c.at), b[:fs.blockSize]); err != nil {
			return fmt.Errorf("read the journal: %w", err)
		}
		if c.escaped {
			be.PutUint32(b, journalMagic)
		}
	}
	return nil
}

// readJournal looks whether the journal must be replayed, and reads what it will do.
func (fs *filesystem) readJournal() error {
	dirty := fs.incompat&incompatRecover != 0
	if fs.compat&compatJournal == 0 {
		if dirty {
			return damaged("superblock: a journal must be replayed, but there is none")
		}
		return nil
	}
	inode := le.Uint32(fs.raw[0xe0:])
	if inode == 0 {
		if dirty {
			return damaged("it was not unmounted cleanly, and its journal lies on another disk: e2fsck it")
		}
		fs.facts.Notes = append(fs.facts.Notes, fmt.Sprintf("its journal lies on another disk (UUID %s), and must be captured with it", uuid(fs.raw[0xd0:0xe0])))
		return nil
	}
	if inode != 8 {
		return damaged("superblock: the journal is inode %d", inode)
	}
	if dirty && fs.compat&compatFastCommit != 0 {
		// Fast commits give blocks to files without a word of the bitmaps.
		return damaged("it was not unmounted cleanly, and its journal has fast commits, which are not supported")
	}
	log, err := fs.scanJournal()
	if d, ok := err.(damage); ok && !dirty {
		// Nobody reads a clean filesystem's journal; e2fsck makes it anew.
		fs.facts.Notes = append(fs.facts.Notes, "its journal is damaged, and not needed: "+string(d))
		return nil
	}
	if err != nil {
		if d, ok := err.(damage); ok {
			return damaged("it was not unmounted cleanly, and %s", d)
		}
		return err
	}
	if log == nil {
		return nil
	}
	fs.facts.Notes = append(fs.facts.Notes, "it was not unmounted cleanly: its journal is captured, and is replayed when the copy is mounted")
	fs.log = log
	return fs.checkReplayedSuper()
}

// scanJournal reads the journal; nil means that it is empty.
func (fs *filesystem) scanJournal() (*replay, error) {
	runs, err := fs.journalRuns()
	if err != nil {
		return nil, err
	}
	j := &journal{fs: fs, runs: runs, replay: &replay{journal: runs, blocks: map[blockNr]copied{}}, buf: make([]byte, fs.blockSize)}
	if err := j.readSuper(); err != nil || j.start == 0 {
		return nil, err
	}
	if err := j.scan(); err != nil {
		return nil, err
	}
	for _, r := range runs {
		j.targets = append(j.targets, fs.bytes(r.to, blockNr(r.n)))
	}
	j.replay.touched = extent.FromUnsorted(j.targets)
	return j.replay, nil
}

// checkReplayedSuper refuses a journal that changes the size of the filesystem: it was being resized.
func (fs *filesystem) checkReplayedSuper() error {
	n := fs.superBlock()
	if !fs.log.has(n) {
		return nil
	}
	b := make([]byte, fs.blockSize)
	if err := fs.log.overlay(fs, n, b); err != nil {
		return err
	}
	b = b[superOff-int64(n)*fs.blockSize:]
	for _, field := range [][2]int{{0x4, 0x8}, {0x14, 0x2c}, {0x58, 0x5a}, {0x5c, 0x78}, {0xce, 0xd0}, {0xfe, 0x108}, {0x150, 0x154}, {0x24c, 0x254}, {0x270, 0x274}} {
		old, now := slices.Clone(fs.raw[field[0]:field[1]]), slices.Clone(b[field[0]:field[1]])
		if field[0] == 0x5c {
			// Flags that come and go: recovery needed; the orphan file is in use.
			old[4], now[4] = old[4]&^incompatRecover, now[4]&^incompatRecover
			old[10], now[10] = old[10]&^1, now[10]&^1
		}
		if !slices.Equal(old, now) {
			return damaged("it was being changed as a whole when it was last used (superblock, byte %#x): mount it once, or e2fsck it", field[0])
		}
	}
	return nil
}

// journal is one reading of a journal.
type journal struct {
	fs       *filesystem
	runs     []run
	replay   *replay
	targets  []extent.Extent
	buf      []byte
	first    uint32 // block of the log's first record
	last     uint32 // block behind the log
	start    uint32 // block where the live part begins
	sequence uint32 // of the transaction there
	features uint32
	sums1    bool   // each commit has a checksum of all before it (version 1)
	seed     uint32 // of checksums of versions 2 and 3
}

// readSuper reads the journal's superblock.
func (j *journal) readSuper() error {
	fs := j.fs
	if err := fs.readMapped(j.runs, 0, j.buf); err != nil {
		return fmt.Errorf("read the journal's superblock: %w", err)
	}
	b := j.buf
	kind := be.Uint32(b[4:])
	if be.Uint32(b) != journalMagic || kind != recordSuperV1 && kind != recordSuperV2 {
		return damaged("its journal has no superblock")
	}
	j.last, j.first = be.Uint32(b[0x10:]), be.Uint32(b[0x14:])
	j.sequence, j.start = be.Uint32(b[0x18:]), be.Uint32(b[0x1c:])
	if kind == recordSuperV2 {
		j.features = be.Uint32(b[0x28:])
		j.sums1 = be.Uint32(b[0x24:])&journalCompatCsum != 0 && j.features&(journalCsum2|journalCsum3) == 0
	}
	j.seed = crc32c(^uint32(0), b[0x30:0x40])
	if int64(be.Uint32(b[0xc:])) != fs.blockSize || uint64(j.last) > length(j.runs) || j.first == 0 || j.first >= j.last {
		return damaged("its journal's superblock makes no sense")
	}
	if j.start == 0 {
		return nil
	}
	switch {
	case j.features&journalFastCommit != 0:
		return damaged("its journal has fast commits, which are not supported")
	case j.features&^journalKnown != 0:
		return damaged("its journal has unknown features %#x", j.features&^journalKnown)
	case j.start < j.first || j.start >= j.last:
		return damaged("its journal begins at block %d of %d", j.start, j.last)
	}
	if j.features&(journalCsum2|journalCsum3) != 0 {
		sum := be.Uint32(b[0xfc:])
		c := slices.Clone(b[:1024])
		be.PutUint32(c[0xfc:], 0)
		if crc32c(^uint32(0), c) != sum {
			return damaged("the checksum of its journal's superblock is wrong")
		}
	}
	return nil
}

// next returns the block after n, around the end of the log.
func (j *journal) next(n uint32) uint32 {
	if n++; n >= j.last {
		return j.first
	}
	return n
}

// scan walks the live transactions. The one that was never committed counts for touched alone.
//
// A replay ends at the first record that is damaged. What lies on the disk then is of no single moment: some blocks were
// written there after later transactions, and the bitmaps need not know what the inodes have. So all that was committed
// must be good, and nothing may follow where it ends.
func (j *journal) scan() error {
	type update struct {
		to   blockNr
		copy copied
	}
	var open []update
	at, sequence := j.start, j.sequence
	good, sum := true, ^uint32(0)
	sums := j.sums1 || j.features&(journalCsum2|journalCsum3) != 0
	left := int64(j.last - j.first)
walk:
	for left > 0 {
		if err := j.fs.readMapped(j.runs, uint64(at), j.buf); err != nil {
			return fmt.Errorf("read the journal: %w", err)
		}
		b := j.buf
		if be.Uint32(b) != journalMagic || be.Uint32(b[8:]) != sequence {
			break
		}
		switch be.Uint32(b[4:]) {
		case recordDescriptor:
			if !j.sumOK(b) {
				break walk
			}
			if j.sums1 {
				sum = crc32be(sum, b)
			}
			tags, err := j.tags(b)
			if err != nil {
				return err
			}
			at, left = j.next(at), left-1
			for _, t := range tags {
				if left--; left < 0 {
					return damaged("its journal bites its own tail")
				}
				j.targets = append(j.targets, j.fs.bytes(t.to, 1))
				open = append(open, update{t.to, copied{at: at, escaped: t.escaped}})
				if sums {
					if err := j.fs.readMapped(j.runs, uint64(at), j.buf); err != nil {
						return fmt.Errorf("read the journal: %w", err)
					}
					if j.sums1 {
						sum = crc32be(sum, j.buf)
					}
					good = good && j.tagOK(t, sequence, j.buf)
				}
				at = j.next(at)
			}
			continue
		case recordCommit:
			if !good || !j.sumOK(b) || !j.commitOK(b, sum) {
				return damaged("its journal is damaged: a checksum in transaction %d is wrong", sequence)
			}
			for _, u := range open {
				j.replay.blocks[u.to] = u.copy
			}
			open, sum = open[:0], ^uint32(0)
			sequence++
		case recordRevoke:
			good = good && j.sumOK(b)
		default:
			break walk
		}
		at, left = j.next(at), left-1
	}
	return j.checkRest(at, left, sequence)
}

// checkRest looks for what was committed behind the end of the log, where transaction sequence, which was not, should be.
func (j *journal) checkRest(at uint32, left int64, sequence uint32) error {
	b := make([]byte, journalRead/j.fs.blockSize*j.fs.blockSize)
	for left > 0 {
		r, ok := find(j.runs, uint64(at))
		if !ok {
			return damaged("its journal has no block %d", at)
		}
		in := uint64(at) - r.from
		n := min(r.n-in, uint64(j.last-at), uint64(left), uint64(int64(len(b))/j.fs.blockSize))
		if err := j.fs.read(b[:int64(n)*j.fs.blockSize], int64(r.to+blockNr(in))*j.fs.blockSize); err != nil {
			return fmt.Errorf("read the journal: %w", err)
		}
		for i := range int64(n) {
			c := b[i*j.fs.blockSize:][:j.fs.blockSize]
			kind, ahead := be.Uint32(c[4:]), be.Uint32(c[8:])-sequence
			if be.Uint32(c) == journalMagic && (ahead == 0 && kind == recordCommit || ahead > 0 && ahead < j.last && kind <= recordRevoke) && j.sumOK(c) {
				return damaged("its journal is damaged: it ends before transaction %d, and has transaction %d", sequence, sequence+ahead)
			}
		}
		left -= int64(n)
		if at += uint32(n); at >= j.last {
			at = j.first
		}
	}
	return nil
}

// sumOK checks the checksum of a record, where records have one: of descriptors and revocations in the last four bytes.
func (j *journal) sumOK(b []byte) bool {
	if j.features&(journalCsum2|journalCsum3) == 0 {
		return true
	}
	at := len(b) - 4
	if be.Uint32(b[4:]) == recordCommit {
		at = commitSum
	}
	sum := crc32c(crc32c(crc32c(j.seed, b[:at]), make([]byte, 4)), b[at+4:])
	return sum == be.Uint32(b[at:])
}

// tagOK checks the checksum that a descriptor has of a block.
func (j *journal) tagOK(t tag, sequence uint32, b []byte) bool {
	sum := crc32c(crc32c(j.seed, be.AppendUint32(nil, sequence)), b)
	switch {
	case j.features&journalCsum3 != 0:
		return sum == t.sum
	case j.features&journalCsum2 != 0:
		return sum&0xffff == t.sum
	}
	return true
}

// commitOK checks the checksum of version 1, of all descriptors and blocks of a transaction. There may be none.
func (j *journal) commitOK(b []byte, sum uint32) bool {
	const crc32Kind, crc32Len = 1, 4
	if !j.sums1 || b[0xc] == 0 && b[0xd] == 0 && be.Uint32(b[commitSum:]) == 0 {
		return true
	}
	return b[0xc] == crc32Kind && b[0xd] == crc32Len && be.Uint32(b[commitSum:]) == sum
}

// tag names a block that a transaction writes.
type tag struct {
	to      blockNr
	escaped bool
	sum     uint32 // of versions 2 and 3
}

// tags reads the tags of a descriptor block; their form depends on the journal's features.
func (j *journal) tags(b []byte) ([]tag, error) {
	size, tail := 8, 0
	if j.features&journal64Bit != 0 {
		size += 4
	}
	switch {
	case j.features&journalCsum3 != 0:
		size, tail = 16, 4
	case j.features&journalCsum2 != 0:
		size, tail = size+2, 4
	}
	var out []tag
	for b = b[12 : len(b)-tail]; len(b) >= size; {
		t := tag{to: blockNr(be.Uint32(b))}
		var flags uint32
		if j.features&journalCsum3 != 0 {
			flags, t.sum = be.Uint32(b[4:]), be.Uint32(b[12:])
			if j.features&journal64Bit != 0 {
				t.to |= blockNr(be.Uint32(b[8:])) << 32
			}
		} else {
			flags, t.sum = uint32(be.Uint16(b[6:])), uint32(be.Uint16(b[4:]))
			if j.features&journal64Bit != 0 {
				t.to |= blockNr(be.Uint32(b[8:])) << 32
			}
		}
		if t.to >= j.fs.blocks {
			return nil, damaged("its journal writes to block %d of %d", t.to, j.fs.blocks)
		}
		t.escaped = flags&tagEscaped != 0
		out = append(out, t)
		if b = b[size:]; flags&tagSameUUID == 0 {
			if len(b) < 16 {
				break
			}
			b = b[16:]
		}
		if flags&tagLast != 0 {
			break
		}
	}
	return out, nil
}

// crc32be goes on with a checksum of version 1: CRC-32 with the high bit first, without the inversion at either end.
func crc32be(c uint32, b []byte) uint32 {
	for _, x := range b {
		c = c<<8 ^ tableBE[byte(c>>24)^x]
	}
	return c
}

var tableBE = func() (t [256]uint32) {
	for i := range t {
		c := uint32(i) << 24
		for range 8 {
			high := c >> 31
			c = c<<1 ^ high*0x04c11db7
		}
		t[i] = c
	}
	return t
}()
