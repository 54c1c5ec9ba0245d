package vfat

import (
	"bytes"
	"fmt"
	"slices"

	"mimeo/internal/imaging/extent"
)

const (
	bootLen = 512
	// Microsoft's rule: how many clusters there are, and nothing else, tells FAT12 from FAT16.
	minFAT16 cluster = 4085
	minFAT32 cluster = 65525
	maxFAT32 cluster = 0x0ffffff5 // more have no number
	entryLen         = 32         // bytes of an entry of a folder
)

// boot is what the boot sector says, in bytes where it says nothing else.
type boot struct {
	raw         []byte
	bits        int64 // of an entry of the table: 12, 16 or 32
	sector      int64
	clusterSize int64
	clusters    cluster
	copies      int64 // of the table
	tableAt     int64
	tableLen    int64 // of one copy
	active      int64 // the only copy that counts; -1 where all are equal
	rootAt      int64 // of FAT12 and FAT16
	rootLen     int64
	root        cluster // of FAT32
	dataAt      int64   // of the first cluster
	info        int64   // sector of FSInfo; 0 for none
	backup      int64   // sector of the backup of the boot sector; 0 for none
}

// Others begin as FAT does, and have their name where the name of the system that formatted it stands.
var others = []string{"NTFS    ", "EXFAT   ", "-FVE-FS-", "ReFS\x00\x00\x00\x00"}

// toGo mark, at 0x1a8, a volume of BitLocker To Go: a small FAT32 for older systems around one that is encrypted. The second
// stands where only what was in use was encrypted.
var toGo = []string{
	"\x3b\xd6\x67\x49\x29\x2e\xd8\x4a\x83\x99\xf6\xa3\x39\xe3\xd0\x01",
	"\x3b\x4d\xa8\x92\x80\xdd\x0e\x4d\x9e\x4e\xb1\xe3\x28\x4e\xae\xd8",
}

// Is tells whether a volume that starts with head may be FAT. A master boot record and the boot sectors of NTFS, exFAT,
// HPFS and BitLocker are not.
func Is(head []byte) bool {
	if len(head) < bootLen || head[510] != 0x55 || head[511] != 0xaa {
		return false
	}
	for _, name := range others {
		if string(head[3:11]) == name {
			return false
		}
	}
	if string(head[54:62]) == "HPFS    " {
		return false
	}
	if named(head) {
		return true
	}
	// Older programs write no name. Then all of the parameters must make sense.
	sector, per, media := le.Uint16(head[0x0b:]), head[0x0d], head[0x15]
	return sector >= 512 && sector <= 4096 && sector&(sector-1) == 0 && per != 0 && per&(per-1) == 0 &&
		le.Uint16(head[0x0e:]) != 0 && head[0x10] >= 1 && head[0x10] <= maxCopies && (media == 0xf0 || media >= 0xf8) &&
		(le.Uint16(head[0x13:]) != 0 || le.Uint32(head[0x20:]) != 0) &&
		(le.Uint16(head[0x16:]) != 0 && le.Uint16(head[0x11:]) != 0 || le.Uint16(head[0x16:]) == 0 && le.Uint32(head[0x24:]) != 0)
}

// named tells whether the boot sector has a name of the type. It is for people only, but no other content has it there.
func named(head []byte) bool {
	return bytes.HasPrefix(head[54:], []byte("FAT12   ")) || bytes.HasPrefix(head[54:], []byte("FAT16   ")) ||
		bytes.HasPrefix(head[82:], []byte("FAT32   "))
}

// readBoot reads and checks the boot sector (FAT: General Overview, "Boot Sector and BPB").
func (v *volume) readBoot() error {
	b := make([]byte, bootLen)
	if v.size < bootLen {
		return damaged("the volume is too small for a filesystem")
	}
	if err := v.read(b, 0); err != nil {
		return fmt.Errorf("read boot sector: %w", err)
	}
	if !Is(b) {
		return damaged("there is no boot sector")
	}
	if slices.Contains(toGo, string(b[0x1a8:0x1b8])) {
		v.facts.Type = "BitLocker"
		return damaged("it is encrypted (BitLocker To Go): which of it is in use cannot be told without the key")
	}
	t := &v.boot
	t.raw = b
	t.sector = int64(le.Uint16(b[0x0b:]))
	if t.sector < 512 || t.sector > 4096 || t.sector&(t.sector-1) != 0 {
		return damaged("boot sector: sectors of %d bytes", t.sector)
	}
	per := int64(b[0x0d])
	if per == 0 || per&(per-1) != 0 {
		return damaged("boot sector: clusters of %d sectors", per)
	}
	t.clusterSize = per * t.sector
	v.facts.BlockSize = int(t.clusterSize)
	reserved := int64(le.Uint16(b[0x0e:]))
	t.copies = int64(b[0x10])
	rootEntries := int64(le.Uint16(b[0x11:]))
	sectors, sectors32 := int64(le.Uint16(b[0x13:])), int64(le.Uint32(b[0x20:]))
	tableLen := int64(le.Uint16(b[0x16:]))
	is32 := tableLen == 0
	if is32 {
		tableLen = int64(le.Uint32(b[0x24:]))
	}
	v.readName(is32)
	switch {
	case reserved == 0:
		return damaged("boot sector: no reserved sectors")
	case t.copies < 1 || t.copies > maxCopies:
		return damaged("boot sector: %d copies of the table", t.copies)
	case tableLen == 0:
		return damaged("boot sector: the table has no length")
	case rootEntries == 0 && !is32 || rootEntries != 0 && is32:
		return damaged("boot sector: room for %d entries in the root", rootEntries)
	case sectors != 0 && sectors32 != 0 && sectors != sectors32:
		return damaged("boot sector: %d sectors, and %d", sectors, sectors32)
	}
	if sectors == 0 {
		sectors = sectors32
	}
	t.tableAt, t.tableLen = reserved*t.sector, tableLen*t.sector
	t.rootAt = t.tableAt + t.copies*t.tableLen
	t.rootLen = (rootEntries*entryLen + t.sector - 1) / t.sector * t.sector
	t.dataAt = t.rootAt + t.rootLen
	v.facts.Len = sectors * t.sector
	switch {
	case v.facts.Len > v.size:
		v.facts.Len = 0
		return damaged("the filesystem has %d sectors of %d bytes, more than the volume of %d bytes", sectors, t.sector, v.size)
	case t.dataAt >= v.facts.Len:
		return damaged("boot sector: the clusters begin in sector %d of %d", t.dataAt/t.sector, sectors)
	}
	t.clusters = cluster((v.facts.Len - t.dataAt) / t.clusterSize)
	t.active = -1
	if is32 {
		return v.readBoot32()
	}
	switch {
	case t.clusters < minFAT16:
		t.bits = 12
	case t.clusters < minFAT32:
		t.bits = 16
	default:
		return damaged("boot sector: %d clusters, too many for the FAT16 that it describes", t.clusters)
	}
	return v.checkTableLen()
}

