package golden

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Foreign says where the parts of a disk for another architecture come from.
type Foreign struct {
	Arch  string // arm64 or ppc64el
	Image string // folder of a stateless image for it: its kernel, and its modules in rootimg
	Apt   string // apt.conf by which Debian's packages for it are fetched
	Cache string // folder in which they are kept
}

// loader is how such a disk starts Debian's kernel: shim and the signed GRUB on an ESP, or GRUB in a PReP partition.
var loader = map[string]struct{ packages, partition, console, make string }{
	"arm64": {"shim-signed grub-efi-arm64-signed", "ef00", "ttyAMA0", `
truncate -s 39M "$work/boot"; mkfs.vfat -F 32 -s 1 -i 6D1E0C1A -n ESP "$work/boot" >/dev/null
mmd -i "$work/boot" ::EFI ::EFI/BOOT ::EFI/debian
for at in BOOT/BOOTAA64.EFI debian/shimaa64.efi; do
  mcopy -i "$work/boot" "$debs/usr/lib/shim/shimaa64.efi.signed" ::EFI/$at
  mcopy -i "$work/boot" "$debs/usr/lib/grub/arm64-efi-signed/grubaa64.efi.signed" ::EFI/${at%%/*}/grubaa64.efi
done
mcopy -i "$work/boot" "$work/early.cfg" ::EFI/debian/grub.cfg`},
	"ppc64el": {"grub-ieee1275-bin", "4100", "hvc0", `
grub-mkimage -O powerpc-ieee1275 -d "$debs/usr/lib/grub/powerpc-ieee1275" -o "$work/boot" -c "$work/early.cfg" -p /boot/grub \
  part_gpt ext2 normal linux search search_fs_uuid configfile echo test`},
}

// MakeForeign writes a disk of 256 MiB for another architecture to path, without running a program of that
// architecture: Debian's loader, Debian's kernel in an ext4 filesystem, and the marker program as initrd and as process 1.
func MakeForeign(ctx context.Context, path string, f Foreign) error {
	if err := makeForeign(ctx, path, f); err != nil {
		os.Remove(path)
		return fmt.Errorf("make golden disk %s for %s: %w", path, f.Arch, err)
	}
	return nil
}

func makeForeign(ctx context.Context, path string, f Foreign) error {
	l, ok := loader[f.Arch]
	if !ok {
		return fmt.Errorf("there is no loader for %q", f.Arch)
	}
	debs, err := f.packages(ctx, l.packages)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp(f.Cache, "work-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if err := f.initrd(ctx, work); err != nil {
		return err
	}
	return sh(ctx, fmt.Sprintf(`set -e
disk="$1" work="$2" debs="$3" image="$4"
mkdir -p "$work/root/boot/grub" "$work/root/sbin" "$work/root/etc" "$work/root/proc" "$work/root/sys" "$work/root/dev" "$work/root/usr/lib" "$work/root/root"
cp "$work/init" "$work/root/sbin/init"; cp "$image/vmlinuz" "$work/initrd" "$work/root/boot/"
echo golden >"$work/root/etc/hostname"; echo 0123456789abcdef0123456789abcdef >"$work/root/etc/machine-id"
echo "UUID=%[1]s / ext4 defaults 0 1" >"$work/root/etc/fstab"; echo ID=debian >"$work/root/etc/os-release"
cat >"$work/root/boot/grub/grub.cfg" <<F
linux /boot/vmlinuz root=UUID=%[1]s console=%[2]s quiet
initrd /boot/initrd
boot
F
cat >"$work/early.cfg" <<F
search --no-floppy --fs-uuid --set=root %[1]s
set prefix=(\$root)/boot/grub
configfile (\$root)/boot/grub/grub.cfg
F
%[3]s
truncate -s 256M "$disk"
sgdisk -og -U %[4]s -n 1:1M:+39M -t 1:%[5]s -n 2:40M:0 -t 2:8300 -c 2:root "$disk" >/dev/null
dd if="$work/boot" of="$disk" bs=1M seek=1 conv=notrunc,sparse status=none
mke2fs -q -t ext4 -U %[1]s -L root -d "$work/root" "$work/fs" 215M
dd if="$work/fs" of="$disk" bs=1M seek=40 conv=notrunc,sparse status=none
`, RootUUID, l.console, l.make, DiskGUID, l.partition), path, work, debs, f.Image)
}

// packages fetches Debian packages of the architecture and unpacks them; nothing of theirs is run.
func (f Foreign) packages(ctx context.Context, names string) (string, error) {
	making.Lock()
	defer making.Unlock()
	dir := filepath.Join(f.Cache, "debs-"+f.Arch)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	tmp, err := os.MkdirTemp(f.Cache, "debs-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"download", "-q"}, strings.Fields(names)...)...)
	cmd.Dir, cmd.Env = tmp, append(os.Environ(), "APT_CONFIG="+f.Apt)
	if err := quiet(cmd); err != nil {
		return "", err
	}
	if err := sh(ctx, `set -e; cd "$1"; for d in *.deb; do dpkg-deb -x "$d" x; done`, tmp); err != nil {
		return "", err
	}
	return dir, os.Rename(filepath.Join(tmp, "x"), dir)
}

// initrd builds the marker program and an initrd of it, with the drivers that reach the root filesystem.
func (f Foreign) initrd(ctx context.Context, work string) error {
	goarch := f.Arch
	if f.Arch == "ppc64el" {
		goarch = "ppc64le"
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(work, "init"), "mimeo/lab/golden/marker")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+goarch)
	if err := quiet(cmd); err != nil {
		return err
	}
	if err := sh(ctx, `unsquashfs -no-progress -d "$1/img" "$2/rootimg" usr/lib/modules >/dev/null`, work, f.Image); err != nil {
		return err
	}
	dep, err := filepath.Glob(filepath.Join(work, "img/usr/lib/modules/*/modules.dep"))
	if err != nil || len(dep) != 1 {
		return fmt.Errorf("rootimg has %d kernels, %v", len(dep), err)
	}
	text, err := os.ReadFile(dep[0])
	if err != nil {
		return err
	}
	// What a module needs stands behind it, the first to load last.
	var load []string
	for _, want := range []string{"virtio_pci", "virtio_blk", "crc32c_generic", "ext4"} {
		for line := range strings.Lines(string(text)) {
			name, needs, _ := strings.Cut(line, ":")
			if filepath.Base(name) != want+".ko" {
				continue
			}
			all := append([]string{name}, strings.Fields(needs)...)
			slices.Reverse(all)
			for _, m := range all {
				if !slices.Contains(load, m) {
					load = append(load, m)
				}
			}
		}
	}
	lib := filepath.Join(work, "initrd.d/lib")
	if err := os.MkdirAll(lib, 0o755); err != nil {
		return err
	}
	var names strings.Builder
	for _, m := range load {
		fmt.Fprintln(&names, filepath.Base(m))
		if err := os.Link(filepath.Join(filepath.Dir(dep[0]), m), filepath.Join(lib, filepath.Base(m))); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(work, "initrd.d/modules"), []byte(names.String()), 0o644); err != nil {
		return err
	}
	return sh(ctx, `set -e; cd "$1/initrd.d"; mkdir dev proc sys root; mknod dev/console c 5 1; cp ../init init; find . | cpio -o -H newc --quiet >../initrd; rm -r ../img`, work)
}
