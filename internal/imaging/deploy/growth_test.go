package deploy

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mimeo/internal/imaging/capture"
	"mimeo/internal/imaging/disk"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store/mem"
	"mimeo/internal/imaging/uml"
	"mimeo/internal/night"
)

// lvmDisk makes a disk of 200 MiB: a partition of 10 MiB, a gap of 20 MiB, and a physical volume with the logical volumes
// root (ext4), swap and, of several, home (ext4), which lie in this order.
func lvmDisk(t *testing.T, several bool) string {
	t.Helper()
	dir := t.TempDir()
	home := "truncate -s 1M home"
	if several {
		home = `run lvcreate -q -y -an -Zn -Wn -L 20M -n home vg0; truncate -s 20M home; mke2fs -q -F -t ext4 home`
	}
	command(t, "", "sh", "-euc", `cd "$1"; truncate -s 200M disk; truncate -s 160M pv; dev=$(losetup -f --show pv); trap 'losetup -d $dev' EXIT
		run() { cmd=$1; shift; lvm "$cmd" --driverloaded n --config "backup{backup=0 archive=0} devices{use_devicesfile=0 filter=[\"a|^$dev\$|\",\"r|.*|\"]}" "$@" 2>/dev/null; }
		run pvcreate -q $dev; run vgcreate -q -s 1M vg0 $dev
		run lvcreate -q -y -an -Zn -Wn -L 40M -n root vg0; run lvcreate -q -y -an -Zn -Wn -L 10M -n swap vg0; `+home+`
		truncate -s 40M root; mke2fs -q -F -t ext4 -d /etc/default root; truncate -s 10M swap; mkswap -q swap
		at() { run pvs --noheadings -o pvseg_start,lv_name --segments $dev | awk -v n=$1 '$2 == n {print $1 + 1}'; }
		dd if=root of=$dev bs=1M seek=$(at root) conv=notrunc status=none; dd if=swap of=$dev bs=1M seek=$(at swap) conv=notrunc status=none
		[ -z "$(at home)" ] || dd if=home of=$dev bs=1M seek=$(at home) conv=notrunc status=none
		sync; printf 'label: gpt\nstart=1MiB,size=10MiB,name=boot\nstart=31MiB,size=160MiB,type=lvm\n' | sfdisk -q disk; dd if=$dev of=disk bs=1M seek=31 conv=notrunc status=none`, "sh", dir)
	return filepath.Join(dir, "disk")
}

// TestGrowLogical grows logical volumes, here without the kernel's device mapper, and asks one that has it whether all is well.
func TestGrowLogical(t *testing.T) {
	one, several := lvmDisk(t, false), lvmDisk(t, true)
	for _, tc := range []struct {
		name, from, grow string
		want             string // what grew, or the note
		check            string
	}{
		{"the only one", one, GrowLast, "vg0/root (ext4)", `test $(blockdev --getsize64 /dev/vg0/root) -eq $((457 << 20)); e2fsck -fn /dev/vg0/root`},
		{"unnamed", several, GrowLast, "name one of vg0/root, vg0/home", `test $(vgs --noheadings -o vg_free_count vg0) -ge 300; e2fsck -fn /dev/vg0/root`},
		{"named", several, "vg0/home", "vg0/home (ext4)", `test $(blockdev --getsize64 /dev/vg0/home) -gt $((400 << 20)); e2fsck -fn /dev/vg0/home; e2fsck -fn /dev/vg0/root`},
		{"in two pieces", several, "vg0/root", "vg0/root (ext4)", `test $(blockdev --getsize64 /dev/vg0/root) -gt $((400 << 20)); e2fsck -fn /dev/vg0/root
			mount -t ext4 /dev/vg0/root /run/mnt; diff -r /etc/default /run/mnt 2>&1 | grep -v 'lost+found' && exit 1; blkid -p /dev/vg0/swap | grep -q swap`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.name == "named" {
				night.Only(t)
			}
			st := mem.New()
			m, _ := captured(t, tc.from, st, capture.Options{})
			to := imageFile(t, 500, "")
			res := deployed(t, to, st, m, Options{Grow: tc.grow})
			g, err := GrowVolume(t.Context(), to, 500<<20, m, res.Table, tc.grow)
			if err != nil {
				t.Fatal(err)
			}
			all := g.Notes
			for _, is := range g.Grown {
				all = append(all, is.What)
			}
			if !slices.ContainsFunc(all, func(s string) bool { return strings.Contains(s, tc.want) }) || len(all) != 1 {
				t.Errorf("%+v", g)
			}
			uml.Run(t, "modprobe dm-mod; lvm() { command lvm \"$@\"; }; vgchange -ay --sysinit --config 'devices{use_devicesfile=0}' 2>/dev/null; vgmknodes 2>/dev/null || true; vgs() { command vgs --config 'devices{use_devicesfile=0}' \"$@\" 2>/dev/null; }\n"+tc.check, to)
		})
	}
}

