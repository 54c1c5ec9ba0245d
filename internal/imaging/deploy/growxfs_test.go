package deploy

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mimeo/internal/imaging/capture"
	"mimeo/internal/imaging/store/mem"
	"mimeo/internal/imaging/uml"
)

// TestGrowXFSInPieces grows an XFS, which grows while it is mounted, in a logical volume that comes to lie in two pieces.
func TestGrowXFSInPieces(t *testing.T) {
	dir := t.TempDir()
	command(t, "", "sh", "-euc", `cd "$1"; truncate -s 500M disk; truncate -s 440M pv; dev=$(losetup -f --show pv); trap 'losetup -d $dev' EXIT
		run() { cmd=$1; shift; lvm "$cmd" --driverloaded n --config "backup{backup=0 archive=0} devices{use_devicesfile=0 filter=[\"a|^$dev\$|\",\"r|.*|\"]}" "$@" 2>/dev/null; }
		run pvcreate -q $dev; run vgcreate -q -s 1M vg0 $dev
		run lvcreate -q -y -an -Zn -Wn -L 320M -n root vg0; run lvcreate -q -y -an -Zn -Wn -L 10M -n swap vg0
		truncate -s 320M root; mkfs.xfs -q root; truncate -s 10M swap; mkswap -q swap
		dd if=root of=$dev bs=1M seek=1 conv=notrunc status=none; dd if=swap of=$dev bs=1M seek=321 conv=notrunc status=none; sync
		printf 'label: gpt\nstart=31MiB,size=440MiB,type=lvm\n' | sfdisk -q disk; dd if=$dev of=disk bs=1M seek=31 conv=notrunc status=none`, "sh", dir)
	st := mem.New()
	m, _ := captured(t, filepath.Join(dir, "disk"), st, capture.Options{})
	to := imageFile(t, 900, "")
	res := deployed(t, to, st, m, Options{Grow: GrowLast})
	g, err := GrowVolume(t.Context(), to, 900<<20, m, res.Table, GrowLast)
	if want := []Grown{{"vg0/root (xfs)", 320 << 20, 857 << 20}}; err != nil || !slices.Equal(g.Grown, want) {
		t.Fatalf("%+v, %v", g, err)
	}
	out := uml.Run(t, `modprobe dm-mod; vgchange -ay --sysinit --config 'devices{use_devicesfile=0}' 2>/dev/null; vgmknodes 2>/dev/null || true; test $(blockdev --getsize64 /dev/vg0/root) = $((857 << 20))
		xfs_repair -n /dev/vg0/root 2>&1; xfs_db -r -c 'sb 0' -c 'p dblocks' /dev/vg0/root; blkid -p /dev/vg0/swap`, to)
	if !strings.Contains(out, "dblocks = 219392") || !strings.Contains(out, `TYPE="swap"`) {
		t.Error(out)
	}
}