// readBoot32 reads what only FAT32 has. FAT32 with too few clusters by Microsoft's rule is made for small boot
// partitions: as FAT16 it would have no table, so everybody reads it as FAT32.
func (v *volume) readBoot32() error {
	t, b := &v.boot, v.raw
	t.bits = 32
	if t.clusters > maxFAT32 {
		return damaged("boot sector: %d clusters, more than FAT32 can have", t.clusters)
	}
	if version := le.Uint16(b[0x2a:]); version != 0 {
		return damaged("boot sector: unknown version %#x", version)
	}
	t.root = cluster(le.Uint32(b[0x2c:]))
	if !t.has(t.root) {
		return damaged("boot sector: the root at cluster %d of %d", t.root, t.clusters)
	}
	// With mirroring off, only one copy counts.
	if flags := le.Uint16(b[0x28:]); flags&0x80 != 0 {
		t.active = int64(flags & 0x0f)
		if t.active >= t.copies {
			return damaged("boot sector: table %d counts, of %d", t.active, t.copies)
		}
	}
	reserved := t.tableAt / t.sector
	for _, f := range []struct {
		at   int64
		to   *int64
		what string
	}{{0x30, &t.info, "FSInfo"}, {0x32, &t.backup, "its backup"}} {
		n := int64(le.Uint16(b[f.at:]))
		if n == 0xffff {
			n = 0
		}
		if n >= reserved {
			return damaged("boot sector: %s in sector %d, %d are reserved", f.what, n, reserved)
		}
		*f.to = n
	}
	return v.checkTableLen()
}

func (v *volume) checkTableLen() error {
	if need := (int64(v.clusters+firstCluster)*v.bits + 7) / 8; v.tableLen < need {
		return damaged("boot sector: a table of %d bytes for %d clusters", v.tableLen, v.clusters)
	}
	return nil
}

// has tells whether there is a cluster n.
func (t *boot) has(n cluster) bool { return n >= firstCluster && n < t.clusters+firstCluster }

// readName takes the serial number. The label comes from the root.
func (v *volume) readName(is32 bool) {
	at := 0x27
	if is32 {
		at = 0x43
	}
	if n := le.Uint32(v.raw[at:]); n != 0 {
		v.facts.UUID = fmt.Sprintf("%04X-%04X", n>>16, n&0xffff)
	}
}

// readBackup holds the boot sector of FAT32 against its backup: no other copy of its numbers exists. What the two may
// differ in are the sectors before the partition (when it was moved), the flags, and all that says nothing of where
// things lie.
func (v *volume) readBackup() error {
	if v.backup == 0 {
		return nil
	}
	b := make([]byte, bootLen)
	if err := v.read(b, v.backup*v.sector); err != nil {
		return fmt.Errorf("read the backup of the boot sector: %w", err)
	}
	if b[510] != 0x55 || b[511] != 0xaa {
		v.note("the backup of the boot sector is missing")
		return nil
	}
	for _, e := range []extent.Extent{{Off: 0x0b, Len: 13}, {Off: 0x20, Len: 8}, {Off: 0x2a, Len: 10}} {
		if !bytes.Equal(b[e.Off:e.End()], v.raw[e.Off:e.End()]) {
			return damaged("the boot sector and its backup in sector %d differ", v.backup)
		}
	}
	v.witness = true
	return nil
}

// readInfo looks at FSInfo. Its count of free clusters is a hint: cameras, firmware and small devices leave it as it
// was, and after a crash it is old. So it decides nothing.
func (v *volume) readInfo() error {
	if v.info == 0 {
		return nil
	}
	b := make([]byte, bootLen)
	if err := v.read(b, v.info*v.sector); err != nil {
		return fmt.Errorf("read FSInfo: %w", err)
	}
	if string(b[:4]) != "RRaA" || string(b[0x1e4:0x1e8]) != "rrAa" {
		v.note("its FSInfo sector is damaged")
		return nil
	}
	free := int64(v.clusters) - v.marked.Count()
	if hint := le.Uint32(b[0x1e8:]); hint != 0xffffffff && int64(hint) != free {
		v.note("%d clusters are free, its FSInfo sector says %d", free, hint)
	}
	return nil
}
