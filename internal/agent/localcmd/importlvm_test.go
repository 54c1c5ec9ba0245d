package localcmd_test

import (
	"path/filepath"
	"strings"
	"testing"

	"mimeo/internal/imaging/uml"
)

// clonezillaLVM makes a folder as Clonezilla does of a disk with a boot partition and a volume group of three volumes, one of
// them in two pieces: $1 is the folder, $2 a tree of files.
const clonezillaLVM = `mkdir "$1"; cd "$1"; W=$(mktemp -d); trap 'rm -rf "$W"' EXIT
	truncate -s 260M "$W/disk"; printf 'label: gpt\nsize=40M\ntype=lvm\n' | sfdisk -q "$W/disk"
	sfdisk -d "$W/disk" | sed "s,$W/disk,/dev/sda," >sda-pt.sf; echo sda >disk; echo "sda1 sda2" >parts; : >Info-packages.txt
	size=$(sed -n 's/^.dev.sda2 .*size= *\([0-9]*\),.*/\1/p' sda-pt.sf); truncate -s $((size*512)) "$W/pv"
	dev=$(losetup -f --show "$W/pv"); trap 'losetup -d $dev; rm -rf "$W"' EXIT
	run() { cmd=$1; shift; LVM_SUPPRESS_FD_WARNINGS=1 lvm "$cmd" --driverloaded n --config "backup{backup=0 archive=0} devices{use_devicesfile=0 filter=[\"a|^$dev\$|\",\"r|.*|\"]}" "$@"; }
	run pvcreate -q $dev >/dev/null; run vgcreate -q -s 4M vg0 $dev >/dev/null
	new() { run lvcreate -q -y -an -Zn -Wn -L "$1" -n "$2" vg0 >/dev/null; }
	new 60M root; new 48M home-data; new 16M swap; run lvextend -q -y -L +24M vg0/root >/dev/null
	run vgcfgbackup -f "$PWD/lvm_vg0.conf" vg0 >/dev/null
	echo "vg0 /dev/sda2 $(run pvs --noheadings -o pv_uuid $dev | tr -d ' ')" >lvm_vg_dev.list
	run lvs --noheadings -o lv_name,lv_uuid vg0 | tr -s ' ' >"$1.uuids"
	printf '/dev/vg0/root  Linux rev 1.0 ext4 filesystem data\n/dev/vg0/home-data  Linux rev 1.0 ext4 filesystem data\n/dev/vg0/swap  Linux swap file, 4k page size\n' >lvm_logv.list
	printf 'UUID="1b2c3d4e-0000-4000-8000-00000000cafe"\nLABEL="paging"\n' >swappt-vg0-swap.info
	save() { truncate -s "$1" "$W/fs"; mke2fs -q -F -t ext4 -d "$2" "$W/fs"; partclone.ext4 -q -L /dev/null -c -s "$W/fs" -o - | zstd -q | split -a 2 -b 1M - "$3.ext4-ptcl-img.zst."; rm "$W/fs"; }
	save 40M "$2" sda1; save 84M "$2" vg0-root; save 48M "$2" vg0-home-data`

