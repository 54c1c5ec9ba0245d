package agent

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"mimeo/internal/agent/hwinfo"
	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/manifest"
)

func TestNFSOptions(t *testing.T) {
	for _, c := range []struct {
		m            api.Mount
		fstype, data string
		flags        uintptr
	}{
		{api.Mount{Source: "10.0.0.1:/postscripts", Options: "ro,vers=3,nolock,proto=tcp,port=4449,mountport=4449,mountproto=tcp,soft"},
			"nfs", "vers=3,nolock,proto=tcp,port=4449,mountport=4449,mountproto=tcp,soft,addr=10.0.0.1,mountaddr=10.0.0.1", unix.MS_RDONLY},
		{api.Mount{Source: "10.0.0.1:/x", Options: ""}, "nfs", "vers=3,addr=10.0.0.1,mountaddr=10.0.0.1", 0},
		{api.Mount{Source: "10.0.0.1:/x", Options: "defaults,_netdev, rw ,nfsvers=4.1,noatime,nosuid"}, "nfs4", "vers=4.1,addr=10.0.0.1", unix.MS_NOATIME | unix.MS_NOSUID},
		{api.Mount{Source: "[fd00::1]:/x", Options: "addr=fd00::1"}, "nfs", "addr=fd00::1,vers=3", 0},
		{api.Mount{Source: "localhost:/x", Options: "vers=3"}, "nfs", "vers=3,addr=127.0.0.1,mountaddr=127.0.0.1", 0},
	} {
		fstype, flags, data, err := nfsOptions(t.Context(), c.m)
		if err != nil || fstype != c.fstype || data != c.data || flags != c.flags {
			t.Errorf("%+v: %s %q %#x, %v", c.m, fstype, data, flags, err)
		}
	}
	for _, m := range []api.Mount{{Source: "10.0.0.1"}, {Source: ":/x"}, {Source: "/dev/sda1"}} {
		if _, _, _, err := nfsOptions(t.Context(), m); err == nil {
			t.Errorf("%+v was accepted", m)
		}
	}
	for _, m := range []api.Mount{{Source: "10.0.0.1:/x", Target: "relative"}, {Source: "10.0.0.1:/x", Target: "/"}, {Source: "10.0.0.1:/x", Target: "/a/.."}} {
		if err := mountNFS(t.Context(), m, t.Logf); err == nil || !strings.Contains(err.Error(), "target") {
			t.Errorf("%+v: %v", m, err)
		}
	}
}

