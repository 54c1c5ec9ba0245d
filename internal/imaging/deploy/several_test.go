package deploy

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"mimeo/internal/imaging/capture"
	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap"
	"mimeo/internal/imaging/fsmap/fact"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store/mem"
	"mimeo/internal/imaging/uml"
)

// severalTools make LVM2 work in user-mode Linux on the partitions of one disk.
const severalTools = `modprobe -a dm-mod dm-snapshot dm-thin-pool raid0 raid1 raid456 dm-raid; echo 1000000 >/proc/sys/dev/raid/speed_limit_min; export DM_DISABLE_UDEV=1 LVM_SUPPRESS_FD_WARNINGS=1
	lvm() { command lvm "$@" --config 'devices{use_devicesfile=0} global{locking_dir="/run/lock" thin_check_executable="" } backup{backup=0 archive=0} activation{monitoring=0}'; }
	wait_for() { for i in $(seq 600); do [ "$(lvm lvs --noheadings -o $2 vg0/$1 | tr -d ' ')" = $3 ] && return; sleep 0.1; done; lvm lvs -a -o +$2 vg0; exit 1; }
	sums() { for v in str zero par mir thin root; do mount -o ro,noload /dev/vg0/$v /run/mnt; echo "== $v"; (cd /run/mnt; find . -type f -exec sha256sum {} + | sort -k2); umount /run/mnt; done; echo ==; }
`

// TestSeveralPhysicalVolumes has a volume group on two partitions of a disk, of which one has no copy of the metadata, with a linear
// volume over both, two striped ones, one with parity, a mirror and a thin pool. It captures what is in use, deploys that onto a larger disk of noise, lets the
// linear one grow, and has LVM2, e2fsck and the sums of all files judge what came of it.
func TestSeveralPhysicalVolumes(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	from := imageFile(t, 570, "")
	fill(t, rng, from, 570)
	command(t, "label: gpt\nstart=1MiB,size=200MiB,type=lvm\nsize=10MiB,type=swap\nsize=320MiB,type=lvm\n", "sfdisk", "-q", from)
	command(t, "", "sh", "-euc", `dev=$(losetup -f --show -o $((201<<20)) --sizelimit $((10<<20)) "$1"); mkswap -q $dev; losetup -d $dev`, "sh", from)
	said := uml.Run(t, severalTools+`lvm pvcreate -qq -y /dev/ubda1; lvm pvcreate -qq -y --metadatacopies 0 /dev/ubda3; lvm vgcreate -qq -s 1M vg0 /dev/ubda1 /dev/ubda3
		lvm lvcreate -qq -y -i2 -I64 -L 60M -n str vg0; lvm lvcreate -qq -y --type raid0 -i2 -I32 -L 30M -n zero vg0
		lvm lvcreate -qq -y --type raid5 -i2 -I32 --alloc anywhere -L 30M -n par vg0; wait_for par copy_percent 100.00; lvm lvcreate -qq -y --type raid1 -m1 --alloc anywhere -L 20M -n mir vg0; wait_for mir copy_percent 100.00
		lvm lvcreate -qq -y -i2 -I64 --type thin-pool -L 60M --poolmetadatasize 4M -c 64k -n pool vg0; lvm lvcreate -qq -y -T -V 200M -n thin vg0/pool
		lvm lvcreate -qq -y -L 180M -n root vg0; lvm lvextend -qq -y -i1 -L 250M vg0/root
		for v in str zero par mir thin root; do mke2fs -q -t ext4 -E nodiscard /dev/vg0/$v; mount /dev/vg0/$v /run/mnt; mkdir /run/mnt/d
			head -c 9M /dev/urandom | split -d -b 310000 - /run/mnt/d/f; rm /run/mnt/d/f*3; umount /run/mnt; done
		sums; lvm lvs -a -o lv_name,segtype,devices vg0; sync; sleep 6; lvm vgchange -qq -an`, from)
	want := strings.Split(said, "==")
	if len(want) != 8 || strings.Count(want[1], "\n") < 20 {
		t.Fatal(said)
	}

	st := mem.New()
	m, l := captured(t, from, st, capture.Options{})
	for _, v := range l.Volumes {
		if v.Type == "LVM2_member" && v.Method != manifest.MethodUsed || v.Used > 100<<20 {
			t.Errorf("partition %d: %s, %d MiB: %s\n%s", v.Partition, v.Method, v.Used>>20, v.Reason, strings.Join(v.Notes, "\n"))
		}
	}
	inner := severalInside(t, from, m)
	for _, name := range []string{"vg0/str", "vg0/zero", "vg0/par", "vg0/mir", "vg0/root"} {
		if n := slices.IndexFunc(inner, func(in fsmap.Inner) bool { return in.Name == name && in.Type == "ext4" }); n < 0 {
			t.Errorf("%s is not looked into: %s", name, strings.Join(l.Notes, "\n"))
		}
	}
	severalFlips(t, from, m)

	const grow = "vg0/root"
	to := imageFile(t, 750, "")
	fill(t, rng, to, 750)
	res := deployed(t, to, st, m, Options{Grow: grow, Compare: true})
	sameLegs(t, to, inner)
	g, err := GrowVolume(t.Context(), to, 750<<20, m, res.Table, grow)
	if err != nil {
		t.Fatal(err)
	}
	if len(g.Grown) != 1 || g.Grown[0].What != "vg0/root (ext4)" || g.Grown[0].To-g.Grown[0].From < 170<<20 {
		t.Errorf("%+v", g)
	}
	again := strings.Split(uml.Run(t, severalTools+`lvm vgchange -qq -ay; for v in str zero par mir thin root; do e2fsck -fn /dev/vg0/$v >/run/log 2>&1 || { cat /run/log; exit 1; }; done
		lvm lvchange -qq --syncaction check vg0/par; wait_for par sync_percent,raid_sync_action,raid_mismatch_count 100.00idle0
		sums; test $(blockdev --getsize64 /dev/vg0/root) -gt $((420<<20)); lvm vgck vg0; lvm vgchange -qq -an`, to), "==")
	if len(again) != 8 {
		t.Fatal(again)
	}
	for i := 1; i < 7; i++ {
		if again[i] != want[i] {
			t.Errorf("%s\nwant\n%s", again[i], want[i])
		}
	}
}

