package netboot

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/iotest"

	"mimeo/internal/cluster/node"
)

// vmlinux is a kernel of one segment, as Debian's are: virtual addresses at the top, physical ones from 0.
func vmlinux(text []byte, bss int) []byte {
	const virtual = 0xc000000000000000
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_PPC64), Version: 1, Entry: virtual + 8, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1}
	copy(h.Ident[:], elf.ELFMAG+string([]byte{byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1}))
	b := must(binary.Append(nil, binary.LittleEndian, h))
	b = must(binary.Append(b, binary.LittleEndian, elf.Prog64{Type: uint32(elf.PT_LOAD), Off: 0x10000, Vaddr: virtual, Filesz: uint64(len(text)), Memsz: uint64(len(text) + bss), Flags: 7, Align: 0x10000}))
	return append(append(b, make([]byte, 0x10000-len(b))...), text...)
}

func powerScript() Script {
	return Script{Kind: KindOpenFirmware, Decision: Stateless, Node: "p1", Firmware: node.OpenFirmware, Arch: node.PPC64EL, RootImg: "http://10.77.0.1:4480/rootimg",
		RootSum: "5a5a", Build: "b1", Server: "https://10.77.0.1:4443", Pin: "c3c3", Token: "t0k3n", MAC: "52:54:00:12:34:56"}
}

// TestPowerImage holds an image against what readelf and the standard library read in it. That it boots is the
// lab's to show.
func TestPowerImage(t *testing.T) {
	random := rand.NewChaCha8([32]byte{4})
	text, initrd := make([]byte, 3_000_001), make([]byte, 700_003)
	random.Read(text)
	random.Read(initrd)
	m, err := PowerImage(powerScript(), bytes.NewReader(vmlinux(text, 5<<20)), bytes.NewReader(initrd), int64(len(initrd)))
	if err != nil {
		t.Fatal(err)
	}
	whole, err := io.ReadAll(io.NewSectionReader(m, 0, m.Size()))
	if err != nil || int64(len(whole)) != m.Size() {
		t.Fatalf("%d of %d bytes, %v", len(whole), m.Size(), err)
	}
	if err := iotest.TestReader(io.NewSectionReader(m, 0, m.Size()), whole); err != nil {
		t.Error(err)
	}
	file := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(file, whole, 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("readelf", "-hlW", file).CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("arning")) {
		t.Fatalf("readelf: %v\n%s", err, out)
	}
	for _, want := range []string{`ELF32`, `2's complement, big endian`, `Machine: +PowerPC\n`, `Entry point address: +0x6000000\n`,
		`LOAD +0x001000 0x06000000 0x06000000`, `LOAD +0x002000 0x06100000 0x06100000 0x2dc6c1 0x7dc6c1`, `LOAD +0x2df000 0x06900000 0x06900000 0xaae63 0xaae63`} {
		if !regexp.MustCompile(want).Match(out) {
			t.Errorf("readelf says nothing of %s:\n%s", want, out)
		}
	}
	f, err := elf.NewFile(bytes.NewReader(whole))
	if err != nil {
		t.Fatal(err)
	}
	var parts [3][]byte
	for i, p := range f.Progs {
		if parts[i], err = io.ReadAll(p.Open()); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(parts[1], text) || !bytes.Equal(parts[2], initrd) {
		t.Error("kernel or initrd are not what was given")
	}
	line, _, _ := strings.Cut(string(parts[0][powerCmdline:]), "\x00")
	if !strings.Contains(line, "mimeo.token=t0k3n") || !strings.Contains(line, "BOOTIF=01-52-54-00-12-34-56") {
		t.Errorf("command line %q", line)
	}
}

func TestPowerImageRefuses(t *testing.T) {
	good := vmlinux(make([]byte, 100), 0)
	change := func(off int, v uint64) []byte {
		b := bytes.Clone(good)
		binary.LittleEndian.PutUint64(b[off:], v)
		return b
	}
	for name, c := range map[string]struct {
		kernel []byte
		initrd int64
		want   string
	}{
		"no ELF":             {[]byte("MZ"), 1, "read kernel"},
		"another machine":    {append(append(bytes.Clone(good[:18]), 62, 0), good[20:]...), 1, "not a vmlinux"},
		"no entry":           {change(24, 1), 1, "in none of its 1 segments"},
		"a segment too long": {change(64+40, 1<<40), 1, "its segment at 0x0"},
		"no initrd":          {good, 0, "initrd has 0 bytes"},
		"too much":           {good, 400 << 20, "leave no room"},
	} {
		_, err := PowerImage(powerScript(), bytes.NewReader(c.kernel), bytes.NewReader(nil), c.initrd)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s := powerScript()
	s.Token = "two words"
	if _, err := PowerImage(s, bytes.NewReader(good), bytes.NewReader(nil), 1); err == nil || strings.Contains(err.Error(), "two words") {
		t.Errorf("a token of two words: %v", err)
	}
}

// FuzzPowerImage: whatever the kernel is, the image that is made of it can be read.
func FuzzPowerImage(f *testing.F) {
	f.Add(vmlinux([]byte("text of a kernel"), 100))
	f.Fuzz(func(t *testing.T, kernel []byte) {
		m, err := PowerImage(powerScript(), bytes.NewReader(kernel), strings.NewReader("initrd"), 6)
		if err != nil {
			return
		}
		if _, err := m.ReadAt(make([]byte, 1<<20), 0); err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			t.Error(err)
		}
	})
}