func TestFstab(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	text := `# /etc/fstab
UUID=AAAA-1 /boot/efi vfat umask=0077 0 1
UUID="aaaa-2" / ext4 errors=remount-ro 0 1
/dev/disk/by-label/boot /boot ext4 defaults 0 2
PARTUUID=bbbb-4 /var xfs defaults 0 2
PARTLABEL=srv /srv ext4 defaults 0 2
/dev/sda5 /usr ext4 defaults 0 2
UUID=aaaa-9 none swap sw 0 0
short line
tmpfs /tmp tmpfs
`
	if err := os.WriteFile(filepath.Join(root, "etc/fstab"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	vols := []volume{
		{Volume: manifest.Volume{Partition: 1, UUID: "aaaa-1", Type: "vfat"}},
		{Volume: manifest.Volume{Partition: 2, UUID: "aaaa-2", Type: "ext4"}},
		{Volume: manifest.Volume{Partition: 3, UUID: "aaaa-3", Label: "boot", Type: "ext4"}},
		{Volume: manifest.Volume{Partition: 4, Type: "xfs"}, partUUID: "BBBB-4"},
		{Volume: manifest.Volume{Partition: 5, Type: "ext4"}, partName: "srv"},
	}
	got := map[string]int{}
	var order []string
	for _, f := range readFstab(root) {
		order = append(order, f.dir)
		if v, ok := f.find(vols); ok {
			got[f.dir] = v.Partition
			if f.wanted() != (f.dir != "/" && f.dir != "/srv") {
				t.Errorf("%s: wanted is %v", f.dir, f.wanted())
			}
		}
	}
	for dir, n := range map[string]int{"/boot/efi": 1, "/": 2, "/boot": 3, "/var": 4, "/srv": 5} {
		if got[dir] != n {
			t.Errorf("%s: partition %d, want %d", dir, got[dir], n)
		}
	}
	if len(got) != 5 {
		t.Errorf("found %v", got)
	}
	if o := strings.Join(order, " "); strings.Index(o, "/boot/efi") < strings.Index(o, "/boot ") {
		t.Errorf("order: %s", o)
	}
}

func TestLogicalNames(t *testing.T) {
	for source, want := range map[string]bool{
		"/dev/vg0/root": true, "/dev/mapper/vg0-root": true, "/dev/vg0/roo": false, "/dev/mapper/vg0-root-x": false, "/dev/mapper/vg0": false,
	} {
		if isLogical(source, "vg0/root") != want {
			t.Errorf("%s: %t", source, !want)
		}
	}
	if !isLogical("/dev/mapper/my--vg-a--b", "my-vg/a-b") || isLogical("/dev/mapper/my-vg-a-b", "my-vg/a-b") {
		t.Error("hyphens")
	}
}

// TestRootInLogicalVolume finds the deployed system's root in a logical volume, and writes to it.
func TestRootInLogicalVolume(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command("sh", "-euc", `export PATH=$PATH:/usr/sbin:/sbin LVM_SUPPRESS_FD_WARNINGS=1; cd "$1"; truncate -s 60M pv; dev=$(losetup -f --show pv); trap 'losetup -d $dev' EXIT
		run() { cmd=$1; shift; lvm "$cmd" --driverloaded n --config "backup{backup=0 archive=0} devices{use_devicesfile=0 filter=[\"a|^$dev\$|\",\"r|.*|\"]}" "$@" 2>/dev/null; }
		run pvcreate -q $dev; run vgcreate -q -s 1M vg0 $dev; run lvcreate -q -y -an -Zn -Wn -L 30M -n root vg0; run lvcreate -q -y -an -Zn -Wn -L 4M -n a vg0
		run lvcreate -q -y -an -Zn -Wn -L 4M -n b vg0; run lvextend -q -y -L 8M vg0/a
		mkdir -p tree/etc; echo ID=debian >tree/etc/os-release; echo "/dev/mapper/vg0-root / ext4 defaults 0 1" >tree/etc/fstab
		truncate -s 30M fs; mke2fs -q -F -t ext4 -d tree fs; dd if=fs of=pv bs=1M seek=1 conv=notrunc status=none
		truncate -s 70M disk; echo 'label: gpt
			start=2048, size=122880, type=lvm' | sfdisk -q disk; dd if=pv of=disk bs=1M seek=1 conv=notrunc status=none`, "sh", dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	d := hwinfo.Disk{Path: filepath.Join(dir, "disk"), Image: true}
	m := &manifest.Manifest{Volumes: []manifest.Volume{{Partition: 1, Off: 1 << 20, Len: 60 << 20, Type: "LVM2_member", Method: manifest.MethodUsed}}}
	vols, err := volumes(d, m)
	if err != nil || len(vols) != 4 || vols[1].logical != "vg0/root" || vols[1].Type != "ext4" || vols[2].logical != "vg0/a" || vols[3].logical != "vg0/b" {
		t.Fatalf("%+v, %v", vols, err)
	}
	// One in two pieces: what is written through its device is there when it is looked at.
	dev, detach, err := device(d, vols[2], false)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("sh", "-euc", `mkdir "$2/small"; echo in pieces >"$2/small/file"; mke2fs -q -F -b 1024 -d "$2/small" "$1"; sync "$1"; e2fsck -fn "$1"`, "sh", dev, dir).CombinedOutput()
	if err := errors.Join(err, detach()); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	at := t.TempDir()
	again, err := volumes(d, m)
	if err != nil || again[2].Type != "ext2" {
		t.Fatalf("%+v, %v", again, err)
	}
	look, err := mountVolume(d, again[2], at, true)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(at, "file"))
	if err := errors.Join(err, look()); err != nil || string(b) != "in pieces\n" {
		t.Fatalf("%q, %v", b, err)
	}
	undo, err := mountVolume(d, vols[1], at, false)
	if err != nil {
		t.Fatal(err)
	}
	fstab := readFstab(at)
	if v, ok := fstab[0].find(vols); len(fstab) != 1 || !ok || v.logical != "vg0/root" {
		t.Errorf("%+v", fstab)
	}
	werr := os.WriteFile(filepath.Join(at, "etc/hostname"), []byte("n02\n"), 0o644)
	if err := errors.Join(werr, undo()); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("sh", "-euc", `cd "$1"; dd if=disk of=fs bs=1M skip=2 count=30 status=none; e2fsck -fn fs >&2; debugfs -R "cat /etc/hostname" fs`, "sh", dir).Output(); err != nil || string(out) != "n02\n" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestBelowFollowsNoLink(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "a/b"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	if at, ok := below(root, "/a/b"); !ok || at != filepath.Join(root, "a/b") {
		t.Error(at, ok)
	}
	for _, d := range []string{"/link", "/link/ssh", "/missing", "/a/missing"} {
		if at, ok := below(root, d); ok {
			t.Errorf("%s: %s", d, at)
		}
	}
}

func TestLastLine(t *testing.T) {
	for in, want := range map[string]string{"": "", "one\n": "one", "a\nb\n\n": "b", strings.Repeat("x", 400): strings.Repeat("x", 300) + "…"} {
		if got := lastLine(in); got != want {
			t.Errorf("%q: got %q", in, got)
		}
	}
}
