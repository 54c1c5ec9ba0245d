package netboot

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// openFirmware renders a program in Forth, which Open Firmware runs where a file that it has loaded starts with a
// backslash and a blank (IEEE 1275-1994, section 7.4.3.2, go). When it ends, or where what it boots cannot be loaded,
// the firmware takes the next device of its boot list. For a stateless image it is remarks alone, for people: what the
// firmware gets then is PowerImage.
func (s Script) openFirmware() (string, error) {
	b := &strings.Builder{}
	fmt.Fprintf(b, "\\ %s: %s\n\\ %s\n", clean(string(s.Node)), s.Decision, clean(s.Why))
	say := func(format string, args ...any) {
		fmt.Fprintf(b, "cr .\" Mimeo: %s\" cr\n", fmt.Sprintf(format, args...))
	}
	switch s.Decision {
	case Disk:
		say("%s boots from its disk", clean(string(s.Node)))
		switch s.Knobs.DiskBoot {
		case "":
			b.WriteString("boot disk\n")
		case "exit":
		default:
			return "", fmt.Errorf("knob disk_boot is %q; with Open Firmware it is exit, or not set", s.Knobs.DiskBoot)
		}
	case Wait:
		secs := 5
		if s.After > 0 {
			secs = max(1, int(s.After.Seconds()))
		}
		say("the server asks %s to wait; it starts anew in %d seconds", clean(string(s.Node)), secs)
		fmt.Fprintf(b, "d# %d ms\nreset-all\n", secs*1000)
	case Stateless:
		words, err := s.cmdline()
		if err != nil {
			return "", err
		}
		fmt.Fprintf(b, "\\ kernel %s\n\\ initrd %s\n\\ bootargs %s\n", s.Kernel, s.Initrd, strings.Join(words, " "))
	default:
		return "", fmt.Errorf("no script for decision %q", s.Decision)
	}
	return b.String(), nil
}

// Image is a file that is put together from others while it is read.
type Image struct {
	parts []part
	size  int64
}

// part is a piece of an Image. What no part covers is zero.
type part struct {
	off, n int64
	r      io.ReaderAt // from its start
}

// Size is the length in bytes.
func (m *Image) Size() int64 { return m.size }

