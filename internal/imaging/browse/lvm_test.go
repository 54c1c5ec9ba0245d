package browse

import (
	"path/filepath"
	"testing"

	"mimeo/internal/imaging/capture"
	"mimeo/internal/imaging/disk"
	"mimeo/internal/imaging/layout"
	"mimeo/internal/imaging/leaveout"
	"mimeo/internal/imaging/store/mem"
)

// lvmDisk makes a disk with a partition of LVM2 that has the system in vg0/root, which lies in two pieces; what is given
// first decides where they are.
func lvmDisk(t *testing.T, dir, first string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	sh(t, `export PATH=$PATH:/usr/sbin:/sbin LVM_SUPPRESS_FD_WARNINGS=1; cd "$(dirname "$1")"; truncate -s 120M pv; dev=$(losetup -f --show pv); trap 'losetup -d $dev' EXIT
		run() { cmd=$1; shift; lvm "$cmd" --driverloaded n --config "backup{backup=0 archive=0} devices{use_devicesfile=0 filter=[\"a|^$dev\$|\",\"r|.*|\"]}" "$@" 2>/dev/null; }
		run pvcreate -q $dev; run vgcreate -q -s 1M vg0 $dev
		for lv in $3 root gap; do run lvcreate -q -y -an -Zn -Wn -L 8M -n $lv vg0; done; run lvextend -q -y -L 60M vg0/root
		truncate -s 60M fs; mke2fs -q -F -t ext4 -d "$2" fs
		s=$(run pvs --noheadings --nosuffix --units b -o pe_start $dev | tr -d ' ')
		run lvs --segments --noheadings --nosuffix --units b --separator ' ' -o seg_start,seg_size,seg_pe_ranges vg0/root | while read at size range; do
			e=${range##*:}; dd if=fs of=pv bs=1M iflag=skip_bytes,count_bytes oflag=seek_bytes skip=$at count=$size seek=$((s+${e%-*}*1048576)) conv=notrunc status=none
		done
		truncate -s 130M disk; echo 'label: gpt
			start=2048, type=lvm' | sfdisk -q disk; dd if=pv of=disk bs=1M seek=1 conv=notrunc status=none`, path, dir, first)
	return path
}

func TestLogicalVolume(t *testing.T) {
	dir, st := system(t), mem.New()
	sh(t, `cd "$1"; head -c 300000 /dev/urandom >swapfile; mkswap -q swapfile 2>/dev/null; chmod 600 swapfile`, dir)
	var images []*Image
	for n, first := range []string{"", "other"} {
		d, err := disk.Open(lvmDisk(t, dir, first), disk.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		l, err := layout.Plan(d)
		if err != nil {
			t.Fatal(err)
		}
		plan, err := capture.NewPlan(d, l, leaveout.Rules{Swap: true})
		if err != nil {
			t.Fatal(err)
		}
		if got := plan.LeftOut.Bytes(); got < 200<<10 {
			t.Errorf("%d bytes of the swap file are left out: %q", got, plan.Warnings)
		}
		res, err := capture.Run(t.Context(), capture.Source{ReaderAt: d, Disk: d.Info()}, plan, st, capture.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if c := res.Counts; n == 1 && c.New > c.Read/8 {
			t.Errorf("the same files in other places are %d new bytes of %d", c.New, c.Read)
		}
		i, err := Open(t.Context(), st, res.Manifest)
		if err != nil {
			t.Fatal(err)
		}
		images = append(images, i)
	}
	a, b := volume(t, images[0]), volume(t, images[1])
	if a.Name != "vg0/root" || a.Partition != 1 || string(content(t, a, "/etc/os-release")) != "ID=debian\n" {
		t.Errorf("%s in partition %d", a.Name, a.Partition)
	}
	if err := Diff(a, b, func(c Change) error {
		t.Errorf("%s %s", c.Kind, c.Path)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}
