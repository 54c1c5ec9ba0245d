package clonezilla

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"strings"
	"text/tabwriter"

	"mimeo/internal/imaging/manifest"
)

// diskName is what Clonezilla calls the only disk of an image. It asks for another one where that is not what is there.
const diskName = "sda"

// device is what Clonezilla calls a partition.
func device(number int) string {
	if number == 0 {
		return diskName
	}
	return fmt.Sprint(diskName, number)
}

// sfdisk is the table as "sfdisk --dump" prints it. header is the second sector of the disk, which of a GPT tells where
// partitions may lie: UEFI Specification 2.10, table 5.5.
func sfdisk(m *manifest.Manifest, header []byte) string {
	var b strings.Builder
	sector := int64(m.Disk.SectorSize)
	kind, id := "dos", "0x"+m.Table.ID
	if m.Table.Kind == "gpt" {
		kind, id = "gpt", strings.ToUpper(m.Table.ID)
	}
	fmt.Fprintf(&b, "label: %s\nlabel-id: %s\ndevice: /dev/%s\nunit: sectors\n", kind, id, diskName)
	if kind == "gpt" {
		entries := 128*128/sector + 1
		first, last := min(entries+1, firstSector(m)), m.Disk.Size/sector-entries-1
		if string(header[:8]) == "EFI PART" { // the first copy may be damaged
			first, last = int64(binary.LittleEndian.Uint64(header[40:])), int64(binary.LittleEndian.Uint64(header[48:]))
		}
		fmt.Fprintf(&b, "first-lba: %d\nlast-lba: %d\n", first, last)
	}
	fmt.Fprintf(&b, "sector-size: %d\n\n", sector)
	for _, p := range m.Table.Partitions {
		fmt.Fprintf(&b, "/dev/%s : start=%12d, size=%12d, type=", device(p.Number), p.Off/sector, p.Len/sector)
		if kind == "dos" {
			b.WriteString(strings.TrimPrefix(p.Type, "0"))
			if p.Bootable {
				b.WriteString(", bootable")
			}
			b.WriteByte('\n')
			continue
		}
		fmt.Fprintf(&b, "%s, uuid=%s", strings.ToUpper(p.Type), strings.ToUpper(p.UUID))
		if p.Name != "" {
			fmt.Fprintf(&b, `, name="%s"`, quoted(p.Name))
		}
		if p.Attrs != 0 {
			fmt.Fprintf(&b, `, attrs="%s"`, attributes(p.Attrs))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// firstSector is where the first partition begins.
func firstSector(m *manifest.Manifest) int64 {
	first := m.Disk.Size
	for _, p := range m.Table.Partitions {
		first = min(first, p.Off)
	}
	return first / int64(m.Disk.SectorSize)
}

// quoted writes what sfdisk or a shell would take for something else as sfdisk does.
func quoted(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == 0x7f || strings.IndexByte("\"\\`$", c) >= 0 {
			fmt.Fprintf(&b, `\x%02x`, c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// attributes are the attribute bits of a GPT entry in sfdisk's words: UEFI Specification 2.10, table 5.8.
func attributes(a uint64) string {
	var words []string
	for i, name := range []string{"RequiredPartition", "NoBlockIOProtocol", "LegacyBIOSBootable"} {
		if a&(1<<i) != 0 {
			words = append(words, name)
		}
		a &^= 1 << i
	}
	var own []string
	for ; a != 0; a &= a - 1 {
		own = append(own, fmt.Sprint(bits.TrailingZeros64(a)))
	}
	if own != nil {
		words = append(words, "GUID:"+strings.Join(own, ","))
	}
	return strings.Join(words, " ")
}

// flags are the types of partitions that parted has a word for.
var flags = map[string]string{
	"c12a7328-f81f-11d2-ba4b-00a0c93ec93b": "boot, esp",
	"0657fd6d-a4ab-43c4-84e5-0933c84b4f4f": "swap",
	"21686148-6449-6e6f-744e-656564454649": "bios_grub",
	"e6d6d379-f507-44c2-a23c-238f2a3df928": "lvm",
	"a19d880f-05fc-4d3b-a006-743f0f84911e": "raid",
	"ebd0a0a2-b9e5-4433-87c0-68b6b72699c7": "msftdata",
	"e3c9e316-0b5c-4db8-817d-f92df00215ae": "msftres",
	"9e1a2d38-c612-4316-aa26-8b49521e5a8b": "prep",
	"8e":                                   "lvm", "fd": "raid", "82": "swap", "ef": "esp", "0f": "lba", "0c": "lba", "0e": "lba",
}

// partedNames are filesystems that parted calls something else.
var partedNames = map[string]string{"swap": "linux-swap(v1)", "vfat": "fat32", "hfsplus": "hfs+", "unknown": "",
	"LVM2_member": "", "linux_raid_member": "", "crypto_LUKS": "", "bcache": ""}

// parted is the table as "parted print" prints it, with a function that writes sizes. Clonezilla reads from it which kind
// of table it is, and which partition is a swap volume.
func parted(m *manifest.Manifest, size func(bytes int64) string) string {
	var b strings.Builder
	sector := int64(m.Disk.SectorSize)
	kind, physical := m.Table.Kind, max(m.Disk.PhysicalSector, m.Disk.SectorSize)
	switch kind {
	case "mbr":
		kind = "msdos"
	case "none":
		kind = "loop"
	}
	fmt.Fprintf(&b, "Model: %s (file)\nDisk /dev/%s: %s\nSector size (logical/physical): %dB/%dB\nPartition Table: %s\nDisk Flags: \n\n",
		plain(m.Disk.Model), diskName, size(m.Disk.Size), sector, physical, kind)
	w := tabwriter.NewWriter(&b, 0, 1, 2, ' ', tabwriter.DiscardEmptyColumns)
	middle := "File system\tName"
	if kind == "msdos" {
		middle = "Type\tFile system"
	}
	fmt.Fprintf(w, "Number\tStart\tEnd\tSize\t%s\tFlags\n", middle)
	for _, p := range m.Table.Partitions {
		var fs string
		for _, v := range m.Volumes {
			if v.Partition == p.Number {
				fs = v.Type
				if name, ok := partedNames[fs]; ok {
					fs = name
				}
			}
		}
		flag := flags[p.Type]
		middle := fs + "\t" + plain(p.Name)
		if kind == "msdos" {
			what := "primary"
			switch {
			case p.Logical:
				what = "logical"
			case extended(p):
				what = "extended"
			}
			middle = what + "\t" + fs
			if p.Bootable {
				flag = strings.TrimSuffix("boot, "+flag, ", ")
			}
		}
		fmt.Fprintf(w, "%2d\t%s\t%s\t%s\t%s\t%s\n", p.Number, size(p.Off), size(p.Off+p.Len-1), size(p.Len), middle, flag)
	}
	w.Flush()
	return b.String() + "\n"
}

// extended tells whether an entry of an MBR holds logical partitions.
func extended(p manifest.Partition) bool {
	return p.Type == "05" || p.Type == "0f" || p.Type == "85"
}

// plain leaves of a text what neither a shell nor a reader of columns takes for something else.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune("._-+", r):
			return r
		}
		return '_'
	}, s)
}

// compact is a size as people read it, in powers of 1000, as parted has it.
func compact(n int64) string {
	units := []string{"B", "kB", "MB", "GB", "TB", "PB", "EB"}
	f, i := float64(n), 0
	for ; f >= 1000 && i < len(units)-1; i++ {
		f /= 1000
	}
	switch {
	case i == 0 || f >= 100:
		return fmt.Sprintf("%.0f%s", f, units[i])
	case f >= 10:
		return fmt.Sprintf("%.1f%s", f, units[i])
	}
	return fmt.Sprintf("%.2f%s", f, units[i])
}
