package bootentry

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

var esp = Partition{2, 4096, 81920, "6d1e0c1a-6f0b-4c55-9c1e-5f2f6f3b9ae5"}

// written by efibootmgr on OVMF: a network card, and GRUB on a disk.
const (
	efiNetwork = "01000000560055004500460049002000500058004500760034000000" +
		"02010c00d041030a0000000001010600000103" + "0b250052540077000100000000000000000000000000000000000000000000000000000001" +
		"030c1b00000000000000000000000000000000000000000000000000" + "7fff0400"
)

// option makes an entry's value.
func option(t *testing.T, o Option) []byte {
	t.Helper()
	b, err := o.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// machine makes a folder of variables.
func machine(t *testing.T, order []uint16, entries map[uint16][]byte) string {
	t.Helper()
	v := vars{dir: t.TempDir()}
	for n, b := range entries {
		if err := v.put(varName(n), b); err != nil {
			t.Fatal(err)
		}
	}
	var b []byte
	for _, n := range order {
		b = binary.LittleEndian.AppendUint16(b, n)
	}
	if err := v.put("BootOrder", b); err != nil {
		t.Fatal(err)
	}
	return v.dir
}

func entriesOf(t *testing.T) map[uint16][]byte {
	hd, err := esp.node()
	if err != nil {
		t.Fatal(err)
	}
	other := esp
	other.GUID = "11111111-2222-3333-4444-555555555555"
	far, err := other.node()
	if err != nil {
		t.Fatal(err)
	}
	file := func(p string) Node { return Node{typeMedia, mediaFile, wide(p)} }
	pci := Node{1, 1, []byte{0, 3}}
	return map[uint16][]byte{
		0: option(t, Option{active, "UiApp", []Node{{typeMedia, mediaFirmware, make([]byte, 16)}, {typeMedia, mediaFirmwareFile, make([]byte, 16)}}, nil, nil}),
		1: option(t, Option{active, "UEFI Misc Device", []Node{{2, 1, make([]byte, 8)}, pci}, nil, []byte("auto")}),
		2: option(t, Option{active, "UEFI PXEv4", []Node{{2, 1, make([]byte, 8)}, pci, {typeMessaging, msgMAC, make([]byte, 33)}, {typeMessaging, msgIPv4, make([]byte, 23)}}, nil, nil}),
		3: option(t, Option{active, "UEFI HTTPv4", []Node{pci, {typeMessaging, msgMAC, make([]byte, 33)}, {typeMessaging, msgURI, nil}}, nil, nil}),
		4: option(t, Option{active, "old", []Node{hd, file(`\EFI\old\grubx64.efi`)}, nil, nil}),
		5: option(t, Option{active, "elsewhere", []Node{far, file(`\EFI\debian\shimx64.efi`)}, nil, nil}),
	}
}

func numbers(t *testing.T, dir string) (order []uint16, all []uint16) {
	t.Helper()
	v, err := readVars(dir)
	if err != nil {
		t.Fatal(err)
	}
	return v.order, v.numbers()
}

func TestSet(t *testing.T) {
	debian := []Loader{{"debian", `\EFI\debian\shimx64.efi`}}
	for _, c := range []struct {
		name         string
		order, after []uint16
	}{
		{"network first", []uint16{2, 3, 1, 4, 5, 0}, []uint16{2, 3, 6, 1, 5, 0}},
		{"menu before the network", []uint16{0, 2, 1, 3}, []uint16{0, 2, 6, 1, 3}},
		{"disk first", []uint16{1, 2, 3}, []uint16{6, 1, 2, 3}},
		{"empty", nil, []uint16{6}},
		{"an entry that is gone", []uint16{9, 2, 5}, []uint16{9, 2, 6, 5}},
		{"network alone", []uint16{2, 3}, []uint16{2, 3, 6}},
	} {
		dir := machine(t, c.order, entriesOf(t))
		changes, err := Set(dir, esp, debian)
		if err != nil {
			t.Fatal(err)
		}
		order, all := numbers(t, dir)
		if !slices.Equal(order, c.after) || !slices.Equal(all, []uint16{0, 1, 2, 3, 5, 6}) {
			t.Errorf("%s: order %v, entries %v, %q", c.name, order, all, changes)
		}
		if again, err := Set(dir, esp, debian); err != nil || len(again) > 0 {
			t.Errorf("%s: a second time it changes %q, %v", c.name, again, err)
		}
		entries, err := Read(dir)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(entries, func(e Entry) bool { return e.Number == 6 })
		if e := entries[i]; e.Kind() != Disk || e.File() != debian[0].Path || e.GUID() != esp.GUID || !e.Active() || e.Name != "debian" {
			t.Errorf("%s: the new entry is %+v", c.name, e)
		}
	}
}

// TestSetKeeps leaves what is not stale as it was, byte for byte, and mends an entry that lies where the partition no
// longer does.
func TestSetKeeps(t *testing.T) {
	entries := entriesOf(t)
	moved := esp
	moved.Start = 2048
	hd, err := moved.node()
	if err != nil {
		t.Fatal(err)
	}
	windows := option(t, Option{active, "Windows Boot Manager", []Node{hd, {typeMedia, mediaFile, wide(`\EFI\MICROSOFT\BOOT\BOOTMGFW.EFI`)}}, nil, []byte("WINDOWS")})
	entries[4], entries[7] = windows, windows
	entries[8] = []byte{1, 0, 0, 0, 99, 99} // nothing that can be read
	dir := machine(t, []uint16{2, 7, 4, 8, 1}, entries)
	before := map[string][]byte{}
	for _, n := range []uint16{0, 1, 2, 3, 5, 8} {
		before[varName(n)+global] = read(t, dir, varName(n))
	}
	changes, err := Set(dir, esp, []Loader{{"Windows Boot Manager", `\EFI\Microsoft\Boot\bootmgfw.efi`}})
	if err != nil {
		t.Fatal(err)
	}
	order, all := numbers(t, dir)
	if !slices.Equal(order, []uint16{2, 7, 8, 1}) || !slices.Equal(all, []uint16{0, 1, 2, 3, 5, 7}) {
		t.Errorf("order %v, entries %v, %q", order, all, changes)
	}
	for name, b := range before {
		if got := read(t, dir, strings.TrimSuffix(name, global)); !bytes.Equal(got, b) {
			t.Errorf("%s was changed: %x", name, got)
		}
	}
	o, err := Parse(read(t, dir, "Boot0007")[4:])
	if err != nil {
		t.Fatal(err)
	}
	if p, ok := o.partition(); !ok || p != esp {
		t.Errorf("the entry's partition is %+v", p)
	}
	if string(o.Data) != "WINDOWS" {
		t.Errorf("the entry lost what it gives to its loader: %q", o.Data)
	}
}

func read(t *testing.T, dir, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name+global))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestNoVariables(t *testing.T) {
	for _, dir := range []string{t.TempDir(), "/nonexistent"} {
		if _, err := Read(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", dir, err)
		}
		if _, err := Set(dir, esp, nil); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

// TestEfibootmgr lets efibootmgr judge what is written: it reads the variables of another folder where one is named.
func TestEfibootmgr(t *testing.T) {
	dir := machine(t, []uint16{2, 3, 1}, entriesOf(t))
	if _, err := Set(dir, esp, []Loader{{"debian", `\EFI\debian\shimx64.efi`}}); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("efibootmgr", "-v")
	cmd.Env = append(os.Environ(), "EFIVARFS_PATH="+dir+"/", "LIBEFIVAR_OPS=efivarfs")
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"BootOrder: 0002,0003,0006,0001\n", "Boot0006* debian\tHD(2,GPT,6d1e0c1a-6f0b-4c55-9c1e-5f2f6f3b9ae5,0x1000,0x14000)/File(\\EFI\\debian\\shimx64.efi)\n", "Boot0005* elsewhere"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("it does not print %q", want)
		}
	}
}

