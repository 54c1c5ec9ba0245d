package systems

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mimeo/internal/imaging/uml"
	"mimeo/internal/manage/ready"
)

// TestGRUB installs a system's GRUB by the ready postscript onto a disk that has none, and lets the firmware of virtual
// machines start it.
func TestGRUB(t *testing.T) {
	t.Parallel()
	cache, err := filepath.Abs("../../build/out/cache")
	must(t, err)
	work, err := os.MkdirTemp("/var/tmp", "mimeo-grub-")
	must(t, err)
	defer os.RemoveAll(work)
	root, disk := filepath.Join(work, "root"), filepath.Join(work, "disk")
	must(t, os.Mkdir(root, 0o755))
	must(t, find(t, "grub").Unpack(t.Context(), cache, root))
	r, ok := ready.Get("grub")
	if !ok {
		t.Fatal("no script")
	}
	must(t, os.WriteFile(filepath.Join(root, "script"), r.Content, 0o755))
	// GRUB says on the serial port that it has found its own menu.
	must(t, os.WriteFile(filepath.Join(root, "etc/grub.d/06_test"), []byte("#!/bin/sh\necho 'serial --unit=0 --speed=115200; terminal_output serial; echo GRUB-AND-MENU; sleep 600'\n"), 0o755))
	must(t, os.WriteFile(filepath.Join(root, "etc/default/grub"), []byte("GRUB_DISTRIBUTOR=Debian\n"), 0o644))
	must(t, os.WriteFile(filepath.Join(root, "etc/fstab"), []byte("UUID=6D1E-0C1A /boot/efi vfat umask=0077 0 1\n"), 0o644))
	must(t, os.MkdirAll(filepath.Join(root, "boot/efi"), 0o755))
	must(t, sh(t.Context(), `truncate -s 700M "$2"; sgdisk -og -n 1:1M:+1M -t 1:ef02 -n 2:2M:+40M -t 2:ef00 -n 3:42M:0 -t 3:8304 "$2" >/dev/null
truncate -s 40M "$3/esp"; mkfs.vfat -F 32 -s 1 -i 6D1E0C1A "$3/esp" >/dev/null; mmd -i "$3/esp" ::EFI ::EFI/BOOT; echo old | mcopy -i "$3/esp" - ::EFI/BOOT/BOOTX64.EFI
mke2fs -q -t ext4 -d "$1" "$3/fs" 657M; dd if="$3/esp" of="$2" bs=1M seek=2 conv=notrunc,sparse status=none; dd if="$3/fs" of="$2" bs=1M seek=42 conv=notrunc,sparse status=none; rm "$3/fs" "$3/esp"`, root, disk, work))

	// As the agent does it. GRUB does not know the names that this kernel's disks have: they get those of virtual disks.
	out := uml.Run(t, `
modprobe vfat; modprobe nls_cp437; modprobe nls_ascii; modprobe nls_iso8859-1 || true
for n in "" 1 2 3; do mknod /dev/vda$n b $(stat -c '0x%t 0x%T' /dev/ubda$n); done
mkdir r; mount /dev/vda3 r; mount /dev/vda2 r/boot/efi
mount -t proc proc r/proc; mount -t sysfs sys r/sys; mount --bind /dev r/dev; mount -t tmpfs run r/run
run() { env -i PATH=$PATH ARCH=amd64 "$@" chroot r /script; }
run FIRMWARE=uefi DISK=/dev/vda; run FIRMWARE=bios DISK=/dev/vda; run FIRMWARE=bios DISK=/dev/vda
! run FIRMWARE=openfirmware DISK=/dev/vda || exit 1
! run FIRMWARE=bios DISK=/dev/nope || exit 1
umount r/boot/efi
! run FIRMWARE=uefi DISK=/dev/vda || exit 1
umount -l r
`, disk)
	for _, want := range []string{"grub: ready for uefi on /dev/vda", "grub: ready for bios on /dev/vda", "grub: the deployed system has no GRUB for powerpc-ieee1275", "grub: there is no disk '/dev/nope' here", "grub: no EFI system partition is mounted"} {
		if !strings.Contains(out, want) {
			t.Fatalf("want %q in\n%s", want, out)
		}
	}
	for _, firmware := range [][]string{nil, {"-drive", "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd", "-drive", "if=pflash,format=raw,snapshot=on,file=/usr/share/OVMF/OVMF_VARS_4M.fd"}} {
		boots(t, disk, firmware, "GRUB-AND-MENU")
	}
}

// boots starts a disk in a virtual machine until its serial port shows a text.
func boots(t *testing.T, disk string, firmware []string, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", append([]string{"-accel", "tcg", "-machine", "q35", "-m", "256", "-nodefaults", "-display", "none", "-serial", "stdio", "-nic", "none",
		"-drive", "file=" + disk + ",format=raw,if=virtio,snapshot=on"}, firmware...)...)
	pipe, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	var said strings.Builder
	buf := make([]byte, 4096)
	for !strings.Contains(said.String(), want) {
		n, err := pipe.Read(buf)
		said.Write(buf[:n])
		if err != nil {
			break
		}
	}
	cancel()
	cmd.Wait() // it was killed
	if !strings.Contains(said.String(), want) {
		t.Errorf("with %v it did not boot:\n%s", firmware, said.String())
	}
}
