package agent

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mimeo/internal/agent/hwinfo"
	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/uml"
)

// insideLinux names the disk on which TestRAIDInside works, in the Linux that TestRootInRAID starts.
const insideLinux = "MIMEO_TEST_RAID"

// TestRootInRAID gives a root in a RAID1 its identity, of which only one disk was deployed; where the other is still there, it is not
// taken for an equal one. mdadm makes the array and judges.
func TestRootInRAID(t *testing.T) {
	dir, err := os.MkdirTemp("/var/tmp", "mimeo-raid-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("sh", "-euc", `cp "$1" "$2/agent.test"; cd "$2"; for d in a b c d; do truncate -s 80M $d; echo 'start=2048, size=161792, type=fd' | sfdisk -q $d; done`, "sh", self, dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	disks := []string{filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "c"), filepath.Join(dir, "d")}
	const tools = `modprobe -a raid1 loop dm-mod; export MDADM_NO_UDEV=1 DM_DISABLE_UDEV=1 LVM_SUPPRESS_FD_WARNINGS=1
		lvm() { command lvm "$@" --config 'devices{use_devicesfile=0} global{locking_dir="/run/lock"} backup{backup=0 archive=0}'; }
		fill() { mount "$1" /run/mnt; mkdir /run/mnt/etc; echo ID=debian >/run/mnt/etc/os-release; echo golden >/run/mnt/etc/hostname; umount /run/mnt; }
	`
	uml.Run(t, tools+`mdadm --create /dev/md0 --run --quiet --metadata=1.2 --level=1 -n 2 /dev/ubda1 /dev/ubdb1; mke2fs -q -t ext4 /dev/md0; fill /dev/md0; mdadm --wait /dev/md0 || true; mdadm --stop -q /dev/md0
		mdadm --create /dev/md0 --run --quiet --metadata=1.0 --level=1 -n 2 /dev/ubdc1 /dev/ubdd1; lvm vgcreate -qq vg0 /dev/md0; lvm lvcreate -qq -y -L 40M -n root vg0; mke2fs -q -t ext4 /dev/vg0/root; fill /dev/vg0/root
		lvm vgchange -qq -an; mdadm --wait /dev/md0 || true; mdadm --stop -q /dev/md0`, disks...)
	out := uml.Run(t, tools+`for d in a c; do `+insideLinux+`=/dev/ubd$d `+filepath.Join(dir, "agent.test")+` -test.run 'TestRAIDInside$' -test.v -test.timeout 20s; done
		! [ -e /dev/md100 ] || ! grep -q md100 /proc/mdstat
		mdadm --assemble /dev/md0 --run /dev/ubda1 /dev/ubdb1; mdadm --detail /dev/md0 | grep -E 'Working Devices|/dev/ubd'; e2fsck -fn /dev/md0
		mount -o ro /dev/md0 /run/mnt; echo "1: $(cat /run/mnt/etc/hostname)"; umount /run/mnt; mdadm --stop -q /dev/md0
		mdadm --assemble /dev/md0 --run /dev/ubdc1 /dev/ubdd1; mdadm --detail /dev/md0 | grep -E 'Working Devices|/dev/ubd'; lvm vgchange -qq -ay; e2fsck -fn /dev/vg0/root
		mount -o ro /dev/vg0/root /run/mnt; echo "2: $(cat /run/mnt/etc/hostname)"; umount /run/mnt; lvm vgchange -qq -an; mdadm --stop -q /dev/md0`, disks...)
	for _, want := range []string{"1: n02\n", "2: n02\n", "/dev/ubda1", "/dev/ubdc1"} {
		if !strings.Contains(out, want) {
			t.Errorf("nothing of %q", want)
		}
	}
	if strings.Count(out, "Working Devices : 1") != 2 || strings.Contains(out, "active sync   /dev/ubdb1") || strings.Contains(out, "active sync   /dev/ubdd1") {
		t.Error("the other disk is taken for an equal one")
	}
	if t.Failed() {
		t.Log(out)
	}
}

// TestRAIDInside is the part of TestRootInRAID that the agent does; alone it does nothing.
func TestRAIDInside(t *testing.T) {
	path := os.Getenv(insideLinux)
	if path == "" {
		return
	}
	const off, n = 1 << 20, 161792 * 512
	d := hwinfo.Disk{Path: path}
	d.Name, d.Size = filepath.Base(path), 80<<20
	m := &manifest.Manifest{Disk: manifest.Disk{Size: 80 << 20, SectorSize: 512}, Volumes: []manifest.Volume{{Partition: 1, Off: off, Len: n, Type: "linux_raid_member", Method: manifest.MethodUsed}}}
	j := &job{agent: &agent{}, disk: d, task: api.Task{Node: "n02", Grow: "none"}}
	j.report = &reporter{log: t.Logf, nudge: make(chan struct{}, 1), since: time.Now(), took: map[api.Phase]int64{}, news: make(chan struct{})}
	if err := j.finish(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	io.WriteString(os.Stdout, strings.Join(j.report.p.Log, "\n")+"\n")
}
