package ext4

import (
	"fmt"

	"mimeo/internal/imaging/extent"
)

// group is what is needed of a group descriptor.
type group struct {
	bitmap, inodeBitmap, table blockNr
	free                       uint32 // clusters
	sum                        uint32 // of the bitmap; the low 16 bits alone in short descriptors
	uninit                     bool   // the bitmap on disk was never written
	unusedInodes               uint64 // at the end of the table, never written
}

const flagBlockUninit = 0x2

// readGroups reads all group descriptors and collects in meta where the metadata of fixed place lies.
func (fs *filesystem) readGroups(meta *gather) error {
	fs.groups = make([]group, 0, fs.groupCount)
	perBlock := uint64(fs.blockSize) / uint64(fs.descSize)
	count := (fs.groupCount + perBlock - 1) / perBlock
	meta.most = int(4*fs.groupCount) + 1
	const atOnce = 1 << 20 // bytes of a read
	for i := uint64(0); i < count; {
		at := fs.descriptorBlock(i, perBlock)
		n := uint64(1)
		for i+n < count && n < atOnce/uint64(fs.blockSize) && fs.descriptorBlock(i+n, perBlock) == at+blockNr(n) {
			n++
		}
		if at >= fs.blocks || blockNr(n) > fs.blocks-at {
			return damaged("group descriptors at block %d lie outside of the filesystem", at)
		}
		b := make([]byte, int64(n)*fs.blockSize)
		if err := fs.read(b, int64(at)*fs.blockSize); err != nil {
			return fmt.Errorf("read group descriptors: %w", err)
		}
		if err := fs.log.overlay(fs, at, b); err != nil {
			return err
		}
		for ; len(b) >= fs.descSize && uint64(len(fs.groups)) < fs.groupCount; b = b[fs.descSize:] {
			if err := fs.addGroup(b[:fs.descSize], meta); err != nil {
				return err
			}
		}
		i += n
	}
	return nil
}

// superBlock returns the block that the superblock lies in.
func (s *super) superBlock() blockNr { return blockNr(superOff / s.blockSize) }

// descriptorBlock returns where the i-th block of descriptors lies: behind the superblock, or with meta_bg at the start
// of the groups that it describes.
func (s *super) descriptorBlock(i, perBlock uint64) blockNr {
	if s.incompat&incompatMetaBG == 0 || i < s.firstMetaBG {
		return s.superBlock() + 1 + blockNr(i)
	}
	g := i * perBlock
	at := s.firstBlock(g)
	if s.hasSuper(g) {
		at++
	}
	if g == 0 && s.blockSize == 1024 && s.firstData == 0 {
		at++ // the superblock lies in block 1, behind the boot block
	}
	return at
}

// firstBlock returns the first block of a group.
func (s *super) firstBlock(g uint64) blockNr { return s.firstData + blockNr(g*s.blocksPerGroup) }

// groupBlocks returns how many blocks a group has; the last one may be short.
func (s *super) groupBlocks(g uint64) uint64 {
	return min(s.blocksPerGroup, uint64(s.blocks-s.firstBlock(g)))
}

// groupClusters returns how many clusters, and so valid bits of the bitmap, a group has.
func (s *super) groupClusters(g uint64) uint64 { return (s.groupBlocks(g) + s.ratio - 1) / s.ratio }

// hasSuper tells whether a group begins with a copy of the superblock.
func (s *super) hasSuper(g uint64) bool {
	switch {
	case g == 0:
		return true
	case s.compat&compatSparse2 != 0:
		return g == s.backupGroups[0] || g == s.backupGroups[1]
	case g == 1 || s.roCompat&roSparse == 0:
		return true
	}
	for _, base := range []uint64{3, 5, 7} {
		n := base
		for n < g {
			n *= base
		}
		if n == g {
			return true
		}
	}
	return false
}

// baseBlocks returns how many blocks at a group's start are copies of superblock and descriptors, with the room that is
// kept for more of these.
func (s *super) baseBlocks(g uint64) uint64 {
	perBlock := uint64(s.blockSize) / uint64(s.descSize)
	n := uint64(0)
	if s.hasSuper(g) {
		n = 1
	}
	count := (s.groupCount + perBlock - 1) / perBlock
	if s.incompat&incompatMetaBG != 0 {
		if g/perBlock >= s.firstMetaBG {
			if m := g % perBlock; m == 0 || m == 1 || m == perBlock-1 {
				n++
			}
			if g == 0 && s.blockSize == 1024 && s.firstData == 0 {
				n++
			}
			return n
		}
		count = min(count, s.firstMetaBG)
	}
	if n > 0 {
		n += count + s.reservedGDT
	}
	if g == 0 && s.blockSize == 1024 && s.firstData == 0 {
		n++
	}
	return n
}

