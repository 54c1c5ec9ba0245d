package trial

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"mimeo/internal/cluster/api"
)

// program is what an amd64 image is tried with.
const program = "qemu-system-x86_64"

// firmwares are where distributions keep OVMF: its code, and an empty store of variables.
var firmwares = [][2]string{
	{"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"}, // Debian, Ubuntu
	{"/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"},
	{"/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"}, // Fedora and its relatives
	{"/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"},
}

// machine returns the arguments of QEMU for a virtual machine whose files are in work. Whatever is in the image, it reaches no
// network (restrict=on) and starts no program (-sandbox); what it writes goes to a file that has no name (snapshot=on).
func machine(o Options, accel, work string) ([]string, error) {
	cpu := "max,-erms" // the processor copies faster by itself, QEMU does not: it takes one byte after the other
	if accel == "kvm" {
		cpu = "host"
	}
	disk, card := "ide-hd,bus=ide.0", "e1000e"
	switch {
	case o.Bus == "virtio":
		disk, card = "virtio-blk-pci", "virtio-net-pci"
	case o.Bus == "nvme", o.SectorSize == 4096: // AHCI knows no such sectors
		disk = "nvme,serial=trial"
	}
	disk += ",drive=disk,bootindex=1"
	if o.SectorSize == 4096 {
		disk += ",logical_block_size=4096,physical_block_size=4096"
	}
	args := []string{"-nodefaults", "-no-user-config", "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-name", "mimeo-boot-test", "-machine", "q35,accel=" + accel, "-cpu", cpu, "-smp", strconv.Itoa(o.CPUs), "-m", strconv.Itoa(o.Memory),
		"-no-shutdown", "-display", "none", "-vga", "std", "-boot", "strict=on", "-rtc", "base=utc",
		"-chardev", "stdio,id=serial,signal=off", "-serial", "chardev:serial", "-qmp", "unix:" + filepath.Join(work, "qmp") + ",server=on,wait=off",
		"-drive", "if=none,id=disk,format=raw,snapshot=on,cache=unsafe,file=" + o.Disk, "-device", disk,
		"-netdev", "user,id=net,restrict=on", "-device", card + ",netdev=net,romfile=", "-device", "virtio-rng-pci"}
	if o.Firmware != "uefi" {
		return args, nil
	}
	for _, f := range firmwares {
		b, err := os.ReadFile(f[1])
		if _, cerr := os.Stat(f[0]); err != nil || cerr != nil {
			continue
		}
		vars := filepath.Join(work, "vars")
		if err := os.WriteFile(vars, b, 0o600); err != nil {
			return nil, err
		}
		return append(args, "-drive", "if=pflash,format=raw,readonly=on,file="+f[0], "-drive", "if=pflash,format=raw,file="+vars), nil
	}
	return nil, &api.Error{Code: "refused", Message: "there is no UEFI firmware for virtual machines here", Hint: "install the package ovmf"}
}

// canRun says whether this machine can try images at all.
func canRun() error {
	if _, err := exec.LookPath(program); err != nil {
		return &api.Error{Code: "refused", Message: fmt.Sprintf("there is no %s here", program), Hint: "install the package qemu-system-x86"}
	}
	return nil
}

// kvm tells whether the processor can run the machine itself.
func kvm() bool {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	f.Close()
	return true
}
