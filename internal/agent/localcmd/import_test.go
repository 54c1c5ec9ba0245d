package localcmd_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// sh runs a script, with its arguments from $1 on.
func sh(t *testing.T, script string, args ...string) string {
	t.Helper()
	return tool(t, "", "sh", append([]string{"-euc", script, "sh"}, args...)...)
}

// sameDisk compares what an image holds with a disk, by qemu-img.
func sameDisk(t *testing.T, store, image, disk string) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out.raw")
	var e map[string]any
	ok(t, &e, "export", image, out, "--store", store)
	tool(t, "", "qemu-img", "compare", "-f", "raw", "-F", "raw", out, disk)
}

// TestImportDisks takes disks of virtual machines: what is imported is what was exported, and a second import of the
// same disk costs nothing.
func TestImportDisks(t *testing.T) {
	t.Parallel()
	disk, _ := golden(t, 12)
	dir := t.TempDir()
	store := "dir:" + filepath.Join(dir, "store")
	var c captured
	ok(t, &c, "capture", disk, "--store", store, "--image", "golden")
	deployedTo := filepath.Join(dir, "deployed.img")
	var d deployed
	ok(t, &d, "deploy", "golden", deployedTo, "--store", store)
	for _, format := range []string{"raw", "qcow2", "vmdk", "vhdx", "vpc", "vdi"} {
		path := filepath.Join(dir, "disk-"+format)
		// vpc pads the disk to whole cylinders.
		tool(t, "", "qemu-img", "convert", "-f", "raw", "-O", format, deployedTo, path)
		var got captured
		ok(t, &got, "import", path, "--image", "from-"+format, "--store", store, "--work-dir", dir)
		if format != "vpc" {
			sameDisk(t, store, "from-"+format, deployedTo)
			if got.New != 0 {
				t.Errorf("%s: %d bytes are new", format, got.New)
			}
		}
		if len(got.Warnings) == 0 || !strings.HasPrefix(got.Warnings[0], "imported from") {
			t.Errorf("%s: %q", format, got.Warnings)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "mimeo-import-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}

	// An image that lies on another file is refused: it could be any of this machine.
	layer := filepath.Join(dir, "layer.qcow2")
	tool(t, "", "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", deployedTo, layer)
	fails(t, 4, []string{"import", layer, "--image", "x", "--store", store, "--work-dir", dir}, "layer", "convert")
	odd := filepath.Join(dir, "odd")
	if err := os.WriteFile(odd, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	fails(t, 4, []string{"import", odd, "--image", "x", "--store", store}, "cannot be told")
	fails(t, 4, []string{"import", dir, "--image", "x", "--store", store}, "no image that is known")
	fails(t, 3, []string{"import", filepath.Join(dir, "none"), "--image", "x", "--store", store}, "none")
	fails(t, 2, []string{"import", odd, "--store", store}, "--image")
}

// TestImportPartclone takes images of one filesystem, as they are and compressed, and refuses what is cut off.
func TestImportPartclone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store := "dir:" + filepath.Join(dir, "store")
	fs, tree := filepath.Join(dir, "fs"), filepath.Join(dir, "tree")
	sh(t, `mkdir "$2"; for i in 1 2 3 4 5; do head -c 300000 /dev/urandom >"$2/$i"; done
		truncate -s 50M "$1"; mke2fs -q -F -t ext4 -d "$2" "$1"`, fs, tree)
	image := filepath.Join(dir, "fs.ptcl")
	sh(t, `partclone.ext4 -q -F -c -s "$1" -o "$2" -L /dev/null
		gzip -k "$2"; zstd -q "$2"; xz -k "$2"; bzip2 -k "$2"; lz4 -q "$2" "$2.lz4"; truncate -s -50000 -c "$2.gz"; cp "$2.gz" "$2.short.gz"; rm "$2.gz"; gzip -k "$2"`, fs, image)
	for i, name := range []string{image, image + ".gz", image + ".zst", image + ".xz", image + ".bz2", image + ".lz4"} {
		var c captured
		ok(t, &c, "import", name, "--image", "fs", "--store", store, "--work-dir", dir)
		if c.DiskSize != 50<<20 || c.Used < 1_500_000 || c.Used > 20<<20 || i > 0 && c.New != 0 {
			t.Errorf("%s: %+v", name, c)
		}
		if w := strings.Join(c.Warnings, "\n"); !strings.Contains(w, "no partition table") {
			t.Errorf("%s: %s", name, w)
		}
	}
	out := filepath.Join(dir, "out.raw")
	var e map[string]any
	ok(t, &e, "export", "fs", out, "--store", store)
	tool(t, "", "e2fsck", "-fn", out)
	sh(t, `mkdir -p "$3"; mount -o loop,ro "$1" "$3"; trap 'umount "$3"' EXIT; diff -r -x lost+found "$2" "$3"`, out, tree, filepath.Join(dir, "mnt"))
	fails(t, 1, []string{"import", image + ".short.gz", "--image", "bad", "--store", store, "--work-dir", dir}, "no revision")
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-100_000] ^= 4
	if err := os.WriteFile(image, b, 0o600); err != nil {
		t.Fatal(err)
	}
	fails(t, 1, []string{"import", image, "--image", "bad", "--store", store, "--work-dir", dir}, "damaged")
	fails(t, 3, []string{"export", "bad", filepath.Join(dir, "bad.raw"), "--store", store}, "bad")
}

// TestImportPartimage takes volumes of partimage.
func TestImportPartimage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store := "dir:" + filepath.Join(dir, "store")
	sh(t, `cd "$1"; mkdir tree; for i in 1 2 3 4 5; do head -c 700000 /dev/urandom >tree/$i; done
		truncate -s 50M fs; mke2fs -q -F -t ext3 -d tree fs; d=$(losetup -f --show fs); trap 'losetup -d $d' EXIT
		partimage -z1 -V1 -o -d -b -B gui=no -f3 save $d "$1/image" >/dev/null 2>&1; [ -e image.002 ]`, dir)
	image := filepath.Join(dir, "image.000")
	var c captured
	ok(t, &c, "import", image, "--image", "fs", "--store", store, "--work-dir", dir)
	if w := strings.Join(c.Warnings, "\n"); c.DiskSize != 50<<20 || !strings.Contains(w, "ext3fs") {
		t.Errorf("%+v", c)
	}
	out := filepath.Join(dir, "out.raw")
	var e map[string]any
	ok(t, &e, "export", "fs", out, "--store", store)
	tool(t, "", "e2fsck", "-fn", out)
	sh(t, `mkdir "$2/mnt"; mount -o loop,ro "$1" "$2/mnt"; trap 'umount "$2/mnt"' EXIT; diff -r -x lost+found "$2/tree" "$2/mnt"`, out, dir)
	sh(t, `rm "$1/image.001"`, dir)
	fails(t, 1, []string{"import", image, "--image", "bad", "--store", store, "--work-dir", dir}, "001", "no revision")
}

