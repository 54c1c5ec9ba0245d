package fsmap

import (
	"bytes"
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
