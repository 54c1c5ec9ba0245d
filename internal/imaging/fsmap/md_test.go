package fsmap

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/uml"
)

// array is a RAID that mdadm made, with its disks.
type array struct {
	name   string
	create string // of mdadm
	fill   string // what is done with /dev/md0
	disks  int
	used   bool     // whether its disks can be captured by used blocks
	reason []string // of each disk, part of the note that says what is in it
}

const extFiles = `mke2fs -q -t ext4 /dev/md0; mount /dev/md0 /run/mnt; head -c 16M /dev/urandom | split -d -b 280000 - /run/mnt/f
	rm /run/mnt/f*5; (cd /run/mnt; sha256sum f*) >/run/sums; cp /run/sums /run/mnt/sums; umount /run/mnt`

var arrays = []array{
	{"0.90", "--metadata=0.90 --level=1 -n 2", extFiles, 2, true, nil},
	{"1.0", "--metadata=1.0 --level=1 -n 2 --bitmap=internal", extFiles, 2, true, nil},
	{"1.1", "--metadata=1.1 --level=1 -n 2", extFiles, 2, true, nil},
	{"1.2", "--metadata=1.2 --level=1 -n 2 --bitmap=internal --name=web:root", extFiles, 2, true, nil},
	{"spare", "--metadata=1.2 --level=1 -n 1 -x 1 --force", extFiles, 2, true, []string{"ext4", "spare"}},
	{"raid5", "--metadata=1.2 --level=5 -n 3", "true", 3, true, []string{"RAID5", "RAID5", "RAID5"}},
	{"lvm", "--metadata=1.2 --level=1 -n 2", `vgcreate -qq vg0 /dev/md0; lvcreate -qq -y -L 24M -n root vg0; mke2fs -q /dev/vg0/root; vgchange -qq -an`, 2, true, nil},
}

// TestMD makes RAIDs with mdadm, copies what is in use of each disk onto random bytes, and has mdadm and e2fsck judge what came of it.
func TestMD(t *testing.T) {
	const size = 64 * mib
	dir := t.TempDir()
	var disks []string
	var script, check strings.Builder
	script.WriteString("modprobe -a raid1 raid456 dm-mod; echo 1000000 >/proc/sys/dev/raid/speed_limit_min\n" + `stop() { udevadm() { :; }; mdadm --wait /dev/md0 || true; sync; mdadm --stop -q /dev/md0; }
		export DM_DISABLE_UDEV=1 LVM_SUPPRESS_FD_WARNINGS=1; lvm() { command lvm "$@" --config 'devices{use_devicesfile=0} global{locking_dir="/run/lock"} backup{backup=0 archive=0}'; }
		for c in vgcreate lvcreate vgchange; do eval "$c() { lvm $c \"\$@\"; }"; done
	`)
	check.WriteString("modprobe raid1\n")
	for i, a := range arrays {
		var devs, assemble []string
		for n := range a.disks {
			path := filepath.Join(dir, fmt.Sprintf("%s-%d", a.name, n))
			noise(t, path, size, uint64(i*10+n))
			devs = append(devs, fmt.Sprintf("/dev/ubd%c", 'a'+len(disks)))
			disks = append(disks, path)
			assemble = devs
		}
		fmt.Fprintf(&script, "echo == %s; mdadm --create /dev/md0 --run --quiet %s %s; %s; stop\n", a.name, a.create, strings.Join(devs, " "), a.fill)
		if a.fill == extFiles {
			fmt.Fprintf(&check, "echo == %s; mdadm --assemble /dev/md0 --run %s; e2fsck -fn /dev/md0; mount -o ro /dev/md0 /run/mnt; (cd /run/mnt; sha256sum --quiet -c sums); umount /run/mnt; mdadm --stop /dev/md0\n",
				a.name, strings.Join(assemble, " "))
		}
	}
	uml.Run(t, script.String(), disks...)

	var copies []string
	for _, a := range arrays {
		for n := range a.disks {
			path := filepath.Join(dir, fmt.Sprintf("%s-%d", a.name, n))
			u, _ := mapFile(t, path)
			if u.Type != "linux_raid_member" || u.Method != manifest.MethodUsed {
				t.Errorf("%s: %s, %s: %s", path, u.Type, u.Method, u.Reason)
				continue
			}
			if id := strings.TrimSpace(shell(t, `blkid -p -o value -s UUID "$1"`, path)); id != u.UUID {
				t.Errorf("%s: UUID is %s, blkid says %s", path, u.UUID, id)
			}
			if label := strings.TrimSpace(shell(t, `blkid -p -o value -s LABEL "$1"`, path)); label != u.Label {
				t.Errorf("%s: label is %q, blkid says %q", path, u.Label, label)
			}
			notes := strings.Join(u.Notes, "\n")
			switch {
			case a.reason != nil && !strings.Contains(notes, a.reason[n]):
				t.Errorf("%s: nothing says %q: %s", path, a.reason[n], notes)
			case a.reason == nil && u.Used.Bytes() > 45*mib:
				t.Errorf("%s: %d MiB are in use: %s", path, u.Used.Bytes()/mib, notes)
			case a.reason != nil && a.reason[n] != "ext4" && u.Used.Bytes() != size:
				t.Errorf("%s: %d of %d bytes are captured: %s", path, u.Used.Bytes(), size, notes)
			}
			if a.name == "lvm" && !strings.Contains(notes, "vg0/root: ext2") {
				t.Errorf("%s: the logical volume was not found: %s", path, notes)
			}
			copies = append(copies, copyUsed(t, path, size, u.Used))
		}
	}
	uml.Run(t, check.String(), copies...)
	inner(t, filepath.Join(dir, "lvm-1"), size)
	flips(t, filepath.Join(dir, "1.2-0"), size, 4096)
	flips(t, filepath.Join(dir, "0.90-1"), size, size-64<<10)
}

