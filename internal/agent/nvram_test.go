package agent

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mimeo/internal/agent/bootentry"
	"mimeo/internal/cluster/api"
)

// TestBootOf reports the entries of a machine that has a network card, and two systems on its disk of which one is not
// active.
func TestBootOf(t *testing.T) {
	dir := t.TempDir()
	// The firmware's variables as they are in a machine that a deploy has just been through.
	network := "\x01\x00\x00\x00\x29\x00P\x00X\x00E\x00\x00\x00" + "\x03\x0b\x25\x00" + string(make([]byte, 33)) + "\x7f\xff\x04\x00"
	write := func(name, value string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name+"-8be4df61-93ca-11d2-aa0d-00e098032b8c"), []byte("\x07\x00\x00\x00"+value), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("Boot0002", network)
	write("BootOrder", "\x02\x00")
	const guid = "6d1e0c1a-6f0b-4c55-9c1e-5f2f6f3b9ae5"
	if _, err := bootentry.Set(dir, bootentry.Partition{Number: 2, Start: 4096, Len: 81920, GUID: guid}, []bootentry.Loader{{Name: "debian", Path: `\EFI\debian\shimx64.efi`}, {Name: "Windows Boot Manager", Path: `\EFI\Microsoft\Boot\bootmgfw.efi`}}); err != nil {
		t.Fatal(err)
	}
	entries, err := bootentry.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	entries[1].Attributes = 0
	want := &api.HardwareBoot{Loader: `\EFI\Microsoft\Boot\bootmgfw.efi`, Entries: []api.BootEntry{
		{Number: "0002", Name: "PXE", Kind: "network", Active: true},
		{Number: "0000", Name: "debian", Kind: "disk", Path: `\EFI\debian\shimx64.efi`, Partition: guid},
		{Number: "0001", Name: "Windows Boot Manager", Kind: "disk", Path: `\EFI\Microsoft\Boot\bootmgfw.efi`, Partition: guid, Active: true},
	}}
	if d := cmp.Diff(want, bootOf(entries)); d != "" {
		t.Error(d)
	}
}
