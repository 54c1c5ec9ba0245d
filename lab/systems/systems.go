// Package systems makes small installed systems of several distributions, with their own package managers.
package systems

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// System is one of the installed systems.
type System struct {
	Name     string
	Suite    string // release of Debian
	Packages string // beside the essential ones
	Init     string // as package firstboot calls it; "" of one that is not booted
}

// All are the systems that there are. Between them they have every init and every network program that Mimeo writes files for.
var All = []System{
	{"bullseye", "bullseye", "systemd-sysv,udev,dbus,iproute2,openssh-server,ifupdown,kmod", "systemd"},
	{"bookworm", "bookworm", "systemd-sysv,udev,dbus,iproute2,openssh-server,network-manager,ifupdown,kmod", "systemd"},
	{"trixie", "trixie", "systemd-sysv,udev,dbus,iproute2,openssh-server,netplan.io,cloud-init,kmod", "systemd"},
	{"sysvinit", "bookworm", "sysvinit-core,ifupdown,iproute2,openssh-server", "System V init"},
	{"openrc", "trixie", "sysvinit-core,openrc,ifupdown,iproute2", "OpenRC"},
	{"grub", "bookworm", "grub-pc-bin,grub-efi-amd64-bin,grub-efi-amd64-signed,shim-signed,grub2-common,e2fsprogs,udev", ""},
}

// Unpack makes the system's tree in dir, which must be empty. What packages were installed is kept in the cache for the next time.
func (s System) Unpack(ctx context.Context, cache, dir string) error {
	tar, err := s.tar(ctx, cache)
	if err != nil {
		return fmt.Errorf("install %s: %w", s.Name, err)
	}
	return sh(ctx, `tar -C "$1" --numeric-owner --xattrs --xattrs-include='*' -xf "$2"`, dir, tar)
}

func (s System) tar(ctx context.Context, cache string) (string, error) {
	sum := sha256.Sum256([]byte(s.Suite + " " + s.Packages))
	tar := filepath.Join(cache, "system-"+s.Name+"-"+hex.EncodeToString(sum[:6])+".tar")
	if _, err := os.Stat(tar); !errors.Is(err, os.ErrNotExist) {
		return tar, err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	tmp := tar + ".tmp.tar"
	defer os.Remove(tmp)
	if err := sh(ctx, `exec mmdebstrap --mode=root --variant=minbase --include="$1" --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/doc/*' "$2" "$3"`,
		s.Packages, s.Suite, tmp); err != nil {
		return "", err
	}
	return tar, os.Rename(tmp, tar)
}

// Disk makes a disk image at path of the tree in dir: one ext4 filesystem without a partition table.
func Disk(ctx context.Context, dir, path string) error {
	return sh(ctx, `mke2fs -q -t ext4 -d "$1" "$2" 800M`, dir, path)
}

// sh runs a script, and shows what it printed only where it fails.
func sh(ctx context.Context, script string, args ...string) error {
	out, err := exec.CommandContext(ctx, "sh", append([]string{"-euc", script, "sh"}, args...)...).CombinedOutput()
	if err == nil {
		return nil
	}
	text := strings.TrimSpace(string(out))
	return fmt.Errorf("%w:\n%s", err, text[max(0, len(text)-4000):])
}
