// Package golden makes the disk of a golden node: a real Debian that boots by BIOS, by UEFI and with Secure Boot, made
// with Debian's own tools.
package golden

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// Layout of the disk, in MiB. Root is last, so that it can grow. A small disk has no swap and no data.
const (
	biosOff, biosLen = 1, 1
	espOff, espLen   = 2, 40 // FAT32, which has 65525 clusters at least
	swapOff, swapLen = 42, 86
	dataOff, dataLen = 128, 256
	rootOff          = 384
	smallOff         = 42 // of a small disk's root
)

// RootOff is where the root filesystem starts, in bytes.
const RootOff = rootOff << 20

// Identities of the golden disk's volumes, for tests to compare.
const (
	RootUUID = "6d1e0c1a-6f0b-4c55-9c1e-5f2f6f3b9a01"
	DataUUID = "6d1e0c1a-6f0b-4c55-9c1e-5f2f6f3b9a02"
	SwapUUID = "6d1e0c1a-6f0b-4c55-9c1e-5f2f6f3b9a03"
	ESPUUID  = "6D1E-0C1A"
	DiskGUID = "6D1E0C1A-6F0B-4C55-9C1E-5F2F6F3B9AFF"
	ESPGUID  = "6D1E0C1A-6F0B-4C55-9C1E-5F2F6F3B9AE5" // of the partition
)

// Marker is what the installed system prints on its serial console once it has come up, with key=value words behind.
const Marker = "MIMEO-LAB-UP"

const packages = "systemd-sysv,udev,dbus,linux-image-cloud-amd64,initramfs-tools,lz4,kmod,iproute2,openssh-server,e2fsprogs,attr,less,nano,perl,python3-minimal,gcc-12-base"

// Config says what to make.
type Config struct {
	Cache     string // folder for the root tree, made once
	SizeMiB   int    // of the disk; 0 means 3072, or 160 where it is small
	Small     bool   // Debian's loader, kernel and initrd and nothing else but a process 1 that prints the marker
	SSHPubKey string // who may sign in as root
	Log       func(string)
}

// Make writes a golden disk to path, which must not exist. Its root tree is kept in the cache for the next one.
func Make(ctx context.Context, path string, c Config) error {
	if c.SizeMiB == 0 {
		c.SizeMiB = 3072
		if c.Small {
			c.SizeMiB = 160
		}
	}
	if c.Log == nil {
		c.Log = func(string) {}
	}
	if err := os.MkdirAll(c.Cache, 0o755); err != nil {
		return err
	}
	tar, err := rootTar(ctx, c)
	if err != nil {
		return fmt.Errorf("make golden root: %w", err)
	}
	work, err := os.MkdirTemp(c.Cache, "work-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if err := assemble(ctx, path, work, tar, c); err != nil {
		os.Remove(path)
		return fmt.Errorf("make golden disk %s: %w", path, err)
	}
	return nil
}

// customise is run by mmdebstrap with the root's path as its first argument.
const customise = `set -eu
r="$1"
echo golden >"$r/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 golden\n' >"$r/etc/hosts"
cat >"$r/etc/fstab" <<F
UUID=` + RootUUID + ` / ext4 errors=remount-ro 0 1
UUID=` + DataUUID + ` /srv ext4 defaults 0 2
UUID=` + SwapUUID + ` none swap sw 0 0
F
mkdir -p "$r/etc/systemd/network"
printf '[Match]\nName=en* eth*\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n[DHCPv4]\nClientIdentifier=mac\n' >"$r/etc/systemd/network/lab.network"
cat >"$r/etc/systemd/system/lab-up.service" <<F
[Unit]
After=multi-user.target ssh.service
[Service]
Type=oneshot
# Through the kernel's log: a getty that starts hangs the terminal up, and what was just written to it is lost.
ExecStart=/bin/sh -c 'echo "<1>` + Marker + ` node=\$\$(cat /etc/hostname) root=\$\$(findmnt -no SOURCE /) id=\$\$(cat /etc/machine-id) size=\$\$(findmnt -bno SIZE /)" >/dev/kmsg'
[Install]
WantedBy=multi-user.target
F
printf 'virtio_pci\nvirtio_blk\nvirtio_scsi\nahci\nsd_mod\next4\n' >"$r/etc/initramfs-tools/modules"
sed -i 's/^MODULES=.*/MODULES=list/; s/^COMPRESS=.*/COMPRESS=lz4/' "$r/etc/initramfs-tools/initramfs.conf"
chroot "$r" update-initramfs -u >/dev/null
chroot "$r" systemctl enable --quiet systemd-networkd lab-up serial-getty@ttyS0
chroot "$r" systemctl disable --quiet apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer 2>/dev/null || true
chroot "$r" passwd -d root >/dev/null
`