// sameLegs holds both legs of the mirror on a disk against each other.
func sameLegs(t *testing.T, path string, inner []fsmap.Inner) {
	t.Helper()
	r := bytes.NewReader(read(t, path))
	i := slices.IndexFunc(inner, func(in fsmap.Inner) bool { return in.Name == "vg0/mir" && len(in.Twins) == 1 })
	if i < 0 {
		t.Fatal("no mirror has two legs")
	}
	in := inner[i]
	for _, e := range in.Used {
		a, b := make([]byte, e.Len), make([]byte, e.Len)
		_, err1 := in.Reader(r).ReadAt(a, e.Off)
		_, err2 := fact.Part{Size: in.Size, Spans: in.Twins[0]}.Reader(r).ReadAt(b, e.Off)
		if err1 != nil || err2 != nil || !bytes.Equal(a, b) {
			t.Fatalf("the legs differ at %d, or: %v, %v", e.Off, err1, err2)
		}
	}
}

// severalInside returns all volumes inside those of a disk.
func severalInside(t *testing.T, path string, m *manifest.Manifest) (all []fsmap.Inner) {
	t.Helper()
	d := fsmap.DiskOf(bytes.NewReader(read(t, path)), m.Volumes)
	for i, v := range m.Volumes {
		inner, err := d.Inside(i, v.Type)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, inner...)
	}
	return all
}

// severalFlips flips bits in the labels and the metadata of both physical volumes: what is captured then is at least what it was.
func severalFlips(t *testing.T, path string, m *manifest.Manifest) {
	t.Helper()
	b := read(t, path)
	d := fsmap.DiskOf(bytes.NewReader(b), m.Volumes)
	var was [3]extent.List
	for i := range was {
		u, err := d.Map(i)
		if err != nil {
			t.Fatal(err)
		}
		was[i] = u.Used
	}
	rng := rand.New(rand.NewPCG(5, 5))
	for n := range 60 {
		off := m.Volumes[n%2*2].Off + rng.Int64N(12<<10)
		if n >= 20 {
			off = m.Volumes[0].Off + 4096 + 512 + rng.Int64N(16<<10)
		}
		bit := byte(1) << rng.IntN(8)
		b[off] ^= bit
		for i := range was {
			u, err := d.Map(i)
			if err != nil {
				t.Fatal(err)
			}
			if lost := extent.Subtract(was[i], u.Used); len(lost) > 0 {
				t.Fatalf("byte %d changed: %v of volume %d is not captured (%s)", off, lost[0], i, u.Method)
			}
		}
		b[off] ^= bit
	}
}

// TestStripedStays lets no striped volume grow: there is more room for one of its stripes only.
func TestStripedStays(t *testing.T) {
	in := fsmap.Inner{Part: fact.Part{Name: "vg0/root", Spans: []fact.Span{{Stripes: &fact.Stripes{}}}}, Usage: fsmap.Usage{Type: "ext4"}}
	if _, why := chooseLogical([]fsmap.Inner{in}, ""); why == "" {
		t.Error("it is chosen")
	}
	if _, why := chooseLogical([]fsmap.Inner{in}, in.Name); !strings.Contains(why, "striped") {
		t.Error(why)
	}
}