func TestLoaders(t *testing.T) {
	for _, c := range []struct {
		files, arch string
		want        []Loader
		fallback    bool
	}{
		{"EFI/debian/shimx64.efi EFI/debian/grubx64.efi EFI/BOOT/BOOTX64.EFI EFI/debian/grub.cfg", "amd64", []Loader{{"debian", `\EFI\debian\shimx64.efi`}}, true},
		{"efi/Microsoft/Boot/bootmgfw.efi efi/ubuntu/grubx64.efi efi/boot/fbx64.efi", "amd64", []Loader{{"ubuntu", `\efi\ubuntu\grubx64.efi`}, {"Windows Boot Manager", `\efi\Microsoft\Boot\bootmgfw.efi`}}, false},
		{"EFI/debian/shimaa64.efi EFI/BOOT/BOOTAA64.EFI", "arm64", []Loader{{"debian", `\EFI\debian\shimaa64.efi`}}, true},
		{"EFI/systemd/systemd-bootx64.efi loader/loader.conf", "amd64", []Loader{{"Linux Boot Manager", `\EFI\systemd\systemd-bootx64.efi`}}, false},
		{"EFI/tools/readme.txt EFI/file", "amd64", nil, false},
		{"readme.txt", "amd64", nil, false},
		{"EFI/debian/shimx64.efi EFI/BOOT/BOOTX64.EFI", "ppc64el", nil, false},
	} {
		fsys := fstest.MapFS{}
		for _, f := range strings.Fields(c.files) {
			fsys[f] = &fstest.MapFile{}
		}
		got, fallback, err := Loaders(fsys, c.arch)
		if err != nil || fallback != c.fallback || !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, %v, %v", c.files, got, fallback, err)
		}
	}
}

// FuzzParse holds that what can be read encodes to the same bytes, unless a name is no text.
func FuzzParse(f *testing.F) {
	raw, err := hex.DecodeString(efiNetwork)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	hd, err := esp.node()
	if err != nil {
		f.Fatal(err)
	}
	b, err := (Option{active, "debian", []Node{hd, {typeMedia, mediaFile, wide(`\EFI\debian\shimx64.efi`)}, {typeEnd, endInstance, nil}, hd}, []byte{1, 2}, []byte("data")}).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := Parse(b)
		if err != nil {
			return
		}
		e := Entry{Option: o}
		_, _, _ = e.Kind(), e.File(), e.GUID()
		got, err := o.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, b) && !strings.ContainsRune(o.Name, '\ufffd') {
			t.Fatalf("%x became %x", b, got)
		}
	})
}
