package md

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"

	"mimeo/internal/imaging/extent"
)

// What a superblock of version 1 may say beyond the plain case (feature_map).
const (
	hasBitmap     = 1 << 0
	recovering    = 1 << 1
	reshaping     = 1 << 2
	hasBadBlocks  = 1 << 3
	replacing     = 1 << 4
	backwards     = 1 << 5
	newOffset     = 1 << 6
	recoverBitmap = 1 << 7
	bitmapVersion = 1 << 8
	hasJournal    = 1 << 9
	hasPPL        = 1 << 10
	hasPPLs       = 1 << 11
	raid0Layout   = 1 << 12
	known         = 1<<13 - 1
)

const (
	maxRoles   = (4096 - 256) / 2
	maxSectors = math.MaxInt64 / sector / 2
	bitmapLen  = 128 << 10 // what is kept of a bitmap at least; the rest lies around the array and is kept with that
)

// parse1 reads a superblock of version 1 (struct mdp_superblock_1).
func (s *super) parse1(b []byte) error {
	le := binary.LittleEndian
	s.uuid = formatUUID(b[16:32])
	if v := le.Uint32(b[4:]); v != 1 {
		return damaged("its version is %d", v)
	}
	features := le.Uint32(b[8:])
	s.name = text(b[32:64])
	s.level = int32(le.Uint32(b[72:]))
	s.disks = le.Uint32(b[92:])
	roles := le.Uint32(b[220:])
	if roles > maxRoles {
		return damaged("it has room for %d disks", roles)
	}
	if sum, want := sum1(b[:256+2*roles]), le.Uint32(b[216:]); sum != want {
		return damaged("its checksum is wrong")
	}
	if features&^known != 0 {
		return damaged("it has features that are not known (%#x)", features&^known)
	}
	if at := le.Uint64(b[144:]); at != uint64(s.at/sector) {
		return damaged("it says that it lies in sector %d, it lies in %d", at, s.at/sector)
	}
	size, data, room := le.Uint64(b[80:]), le.Uint64(b[128:]), le.Uint64(b[136:])
	if s.level != 1 {
		size = room // the array takes a share that depends on its chunks; here all of the disk counts
	}
	if data > maxSectors || size > room || room > maxSectors {
		return damaged("the array takes %d of %d sectors at %d", size, room, data)
	}
	s.data, s.size = int64(data)*sector, int64(size)*sector
	if off := int64(int32(le.Uint32(b[96:]))); features&hasBitmap != 0 {
		s.beside = append(s.beside, s.near(off, bitmapLen))
	}
	if n := int64(le.Uint16(b[186:])); features&hasBadBlocks != 0 && n > 0 {
		s.beside = append(s.beside, s.near(int64(int32(le.Uint32(b[188:]))), n*sector))
	}
	number := le.Uint32(b[160:])
	role := uint16(0xffff)
	if number < roles {
		role = le.Uint16(b[256+2*number:])
	}
	switch {
	case features&(reshaping|backwards|newOffset) != 0:
		s.unsynced = "the array is being reshaped"
	case features&(recovering|recoverBitmap|replacing) != 0:
		s.unsynced = "this disk is being rebuilt"
	case features&(hasJournal|hasPPL|hasPPLs) != 0:
		s.unsynced = "the array has a journal"
	case role >= 0xfffd:
		s.unsynced = "this disk is a spare or has failed"
	case uint32(role) >= s.disks:
		return damaged("this is disk %d of %d", role+1, s.disks)
	case le.Uint64(b[208:]) < size: // 0 as well where the array was not stopped
		s.unsynced = "the array was not stopped in sync"
	}
	return nil
}

// near returns n bytes at so many sectors from the superblock, cut where the array begins.
func (s *super) near(sectors, n int64) extent.Extent {
	off := s.at + sectors*sector
	if off < s.data {
		n = min(n, s.data-off)
	}
	if off < s.at {
		n = min(n, s.at-off)
	}
	return extent.Extent{Off: off, Len: n}
}

// sum1 is the checksum of version 1: 32-bit words added up, its own left out, the carry added in the end.
func sum1(b []byte) uint32 {
	var sum uint64
	for i := 0; i+4 <= len(b); i += 4 {
		if i != 216 {
			sum += uint64(binary.LittleEndian.Uint32(b[i:]))
		}
	}
	if len(b)%4 == 2 {
		sum += uint64(binary.LittleEndian.Uint16(b[len(b)-2:]))
	}
	return uint32(sum) + uint32(sum>>32)
}

// parse0 reads a superblock of version 0.90 (struct mdp_superblock_s): 1024 words in the byte order of the machine that made it.
func (s *super) parse0(b []byte) error {
	var order binary.ByteOrder = binary.LittleEndian
	if order.Uint32(b) != magic {
		order = binary.BigEndian
	}
	word := func(i int) uint32 { return order.Uint32(b[4*i:]) }
	var id []byte
	for _, i := range []int{5, 13, 14, 15} {
		id = binary.BigEndian.AppendUint32(id, word(i))
	}
	s.uuid = formatUUID(id)
	var sum uint64
	for i := range 1024 {
		if i != 38 {
			sum += uint64(word(i))
		}
	}
	if uint32(sum)+uint32(sum>>32) != word(38) {
		return damaged("its checksum is wrong")
	}
	if word(1) != 0 || word(2) != 90 && word(2) != 91 {
		return damaged("its version is %d.%d", word(1), word(2))
	}
	s.level, s.disks = int32(word(7)), word(10)
	s.size = int64(word(8)) * 1024
	if s.level != 1 {
		s.size = s.at
	}
	s.len = 64 << 10 // a bitmap lies behind it
	const self = 992 // the words of this disk
	switch state := word(self + 4); {
	case word(2) == 91:
		s.unsynced = "the array is being reshaped"
	case state&7 != 6: // active and in sync, not faulty
		s.unsynced = "this disk is a spare, has failed or is being rebuilt"
	case word(self+3) >= s.disks:
		return damaged("this is disk %d of %d", word(self+3)+1, s.disks)
	case word(33)&1 == 0: // not clean
		s.unsynced = "the array was not stopped in sync"
	}
	return nil
}

// formatUUID prints 16 bytes as blkid does.
func formatUUID(b []byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// text returns a name that ends at the first zero byte, without what could not be shown.
func text(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return string(bytes.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0xfffd {
			return -1
		}
		return r
	}, b))
}
