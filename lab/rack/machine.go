package rack

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// Firmware is what a node has in place of an operating system until it has one, and the way by which it asks for one.
type Firmware string

// The firmwares.
const (
	BIOS     Firmware = "bios"      // SeaBIOS, with an iPXE ROM on the network card
	UEFIPXE  Firmware = "uefi-pxe"  // edk2 and its own PXE client
	UEFIHTTP Firmware = "uefi-http" // edk2 and its own HTTP client
	UEFISB   Firmware = "uefi-sb"   // as UEFIPXE, with Secure Boot enforced for Microsoft's keys

	UEFIHTTPSB Firmware = "uefi-http-sb" // as UEFIHTTP, with Secure Boot
)

const ovmf = "/usr/share/OVMF/"

// machine is the program that the node runs in, and its arguments.
func (n *Node) machine(nicIndex, diskIndex int) (program string, args []string, err error) {
	switch n.Arch {
	case "", "amd64":
		program, args, err = n.amd64(nicIndex)
	case "arm64":
		program, args, err = n.arm64(nicIndex)
	case "ppc64el":
		program, args, err = n.ppc64el(nicIndex)
	default:
		err = fmt.Errorf("the rack has no machine of architecture %q", n.Arch)
	}
	if err != nil {
		return "", nil, err
	}
	mem := n.Memory
	if mem == 0 {
		mem = 512
	}
	args = append(args, "-m", strconv.Itoa(mem),
		"-nodefaults", "-no-user-config", "-display", "none", "-name", n.Name,
		"-chardev", "socket,id=s0,path="+n.ConsolePath()+",server=on,wait=off,logfile="+n.Console+",logappend=on",
		"-serial", "chardev:s0",
		"-qmp", "unix:"+n.qmpPath()+",server=on,wait=off",
		"-netdev", "tap,id=n0,ifname="+n.Tap+",script=no,downscript=no",
		"-drive", "file="+n.Disk+",format=raw,if=none,id=d0,discard=unmap,detect-zeroes=unmap")
	disk := map[string]string{"": "virtio-blk-pci", "virtio": "virtio-blk-pci", "nvme": "nvme", "sata": "ide-hd", "scsi": "scsi-hd"}[n.Bus]
	if n.Bus == "scsi" {
		args = append(args, "-device", "virtio-scsi-pci")
	}
	args = append(args, "-device", fmt.Sprintf("%s,drive=d0,serial=%s,bootindex=%d", disk, n.Serial, diskIndex))
	if n.NoReboot {
		args = append(args, "-no-reboot")
	}
	return program, args, nil
}

// amd64 is what only such a machine has.
func (n *Node) amd64(nicIndex int) (program string, args []string, err error) {
	cpu, cpus, accel := "host", max(1, n.CPUs), n.Accel
	if accel != "kvm" {
		// One emulated processor: with two a kernel hung early in its start, once in some thirty boots. Without ERMS kernel and
		// programs copy by eight bytes: QEMU does one byte after the other where they leave it to the processor.
		accel, cpu, cpus = "tcg", "max,-erms", 1
	}
	board, nic := "q35,graphics=off", "virtio-net-pci"
	secure := n.Firmware == UEFISB || n.Firmware == UEFIHTTPSB
	if secure {
		board += ",smm=on" // so that the system cannot write the firmware's flash itself
	}
	if n.Firmware != BIOS && n.Firmware != "" {
		nic += ",romfile=" // an iPXE there would take the place of edk2's own clients
	}
	args = []string{"-accel", accel, "-machine", board, "-cpu", cpu, "-smp", strconv.Itoa(cpus),
		"-smbios", "type=1,manufacturer=Mimeo,product=Virtual Node,serial=" + n.Name,
		"-device", fmt.Sprintf("%s,netdev=n0,mac=%s,bootindex=%d", nic, n.MAC, nicIndex),
		"-device", "virtio-rng-pci"}
	if n.InBand {
		args = append(args, "-device", "ipmi-bmc-sim,id=inband", "-device", "isa-ipmi-kcs,bmc=inband")
	}
	code, vars := "OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"
	switch n.Firmware {
	case "", BIOS:
		return "qemu-system-x86_64", args, nil
	case UEFIPXE, UEFISB:
	case UEFIHTTP, UEFIHTTPSB:
		args = append(args, "-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=n")
	default:
		return "", nil, fmt.Errorf("the rack has no firmware %q for amd64", n.Firmware)
	}
	if secure {
		code, vars = "OVMF_CODE_4M.ms.fd", "OVMF_VARS_4M.ms.fd"
		args = append(args, "-global", "driver=cfi.pflash01,property=secure,value=on")
	}
	if err := keepVars(ovmf+vars, n.Vars()); err != nil {
		return "", nil, err
	}
	// Without IPv6 the firmware does not wait for it, and without its menu not for a key.
	return "qemu-system-x86_64", append(args, "-drive", "if=pflash,format=raw,unit=0,readonly=on,file="+ovmf+code,
		"-drive", "if=pflash,format=raw,unit=1,file="+n.Vars(),
		"-boot", "menu=on,splash-time=0", "-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n"), nil
}

// Vars is the file in which a UEFI firmware keeps its variables, boot entries among them. While the node is off it may
// be removed, and the node forgets all.
func (n *Node) Vars() string { return filepath.Join(n.dir, n.Name+".vars") }

// keepVars makes the firmware's memory of a node as it comes from the factory.
func keepVars(factory, path string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	b, err := os.ReadFile(factory)
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o644)
}
