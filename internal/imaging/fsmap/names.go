package fsmap

import "bytes"

// magic is what a kind of content can be told by. It gives the name that people see.
type magic struct {
	name  string
	off   int
	bytes string
}

// magics are looked at in order; the first that fits is the name. Offsets are those of the formats' own documents, and
// names are those of blkid.
var magics = []magic{
	{"crypto_LUKS", 0, "LUKS\xba\xbe"},
	{"linux_raid_member", 0, "\xfc\x4e\x2b\xa9\x01\x00\x00\x00"},    // 1.1
	{"linux_raid_member", 4096, "\xfc\x4e\x2b\xa9\x01\x00\x00\x00"}, // 1.2
	{"ceph_bluestore", 0, "bluestore block device\n"},
	{"vdo", 0, "dmvdo001"},
	{"stratis", 512 + 4, "!Stra0tis\x86\xff\x02^\x41rh"},
	{"DM_verity_hash", 0, "verity\x00\x00"},
	{"DM_integrity", 0, "integrt\x00"},
	{"bcache", 4096 + 24, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"},
	{"xfs", 0, "XFSB"},
	{"btrfs", 0x10040, "_BHRfS_M"},
	{"ntfs", 3, "NTFS    "},
	{"exfat", 3, "EXFAT   "},
	{"BitLocker", 3, "-FVE-FS-"},
	{"ReFS", 3, "ReFS\x00\x00\x00\x00"},
	{"vfat", 54, "FAT12   "},
	{"vfat", 54, "FAT16   "},
	{"vfat", 82, "FAT32   "},
	{"f2fs", 1024, "\x10\x20\xf5\xf2"},
	{"erofs", 1024, "\xe2\xe1\xf5\xe0"},
	{"squashfs", 0, "hsqs"},
	{"cramfs", 0, "\x45\x3d\xcd\x28"},
	{"jfs", 0x8000, "JFS1"},
	{"reiserfs", 0x10034, "ReIsErFs"},
	{"reiserfs", 0x10034, "ReIsEr2Fs"},
	{"reiserfs", 0x10034, "ReIsEr3Fs"},
	{"reiser4", 0x10000, "ReIsEr4"},
	{"nilfs2", 1024, "\x02\x00\x00\x00\x00\x00\x34\x34"},
	{"hfsplus", 1024, "H+\x00\x04"},
	{"hfsplus", 1024, "HX\x00\x05"},
	{"hfs", 1024, "BD"},
	{"apfs", 32, "NXSB"},
	{"ufs", 0x2000 + 0x55c, "\x54\x19\x01\x00"},
	{"ufs", 0x2000 + 0x55c, "\x00\x01\x19\x54"},
	{"ufs", 0x2000 + 0x55c, "\x19\x01\x54\x19"},
	{"ufs", 0x2000 + 0x55c, "\x19\x54\x01\x19"},
	{"ufs", 0x10000 + 0x55c, "\x19\x01\x54\x19"},
	{"ufs", 0x10000 + 0x55c, "\x19\x54\x01\x19"},
	{"iso9660", 0x8001, "CD001"},
	{"udf", 0x8001, "BEA01"},
	{"bcachefs", 4096 + 24, "\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"},
	{"gfs2", 0x10000, "\x01\x16\x19\x70\x00\x00\x00\x01"},
	{"ocfs2", 4096, "OCFSV2"},
	{"ocfs2", 8192, "OCFSV2"},
	{"minix", 1024 + 24, "\x5a\x4d"},
	{"minix", 1024 + 16, "\x7f\x13"},
	{"minix", 1024 + 16, "\x8f\x13"},
	{"minix", 1024 + 16, "\x68\x24"},
	{"minix", 1024 + 16, "\x78\x24"},
}

// name tells what is on a volume by its first bytes, "unknown" where nothing is known.
func name(head []byte) string {
	for sector := 0; sector < 4; sector++ {
		if at(head, sector*512, "LABELONE") && at(head, sector*512+24, "LVM2 001") {
			return "LVM2_member"
		}
	}
	for _, m := range magics {
		if at(head, m.off, m.bytes) {
			return m.name
		}
	}
	return "unknown"
}

// outlived are the kinds of filesystem whose magic number may outlive them, or that of another kind them: programs that
// format leave much as it was. Which one is in use cannot be told.
var outlived = map[string]bool{
	"vfat":              true, // in both directions
	"btrfs":             true, // its superblock lies at 64 KiB
	"f2fs":              true, // its superblock lies at 1 KiB
	"linux_raid_member": true, // mdadm wipes nothing, and what formats may leave its superblock
	"jfs":               true, // its superblock lies at 32 KiB
	"reiserfs":          true, // its superblock lies at 64 KiB
	"hfsplus":           true, // its header lies at 1 KiB
	"nilfs2":            true, // its superblock lies at 1 KiB, and its magic number has two bytes
	"ufs":               true, // its superblock lies at 8 or 64 KiB
	"bsd_disklabel":     true, // it lies in the second sector
	"apple_map":         true, // it lies behind the first
	"minix":             true, // its superblock lies at 1 KiB, and its magic number has two bytes
	"squashfs":          true, // these are copied to a volume as they are, and may be as short
	"erofs":             true,
	"iso9660":           true,
}

// copied are those of them that may be remnants of which nothing but the start is left.
var copied = map[string]bool{"squashfs": true, "erofs": true, "iso9660": true}

// deep are those whose superblock lies so far in that what makes them may leave that of any other kind in front, and whose
// magic number is long enough to tell.
var deep = map[string]bool{"jfs": true, "reiserfs": true, "ufs": true, "nilfs2": true, "hfsplus": true}

// another tells whether a volume with such a filesystem has the magic number of another kind of content, too; "" where it
// has not.
func another(head []byte, typ string) string {
	for _, m := range magics {
		if m.name == typ || m.name == "hfs" && typ == "hfsplus" { // that is made around it
			continue
		}
		if (outlived[typ] || deep[m.name]) && at(head, m.off, m.bytes) {
			return m.name
		}
	}
	return ""
}

func at(head []byte, off int, s string) bool {
	return off >= 0 && off+len(s) <= len(head) && bytes.Equal(head[off:off+len(s)], []byte(s))
}
