package identity

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"
)

// namers are where a system names filesystems and partitions: its tables, what makes its initramfs, its loaders' menus.
var namers = []string{
	"etc/fstab", "etc/crypttab", "etc/mdadm.conf", "etc/initramfs-tools/conf.d/*", "etc/default/grub", "etc/default/grub.d/*", "etc/kernel/cmdline",
	"etc/dracut.conf", "etc/dracut.conf.d/*", "etc/systemd/system/*.mount", "etc/systemd/system/*.swap",
	"boot/grub/grub.cfg", "boot/grub/custom.cfg", "boot/grub/grubenv", "boot/grub2/grub.cfg", "boot/grub2/grubenv", "boot/grub2/user.cfg",
	"boot/loader/entries/*.conf", "boot/extlinux/extlinux.conf", "boot/syslinux/syslinux.cfg",
	"EFI/*/grub.cfg", "EFI/*/grubenv", "loader/entries/*.conf", // of an EFI system partition
}

// loaders are programs of an EFI system partition in which GRUB may have the UUID of its menu's filesystem built in.
var loaders = []string{"EFI/*/*.efi", "EFI/*/*.EFI"}

// What a UUID is not surrounded by where it stands for itself. GRUB has long ones behind a hyphen, and short ones may look like the
// middle of a long one.
var (
	wordBytes  = regexp.MustCompile(`[0-9A-Za-z]`)
	shortBytes = regexp.MustCompile(`[0-9A-Za-z-]`)
)

// Rename puts new UUIDs of filesystems and partitions, which names has by the old ones, in lower case, into the files by which the
// system finds them whose root, or EFI system partition, is mounted at root. Old and new are of the same length, so that a file of a fixed size keeps it. It returns the files
// that it has changed.
func Rename(root string, names map[string]string) (changed []string, err error) {
	r, err := os.OpenRoot(root)
	if err != nil {
		return nil, fmt.Errorf("open the deployed root: %w", err)
	}
	defer r.Close()
	t := &tree{r: r}
	for _, pattern := range namers {
		files, err := fs.Glob(r.FS(), pattern)
		if err != nil {
			return changed, err
		}
		for _, f := range files {
			st, err := r.Lstat(f)
			if err != nil || !st.Mode().IsRegular() || st.Size() > 16*maxFile {
				continue // a folder, or a link to another of them
			}
			old, err := r.ReadFile(f)
			if err != nil {
				return changed, err
			}
			b := renamed(old, names)
			if bytes.Equal(b, old) {
				continue
			}
			if err := t.write(f, b, st.Mode().Perm()); err != nil {
				return changed, fmt.Errorf("put new UUIDs into %s: %w", f, err)
			}
			changed = append(changed, f)
		}
	}
	return changed, nil
}

// renamed replaces whole words alone, in any case.
func renamed(b []byte, names map[string]string) []byte {
	out := bytes.Clone(b)
	low := bytes.ToLower(b)
	if len(low) != len(b) {
		return out // letters beyond ASCII that change their length: no table of filesystems
	}
	for old, id := range names {
		if old == "" || len(old) != len(id) {
			continue
		}
		word := wordBytes
		if len(old) < 36 {
			word = shortBytes
		}
		for at := 0; ; {
			i := bytes.Index(low[at:], []byte(strings.ToLower(old)))
			if i < 0 {
				break
			}
			i += at
			at = i + len(old)
			if i > 0 && word.Match(low[i-1:i]) || at < len(low) && word.Match(low[at:at+1]) {
				continue
			}
			copy(out[i:], id)
		}
	}
	return out
}

// BuiltIn finds a loader of the EFI system partition at root that has one of the UUIDs built in; "" where none has.
func BuiltIn(root string, names map[string]string) (string, error) {
	r, err := os.OpenRoot(root)
	if err != nil {
		return "", fmt.Errorf("open the deployed root: %w", err)
	}
	defer r.Close()
	for _, pattern := range loaders {
		files, err := fs.Glob(r.FS(), pattern)
		if err != nil {
			return "", err
		}
		for _, f := range files {
			st, err := r.Lstat(f)
			if err != nil || !st.Mode().IsRegular() || st.Size() > 64*maxFile {
				continue
			}
			b, err := r.ReadFile(f)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			} else if err != nil {
				return "", err
			}
			b = bytes.ToLower(b)
			for old := range names {
				if len(old) == 36 && bytes.Contains(b, []byte(strings.ToLower(old))) {
					return f, nil
				}
			}
		}
	}
	return "", nil
}
