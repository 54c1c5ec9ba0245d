package identity

import (
	"strings"
	"testing"
)

const oldUUID, newUUID = "6d1e0c1a-6f0b-4c55-9c1e-5f2f6f3b9a01", "11111111-2222-4333-8444-555555555555"

func TestRename(t *testing.T) {
	root := system(t, map[string]string{
		"etc/fstab":                    "UUID=" + strings.ToUpper(oldUUID) + " / ext4\nUUID=AB12-CD34 /boot/efi vfat\nPARTUUID=x" + oldUUID + "\n",
		"boot/grub/grubenv":            "saved_entry=gnulinux-advanced-" + oldUUID + ">gnulinux-6.1-advanced-" + oldUUID + "\n####",
		"boot/loader/entries/a-1.conf": "options root=UUID=" + oldUUID + "\n",
		"boot/grub2/grub.cfg":          "->../grub/grubenv",
		"etc/default/grub":             "nothing here\n",
		"root/notes":                   oldUUID,
	})
	names := map[string]string{oldUUID: newUUID, "ab12-cd34": "0000-FFFF", "": "", "short": "longer"}
	changed, err := Rename(root, names)
	if err != nil || strings.Join(changed, " ") != "etc/fstab boot/grub/grubenv boot/loader/entries/a-1.conf" {
		t.Errorf("%v, %v", changed, err)
	}
	for name, want := range map[string]string{
		"etc/fstab":                    "UUID=" + newUUID + " / ext4\nUUID=0000-FFFF /boot/efi vfat\nPARTUUID=x" + oldUUID + "\n",
		"boot/grub/grubenv":            "saved_entry=gnulinux-advanced-" + newUUID + ">gnulinux-6.1-advanced-" + newUUID + "\n####",
		"boot/loader/entries/a-1.conf": "options root=UUID=" + newUUID + "\n",
		"root/notes":                   oldUUID,
	} {
		if got := content(t, root, name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	if changed, err := Rename(root, names); err != nil || len(changed) > 0 {
		t.Errorf("again: %v, %v", changed, err)
	}
}

func TestBuiltIn(t *testing.T) {
	esp := system(t, map[string]string{"EFI/debian/shimx64.efi": "MZ", "EFI/arch/grubx64.efi": "MZ\x00search.fs_uuid " + strings.ToUpper(oldUUID) + " root\x00"})
	if f, err := BuiltIn(esp, map[string]string{oldUUID: newUUID}); err != nil || f != "EFI/arch/grubx64.efi" {
		t.Errorf("%q, %v", f, err)
	}
	if f, err := BuiltIn(esp, map[string]string{newUUID: oldUUID}); err != nil || f != "" {
		t.Errorf("%q, %v", f, err)
	}
}

func FuzzRenamed(f *testing.F) {
	f.Add([]byte("root=UUID="+oldUUID+" x"+oldUUID), oldUUID)
	f.Add([]byte("\u212a AB12-CD34"), "ab12-cd34")
	f.Fuzz(func(t *testing.T, b []byte, old string) {
		id := strings.Repeat("z", len(old))
		if got := renamed(b, map[string]string{old: id}); len(got) != len(b) {
			t.Errorf("%d bytes became %d", len(b), len(got))
		}
	})
}
