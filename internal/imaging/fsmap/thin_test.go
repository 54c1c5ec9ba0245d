package fsmap

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/uml"
)

// thinTools make LVM2 work in user-mode Linux, which has neither udev nor the programs that check a pool's metadata.
const thinTools = `modprobe -a dm-mod dm-snapshot dm-thin-pool; export DM_DISABLE_UDEV=1 LVM_SUPPRESS_FD_WARNINGS=1
	lvm() { command lvm "$@" --config 'devices{use_devicesfile=0} global{locking_dir="/run/lock" thin_check_executable="" } backup{backup=0 archive=0} activation{monitoring=0}'; }
	files() { (cd "$1"; find . -type f -exec sha256sum {} + | sort -k2); }
`

// TestThinPool makes a thin pool with LVM2 in a Linux that has it, copies what is in use of its disk onto random bytes, and has LVM2,
// e2fsck and the sums of all files judge what came of it.
func TestThinPool(t *testing.T) {
	const size = 400 * mib
	path := filepath.Join(t.TempDir(), "pv")
	noise(t, path, size, 7)
	said := uml.Run(t, thinTools+`lvm pvcreate -qq -y /dev/ubda; lvm vgcreate -qq vg0 /dev/ubda; lvm lvcreate -qq -y --type thin-pool -L 320M --poolmetadatasize 4M -c 64k -n pool vg0
		for v in root home; do lvm lvcreate -qq -y -T -V 900M -n $v vg0/pool; mke2fs -q -t ext4 -E nodiscard /dev/vg0/$v; mount /dev/vg0/$v /run/mnt
			mkdir /run/mnt/d; head -c 9M /dev/urandom | split -d -b 310000 - /run/mnt/d/f; rm /run/mnt/d/f*3; head -c 6M /dev/urandom >/run/mnt/big; sync; [ $v = root ] || rm /run/mnt/big; umount /run/mnt; done
		lvm lvcreate -qq -y -s -kn -n snap vg0/root; mount /dev/vg0/root /run/mnt; rm /run/mnt/big; head -c 3M /dev/urandom >/run/mnt/later; umount /run/mnt
		for v in root home snap; do mount -o ro,noload /dev/vg0/$v /run/mnt; echo "== $v"; files /run/mnt; umount /run/mnt; done; echo ==; lvm vgchange -qq -an`, path)
	u, _ := mapFile(t, path)
	notes := strings.Join(u.Notes, "\n")
	if u.Type != "LVM2_member" || u.Method != manifest.MethodUsed || u.Used.Bytes() > 150*mib || !strings.Contains(notes, "data of the thin pool vg0/pool") {
		t.Fatalf("%s, %s, %d MiB: %s\n%s", u.Type, u.Method, u.Used.Bytes()/mib, u.Reason, notes)
	}
	// What home has deleted is left out, what root has deleted is not: the snapshot has it.
	pool := thinPool(t, path, "vg0/pool_tdata")
	if n := pool.Only.Bytes() - pool.Used.Bytes(); n < 5*mib || n > 16*mib || len(pool.Views) != 3 || strings.Count(notes, "captured (ext4)") != 3 {
		t.Fatalf("%d MiB of the blocks in use are left out\n%s", n/mib, notes)
	}
	again := uml.Run(t, thinTools+`lvm vgchange -qq -ay; lvm lvchange -qq -ay -K vg0/snap
		for v in root home snap; do e2fsck -fn /dev/vg0/$v >/run/log 2>&1 || { cat /run/log; exit 1; }; mount -o ro,noload /dev/vg0/$v /run/mnt; echo "== $v"; files /run/mnt; umount /run/mnt; done; echo ==; lvm vgchange -qq -an`,
		copyUsed(t, path, size, u.Used))
	want, got := strings.Split(said, "=="), strings.Split(again, "==")
	if len(want) != 5 || len(got) != 5 {
		t.Fatalf("%s\n%s", said, again)
	}
	for i := 1; i < 4; i++ {
		if want[i] != got[i] || strings.Count(want[i], "\n") < 20 {
			t.Errorf("%s\nwant\n%s", got[i], want[i])
		}
	}
	thinFlips(t, path, u)
}

// thinFlips flips bits in the pool's metadata: what is captured then is at least what it was, or all.
func thinFlips(t *testing.T, path string, was Usage) {
	t.Helper()
	disk, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := thinPool(t, path, "vg0/pool_tmeta").Spans[0].Off
	for i := range int64(100) {
		off := at + i*1709%(20*4096)
		disk[off] ^= 1 << (i % 8)
		u, err := Map(bytes.NewReader(disk), int64(len(disk)))
		if err != nil {
			t.Fatal(err)
		}
		if left := extent.Subtract(was.Used, u.Used); len(left) > 0 {
			t.Fatalf("bit %d of byte %d flipped: %v is not captured", i%8, off-at, left)
		}
		disk[off] ^= 1 << (i % 8)
	}
}

// thinPool returns one of the volumes that a pool is made of.
func thinPool(t *testing.T, path, name string) Inner {
	t.Helper()
	disk, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	inner, err := Inside(bytes.NewReader(disk), int64(len(disk)), "LVM2_member")
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(inner, func(in Inner) bool { return in.Name == name })
	if i < 0 {
		t.Fatalf("%s was not found", name)
	}
	return inner[i]
}
