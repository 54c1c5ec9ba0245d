package f2fs

import (
	"fmt"
	"math/bits"

	"mimeo/internal/imaging/fsmap/fact"
)

const (
	sitLen      = 74 // bytes of an entry: count and type, a bit for each block, age
	sitPerBlock = blockSize / sitLen

	// A summary block has 7 bytes for each block of a segment, and then room for a journal: a count, and entries.
	journalOff = segBlocks * 7
	journalLen = 507
)

// journal holds entries of a table that are newer than it, each with its number in front.
type journal [][]byte

func newJournal(b []byte, length int) (journal, error) {
	n := int(le.Uint16(b))
	if b = b[2:journalLen]; n*length > len(b) {
		return nil, damaged("a journal of %d entries", n)
	}
	j := make(journal, n)
	for i := range j {
		j[i], b = b[:length], b[length:]
	}
	return j, nil
}

// readJournals reads what is newer than the tables, from the pack of the checkpoint: that of the NAT lies with the
// summaries of hot data, that of the SIT with those of cold data; or they come first where summaries are compact.
func (fs *filesystem) readJournals() error {
	nat, sit := make([]byte, blockSize), make([]byte, blockSize)
	first, last := blockNr(fs.cp.sums), blockNr(fs.cp.sums)
	natOff, sitOff := 0, journalLen
	if fs.cp.flags&flagCompact == 0 {
		first = blockNr(fs.cp.blocks - 1 - logs + hotData)
		last = blockNr(fs.cp.blocks - 1 - logs + coldData)
		natOff, sitOff = journalOff, journalOff
	}
	err := fs.read(nat, fs.cp.at+first)
	if err == nil {
		err = fs.read(sit, fs.cp.at+last)
	}
	if err != nil {
		return fmt.Errorf("read journals: %w", err)
	}
	if fs.nat, err = newJournal(nat[natOff:], 4+natLen); err != nil {
		return fmt.Errorf("NAT: %w", err)
	}
	if fs.sit, err = newJournal(sit[sitOff:], 4+sitLen); err != nil {
		return fmt.Errorf("SIT: %w", err)
	}
	return nil
}

// readSegments reads the SIT: the current copy of each block, and the journal. Each entry counts its blocks.
func (fs *filesystem) readSegments() error {
	newer := map[int64][]byte{}
	for _, e := range fs.sit {
		seg := int64(le.Uint32(e))
		if newer[seg] != nil || seg >= fs.segments {
			return damaged("SIT: the journal has segment %d of %d, or has it twice", seg, fs.segments)
		}
		newer[seg] = e[4:]
	}
	fs.valid = fact.NewBitmap(fs.segments * segBlocks)
	fs.types = make([]byte, fs.segments)
	place := func(i int64) blockNr {
		at := fs.sitAt + blockNr(i)
		if bit(fs.cp.sitCurrent, i) {
			at += blockNr(fs.sitBlocks)
		}
		return at
	}
	current := map[int64]bool{}
	for _, seg := range fs.cp.seg {
		current[seg] = true
	}
	var valid uint64
	var free, nodes int64
	err := fs.eachBlock((fs.segments+sitPerBlock-1)/sitPerBlock, place, func(i int64, b []byte) error {
		for seg := i * sitPerBlock; seg < min((i+1)*sitPerBlock, fs.segments); seg++ {
			e := b[(seg-i*sitPerBlock)*sitLen:][:sitLen]
			if n := newer[seg]; n != nil {
				e = n
			}
			n := int64(le.Uint16(e) & 0x3ff)
			typ := byte(le.Uint16(e) >> 10)
			count := int64(0)
			for j, c := range e[2:66] {
				// Here the highest bit of a byte comes first.
				fs.valid[seg*segBlocks/8+int64(j)] = bits.Reverse8(c)
				count += int64(bits.OnesCount8(c))
			}
			if count != n || typ >= logs {
				return damaged("segment %d of type %d has %d blocks in use by its bits, %d by its count", seg, typ, count, n)
			}
			fs.types[seg] = typ
			valid += uint64(n)
			if typ >= hotNode {
				nodes += n
			}
			if n == 0 && !current[seg] {
				free++
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("SIT: %w", err)
	}
	switch {
	case valid > fs.cp.valid: // which counts what is reserved, too
		return damaged("SIT: %d blocks are in use, %d by the checkpoint", valid, fs.cp.valid)
	case free != fs.cp.free:
		return damaged("SIT: %d segments are free, %d by the checkpoint", free, fs.cp.free)
	case nodes != fs.cp.nodes:
		return damaged("SIT: %d nodes, %d by the checkpoint", nodes, fs.cp.nodes)
	}
	return nil
}