// disks are what Clonezilla and FOG keep in a folder, by the programs that they run. $1 is the disk, $2 the folder.
const (
	// parts DISK NAME makes a loop device of each partition, at $T/NAME and its number; but not of an extended one. What
	// was written to one is in the file only when it is flushed: a device that somebody else looks at is detached later.
	parts = `T=$(mktemp -d); trap 'umount "$T"/m* 2>/dev/null || true; for l in "$T"/*[0-9]; do blockdev --flushbufs "$l"; losetup -d "$(readlink "$l")"; done; rm -r "$T"' EXIT
		parts() { sfdisk -d "$1" | grep -v 'type=5' | sed -n 's/^[^:]*[^0-9]\([0-9]*\) : start= *\([0-9]*\), size= *\([0-9]*\),.*/\1 \2 \3/p' | while read i s n; do
			ln -s "$(losetup -f --show -o $((s*512)) --sizelimit $((n*512)) "$1")" "$T/$2$i"; done; }
		`
	makeDisk = parts + `truncate -s 200M "$1"
		if [ "$2" = gpt ]; then
			printf 'label: gpt\nsize=1M, type=21686148-6449-6E6F-744E-656564454649\nsize=40M, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=esp\nsize=60M, name=root\nsize=30M, type=S\nsize=20M, name=data\n' | sfdisk -q "$1"
			set -- "$1" 2 3 4 5
		else
			printf 'label: dos\nsize=41M, type=c, bootable\nsize=60M\ntype=5\nsize=30M, type=82\nsize=20M, type=7\n' | sfdisk -q "$1"
			head -c 440 /dev/urandom | dd of="$1" conv=notrunc status=none
			head -c 100000 /dev/urandom | dd of="$1" bs=512 seek=1 conv=notrunc status=none
			set -- "$1" 1 2 5 6
		fi
		parts "$1" p; d=$T/
		for i in 1 2 3 4 5; do head -c 300000 /dev/urandom >"$1.$i"; done
		mkfs.vfat -I "${d}p$2" >/dev/null; mcopy -i "${d}p$2" "$1".[1-5] ::
		mke2fs -q -F -t ext4 "${d}p$3"; for i in 1 2 3 4 5; do debugfs -w -R "write $1.$i $i" "${d}p$3" 2>/dev/null; done
		mkswap -q -L paging -U 11111111-2222-4333-8444-555555555555 "${d}p$4"
		mkntfs -q -F -Q "${d}p$5" >/dev/null; ntfscp -f -q "${d}p$5" "$1.1" one
		rm "$1".[1-5]`
	clonezilla = parts + `mkdir "$2"; parts "$1" p; d=$1
		cd "$2"; echo sda >disk; touch clonezilla-img
		sfdisk -d $d | sed "s,$d,/dev/sda," >sda-pt.sf
		parted -s $d unit s print | sed "s,$d,/dev/sda," >sda-pt.parted
		dd if=$d of=sda-mbr bs=512 count=1 status=none
		p= ; for part in $T/p*; do
			i=${part#$T/p}; kind=$(blkid -p -s TYPE -o value $part || true)
			case $kind in
			swap) echo "UUID=\"$(blkid -p -s UUID -o value $part)\"" >swappt-sda$i.info; echo "LABEL=\"$(blkid -p -s LABEL -o value $part)\"" >>swappt-sda$i.info;;
			ext4) partclone.ext4 -q -F -c -s $part -o - -L /dev/null | gzip -c | split -a 2 -b 700000 - sda$i.ext4-ptcl-img.gz.;;
			vfat) partclone.fat -q -F -c -s $part -o - -L /dev/null | zstd -q -c >sda$i.vfat-ptcl-img.zst;;
			ntfs) partclone.ntfs -q -F -c -s $part -o - -L /dev/null | xz -c | split -a 2 -b 1000000 - sda$i.ntfs-ptcl-img.xz.;;
			*) [ $(blockdev --getsize64 $part) -lt 100000 ] || dd if=$part bs=64k status=none | gzip -c >sda$i.dd-img.aa;;
			esac
			[ $(blockdev --getsize64 $part) -lt 100000 ] || p="$p sda$i"
		done; echo $p >parts
		if [ "$3" = gpt ]; then dd if=$d of=sda-gpt-1st bs=512 count=34 status=none; dd if=$d of=sda-gpt-2nd bs=512 skip=$(($(stat -c %s $d)/512-33)) status=none
		else dd if=$d of=sda-hidden-data-after-mbr bs=512 skip=1 count=2047 status=none; fi`
	fog = parts + `mkdir "$2"; parts "$1" p; d=$1
		cd "$2"; sfdisk -d $d | sed "s,$d,/dev/sda," >d1.partitions
		if [ "$3" = gpt ]; then sgdisk -b d1.mbr $d >/dev/null; else dd if=$d of=d1.mbr bs=512 count=2048 status=none; fi
		for part in $T/p*; do
			i=${part#$T/p}; kind=$(blkid -p -s TYPE -o value $part || true)
			case $kind in
			swap) echo "$i $(blkid -p -s UUID -o value $part)" >>d1.original.swapuuids;;
			ext4) partclone.ext4 -q -F -c -s $part -o - -L /dev/null | zstd -q -c >d1p$i.img;;
			vfat) partclone.fat -q -F -c -s $part -o - -L /dev/null | gzip -c | split -a 3 -d -b 900000 - d1p$i.img.;;
			ntfs) partclone.ntfs -q -F -c -s $part -o - -L /dev/null >d1p$i.img;;
			*) [ $(blockdev --getsize64 $part) -lt 100000 ] || partclone.imager -q -c -s $part -o d1p$i.img -L /dev/null;;
			esac
		done`
)

