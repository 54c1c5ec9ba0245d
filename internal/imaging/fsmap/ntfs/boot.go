package ntfs

import (
	"bytes"
	"fmt"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
)

const (
	bootLen    = 512
	maxCluster = 2 << 20 // bytes, since Windows 10 1709
	maxRecord  = 64 << 10
	minRecord  = 512
)

// cluster is the number of a cluster, or of how many: in the volume (LCN) or in an attribute (VCN).
type cluster int64

// boot is what the boot sector says.
type boot struct {
	raw         []byte
	sector      int64 // bytes
	sectors     int64 // of the filesystem; the backup of the boot sector lies behind them
	clusterSize int64 // bytes
	clusters    cluster
	mftAt       cluster
	mirrorAt    cluster
	recordSize  int64 // bytes
	serial      uint64
}

// Is tells whether a volume that starts with head may be NTFS. A volume of BitLocker is not: it has another name in the
// same place.
func Is(head []byte) bool {
	return len(head) >= bootLen && string(head[3:11]) == "NTFS    " && head[510] == 0x55 && head[511] == 0xaa
}

// readBoot reads and checks the boot sector (NTFS documentation, file $Boot).
func (v *volume) readBoot() error {
	if v.size < 8*bootLen {
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
	t.raw = b
	t.serial = le.Uint64(b[0x48:])
	v.facts.UUID = fmt.Sprintf("%016X", t.serial)
	t.sector = int64(le.Uint16(b[0x0b:]))
	if t.sector < 512 || t.sector > 4096 || t.sector&(t.sector-1) != 0 {
		return damaged("boot sector: sectors of %d bytes", t.sector)
	}
	// Up to 128 sectors it is their number, beyond that their negative logarithm.
	per := int64(b[0x0d])
	if per > 0x80 {
		if per = 256 - per; per > 12 {
			return damaged("boot sector: clusters of 2^%d sectors", per)
		}
		per = 1 << per
	}
	if per == 0 || per&(per-1) != 0 || per*t.sector > maxCluster {
		return damaged("boot sector: clusters of %d sectors of %d bytes", per, t.sector)
	}
	t.clusterSize = per * t.sector
	v.facts.BlockSize = int(t.clusterSize)
	for _, i := range []int{0x0e, 0x0f, 0x10, 0x11, 0x12, 0x13, 0x14, 0x16, 0x17, 0x20, 0x21, 0x22, 0x23} {
		if b[i] != 0 { // what only FAT has
			return damaged("boot sector: byte %#x is %#x, of NTFS it is zero", i, b[i])
		}
	}
	// Likewise for records: a number of clusters, or the negative logarithm of their bytes.
	if n := int8(b[0x40]); n > 0 {
		t.recordSize = int64(n) * t.clusterSize
	} else if n >= -30 {
		t.recordSize = 1 << -n
	}
	if t.recordSize < minRecord || t.recordSize > maxRecord || t.recordSize&(t.recordSize-1) != 0 {
		return damaged("boot sector: the size of MFT records is %#x", b[0x40])
	}
	sectors := le.Uint64(b[0x28:])
	if sectors > uint64(v.size/t.sector) {
		return damaged("the filesystem has %d sectors of %d bytes, more than the volume of %d bytes", sectors, t.sector, v.size)
	}
	t.sectors = int64(sectors)
	t.clusters = cluster(t.sectors / per)
	mft, mirror := le.Uint64(b[0x30:]), le.Uint64(b[0x38:])
	if mft == 0 || mft >= uint64(t.clusters) || mirror == 0 || mirror >= uint64(t.clusters) {
		return damaged("boot sector: the MFT and its mirror at clusters %d and %d of %d", mft, mirror, t.clusters)
	}
	t.mftAt, t.mirrorAt = cluster(mft), cluster(mirror)
	v.facts.Len = min(v.size, (t.sectors+1)*t.sector)
	return nil
}

// outside returns what the bitmap does not speak of: what lies in the sectors behind the last whole cluster, and the backup of the boot
// sector. It should lie right behind the filesystem; programs that changed the size leave it in the last sector of the
// partition, and Windows NT 3.51 put it in the middle.
func (v *volume) outside() (extent.List, error) {
	end := int64(v.clusters) * v.clusterSize
	list, err := fact.Written(v.r, extent.Extent{Off: end, Len: v.facts.Len - end})
	if err != nil {
		return nil, fmt.Errorf("read behind the last cluster: %w", err)
	}
	b := make([]byte, bootLen)
	found := false
	for i, off := range []int64{v.sectors * v.sector, v.size - v.size%v.sector - v.sector, v.sectors / 2 * v.sector} {
		if off+v.sector > v.size {
			continue
		}
		if err := v.read(b, off); err != nil {
			return nil, fmt.Errorf("read the backup of the boot sector: %w", err)
		}
		same := bytes.Equal(b, v.raw)
		found = found || same
		if same || i == 0 { // in its own place nobody else's shall be found after a deploy
			list.Add(extent.Extent{Off: off, Len: v.sector})
		}
	}
	if !found {
		v.note("the backup of the boot sector differs from it, or is missing")
	}
	return list, nil
}
