package manifest

import "fmt"

// HeadLen is the start of a disk that a partition table of any kind lies in, in bytes.
const HeadLen = 64 << 10

// EntriesMax bounds the bytes of a GPT's entries: 4096 of 128 bytes, as many partitions as a manifest takes. The usual 128
// take 16 KiB.
const EntriesMax = 512 << 10

// BackupLen returns the bytes of a GPT's backup in whole sectors: entries of 128 bytes, 128 of them at least, and the
// header.
func (m *Manifest) BackupLen() int64 {
	sector, entries := int64(m.Disk.SectorSize), 128
	for _, p := range m.Table.Partitions {
		entries = max(entries, p.Number)
	}
	return (int64(entries)*128+sector-1)/sector*sector + sector
}

// Needed returns how large a disk must be for m, in bytes: less than the captured one where no partition lies at its end.
func (m *Manifest) Needed() int64 {
	need, _ := m.needed()
	return need
}

// NeededBy says in words why a disk must be as large as Needed says.
func (m *Manifest) NeededBy() string {
	_, last := m.needed()
	if last.Number == 0 {
		return "the image has no partitions: what lies on its disk may take all of it"
	}
	what := fmt.Sprintf("partition %d", last.Number)
	for _, v := range m.Volumes {
		if v.Partition == last.Number {
			what += fmt.Sprintf(" (%s)", v.Type)
		}
	}
	what += fmt.Sprintf(" ends at %d", last.Off+last.Len)
	if m.Table.Kind == "gpt" {
		what += ", and the backup of the GPT comes behind it"
	}
	return what
}

// needed returns how large a disk must be, and which partition is the reason; none where all of the disk counts.
func (m *Manifest) needed() (int64, Partition) {
	if m.Table.Kind == "none" || len(m.Table.Partitions) == 0 {
		return m.Disk.Size, Partition{}
	}
	end, last := int64(HeadLen), m.Table.Partitions[0]
	for _, p := range m.Table.Partitions {
		// Of an extended partition and the logical one at its end, the logical one has the data.
		if p.Off+p.Len > end || p.Off+p.Len == end && p.Logical {
			end, last = p.Off+p.Len, p
		}
	}
	if m.Table.Kind == "gpt" {
		end += m.BackupLen()
	}
	return min(end, m.Disk.Size), last
}