// TestImportFolders takes folders as Clonezilla and FOG make them. The disk that comes of it has the same table, and
// each partition the same content, where that is in use.
func TestImportFolders(t *testing.T) {
	for _, table := range []string{"gpt", "dos"} {
		for name, script := range map[string]string{"clonezilla": clonezilla, "fog": fog} {
			t.Run(table+" "+name, func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				store := "dir:" + filepath.Join(dir, "store")
				disk := filepath.Join(dir, "disk.img")
				sh(t, makeDisk, disk, table)
				folder := filepath.Join(dir, name)
				sh(t, script, disk, folder, table)
				var got captured
				ok(t, &got, "import", folder, "--image", name, "--store", store, "--work-dir", dir)
				out := filepath.Join(t.TempDir(), "out.img")
				var e map[string]any
				ok(t, &e, "export", name, out, "--store", store)
				if a, b := layoutOf(t, disk), layoutOf(t, out); a != b {
					t.Errorf("the table was\n%s\nand is\n%s", a, b)
				}
				// What partclone leaves out is not in use; the checks of the filesystems and their files tell.
				sh(t, parts+`parts "$1" a; parts "$2" b; mkdir "$T/ma" "$T/mb"
					for a in $T/a*; do i=${a#$T/a}; b=$T/b$i; kind=$(blkid -p -s TYPE -o value $a || true)
						# FOG keeps no label of a swap.
						[ "$(blkid -p -o export $a | grep -v -e DEVNAME -e LABEL=paging)" = "$(blkid -p -o export $b | grep -v -e DEVNAME -e LABEL=paging)" ] || { echo "partition $i: blkid differs"; blkid -p $a $b; exit 1; }
						case $kind in
						ext4) e2fsck -fn $b >/dev/null; mount -o ro $a "$T/ma"; mount -o ro $b "$T/mb"; diff -r "$T/ma" "$T/mb"; umount "$T/ma" "$T/mb"; [ -e "$T" ];;
						ntfs) ntfscat -f $a one >"$T/one"; ntfscat -f $b one | cmp - "$T/one"; rm "$T/one";;
						vfat) fsck.fat -n $b >/dev/null; for f in 1 2 3 4 5; do mtype -i $a ::disk.img.$f >"$T/x"; mtype -i $b ::disk.img.$f | cmp - "$T/x"; done; rm "$T/x";;
						swap) ;;
						*) cmp $a $b;;
						esac
					done; rmdir "$T/ma" "$T/mb"`, disk, out)
				if table == "dos" && name == "clonezilla" {
					// the gap's boot loader, and the boot code
					tool(t, "", "cmp", "-n", "100000", disk, out)
				}
				if table == "dos" && name == "fog" {
					tool(t, "", "cmp", "-n", "446", disk, out)
				}
			})
		}
	}
}

