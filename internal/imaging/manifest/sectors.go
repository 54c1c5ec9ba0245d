package manifest

import (
	"fmt"
	"slices"
	"strings"
)

// gptEntries are the bytes of a GPT's entries, of which there are 128.
const gptEntries = 128 * 128

// OtherSectors says why the image cannot go onto a disk with logical sectors of that many bytes; "" where it can. With
// the captured disk's own it always can. With others it can where nothing on it counts in sectors but a GPT, which is then
// made anew: partitions must begin and end with the disk's sectors, and hold filesystems of larger blocks, or swap.
func (m *Manifest) OtherSectors(sector int) string {
	own := m.Disk.SectorSize
	if sector == own {
		return ""
	}
	switch m.Table.Kind {
	case "mbr":
		return fmt.Sprintf("its MBR counts in sectors of %d bytes", own)
	case "gpt":
		for _, n := range m.Table.Notes {
			if strings.HasPrefix(n, "hybrid MBR") {
				return "its MBR is a hybrid one, which counts in sectors, too"
			}
		}
	}
	first := 2*int64(max(sector, own)) + (gptEntries+int64(sector)-1)/int64(sector)*int64(sector)
	for _, p := range m.Table.Partitions {
		if p.Off%int64(sector) != 0 || p.Len%int64(sector) != 0 {
			return fmt.Sprintf("partition %d does not begin and end with a sector of %d bytes", p.Number, sector)
		}
		if p.Off < first {
			return fmt.Sprintf("partition %d begins at %d, where a GPT for sectors of %d bytes lies", p.Number, p.Off, sector)
		}
		if !slices.ContainsFunc(m.Volumes, func(v Volume) bool { return v.Partition == p.Number }) {
			return fmt.Sprintf("it is not known what partition %d holds", p.Number)
		}
		if p.Number > 128 {
			return fmt.Sprintf("it has a partition %d", p.Number)
		}
	}
	for _, v := range m.Volumes {
		what := "the filesystem on it (" + v.Type + ")"
		if v.Partition > 0 {
			what = fmt.Sprintf("partition %d (%s)", v.Partition, v.Type)
		}
		switch v.Type {
		case "ext2", "ext3", "ext4", "btrfs":
			if v.BlockSize < sector {
				return fmt.Sprintf("%s has blocks of %d bytes", what, v.BlockSize)
			}
		case "swap":
		default:
			return what + " may count in sectors itself"
		}
	}
	return ""
}