// addGroup reads the descriptor of the next group.
func (fs *filesystem) addGroup(b []byte, meta *gather) error {
	i := uint64(len(fs.groups))
	if err := fs.checkDescriptor(i, b); err != nil {
		return err
	}
	g := group{
		bitmap: blockNr(le.Uint32(b)), inodeBitmap: blockNr(le.Uint32(b[4:])), table: blockNr(le.Uint32(b[8:])),
		free: uint32(le.Uint16(b[0xc:])), sum: uint32(le.Uint16(b[0x18:])),
		uninit: fs.hasGroupCsum() && le.Uint16(b[0x12:])&flagBlockUninit != 0,
	}
	if fs.hasGroupCsum() {
		g.unusedInodes = uint64(le.Uint16(b[0x1c:]))
	}
	if len(b) >= 64 {
		g.bitmap |= blockNr(le.Uint32(b[0x20:])) << 32
		g.inodeBitmap |= blockNr(le.Uint32(b[0x24:])) << 32
		g.table |= blockNr(le.Uint32(b[0x28:])) << 32
		g.free |= uint32(le.Uint16(b[0x2c:])) << 16
		g.sum |= uint32(le.Uint16(b[0x38:])) << 16
		if fs.hasGroupCsum() {
			g.unusedInodes |= uint64(le.Uint16(b[0x32:])) << 16
		}
	}
	if fs.hasGroupCsum() && le.Uint16(b[0x12:])&flagInodeUninit != 0 {
		g.unusedInodes = fs.inodesPerGroup
	}
	tableBlocks := blockNr((fs.inodesPerGroup*fs.inodeSize + uint64(fs.blockSize) - 1) / uint64(fs.blockSize))
	low, high := fs.firstData, fs.blocks
	if fs.incompat&incompatFlexBG == 0 {
		low, high = fs.firstBlock(i), fs.firstBlock(i)+blockNr(fs.groupBlocks(i))
	}
	for _, p := range []struct {
		what string
		at   blockNr
		n    blockNr
	}{{"block bitmap", g.bitmap, 1}, {"inode bitmap", g.inodeBitmap, 1}, {"inode table", g.table, tableBlocks}} {
		if p.at < low || p.at >= high || p.n > high-p.at {
			return damaged("group %d: its %s at block %d lies outside of blocks %d to %d", i, p.what, p.at, low, high-1)
		}
		meta.add(fs.bytes(p.at, p.n))
	}
	if n := min(fs.baseBlocks(i), fs.groupBlocks(i)); n > 0 {
		meta.add(fs.bytes(fs.firstBlock(i), blockNr(n)))
	}
	if uint64(g.free) > fs.groupClusters(i) {
		return damaged("group %d: %d clusters are free of %d", i, g.free, fs.groupClusters(i))
	}
	fs.groups = append(fs.groups, g)
	return nil
}

// checkDescriptor checks the checksum of the descriptor of group i.
func (fs *filesystem) checkDescriptor(i uint64, b []byte) error {
	const at = 0x1e
	var nr [4]byte
	le.PutUint32(nr[:], uint32(i))
	var sum uint16
	switch {
	case fs.roCompat&roMetaCsum != 0:
		c := crc32c(crc32c(fs.seed, nr[:]), b[:at])
		sum = uint16(crc32c(crc32c(c, []byte{0, 0}), b[at+2:]))
	case fs.roCompat&roGDTCsum != 0:
		c := crc16(crc16(crc16(0xffff, fs.raw[0x68:0x78]), nr[:]), b[:at])
		if fs.incompat&incompat64Bit != 0 {
			c = crc16(c, b[at+2:])
		}
		sum = c
	default:
		return nil
	}
	if sum != le.Uint16(b[at:]) {
		return damaged("group %d: the checksum of its descriptor is wrong", i)
	}
	return nil
}

// checkMetadata makes sure that no two pieces of metadata lie on each other, and returns all of it.
func (fs *filesystem) checkMetadata(meta *gather) (extent.List, error) {
	if uint64(len(fs.groups)) != fs.groupCount {
		return nil, damaged("there are descriptors of %d groups, of %d", len(fs.groups), fs.groupCount)
	}
	var sum int64
	for _, e := range meta.es {
		sum += e.Len
	}
	list := meta.list()
	if list.Bytes() != sum {
		return nil, damaged("bitmaps, inode tables or group descriptors lie on each other")
	}
	return list, nil
}