// grubConfig is the system's own menu. In UEFI GRUB prints where the firmware does.
const grubConfig = `if [ "$grub_platform" = pc ]; then
  serial --unit=0 --speed=115200
  terminal_output serial
fi
set timeout=0
menuentry Debian {
  linux /vmlinuz root=UUID=` + RootUUID + ` ro console=ttyS0,115200 net.ifnames=1 quiet
  initrd /initrd.img
}
`

// making is held while something is made that stays in the cache.
var making sync.Mutex

func rootTar(ctx context.Context, c Config) (string, error) {
	making.Lock()
	defer making.Unlock()
	sum := sha256.Sum256([]byte(packages + customise))
	tar := filepath.Join(c.Cache, "golden-"+hex.EncodeToString(sum[:6])+".tar")
	if _, err := os.Stat(tar); err == nil {
		c.Log("golden root tree: from the cache")
		return tar, nil
	}
	c.Log("golden root tree: mmdebstrap, about a minute")
	hook := filepath.Join(c.Cache, "customise.sh")
	if err := os.WriteFile(hook, []byte(customise), 0o755); err != nil {
		return "", err
	}
	tmp := tar + ".tmp.tar"
	args := []string{"--mode=root", "--variant=minbase", "--include=" + packages,
		"--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
		"--customize-hook=sh " + hook + ` "$1"`, "bookworm", tmp}
	if err := quiet(exec.CommandContext(ctx, "mmdebstrap", args...)); err != nil {
		os.Remove(tmp)
		return "", err
	}
	return tar, os.Rename(tmp, tar)
}

func assemble(ctx context.Context, path, work, tar string, c Config) error {
	root := filepath.Join(work, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	c.Log("golden disk: unpack, add files")
	fill := fillRoot
	if c.Small {
		fill = fillSmall
	}
	if err := fill(ctx, root, work, tar, c); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(root, "boot/grub"), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(root, "boot/grub/grub.cfg"), []byte(grubConfig), 0o644); err != nil {
		return err
	}
	c.Log("golden disk: partition table, filesystems, boot loaders")
	at := rootOff
	more := fmt.Sprintf("-n 3:%dM:+%dM -t 3:8200 -c 3:swap -n 4:%dM:+%dM -t 4:8300 -c 4:data -n 5:%dM:0 -t 5:8304 -c 5:root", swapOff, swapLen, dataOff, dataLen, rootOff)
	if c.Small {
		at, more = smallOff, fmt.Sprintf("-n 3:%dM:0 -t 3:8304 -c 3:root", smallOff)
	}
	script := fmt.Sprintf(`set -e
disk="$1"; root="$2"; work="$3"
put() { dd if="$work/fs" of="$disk" bs=1M seek="$1" conv=notrunc,sparse status=none; rm "$work/fs"; }
fs() { # UUID LABEL DIR OFFSET-MiB LENGTH-MiB
  mke2fs -q -t ext4 -U "$1" -L "$2" -d "$3" -E hash_seed="$1" "$work/fs" "$5"M
  put "$4"
}
truncate -s %[1]dM "$disk"
sgdisk -og -U %[2]s -n 1:%[3]dM:+%[4]dM -t 1:ef02 -c 1:bios -n 2:%[5]dM:+%[6]dM -t 2:ef00 -c 2:esp -u 2:%[7]s %[8]s "$disk" >/dev/null
fs %[9]s root "$root" %[10]d %[11]d
truncate -s %[6]dM "$work/fs"; mkfs.vfat -F 32 -s 1 -i %[12]s -n ESP "$work/fs" >/dev/null
cat >"$work/esp.cfg" <<F
search --no-floppy --fs-uuid --set=root %[9]s
set prefix=(\$root)/boot/grub
configfile (\$root)/boot/grub/grub.cfg
F
mmd -i "$work/fs" ::EFI ::EFI/BOOT ::EFI/debian
for at in EFI/BOOT/BOOTX64.EFI EFI/debian/shimx64.efi; do
  mcopy -i "$work/fs" /usr/lib/shim/shimx64.efi.signed ::$at
  mcopy -i "$work/fs" /usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed ::${at%%/*}/grubx64.efi
done
mcopy -i "$work/fs" "$work/esp.cfg" ::EFI/debian/grub.cfg
put %[5]d
head -n 2 "$work/esp.cfg" >"$work/early.cfg"
grub-mkimage -O i386-pc -o "$work/core.img" -c "$work/early.cfg" -p /boot/grub biosdisk part_gpt ext2 normal linux search search_fs_uuid configfile echo serial terminal test
`, c.SizeMiB, DiskGUID, biosOff, biosLen, espOff, espLen, ESPGUID, more, RootUUID, at, c.SizeMiB-at-1, strings.ReplaceAll(ESPUUID, "-", ""))
	if !c.Small {
		script += fmt.Sprintf(`fs %s data "$work/data" %d %d
truncate -s %[4]dM "$work/fs"; mkswap -q -U %[5]s -L swap "$work/fs" >/dev/null; put %[6]d
`, DataUUID, dataOff, dataLen, swapLen, SwapUUID, swapOff)
	}
	if err := sh(ctx, script, path, root, work); err != nil {
		return err
	}
	return installGRUB(path, filepath.Join(work, "core.img"))
}