// inner looks for a filesystem in a logical volume in a RAID.
func inner(t *testing.T, path string, size int64) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	list, err := Inside(f, size, "linux_raid_member")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, in := range list {
		names = append(names, in.Type)
		if in.Type == "ext2" {
			var magic [2]byte
			if _, err := f.ReadAt(magic[:], in.Spans[0].Off+1080); err != nil || magic != [2]byte{0x53, 0xef} {
				t.Errorf("no ext2 begins at %d", in.Spans[0].Off)
			}
		}
	}
	if strings.Join(names, " ") != "LVM2_member ext2" {
		t.Errorf("inside are %v", names)
	}
}

// flips damages a superblock, a bit at a time: what is captured must not become less.
func flips(t *testing.T, path string, size, at int64) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	good, err := Map(bytes.NewReader(b), size)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, uint64(at)))
	for range 60 {
		off, bit := at+rng.Int64N(300), byte(1)<<rng.IntN(8)
		b[off] ^= bit
		u, err := Map(bytes.NewReader(b), size)
		if err != nil {
			t.Fatal(err)
		}
		if left := extent.Subtract(good.Used, u.Used); len(left) > 0 && u.UUID == good.UUID && u.Type == good.Type {
			t.Errorf("%s: with a bit of byte %d flipped, %v is not captured", path, off, left)
		}
		b[off] ^= bit
	}
}

// noise makes a file of random bytes.
func noise(t *testing.T, path string, size int64, seed uint64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rng := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	if _, err := io.CopyN(f, rng, size); err != nil {
		t.Fatal(err)
	}
}

// copyUsed copies the used extents of a disk onto other random bytes.
func copyUsed(t *testing.T, path string, size int64, used extent.List) string {
	t.Helper()
	noise(t, path+".copy", size, 99)
	src, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.OpenFile(path+".copy", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	for _, e := range used {
		if _, err := io.Copy(io.NewOffsetWriter(dst, e.Off), io.NewSectionReader(src, e.Off, e.Len)); err != nil {
			t.Fatal(err)
		}
	}
	return path + ".copy"
}
