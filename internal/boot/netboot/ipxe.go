package netboot

import (
	"fmt"
	"strings"
	"time"

	"mimeo/internal/cluster/node"
)

// How often a script tries before it gives up and starts the machine anew. A management node that restarts is back
// within a minute; a rack that comes up after a power cut may be faster than the switches.
const (
	tries      = 10
	pause      = 3 * time.Second
	giveUpWait = 30 * time.Second
	waitRounds = 120 // of a wait script: then the machine starts anew and DHCP decides again
)

// ipxe renders for iPXE's shell: a word is what stands between blanks, there is no quoting, ${ } expands.
func (s Script) ipxe() (string, error) {
	b := &strings.Builder{}
	fmt.Fprintf(b, "#!ipxe\n# %s: %s\n# %s\n", clean(string(s.Node)), s.Decision, clean(s.Why))
	var err error
	switch s.Decision {
	case Stateless:
		err = s.ipxeStateless(b)
	case Disk:
		err = s.ipxeDisk(b)
	case Memtest:
		err = s.ipxeMemtest(b)
	case Wait:
		err = s.ipxeWait(b)
	default:
		err = fmt.Errorf("no script for decision %q", s.Decision)
	}
	return b.String(), err
}

// ipxeMemtest loads the test, which is a kernel to BIOS and a program to UEFI. It prints to the node's serial console,
// too.
func (s Script) ipxeMemtest(b *strings.Builder) error {
	if err := checkURL(s.Kernel); err != nil {
		return err
	}
	fmt.Fprintf(b, "echo Mimeo: %s tests its memory\n", clean(string(s.Node)))
	b.WriteString("set attempt:int32 0\n:load\nimgfree\n")
	fmt.Fprintf(b, "kernel --name memtest %s%s || goto failed\nboot || goto failed\n", s.Kernel, memtestConsole(s.Knobs.Console))
	writeRetry(b)
	return nil
}

// memtestConsole is memtest86+'s parameter for a serial console of the kernel: it knows ttyS0 to ttyS3 and a speed, and
// no parity.
func memtestConsole(console string) string {
	tty, rest, _ := strings.Cut(console, ",")
	if len(tty) != 5 || !strings.HasPrefix(tty, "ttyS") || tty[4] < '0' || tty[4] > '3' {
		return ""
	}
	speed := rest
	if i := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		speed = rest[:i]
	}
	if speed == "" {
		speed = "115200"
	}
	return " console=" + tty + "," + speed
}

// ipxeStateless loads kernel and initrd over HTTP. initrd=initrd.img names the file for kernels that start through
// their EFI stub; a BIOS kernel ignores it.
func (s Script) ipxeStateless(b *strings.Builder) error {
	for _, u := range []string{s.Kernel, s.Initrd} {
		if err := checkURL(u); err != nil {
			return err
		}
	}
	words, err := s.cmdline()
	if err != nil {
		return err
	}
	fmt.Fprintf(b, "echo Mimeo: %s boots its stateless image\n", clean(string(s.Node)))
	b.WriteString("set attempt:int32 0\n:load\nimgfree\n")
	fmt.Fprintf(b, "kernel --name vmlinuz %s initrd=initrd.img %s || goto failed\n", s.Kernel, strings.Join(words, " "))
	fmt.Fprintf(b, "initrd --name initrd.img %s || goto failed\n", s.Initrd)
	b.WriteString("boot || goto failed\n")
	writeRetry(b)
	return nil
}

// writeRetry is what follows where something could not be loaded.
func writeRetry(b *strings.Builder) {
	b.WriteString(":failed\ninc attempt\n")
	fmt.Fprintf(b, "iseq ${attempt} %d && goto givenup ||\n", tries)
	fmt.Fprintf(b, "echo Mimeo: loading failed (${attempt} of %d), next try in %d seconds\n", tries, int(pause.Seconds()))
	fmt.Fprintf(b, "sleep %d\ngoto load\n", int(pause.Seconds()))
	writeGiveUp(b)
}

// writeGiveUp ends a script that could not do its work: the machine starts anew, so that it never hangs. An old ROM
// without the reboot command leaves iPXE instead, with an error, on which every firmware goes on.
func writeGiveUp(b *strings.Builder) {
	fmt.Fprintf(b, ":givenup\necho Mimeo: giving up, this machine starts anew in %d seconds\n", int(giveUpWait.Seconds()))
	fmt.Fprintf(b, "sleep %d\nreboot || exit 1\n", int(giveUpWait.Seconds()))
}