// layoutOf is the partition table, as sfdisk tells it.
func layoutOf(t *testing.T, disk string) string {
	t.Helper()
	out, err := exec.Command("sfdisk", "--json", disk).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(out), disk, "DISK")
}

// TestImportDamagedFolders refuses folders of which something is missing or wrong.
func TestImportDamagedFolders(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store := "dir:" + filepath.Join(dir, "store")
	disk := filepath.Join(dir, "disk.img")
	sh(t, makeDisk, disk, "gpt")
	whole := filepath.Join(dir, "whole")
	sh(t, clonezilla, disk, whole, "gpt")
	for i, c := range []struct {
		script string
		code   int
		says   string
	}{
		{`rm sda3.*.aa`, 4, "missing"},
		{`rm "$(ls sda3.* | tail -n 1)"`, 1, "no revision"},
		{`rm "$(ls sda3.* | sed -n 2p)"`, 4, "missing"},
		{`rm sda-pt.sf`, 4, "table"},
		{`sed -i 's/size= *[0-9]*/size=100/' sda-pt.sf`, 1, "partition"},
		{`sed -i 's/start= *[0-9]*/start=9223372036854775807/' sda-pt.sf`, 4, "sda-pt.sf"},
		{`echo ../../etc >disk`, 4, "name of a disk"},
		{`touch lvm_vg_dev.list`, 4, "names no LVM"},
		{`cp sda2.vfat-ptcl-img.zst sda2.ntfs-ptcl-img.zst`, 4, "several"},
		{`echo sda sdb >disk`, 4, "--disk sda"},
		{`f=$(ls sda3.*.ab); printf x | dd of="$f" bs=1 seek=5000 conv=notrunc status=none`, 1, "no revision"},
	} {
		folder := filepath.Join(dir, fmt.Sprint("damaged", i))
		sh(t, `cp -r "$1" "$2"; cd "$2"; `+c.script, whole, folder)
		fails(t, c.code, []string{"import", folder, "--image", "bad", "--store", store, "--work-dir", dir}, c.says)
		os.RemoveAll(folder)
	}
	r := run(t, "export", "bad", filepath.Join(dir, "bad.raw"), "--store", store)
	if r.code != 3 {
		t.Errorf("exit %d: a revision was made", r.code)
	}
}
