package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

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
