package exfat

import (
	"bytes"
	"fmt"
	"math/bits"
)

const (
	bootLen     = 512
	bootSectors = 11 // of a boot region, with the sector of the checksum behind them
	// maxClusters bounds the memory: three bits each, with TexFAT. These are 2 TiB with the smallest usual clusters of
	// 4 KiB, and 64 TiB with those of 128 KiB that large volumes have.
	maxClusters cluster = 1 << 29

	flagActive = 1 << 0 // the second table and bitmap count
	flagDirty  = 1 << 1
	flagFailed = 1 << 2
)

// boot is what the boot sector says, in bytes where it says nothing else.
type boot struct {
	sector      int64
	clusterSize int64
	clusters    cluster
	tables      int64 // of chains: 1, or 2 with TexFAT
	active      int64 // the one that counts
	tableAt     int64 // of the one that counts
	tableLen    int64
	heapAt      int64 // of the first cluster
	root        cluster
}

// Is tells whether a volume that starts with head may be exFAT.
func Is(head []byte) bool {
	return len(head) >= bootLen && string(head[3:11]) == "EXFAT   " && head[510] == 0x55 && head[511] == 0xaa
}

// readBoot reads and checks the main boot region, and looks at the backup (specification, section 3).
func (v *volume) readBoot() error {
	if v.size < bootLen {
		return damaged("the volume is too small for a filesystem")
	}
	b := make([]byte, bootLen)
	if err := v.read(b, 0); err != nil {
		return fmt.Errorf("read boot sector: %w", err)
	}
	if !Is(b) {
		return damaged("there is no boot sector")
	}
	t := &v.boot
	if n := le.Uint32(b[100:]); n != 0 {
		v.facts.UUID = fmt.Sprintf("%04X-%04X", n>>16, n&0xffff)
	}
	sector, per := b[108], b[109]
	if sector < 9 || sector > 12 || per > 25-sector {
		return damaged("boot sector: sectors of 2^%d bytes, clusters of 2^%d sectors", sector, per)
	}
	t.sector = 1 << sector
	t.clusterSize = t.sector << per
	v.facts.BlockSize = int(t.clusterSize)
	region, ok, err := v.readRegion(0)
	if err != nil {
		return fmt.Errorf("read the boot region: %w", err)
	}
	if !ok {
		return damaged("the checksum of the boot region is wrong")
	}
	backup, ok, err := v.readRegion((bootSectors + 1) * t.sector)
	if err != nil {
		return fmt.Errorf("read the backup of the boot region: %w", err)
	}
	if !ok {
		v.note("the backup of the boot region is damaged")
	} else if !bytes.Equal(region[64:104], backup[64:104]) || !bytes.Equal(region[108:111], backup[108:111]) {
		v.note("the backup of the boot region is that of another volume")
	}
	if err := v.checkBoot(region); err != nil {
		return err
	}
	e, err := v.entry(0)
	if err != nil {
		return err
	}
	e1, err := v.entry(1)
	if err != nil {
		return err
	}
	if e != 0xfffffff8 || e1 != entryEnd {
		return damaged("the table of chains begins with %#x, %#x", e, e1)
	}
	return nil
}

// readRegion returns the boot region at off, and whether its checksum is good.
func (v *volume) readRegion(off int64) ([]byte, bool, error) {
	n := (bootSectors + 1) * v.sector
	if off+n > v.size {
		return nil, false, nil
	}
	b := make([]byte, n)
	if err := v.read(b, off); err != nil {
		return nil, false, err
	}
	var sum uint32
	for i, c := range b[:bootSectors*v.sector] {
		if i != 106 && i != 107 && i != 112 { // the flags and how full it is
			sum = bits.RotateLeft32(sum, -1) + uint32(c)
		}
	}
	for at := bootSectors * v.sector; at < n; at += 4 {
		if le.Uint32(b[at:]) != sum {
			return nil, false, nil
		}
	}
	return b, true, nil
}

// checkBoot takes the numbers of the boot sector, which may be wrong whatever their checksum.
func (v *volume) checkBoot(b []byte) error {
	t := &v.boot
	if len(bytes.Trim(b[11:64], "\x00")) > 0 {
		return damaged("boot sector: what only FAT has is not zero")
	}
	if b[105] != 1 {
		return damaged("boot sector: unknown revision %d.%d", b[105], b[104])
	}
	sectors := le.Uint64(b[72:])
	if sectors > uint64(v.size/t.sector) {
		return damaged("the filesystem has %d sectors of %d bytes, more than the volume of %d bytes", sectors, t.sector, v.size)
	}
	length := int64(sectors) * t.sector
	tableAt, tableLen := int64(le.Uint32(b[80:]))*t.sector, int64(le.Uint32(b[84:]))*t.sector
	t.heapAt = int64(le.Uint32(b[88:])) * t.sector
	t.clusters = cluster(le.Uint32(b[92:]))
	t.root = cluster(le.Uint32(b[96:]))
	t.tables = int64(b[110])
	flags := le.Uint16(b[106:])
	t.active = int64(flags & flagActive)
	switch {
	case t.tables != 1 && t.tables != 2:
		return damaged("boot sector: %d tables of chains", t.tables)
	case t.active >= t.tables:
		return damaged("boot sector: the second table of chains counts, there is one")
	case tableAt < 2*(bootSectors+1)*t.sector || tableLen < (int64(t.clusters)+2)*4:
		return damaged("boot sector: a table of %d bytes at %d for %d clusters", tableLen, tableAt, t.clusters)
	case t.heapAt < tableAt+t.tables*tableLen || t.heapAt > length || int64(t.clusters) > (length-t.heapAt)/t.clusterSize:
		return damaged("boot sector: %d clusters of %d bytes at %d of %d", t.clusters, t.clusterSize, t.heapAt, length)
	case t.clusters > maxClusters:
		return damaged("it has %d clusters, more than can be looked at", t.clusters)
	case !t.has(t.root):
		return damaged("boot sector: the root at cluster %d of %d", t.root, t.clusters)
	}
	t.tableAt, t.tableLen = tableAt+t.active*tableLen, tableLen
	v.facts.Len = length
	// PercentInUse decides nothing: Linux leaves it as it was.
	if flags&flagDirty != 0 {
		v.note("it was not unmounted cleanly")
	}
	if flags&flagFailed != 0 {
		v.note("errors of the disk were met on it")
	}
	if t.tables == 2 {
		v.note("it is TexFAT, of which table and bitmap %d count", t.active+1)
	}
	return nil
}

// has tells whether there is a cluster n.
func (t *boot) has(n cluster) bool { return n >= firstCluster && n < t.clusters+firstCluster }
