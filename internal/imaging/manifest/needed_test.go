package manifest

import "testing"

func TestNeeded(t *testing.T) {
	const mib = 1 << 20
	disk := Disk{Size: 1000 * mib, SectorSize: 512}
	parts := []Partition{{Number: 1, Off: mib, Len: 9 * mib}, {Number: 2, Off: 10 * mib, Len: 90 * mib}}
	for _, tc := range []struct {
		m    Manifest
		need int64
		by   string
	}{
		{Manifest{Table: Table{Kind: "gpt", Partitions: parts}, Volumes: []Volume{{Partition: 2, Type: "LVM2_member"}}},
			100*mib + 33*512, "partition 2 (LVM2_member) ends at 104857600, and the backup of the GPT comes behind it"},
		{Manifest{Table: Table{Kind: "mbr", Partitions: append(parts, Partition{Number: 5, Off: 50 * mib, Len: 50 * mib, Logical: true})},
			Volumes: []Volume{{Partition: 5, Type: "ext4"}}}, 100 * mib, "partition 5 (ext4) ends at 104857600"},
		{Manifest{Table: Table{Kind: "none"}}, 1000 * mib, "the image has no partitions: what lies on its disk may take all of it"},
	} {
		tc.m.Disk = disk
		if need, by := tc.m.Needed(), tc.m.NeededBy(); need != tc.need || by != tc.by {
			t.Errorf("%d, %s; want %d, %s", need, by, tc.need, tc.by)
		}
	}
}