// TestImportLVM imports a volume group from a folder of Clonezilla. LVM2, e2fsck and the files judge what is deployed.
func TestImportLVM(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, tree := golden(t, 6)
	store, folder := "dir:"+filepath.Join(dir, "store"), filepath.Join(dir, "img")
	sh(t, clonezillaLVM, folder, tree)
	var c captured
	ok(t, &c, "import", folder, "--image", "lab", "--store", store, "--work-dir", dir)
	out, pv := filepath.Join(dir, "out.img"), filepath.Join(dir, "pv.img")
	ok(t, new(deployed), "deploy", "lab", out, "--store", store)
	sh(t, `start=$(sfdisk -d "$1" | sed -n 's/.*2 : start= *\([0-9]*\),.*/\1/p'); size=$(sfdisk -d "$1" | sed -n 's/.*2 : .*size= *\([0-9]*\),.*/\1/p'); dd if="$1" of="$2" bs=512 skip=$start count=$size conv=sparse status=none`, out, pv)
	said := uml.Run(t, `modprobe dm-mod; export DM_DISABLE_UDEV=1 LVM_SUPPRESS_FD_WARNINGS=1
		lvm() { command lvm "$@" --config 'devices{use_devicesfile=0} global{locking_dir="/run/lock"} backup{backup=0 archive=0}'; }
		lvm pvck /dev/ubda >/run/log 2>&1 || { cat /run/log; exit 1; }
		lvm vgchange -qq -ay; echo "== uuids"; lvm lvs --noheadings -o lv_name,lv_uuid vg0 | tr -s ' '; echo "== pv"; lvm pvs --noheadings -o pv_uuid | tr -d ' '; echo ==
		for v in root home-data; do e2fsck -fn /dev/vg0/$v >/run/log 2>&1 || { cat /run/log; exit 1; }; mount -o ro,noload /dev/vg0/$v /run/mnt; rm -rf /run/got; mkdir /run/got; (cd /run/mnt; find . -type f -exec sha256sum {} +) | sort -k2 >/run/$v; umount /run/mnt; done
		echo "== root"; cat /run/root; echo "== home"; cat /run/home-data; echo "== swap"; blkid -p -o export /dev/vg0/swap; echo ==; lvm vgchange -qq -an`, pv)
	parts := map[string]string{}
	for _, p := range strings.Split(said, "== ") {
		name, text, _ := strings.Cut(p, "\n")
		parts[name], _, _ = strings.Cut(text, "==\n")
	}
	want := strings.ReplaceAll(tool(t, "", "sh", "-c", `cd "$1"; find . -type f -exec sha256sum {} + | sort -k2`, "sh", tree), tree, "")
	if uuids := tool(t, "", "cat", folder+".uuids"); parts["uuids"] != uuids || strings.Count(uuids, "\n") != 3 {
		t.Errorf("%s\nwant\n%s", parts["uuids"], uuids)
	}
	if parts["root"] != want || parts["home"] != want || strings.Count(want, "\n") < 6 {
		t.Errorf("%s\n%s\nwant\n%s", parts["root"], parts["home"], want)
	}
	if id := strings.Fields(tool(t, "", "cat", filepath.Join(folder, "lvm_vg_dev.list")))[2]; !strings.Contains(parts["pv"], id) {
		t.Errorf("%s is not %s", parts["pv"], id)
	}
	if !strings.Contains(parts["swap"], "1b2c3d4e-0000-4000-8000-00000000cafe") || !strings.Contains(parts["swap"], "paging") {
		t.Error(parts["swap"])
	}
	// What is missing or makes no sense.
	for i, tc := range []struct{ script, says string }{
		{`rm lvm_vg0.conf`, "lvm_vg0.conf"},
		{`rm vg0-root.*`, "no image of the logical volume vg0/root"},
		{`sed -i 's/pe_start = .*/pe_start = 99999999/' lvm_vg0.conf`, "pe_start"},
		{`sed -i 's,vg0 /dev/sda2,vg0 /dev/sda7,' lvm_vg_dev.list`, "sda7"},
		{`sed -i 's,^vg0,../x,' lvm_vg_dev.list`, "lvm_vg_dev.list"},
		{`sed -i 's/extent_count = 21/extent_count = 9/' lvm_vg0.conf; sed -i 's/stripe_count = 1/stripe_count = 2/; s/"pv0", 0$/"pv0", 0, "pv1", 0/' lvm_vg0.conf`, "vg0/root"},
		{`head -c 900 lvm_vg0.conf >x; mv x lvm_vg0.conf`, "lvm_vg0.conf"},
	} {
		bad := filepath.Join(dir, "bad")
		sh(t, `rm -rf "$2"; cp -r "$1" "$2"; cd "$2"; `+tc.script, folder, bad)
		if r := run(t, "import", bad, "--image", "bad", "--store", store, "--work-dir", dir); r.code == 0 || !strings.Contains(r.err, tc.says) || !strings.Contains(r.err, "hint: ") {
			t.Errorf("%d: %s: %+v", i, tc.script, r)
		}
	}
	fails(t, 3, []string{"export", "bad", filepath.Join(dir, "bad.raw"), "--store", store}, "bad")
}
