package fsmap

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/uml"
	"mimeo/internal/night"
)

// mirrorTools make LVM2's mirrors work in user-mode Linux.
const mirrorTools = thinTools + `modprobe -a raid1 dm-raid dm-mirror dm-region-hash dm-log || modprobe -a raid1 dm-raid dm-mirror
	echo 1000000 >/proc/sys/dev/raid/speed_limit_min
	insync() { for i in $(seq 300); do [ "$(lvm lvs --noheadings -o copy_percent vg0/$1 | tr -d ' ')" = 100.00 ] && return; sleep 0.2; done; lvm lvs -a; exit 1; }
`

// TestLVMMirrors makes mirrored volumes with LVM2, of the kind that MD drives and of the older one, and a thin pool whose data is
// mirrored. It copies what is in use of each disk onto random bytes, and has LVM2, e2fsck and the sums of all files judge both legs.
func TestLVMMirrors(t *testing.T) {
	const size = 200 * mib
	dir := t.TempDir()
	var disks []string
	for i := range 2 {
		disks = append(disks, filepath.Join(dir, fmt.Sprint("pv", i)))
		noise(t, disks[i], size, uint64(i))
	}
	said := uml.Run(t, mirrorTools+`for d in a b; do lvm pvcreate -qq -y /dev/ubd$d; done; lvm vgcreate -qq -s 1M vg0 /dev/ubda /dev/ubdb
		lvm lvcreate -qq -y --type raid1 -m1 -L 60M -n new vg0
		lvm lvcreate -qq -y --type mirror -m1 --mirrorlog disk --alloc anywhere -L 40M -n old vg0
		lvm lvcreate -qq -y --type raid1 -m1 -L 50M -n pool vg0; lvm lvconvert -qq -y --type thin-pool --poolmetadatasize 4M -c 64k vg0/pool
		lvm lvcreate -qq -y -T -V 300M -n thin vg0/pool
		insync new; insync old; insync pool_tdata
		for v in new old thin; do mke2fs -q -t ext4 -E nodiscard /dev/vg0/$v; mount /dev/vg0/$v /run/mnt; mkdir /run/mnt/d
			head -c 9M /dev/urandom | split -d -b 310000 - /run/mnt/d/f; rm /run/mnt/d/f*3; umount /run/mnt; done; sync; sleep 6
		for v in new old thin; do mount -o ro,noload /dev/vg0/$v /run/mnt; echo "== $v"; files /run/mnt; umount /run/mnt; done; echo ==
		lvm lvs -a -o lv_name,segtype,devices vg0; lvm vgchange -qq -an`, disks...)
	want := strings.Split(said, "==")
	if len(want) != 5 {
		t.Fatal(said)
	}
	var copied []string
	used := map[string]bool{}
	for _, path := range disks {
		u, _ := mapFile(t, path)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if u.Type != "LVM2_member" || u.Method != manifest.MethodUsed {
			t.Fatalf("%s, %s: %s", u.Type, u.Method, u.Reason)
		}
		inner, err := Inside(bytes.NewReader(b), int64(len(b)), u.Type)
		if err != nil {
			t.Fatal(err)
		}
		for _, in := range inner {
			if in.Type == "ext4" && in.Method == manifest.MethodUsed && in.Used.Bytes() < in.Size {
				used[in.Name] = in.Leg
			}
			if in.Name == "vg0/pool_tdata" && in.Only != nil {
				used[in.Name] = true
			}
		}
		if u.Used.Bytes() > size*2/3 {
			t.Errorf("%d of %d MiB are captured: %s", u.Used.Bytes()/mib, size/mib, strings.Join(u.Notes, "\n"))
		}
		copied = append(copied, copyUsed(t, path, size, u.Used))
		mirrorFlips(t, b, u, inner)
	}
	for _, name := range []string{"vg0/new", "vg0/old", "vg0/pool_tdata"} {
		if !used[name] {
			t.Errorf("%s is not captured by what is in use: %v\n%s", name, used, want[4])
		}
	}
	// All volumes with both legs, then one of them with each leg alone; with the second alone, by night.
	for i, tc := range []struct {
		volumes string
		disks   []string
	}{{"new old thin", copied}, {"new", copied[:1]}, {"new", copied[1:]}} {
		if i == 2 && !night.On() {
			break
		}
		got := strings.Split(uml.Run(t, mirrorTools+`volumes="`+tc.volumes+`"; for v in $volumes; do lvm lvchange -qq -ay --activationmode degraded vg0/$v
			e2fsck -fn /dev/vg0/$v >/run/log 2>&1 || { cat /run/log; exit 1; }; mount -o ro,noload /dev/vg0/$v /run/mnt; echo "== $v"; files /run/mnt; umount /run/mnt; done; echo ==
			lvm vgchange -qq -an || true`, tc.disks...), "==")
		seen := 0
		for _, g := range got[1:] {
			for _, w := range want[1:4] {
				if name, _, ok := strings.Cut(g, "\n"); ok && strings.HasPrefix(w, name+"\n") {
					seen++
					if g != w || strings.Count(w, "\n") < 20 {
						t.Errorf("%d disks: %s\nwant\n%s", len(tc.disks), g, w)
					}
				}
			}
		}
		if seen != len(strings.Fields(tc.volumes)) {
			t.Errorf("%d disks: %d volumes: %q", len(tc.disks), seen, got)
		}
	}
}

// mirrorFlips flips bits in what says that legs are in sync: what is captured then is at least what it was.
func mirrorFlips(t *testing.T, disk []byte, was Usage, inner []Inner) {
	t.Helper()
	disk = bytes.Clone(disk)
	for _, in := range inner {
		if !strings.Contains(in.Name, "_rmeta_") && !strings.HasSuffix(in.Name, "_mlog") {
			continue
		}
		for i := range int64(64 + 1024 + 16) {
			off := in.Spans[0].Off + i
			if i >= 64 && i < 1024 {
				continue
			}
			disk[off] ^= 1 << (i % 8)
			u, err := Map(bytes.NewReader(disk), int64(len(disk)))
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range was.Used {
				if !u.Used.ContainsAll(e) {
					t.Fatalf("%s: bit %d of byte %d flipped: %v is not captured", in.Name, i%8, i, e)
				}
			}
			disk[off] ^= 1 << (i % 8)
		}
	}
}
