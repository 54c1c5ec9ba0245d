package manifest

// HeadLen is the start of a disk that a partition table of any kind lies in, in bytes.
const HeadLen = 64 << 10

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
	if m.Table.Kind == "none" || len(m.Table.Partitions) == 0 {
		return m.Disk.Size
	}
	end := int64(HeadLen)
	for _, p := range m.Table.Partitions {
		end = max(end, p.Off+p.Len)
	}
	if m.Table.Kind == "gpt" {
		end += m.BackupLen()
	}
	return min(end, m.Disk.Size)
}
