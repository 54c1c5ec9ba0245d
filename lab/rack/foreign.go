package rack

import (
	"fmt"
)

// OpenFirmware is SLOF, the Open Firmware of QEMU's pseries machine.
const OpenFirmware Firmware = "openfirmware"

const aavmf = "/usr/share/AAVMF/"

// arm64 is what only such a machine has. It is always emulated.
func (n *Node) arm64(nicIndex int) (program string, args []string, err error) {
	args = []string{"-accel", "tcg", "-machine", "virt", "-cpu", "cortex-a72", "-smp", "1",
		"-smbios", "type=1,manufacturer=Mimeo,product=Virtual Node,serial=" + n.Name,
		"-device", fmt.Sprintf("virtio-net-pci,romfile=,netdev=n0,mac=%s,bootindex=%d", n.MAC, nicIndex),
		"-device", "virtio-rng-pci"}
	code, vars := "AAVMF_CODE.fd", "AAVMF_VARS.fd"
	switch n.Firmware {
	case UEFIPXE:
	case UEFIHTTP:
		args = append(args, "-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=n")
	default:
		return "", nil, fmt.Errorf("the rack has no firmware %q for arm64", n.Firmware)
	}
	if err := keepVars(aavmf+vars, n.Vars()); err != nil {
		return "", nil, err
	}
	return "qemu-system-aarch64", append(args, "-drive", "if=pflash,format=raw,unit=0,readonly=on,file="+aavmf+code,
		"-drive", "if=pflash,format=raw,unit=1,file="+n.Vars(),
		"-boot", "menu=on,splash-time=0", "-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n"), nil
}

// ppc64el is what only such a machine has. It is always emulated, and what of its processor's protections QEMU does not
// emulate is off.
func (n *Node) ppc64el(nicIndex int) (program string, args []string, err error) {
	if n.Firmware != OpenFirmware {
		return "", nil, fmt.Errorf("the rack has no firmware %q for ppc64el", n.Firmware)
	}
	return "qemu-system-ppc64", []string{"-accel", "tcg", "-machine", "pseries,cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken,cap-ccf-assist=off",
		"-cpu", "power9", "-smp", "1", "-device", fmt.Sprintf("spapr-vlan,netdev=n0,mac=%s,bootindex=%d", n.MAC, nicIndex)}, nil
}