// ReadAt reads as io.ReaderAt says.
func (m *Image) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > m.size {
		return 0, fmt.Errorf("read at %d of %d bytes", off, m.size)
	}
	n := int(min(int64(len(p)), m.size-off))
	clear(p[:n])
	for _, q := range m.parts {
		from, to := max(off, q.off), min(off+int64(n), q.off+q.n)
		if from >= to {
			continue
		}
		if got, err := q.r.ReadAt(p[from-off:to-off], from-q.off); int64(got) < to-from {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Where the firmware puts what. It loads the file at load-base, which is 0x4000, and copies each segment from there to
// its address: the addresses begin behind the file, so that nothing is copied onto what is still to be copied.
const (
	powerLoadBase = 0x4000
	powerAlign    = 16 << 20
	powerLowest   = 96 << 20 // no lower, so that the addresses are the same for all usual kernels
	powerHighest  = 512 << 20
	powerPage     = 0x1000
	powerArgs     = 0x200 // offsets in the page of the first segment
	powerStrings  = 0x280
	powerCmdline  = 0x400
)

// PowerImage makes the one file that an Open Firmware loads and starts for a stateless boot: a 32-bit big-endian ELF
// program of three parts, as the PowerPC binding of IEEE 1275 (section 8.2.2) has them loaded: a few instructions, the
// kernel, and the initrd. The instructions write the kernel's command line to /chosen and start the kernel as a boot
// loader does: initrd's address and length in r3 and r4, the firmware's entry in r5 (Linux,
// Documentation/powerpc/booting.rst). kernel is an ELF vmlinux for ppc64el, initrd any initrd.
func PowerImage(s Script, kernel io.ReaderAt, initrd io.ReaderAt, initrdLen int64) (*Image, error) {
	m, err := s.powerImage(kernel, initrd, initrdLen)
	if err != nil {
		return nil, fmt.Errorf("make boot image of %s: %w", s.Node, err)
	}
	return m, nil
}

func (s Script) powerImage(kernel, initrd io.ReaderAt, initrdLen int64) (*Image, error) {
	words, err := s.cmdline()
	if err != nil {
		return nil, err
	}
	loads, entry, err := readVMLinux(kernel)
	if err != nil {
		return nil, fmt.Errorf("read kernel: %w", err)
	}
	if initrdLen <= 0 || initrdLen > powerHighest {
		return nil, fmt.Errorf("initrd has %d bytes", initrdLen)
	}
	total, kernelEnd := initrdLen, int64(0)
	for _, l := range loads {
		total += int64(l.Filesz) + powerPage
		kernelEnd = max(kernelEnd, int64(l.Paddr+l.Memsz))
	}
	base := max(powerLowest, roundUp(powerLoadBase+total+powerAlign, powerAlign))
	kernelAt := base + 1<<20
	initrdAt := roundUp(kernelAt+kernelEnd, 1<<20)
	if initrdAt+initrdLen > powerHighest {
		return nil, fmt.Errorf("kernel and initrd together have %d bytes, which leave no room below %d", total, powerHighest)
	}
	start := powerStart(uint32(base), uint32(kernelAt+entry), uint32(initrdAt), uint32(initrdLen), strings.Join(words, " "))

	type segment struct {
		at, n, mem int64
		r          io.ReaderAt
	}
	segments := []segment{{base, int64(len(start)), int64(len(start)), bytes.NewReader(start)}}
	for _, l := range loads {
		segments = append(segments, segment{kernelAt + int64(l.Paddr), int64(l.Filesz), int64(l.Memsz), l.ReaderAt})
	}
	segments = append(segments, segment{initrdAt, initrdLen, initrdLen, initrd})

	h := elf.Header32{Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_PPC), Version: uint32(elf.EV_CURRENT), Entry: uint32(base),
		Phoff: 52, Ehsize: 52, Phentsize: 32, Phnum: uint16(len(segments))}
	copy(h.Ident[:], elf.ELFMAG+string([]byte{byte(elf.ELFCLASS32), byte(elf.ELFDATA2MSB), byte(elf.EV_CURRENT)}))
	head := must(binary.Append(nil, binary.BigEndian, h))
	m := &Image{}
	off := int64(powerPage)
	for _, g := range segments {
		head = must(binary.Append(head, binary.BigEndian, elf.Prog32{Type: uint32(elf.PT_LOAD), Off: uint32(off), Vaddr: uint32(g.at), Paddr: uint32(g.at),
			Filesz: uint32(g.n), Memsz: uint32(g.mem), Flags: uint32(elf.PF_R | elf.PF_W | elf.PF_X), Align: powerPage}))
		m.parts = append(m.parts, part{off, g.n, g.r})
		m.size = off + g.n
		off = roundUp(m.size, powerPage)
	}
	m.parts = append(m.parts, part{0, int64(len(head)), bytes.NewReader(head)})
	return m, nil
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

// must is for values of fixed size, which encoding/binary always takes.
func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// readVMLinux gives what of a kernel is to be loaded, and the physical address at which it is entered.
func readVMLinux(r io.ReaderAt) (loads []*elf.Prog, entry int64, err error) {
	f, err := elf.NewFile(r)
	if err != nil {
		return nil, 0, err
	}
	if f.Class != elf.ELFCLASS64 || f.Machine != elf.EM_PPC64 || f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN {
		return nil, 0, fmt.Errorf("it is a %v for %v, not a vmlinux for ppc64el", f.Type, f.Machine)
	}
	entry = -1
	for _, p := range f.Progs {
		if p.Type != elf.PT_LOAD || p.Memsz == 0 {
			continue
		}
		if p.Paddr > powerHighest || p.Memsz > powerHighest || p.Filesz > p.Memsz || len(loads) == 8 {
			return nil, 0, fmt.Errorf("its segment at %#x has %d of %d bytes", p.Paddr, p.Filesz, p.Memsz)
		}
		if f.Entry >= p.Vaddr && f.Entry-p.Vaddr < p.Filesz {
			entry = int64(f.Entry - p.Vaddr + p.Paddr)
		}
		loads = append(loads, p)
	}
	if entry < 0 {
		return nil, 0, fmt.Errorf("its entry %#x is in none of its %d segments", f.Entry, len(loads))
	}
	return loads, entry, nil
}

// Instructions of the Power ISA (version 3.0, book I): D-form, X-form and XFX-form as section 1.6 has them.
func ppcLoad(reg, v uint32) []uint32 { // lis reg, v@h; ori reg, reg, v@l
	return []uint32{15<<26 | reg<<21 | v>>16, 24<<26 | reg<<21 | reg<<16 | v&0xffff}
}
func ppcMove(to, from uint32) uint32 { return 31<<26 | from<<21 | to<<16 | from<<11 | 444<<1 } // or to, from, from
func ppcLwz(to, off, base uint32) uint32 {
	return 32<<26 | to<<21 | base<<16 | off
}
func ppcStw(from, off, base uint32) uint32 {
	return 36<<26 | from<<21 | base<<16 | off
}
func ppcMtctr(reg uint32) uint32 { return 31<<26 | reg<<21 | 9<<16 | 467<<1 }

const (
	ppcBctr  = 0x4e800420
	ppcBctrl = 0x4e800421
)

// powerStart is the first segment, which lies at base: instructions, the arguments of two calls of the firmware's client
// interface (IEEE 1275-1994, section 6.3.1: name, number of arguments, number of results, then those), names, and the
// command line.
func powerStart(base, entry, initrd, initrdLen uint32, cmdline string) []byte {
	find, set, text := base+powerArgs, base+powerArgs+0x20, base+powerStrings
	const chosen, setprop, bootargs = 0x10, 0x20, 0x30 // offsets of names from text

	code := []uint32{ppcMove(30, 5)} // the firmware keeps r14 to r31
	// finddevice("/chosen")
	code = append(code, ppcLoad(3, find)...)
	code = append(code, ppcMtctr(30), ppcBctrl)
	// setprop(what was found, "bootargs", command line)
	code = append(code, ppcLoad(4, find)...)
	code = append(code, ppcLwz(5, 4*4, 4))
	code = append(code, ppcLoad(3, set)...)
	code = append(code, ppcStw(5, 3*4, 3), ppcMtctr(30), ppcBctrl)
	// kernel(initrd, its length, firmware, 0, 0)
	code = append(code, ppcLoad(12, entry)...)
	code = append(code, ppcMtctr(12))
	code = append(code, ppcLoad(3, initrd)...)
	code = append(code, ppcLoad(4, initrdLen)...)
	code = append(code, ppcMove(5, 30))
	code = append(code, ppcLoad(6, 0)...)
	code = append(code, ppcLoad(7, 0)...)
	code = append(code, ppcBctr)

	b := make([]byte, powerCmdline, powerCmdline+len(cmdline)+1)
	words := func(off uint32, w ...uint32) {
		for i, v := range w {
			binary.BigEndian.PutUint32(b[int(off)+4*i:], v)
		}
	}
	words(0, code...)
	words(powerArgs, text, 1, 1, text+chosen, 0)
	words(powerArgs+0x20, text+setprop, 4, 1, 0, text+bootargs, base+powerCmdline, uint32(len(cmdline)+1), 0)
	copy(b[powerStrings:], "finddevice")
	copy(b[powerStrings+chosen:], "/chosen")
	copy(b[powerStrings+setprop:], "setprop")
	copy(b[powerStrings+bootargs:], "bootargs")
	b = append(b, cmdline...)
	return append(b, 0)
}