// ipxeDisk hands over to the node's disk, as measured on the firmwares of docs/firmware.md. In UEFI a plain exit stops
// in the setup menu, so it is always "exit 1", on which the firmware tries its next boot entry.
func (s Script) ipxeDisk(b *strings.Builder) error {
	fmt.Fprintf(b, "echo Mimeo: %s boots from its disk\n", clean(string(s.Node)))
	exit := false
	switch s.Knobs.DiskBoot {
	case "", "sanboot":
	case "exit":
		exit = true
	default:
		return fmt.Errorf("knob disk_boot is %q, not sanboot or exit", s.Knobs.DiskBoot)
	}
	switch s.Firmware {
	case node.BIOS:
		// sanboot that fails returns and falls to exit, and the BIOS takes its next device; after exit iPXE is gone.
		if !exit {
			b.WriteString("sanboot --no-describe --drive 0x80 || echo Mimeo: no boot from drive 0x80, leaving it to the BIOS\n")
		}
		b.WriteString("exit\n")
	case node.UEFI, node.UEFIHTTP:
		if !exit {
			paths, err := s.diskLoaders()
			if err != nil {
				return err
			}
			for _, p := range paths {
				fmt.Fprintf(b, "sanboot --no-describe --drive 0 --filename %s || echo Mimeo: no boot from %s\n", p, p)
			}
		}
		b.WriteString("exit 1\n")
	default:
		return fmt.Errorf("no way from iPXE to the disk of firmware %q", s.Firmware)
	}
	return nil
}

// diskLoaders are the paths on the EFI system partition to try, in order.
func (s Script) diskLoaders() ([]string, error) {
	removable := `\EFI\BOOT\BOOTX64.EFI`
	if s.Arch == node.ARM64 {
		removable = `\EFI\BOOT\BOOTAA64.EFI`
	}
	if s.DiskLoader == "" {
		return []string{removable}, nil
	}
	if err := CheckDiskLoader(s.DiskLoader); err != nil {
		return nil, err
	}
	if strings.EqualFold(s.DiskLoader, removable) {
		return []string{removable}, nil
	}
	return []string{s.DiskLoader, removable}, nil
}

// CheckDiskLoader accepts \DIR\...\FILE of plain characters: neither iPXE nor GRUB can quote blanks in it.
func CheckDiskLoader(p string) error {
	if len(p) < 2 || len(p) > 200 || p[0] != '\\' || strings.HasSuffix(p, `\`) {
		return fmt.Errorf(`boot entry %q is not a path like \EFI\BOOT\BOOTX64.EFI`, p)
	}
	for _, r := range p {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune(`\._-`, r):
		default:
			return fmt.Errorf("boot entry %q holds the character %q", p, r)
		}
	}
	return nil
}

// ipxeWait asks for the script again and again, then starts the machine anew.
func (s Script) ipxeWait(b *strings.Builder) error {
	if err := checkURL(s.Again); err != nil {
		return err
	}
	after := s.After
	if after <= 0 {
		after = 5 * time.Second
	}
	secs := max(1, int(after.Seconds()))
	fmt.Fprintf(b, "set round:int32 0\n:again\necho Mimeo: the server asks %s to wait\nsleep %d\n", clean(string(s.Node)), secs)
	fmt.Fprintf(b, "chain --replace %s ||\ninc round\niseq ${round} %d || goto again\n", s.Again, waitRounds)
	writeGiveUp(b)
	return nil
}

// Autoexec is autoexec.ipxe: what an iPXE loaded by UEFI reads from the folder it came from, before its banner and
// before DHCP. It gets an address on the card that it was loaded from and goes on with the script of that card's node.
// It always asks by DHCP: the address that the firmware got is set already, but the card is not open.
// The same text serves every node. base is the boot server as the node reaches it.
func Autoexec(base string) (string, error) {
	if err := checkURL(base); err != nil {
		return "", fmt.Errorf("render %s: %w", FileAutoexec, err)
	}
	b := &strings.Builder{}
	b.WriteString("#!ipxe\nset attempt:int32 0\n:again\n")
	b.WriteString("dhcp || goto failed\n")
	fmt.Fprintf(b, "chain --replace %s%s%s/${netX/mac:hexhyp}?platform=${platform}&buildarch=${buildarch} || goto failed\n",
		base, PathScripts, KindIPXE)
	b.WriteString(":failed\ninc attempt\n")
	fmt.Fprintf(b, "iseq ${attempt} %d && goto givenup ||\n", tries)
	fmt.Fprintf(b, "echo Mimeo: no boot script (${attempt} of %d), next try in %d seconds\n", tries, int(pause.Seconds()))
	fmt.Fprintf(b, "sleep %d\ngoto again\n", int(pause.Seconds()))
	writeGiveUp(b)
	return b.String(), nil
}