// fillRoot makes the whole Debian in root, and beside it the data partition's files.
func fillRoot(ctx context.Context, root, work, tar string, c Config) error {
	data := filepath.Join(work, "data")
	if err := os.Mkdir(data, 0o755); err != nil {
		return err
	}
	if err := sh(ctx, `tar -C "$1" --numeric-owner --xattrs --xattrs-include='*' -xf "$2"`, root, tar); err != nil {
		return err
	}
	if c.SSHPubKey != "" {
		if err := os.MkdirAll(filepath.Join(root, "root/.ssh"), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(root, "root/.ssh/authorized_keys"), []byte(c.SSHPubKey), 0o600); err != nil {
			return err
		}
	}
	// What a careless tool loses: hard links, sparse files, extended attributes, odd owners and modes, odd names.
	return sh(ctx, `set -e; cd "$1"; mkdir -p lab/deep/er; echo one >lab/one; ln lab/one lab/one-again; ln -s ../lab/one lab/soft
truncate -s 64M lab/sparse; printf tail | dd of=lab/sparse bs=1 seek=40000000 conv=notrunc status=none
setfattr -n user.mimeo -v kept lab/one; chown 1234:4321 lab/deep; chmod 2751 lab/deep; mkfifo lab/fifo; mknod lab/null c 1 3
printf x >"lab/deep/name with
newline"; i=0; while [ $i -lt 400 ]; do echo "file $i" >lab/deep/er/$i; i=$((i+1)); done
cp -a "$2/usr/share/perl" perl; cp -a "$2/usr/lib/x86_64-linux-gnu/perl-base" perl-base`, data, root)
}

// installGRUB does by hand what grub-install does on a machine of its own: boot.img to the MBR, core.img to the BIOS
// boot partition, each told where the next lies (GRUB manual, "Images"; offsets as in boot.S and diskboot.S).
func installGRUB(disk, corePath string) error {
	boot, err := os.ReadFile("/usr/lib/grub/i386-pc/boot.img")
	if err != nil {
		return err
	}
	core, err := os.ReadFile(corePath)
	if err != nil {
		return err
	}
	if len(core) > biosLen<<20 || len(boot) != 512 {
		return fmt.Errorf("GRUB images have unexpected sizes %d and %d", len(boot), len(core))
	}
	const lba = biosOff << 20 / 512
	binary.LittleEndian.PutUint64(boot[0x5c:], lba)
	copy(boot[0x66:], []byte{0x90, 0x90})
	binary.LittleEndian.PutUint64(core[500:], lba+1)
	binary.LittleEndian.PutUint16(core[508:], uint16((len(core)+511)/512-1))
	binary.LittleEndian.PutUint16(core[510:], 0x820)
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(boot[:440], 0); err != nil {
		return err
	}
	if _, err := f.WriteAt(core, biosOff<<20); err != nil {
		return err
	}
	return f.Sync()
}

func sh(ctx context.Context, script string, args ...string) error {
	return quiet(exec.CommandContext(ctx, "sh", append([]string{"-c", script, "sh"}, args...)...))
}

// quiet runs a command and shows what it printed only where it fails.
func quiet(cmd *exec.Cmd) error {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(out.String())
		if len(text) > 4000 {
			text = text[len(text)-4000:]
		}
		return fmt.Errorf("%s: %w:\n%s", filepath.Base(cmd.Path), err, text)
	}
	return nil
}
