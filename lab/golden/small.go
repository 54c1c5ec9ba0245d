package golden

import (
	"context"
	"os"
	"path/filepath"
)

// smallInit is process 1 of a small disk. It prints the marker, and what the firmware says of itself, and stays.
const smallInit = `#!/bin/busybox sh
boot=bios # proc, sys and dev come from the initrd
if [ -d /sys/firmware/efi ]; then
  boot=uefi
  insmod /lib/efivarfs.ko; mount -t efivarfs efivarfs /sys/firmware/efi/efivars
  [ "$(cat /sys/firmware/efi/efivars/SecureBoot-* | od -An -tu1 | tr -d ' ')" != 60001 ] || boot=secure
  efibootmgr -v
fi
echo "` + Marker + ` node=$(cat /etc/hostname) root=$(sed -n 's/ \/ ext4.*//p' /proc/mounts) id=$(cat /etc/machine-id) boot=$boot"
while :; do sleep 1000; done
`

// fillSmall makes a root with Debian's kernel and initrd, busybox and efibootmgr.
func fillSmall(ctx context.Context, root, work, tar string, _ Config) error {
	if err := sh(ctx, `set -e
cd "$1"; tar -xf "$2" --wildcards ./vmlinuz ./initrd.img ./boot './usr/lib/modules/*/efivarfs.ko' ./usr/lib/os-release
rm -f boot/System.map* boot/config*
mkdir -p bin sbin lib/x86_64-linux-gnu lib64 etc proc sys dev run tmp usr/bin var root mnt
mv usr/lib/modules/*/kernel/fs/efivarfs/efivarfs.ko lib/; rm -r usr/lib/modules
cp /bin/busybox bin/; cp /usr/bin/efibootmgr usr/bin/
ldd /usr/bin/efibootmgr | grep -o '/lib[^ ]*' | while read f; do cp -L "$f" ".$f"; done
for c in sh mount insmod od tr cat sed sleep ls echo; do ln -s busybox bin/$c; done
ln -s ../usr/lib/os-release etc/os-release
echo golden >etc/hostname; echo 0123456789abcdef0123456789abcdef >etc/machine-id
echo "UUID=`+RootUUID+` / ext4 defaults 0 1" >etc/fstab`, root, tar); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(root, "sbin/init"), []byte(smallInit), 0o755)
}