// TestGrowNamed lets partitions grow that are not the last, and refuses what cannot, before the first write.
func TestGrowNamed(t *testing.T) {
	from := lvmDisk(t, false)
	st := mem.New()
	m, _ := captured(t, from, st, capture.Options{})
	to := imageFile(t, 300, "")
	res := deployed(t, to, st, m, Options{Grow: "boot"})
	if p := res.Table.Partitions[0]; p.Len != 30<<20 {
		t.Errorf("the first partition has %d MiB, want 30", p.Len>>20)
	}
	if out := command(t, "", "sgdisk", "-v", to); !strings.Contains(out, "No problems found") {
		t.Errorf("sgdisk: %s", out)
	}

	tight := imageFile(t, 40, "label: dos\nstart=1MiB,size=10MiB\nstart=11MiB,size=20MiB\n")
	tightM, _ := captured(t, tight, st, capture.Options{})
	for _, tc := range []struct {
		m    *manifest.Manifest
		name string
		why  string
	}{
		{m, "vg0/home", "there is no vg0/home"}, {m, "usr", "no volume"}, {tightM, "1", "those of an MBR are not moved"}, {tightM, "vg0/root", "has no LVM"},
	} {
		blank := imageFile(t, 300, "")
		d, err := disk.OpenExclusive(blank, disk.Options{})
		if err != nil {
			t.Fatal(err)
		}
		res, err := Run(t.Context(), st, tc.m, Disk{d}, Options{Grow: tc.name})
		var no *manifest.GrowError
		if !errors.As(err, &no) || res.Touched || !strings.Contains(err.Error(), tc.why) {
			t.Errorf("%s: %v, touched %v", tc.name, err, res.Touched)
		}
		if err := errors.Join(d.Close(), os.Remove(blank)); err != nil {
			t.Error(err)
		}
	}
}

// TestGrowBetween grows a volume with others right behind it, which lie at the end of the larger disk then.
func TestGrowBetween(t *testing.T) {
	rng := rand.New(rand.NewPCG(12, 3))
	from := imageFile(t, 60, "label: gpt\nstart=1MiB,size=10MiB,name=boot\nstart=11MiB,size=20MiB,name=root\nstart=31MiB,size=8MiB,name=rescue,attrs=\"RequiredPartition\"\nstart=39MiB,size=20MiB,name=data\n")
	for _, p := range [][2]int64{{1, 10}, {11, 20}, {31, 8}, {39, 20}} {
		format(t, rng, from, p[0]<<20, p[1]<<20, "-t", "ext4", "-b", "4096")
	}
	st := mem.New()
	m, _ := captured(t, from, st, capture.Options{ChunkSize: 4096})
	for _, mib := range []int64{100, 61} {
		to := imageFile(t, mib, "")
		fill(t, rng, to, int(mib))
		res := deployed(t, to, st, m, Options{Grow: "root", Verify: true, Discard: true})
		by := (mib - 60) << 20
		for i, want := range []manifest.Partition{{Off: 1 << 20, Len: 10 << 20}, {Off: 11 << 20, Len: 20<<20 + by}, {Off: 31<<20 + by, Len: 8 << 20}, {Off: 39<<20 + by, Len: 20 << 20}} {
			p := res.Table.Partitions[i]
			if p.Off != want.Off || p.Len != want.Len || p.UUID != m.Table.Partitions[i].UUID || p.Name != m.Table.Partitions[i].Name || p.Attrs != m.Table.Partitions[i].Attrs {
				t.Errorf("%d MiB: %+v", mib, p)
			}
			if i != 1 && res.Image.Volumes[i].Off != p.Off {
				t.Errorf("%d MiB: volume %d at %d", mib, i, res.Image.Volumes[i].Off)
			}
		}
		g, err := GrowVolume(t.Context(), to, mib<<20, res.Image, res.Table, "root")
		if err != nil || len(g.Grown) != 1 {
			t.Fatalf("%+v, %v", g, err)
		}
		if out := command(t, "", "sgdisk", "-v", to); !strings.Contains(out, "No problems found") {
			t.Errorf("sgdisk: %s", out)
		}
		for i, p := range res.Table.Partitions {
			command(t, "", "e2fsck", "-f", "-n", fmt.Sprintf("%s?offset=%d", to, p.Off))
			was := m.Table.Partitions[i]
			command(t, "", "sh", "-euc", `mkdir "$5/a" "$5/b"; debugfs -R "rdump / $5/a" "$1?offset=$2" 2>/dev/null; debugfs -R "rdump / $5/b" "$3?offset=$4" 2>/dev/null; test -n "$(ls "$5/a")"; diff -r "$5/a" "$5/b"`,
				"sh", from, fmt.Sprint(was.Off), to, fmt.Sprint(p.Off), t.TempDir())
		}
	}
}
