package fsmap

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
	"time"

	"mimeo/internal/imaging/extent"
)

// TestRenewInLVM has the log of an XFS in a logical volume of two pieces begin anew; all else stays as it is.
func TestRenewInLVM(t *testing.T) {
	dir := t.TempDir()
	disk := filepath.Join(dir, "pv")
	shell(t, lvmTools+`cd "$1"; truncate -s 420M pv; attach pv
		run pvcreate -q $dev; run vgcreate -q -s 1M vg0 $dev
		run lvcreate -q -y -an -Zn -Wn -L 200M -n root vg0; run lvcreate -q -y -an -Zn -Wn -L 20M -n home vg0
		run lvextend -q -y -L +101M vg0/root
		truncate -s 301M root; mkfs.xfs -q root; truncate -s 20M home; mke2fs -q -F -t ext2 home
		for i in root home; do move put vg0/$i $i pv; done; cp pv before`, dir)
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	list, err := Disk{f, []extent.Extent{{Len: 420 << 20}}}.Renewals(0, "LVM2_member")
	if err != nil || len(list) != 1 || list[0].Log.Bytes() < 10<<20 {
		t.Fatalf("%+v, %v", list, err)
	}
	// There is no log of a deploy to go on from.
	if err := list[0].Do(f, time.Date(2020, 1, 1, 0, 0, 0x12345, 0, time.UTC), true); err != nil {
		t.Fatal(err)
	}
	shell(t, lvmTools+`cd "$1"; attach pv; for i in root home; do move get vg0/$i $i.out pv; done
		cmp home home.out; xfs_repair -n root.out; ! cmp -s root root.out`, dir)
	before, err1 := os.ReadFile(filepath.Join(dir, "root"))
	after, err2 := os.ReadFile(filepath.Join(dir, "root.out"))
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	u, err := Map(bytes.NewReader(after), int64(len(after)))
	if err != nil || u.Method != "used" {
		t.Fatalf("%+v, %v", u, err)
	}
	records, marked := 0, 0
	for at := 0; at < len(before); at += 512 {
		if a, b := before[at:at+512], after[at:at+512]; !bytes.Equal(a, b) {
			switch string(b[:8]) {
			case "\xfe\xed\xba\xbe\x00\x01\x23\x45":
				records++
			case "\x00\x01\x23\x44\x00\x00\x00\x00":
				marked++
			}
		}
	}
	if records != 1 || marked < 10_000 {
		t.Errorf("%d records, %d sectors of the round before", records, marked)
	}
}

// TestRenewLeg leaves the log alone of an XFS in a RAID1 on logical volumes, or on disks of a virtual machine: the other disks must
// stay equal.
func TestRenewLeg(t *testing.T) {
	dir := t.TempDir()
	const size = 330 << 20
	b := make([]byte, size) // of the member
	at := int64(size/512-16) &^ 7 * 512
	sb, le := b[at:], binary.LittleEndian
	le.PutUint32(sb, 0xa92b4efc)
	le.PutUint32(sb[4:], 1)
	le.PutUint32(sb[72:], 1) // level
	le.PutUint64(sb[80:], 320<<20/512)
	le.PutUint32(sb[92:], 2)
	le.PutUint64(sb[136:], 320<<20/512)
	le.PutUint64(sb[144:], uint64(at/512))
	le.PutUint64(sb[208:], 1<<64-1)
	le.PutUint32(sb[220:], 2)
	sum := uint64(0)
	for i := 0; i < 260; i += 4 {
		sum += uint64(le.Uint32(sb[i:]))
	}
	le.PutUint32(sb[216:], uint32(sum)+uint32(sum>>32))
	member := filepath.Join(dir, "member")
	if err := os.WriteFile(member, b, 0o600); err != nil {
		t.Fatal(err)
	}
	shell(t, lvmTools+`cd "$1"; truncate -s 340M pv; attach pv
		run pvcreate -q $dev; run vgcreate -q -s 1M vg0 $dev; run lvcreate -q -y -an -Zn -Wn -L 330M -n leg vg0
		truncate -s 320M xfs; mkfs.xfs -q xfs; dd if=xfs of=member conv=notrunc bs=1M status=none
		move put vg0/leg member pv`, dir)
	f, err := os.Open(filepath.Join(dir, "pv"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	list, err := Disk{f, []extent.Extent{{Len: 340 << 20}}}.Renewals(0, "LVM2_member")
	if err != nil || len(list) != 1 || len(list[0].Log) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
}
