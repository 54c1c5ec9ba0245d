package bootentry

import (
	"io/fs"
	"slices"
	"strings"
)

// Loader is a system's loader on an EFI system partition.
type Loader struct {
	Name string // what its boot entry is called
	Path string // as \EFI\debian\shimx64.efi
}

// programs are what loaders are called, best first: shim starts with Secure Boot and without it, and loads the GRUB
// beside it.
var programs = map[string][]string{
	"amd64": {"shimx64.efi", "shim.efi", "bootmgfw.efi", "systemd-bootx64.efi", "grubx64.efi", "grub.efi", "refind_x64.efi", "elilo.efi"},
	"arm64": {"shimaa64.efi", "shim.efi", "bootmgfw.efi", "systemd-bootaa64.efi", "grubaa64.efi", "grub.efi", "refind_aa64.efi"},
}

// removable is what a firmware starts on a disk of which it has no entry (3.5.1.1).
var removable = map[string]string{"amd64": "bootx64.efi", "arm64": "bootaa64.efi"}

// names are what systems call their own entries, where that is not the name of their folder.
var names = map[string]string{"microsoft": "Windows Boot Manager", "systemd": "Linux Boot Manager"}

// Loaders finds the loaders on an EFI system partition: one for each system's folder below \EFI, Windows last, and
// whether the removable path is there, from which a disk boots without an entry.
func Loaders(esp fs.FS, arch string) (found []Loader, fallback bool, err error) {
	efi, ok, err := child(esp, ".", "efi")
	if err != nil || !ok {
		return nil, false, err
	}
	dirs, err := fs.ReadDir(esp, efi)
	if err != nil {
		return nil, false, err
	}
	for _, d := range dirs {
		if !d.IsDir() {
			continue
		}
		dir := efi + "/" + d.Name()
		system := strings.ToLower(d.Name())
		if system == "boot" {
			if _, fallback, err = child(esp, dir, removable[arch]); err != nil {
				return nil, false, err
			}
			continue
		}
		if system == "microsoft" {
			if dir, ok, err = child(esp, dir, "boot"); err != nil || !ok {
				continue
			}
		}
		for _, p := range programs[arch] {
			file, ok, err := child(esp, dir, p)
			if err != nil {
				break // a folder that cannot be read has nothing to start
			}
			if !ok {
				continue
			}
			name := names[system]
			if name == "" {
				name = d.Name()
			}
			found = append(found, Loader{name, `\` + strings.ReplaceAll(file, "/", `\`)})
			break
		}
	}
	slices.SortStableFunc(found, func(a, b Loader) int {
		windows := func(l Loader) int { return strings.Count(l.Name, names["microsoft"]) }
		return windows(a) - windows(b)
	})
	return found, fallback, nil
}

// child finds a name in a folder whatever its case, as FAT does.
func child(fsys fs.FS, dir, name string) (path string, ok bool, err error) {
	all, err := fs.ReadDir(fsys, dir)
	if err != nil {
		return "", false, err
	}
	for _, e := range all {
		if name != "" && strings.EqualFold(e.Name(), name) {
			if dir == "." {
				return e.Name(), true, nil
			}
			return dir + "/" + e.Name(), true, nil
		}
	}
	return "", false, nil
}
