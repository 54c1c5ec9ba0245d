package fsmap

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/manifest"
)

func shell(t *testing.T, script string, args ...string) string {
	t.Helper()
	cmd := exec.Command("sh", append([]string{"-euc", script, "sh"}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "LVM_SUPPRESS_FD_WARNINGS=1", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// lvmTools defines run, which runs a command of LVM2 on the loop device $dev alone, without the kernel's device mapper, and
// put, which writes a file into a logical volume as LVM2's own report says where it lies.
const lvmTools = `
	run() { cmd=$1; shift; lvm "$cmd" --driverloaded n --config "backup{backup=0 archive=0} devices{use_devicesfile=0 filter=[\"a|^$dev\$|\",\"r|.*|\"]}" "$@" 2>/dev/null; }
	places() { run lvs --segments --noheadings --nosuffix --units b --separator ' ' -o seg_start,seg_size,seg_pe_ranges "$1"; }
	start() { run pvs --noheadings --nosuffix --units b -o pe_start "$dev" | tr -d ' '; }
	extent() { run vgs --noheadings --nosuffix --units b -o vg_extent_size | tr -d ' '; }
	move() { # MODE LV FILE DISK
		s=$(start); e=$(extent)
		places "$2" | while read at size range; do
			first=${range##*:}; first=${first%-*}
			if [ "$1" = put ]; then dd if="$3" of="$4" bs=1M iflag=skip_bytes,count_bytes oflag=seek_bytes skip="$at" count="$size" seek=$((s+first*e)) conv=notrunc status=none
			else dd if="$4" of="$3" bs=1M iflag=skip_bytes,count_bytes oflag=seek_bytes skip=$((s+first*e)) count="$size" seek="$at" conv=notrunc status=none; fi
		done
	}
	attach() { dev=$(losetup -f --show "$1"); trap 'losetup -d $dev' EXIT; }
`

// physical makes a physical volume with logical ones in pieces, of which some hold filesystems.
func physical(t *testing.T, dir string) string {
	t.Helper()
	disk := filepath.Join(dir, "pv")
	shell(t, lvmTools+`cd "$1"; truncate -s 300M pv; attach pv
		run pvcreate -q $dev; run vgcreate -q -s 1M vg0 $dev
		run lvcreate -q -y -an -Zn -Wn -L 60M -n root vg0; run lvcreate -q -y -an -Zn -Wn -L 20M -n home vg0; run lvcreate -q -y -an -Zn -Wn -L 16M -n swap vg0
		run lvextend -q -y -L +13M vg0/root; run lvcreate -q -y -an -Zn -Wn -L 8M -n data vg0; run lvextend -q -y -L +7M vg0/home
		mkdir tree; for i in $(seq 40); do head -c $((i*7000)) /dev/urandom >tree/f$i; done
		truncate -s 73M root; mke2fs -q -F -t ext4 -b 4096 -d tree root; truncate -s 27M home; mke2fs -q -F -t ext2 -b 1024 -d tree home
		truncate -s 16M swap; mkswap -q swap; head -c 8M /dev/urandom >data
		for i in root home swap data; do move put vg0/$i $i pv; done`, dir)
	return disk
}

func TestLogicalVolumes(t *testing.T) {
	dir := t.TempDir()
	disk := physical(t, dir)
	b, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	u, err := Map(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.TrimSpace(shell(t, `blkid -o value -s UUID -p "$1"`, disk)); u.Type != "LVM2_member" || u.UUID != want || u.Method != manifest.MethodUsed {
		t.Fatalf("%s %s %s: %s; blkid says %s", u.Type, u.UUID, u.Method, u.Reason, want)
	}
	inner, err := Inside(bytes.NewReader(b), int64(len(b)), u.Type)
	if err != nil || len(inner) != 4 {
		t.Fatalf("%d inner volumes, %v", len(inner), err)
	}
	for i, want := range []string{"vg0/root ext4 used", "vg0/home ext2 used", "vg0/swap swap head", "vg0/data unknown whole"} {
		if got := fmt.Sprint(inner[i].Name, " ", inner[i].Type, " ", inner[i].Method); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if n := u.Used.Bytes(); n > 40<<20 || n < 20<<20 {
		t.Errorf("%d bytes are to be captured", n)
	}
	// What is captured, on a disk full of other bytes, must be the same to LVM2 and to the filesystems.
	copied := make([]byte, len(b))
	r := rand.New(rand.NewPCG(1, 2))
	for i := range copied {
		copied[i] = byte(r.Uint32())
	}
	for _, e := range u.Used {
		copy(copied[e.Off:e.End()], b[e.Off:])
	}
	if err := os.WriteFile(disk, copied, 0o644); err != nil {
		t.Fatal(err)
	}
	out := shell(t, lvmTools+`cd "$1"; attach pv; run vgck vg0; run vgs --noheadings -o lv_count vg0
		for i in root home swap data; do move get vg0/$i $i.out pv; done
		e2fsck -fn root.out; e2fsck -fn home.out; cmp data data.out
		for i in root home; do rm -rf out; mkdir out; debugfs -R "rdump / out" $i.out; rmdir out/lost+found; diff -r tree out; done
		[ "$(blkid -p -o value -s UUID swap)" = "$(blkid -p -o value -s UUID swap.out)" ]`, dir)
	if !strings.Contains(out, " 4\n") {
		t.Error(out)
	}
}

// TestTablesInside looks into logical volumes that are the disks of virtual machines.
func TestTablesInside(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "pv")
	shell(t, lvmTools+`cd "$1"; truncate -s 130M pv; attach pv
		run pvcreate -q $dev; run vgcreate -q -s 1M vg0 $dev
		for i in gpt dos; do run lvcreate -q -y -an -Zn -Wn -L 60M -n $i vg0; head -c 60M /dev/urandom >$i
			printf 'label: %s\nsize=30M\nsize=+,type=swap\n' $i | sfdisk -q --wipe=never $i
			mkdir $i.d; head -c 3M /dev/urandom >$i.d/f; truncate -s 30M part; mke2fs -q -F -t ext4 -d $i.d part; dd if=part of=$i bs=1M seek=1 conv=notrunc status=none; rm part
			truncate -s 10M swap; mkswap -q swap; dd if=swap of=$i bs=1M seek=31 conv=notrunc status=none; move put vg0/$i $i pv; done`, dir)
	u, size := mapFile(t, path)
	if notes := strings.Join(u.Notes, "\n"); u.Method != manifest.MethodUsed || strings.Count(notes, "partition 1: ext4") != 2 || u.Used.Bytes() > 80*mib {
		t.Fatalf("%s, %d MiB: %s\n%s", u.Method, u.Used.Bytes()/mib, u.Reason, notes)
	}
	if err := os.Rename(copyUsed(t, path, size, u.Used), path); err != nil {
		t.Fatal(err)
	}
	shell(t, lvmTools+`cd "$1"; attach pv; for i in gpt dos; do sfdisk -d $i >want; rm $i; move get vg0/$i $i pv; sfdisk -d $i | cmp - want; sfdisk --verify $i
		dd if=$i of=part bs=1M skip=1 count=30 status=none; e2fsck -fn part; debugfs -R "dump /f f" part; cmp f $i.d/f; done`, dir)
}

// TestDamagedLVM flips bits of the metadata, and changes the text behind its checksum: the answer is the same, more, or
// that all must be captured.
func TestDamagedLVM(t *testing.T) {
	b, err := os.ReadFile(physical(t, t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	good, err := Map(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(3, 1))
	whole := 0
	for range 1500 {
		at := r.IntN(40 << 10)
		if r.IntN(2) == 0 {
			at = r.IntN(1024)
		}
		old := b[at]
		b[at] ^= 1 << r.IntN(8)
		u, err := Map(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		if u.Method == manifest.MethodWhole {
			whole++
		}
		if extent.Subtract(good.Used, u.Used).Bytes() > 0 {
			t.Fatalf("byte %d is %#x, not %#x: %d bytes less are captured", at, b[at], old, extent.Subtract(good.Used, u.Used).Bytes())
		}
		b[at] = old
	}
	if whole < 100 {
		t.Errorf("only %d of 1500 were captured whole", whole)
	}
}
