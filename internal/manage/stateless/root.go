package stateless

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

// makeRoot installs packages of this machine's architecture into a folder, from a repository that holds exactly them.
func makeRoot(ctx context.Context, dir, repo, suite string, debs []deb, epoch int64) error {
	names := make([]string, len(debs))
	for i, d := range debs {
		names[i] = d.name
	}
	_, err := command{name: "mmdebstrap", mountNS: true, env: []string{"SOURCE_DATE_EPOCH=" + strconv.FormatInt(epoch, 10)}, args: []string{
		"--mode=root", "--variant=custom", "--format=directory", "--architectures=" + string(OwnArch()),
		"--setup-hook=" + mergeUsr(OwnArch()), "--include=" + strings.Join(names, ","), `--aptopt=APT::Sandbox::User "root"`, `--aptopt=Acquire::Languages "none"`,
		suite, dir, "deb [trusted=yes] copy:" + repo + " ./",
	}}.run(ctx)
	if err != nil {
		return fmt.Errorf("install %d packages: %w", len(debs), err)
	}
	return nil
}

// mergeUsr is a shell line that makes /bin, /sbin and /lib links into /usr before anything is installed, as Debian has
// them since its release 12. Its first argument is the root.
func mergeUsr(arch node.Arch) string {
	dirs := "bin sbin lib"
	if arch != node.ARM64 {
		dirs += " lib64" // where the loader of programs lies on amd64 and ppc64el
	}
	return `for d in ` + dirs + `; do mkdir -p "$1/usr/$d" && ln -s "usr/$d" "$1/$d"; done`
}

// leftovers are what an installation leaves behind that hangs on the time or the machine it was made on, or that is of
// no use in RAM.
var leftovers = []string{
	"boot/*", "dev/*", "proc/*", "run/*", "sys/*", "tmp/*", "root/.*_history",
	"etc/.pwd.lock", "etc/apt", "etc/group-", "etc/gshadow-", "etc/passwd-", "etc/shadow-", "etc/subgid-", "etc/subuid-",
	"etc/dropbear/*_host_key", "etc/ssh/ssh_host_*", "etc/hostname", "etc/resolv.conf", "etc/machine-id",
	"usr/lib/udev/hwdb.bin", "var/cache/*", "var/lib/apt", "var/lib/dbus/machine-id", "var/lib/systemd/random-seed",
	"var/lib/dpkg/*-old", "var/lib/dpkg/lock*", "var/lib/dpkg/triggers", "var/lib/dpkg/updates", "var/lib/dpkg/alternatives",
	"var/lib/dpkg/diversions", "var/lib/dpkg/statoverride", "var/lib/dpkg/available", "var/lib/dpkg/parts", "var/lib/dpkg/cmethopt",
	"var/log/*", "var/mail/*", "var/backups/*", "var/tmp/*",
}

// mountPoints are folders that the agent mounts something on.
var mountPoints = []string{"dev", "proc", "run", "sys", "tmp", "mnt", "var/log", "var/tmp", "var/cache"}

// finishRoot makes an installed root into the one that is packed: it takes away what is left over and what the profile
// excludes, and adds the profile's files.
func finishRoot(dir string, p Profile, epoch int64) (err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	for _, pattern := range leftovers {
		if err := removeMatches(root, pattern); err != nil {
			return err
		}
	}
	for _, pattern := range p.Exclude {
		if err := removeMatches(root, pattern[1:]); err != nil {
			return fmt.Errorf("exclude %s: %w", pattern, err)
		}
	}
	for _, d := range mountPoints {
		if err := root.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	for _, d := range []string{"tmp", "var/tmp"} {
		if err := root.Chmod(d, fs.ModeSticky|0o777); err != nil {
			return err
		}
	}
	// Empty means: not known yet, made at boot (machine-id(5)).
	if err := root.WriteFile("etc/machine-id", nil, 0o444); err != nil {
		return err
	}
	for _, m := range p.Mounts {
		if err := root.MkdirAll(m.Target[1:], 0o755); err != nil {
			return fmt.Errorf("make mount point %s: %w", m.Target, err)
		}
	}
	if err := settleShadow(root, epoch); err != nil {
		return err
	}
	for _, f := range p.Files {
		if err := putFile(root, f); err != nil {
			return fmt.Errorf("write %s: %w", f.Path, err)
		}
	}
	if p.Init == "" {
		return nil
	}
	if _, err := root.Lstat(p.Init[1:]); err != nil {
		return &api.Error{Code: "bad_request", Message: fmt.Sprintf("the profile's init %s is not in its rootimg", p.Init), Hint: "name the package that has it, as systemd-sysv"}
	}
	return nil
}

// removeMatches removes what a pattern names, with all below it. It never leaves the root, whatever links there are.
func removeMatches(root *os.Root, pattern string) error {
	found, err := fs.Glob(root.FS(), pattern)
	if err != nil {
		return err
	}
	for _, name := range found {
		if err := root.RemoveAll(name); err != nil {
			return err
		}
	}
	return nil
}

// settleShadow sets the day on which each password was last changed to the day of the epoch (shadow(5), third field).
func settleShadow(root *os.Root, epoch int64) error {
	text, err := root.ReadFile("etc/shadow")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var b strings.Builder
	for line := range strings.Lines(string(text)) {
		if f := strings.Split(line, ":"); len(f) > 3 {
			f[2] = strconv.FormatInt(epoch/86400, 10)
			line = strings.Join(f, ":")
		}
		b.WriteString(line)
	}
	info, err := root.Stat("etc/shadow")
	if err != nil {
		return err
	}
	return root.WriteFile("etc/shadow", []byte(b.String()), info.Mode().Perm())
}

func putFile(root *os.Root, f File) error {
	name := f.Path[1:]
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	if err := root.RemoveAll(name); err != nil {
		return err
	}
	if f.Link != "" {
		return root.Symlink(f.Link, name)
	}
	mode := fs.FileMode(f.Mode)
	if mode == 0 {
		mode = 0o644
	}
	if err := root.WriteFile(name, []byte(f.Content), 0o600); err != nil {
		return err
	}
	return root.Chmod(name, goMode(mode))
}

// goMode turns the permission bits of chmod(1) into Go's.
func goMode(m fs.FileMode) fs.FileMode {
	out := m & 0o777
	for bit, flag := range map[fs.FileMode]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if m&bit != 0 {
			out |= flag
		}
	}
	return out
}

// packRoot writes a folder as a squashfs that is the same for the same files.
func packRoot(ctx context.Context, dir, to string, epoch int64) error {
	when := strconv.FormatInt(epoch, 10)
	_, err := command{name: "mksquashfs", args: []string{dir, to, "-noappend", "-reproducible", "-mkfs-time", when, "-all-time", when,
		"-no-exports", "-comp", "zstd", "-Xcompression-level", "15", "-b", "128K", "-quiet", "-no-progress",
		"-processors", strconv.Itoa(runtime.NumCPU())}}.run(ctx)
	if err != nil {
		return fmt.Errorf("pack rootimg: %w", err)
	}
	return nil
}

// findKernel gives version and file of the one kernel that lies unpacked in a folder.
func findKernel(dir string) (version, file string, err error) {
	var found []string
	for _, pattern := range []string{"boot/vmlinuz-*", "boot/vmlinux-*"} {
		m, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return "", "", err
		}
		found = append(found, m...)
	}
	if len(found) != 1 {
		return "", "", fmt.Errorf("the kernel's packages hold %d kernels, not one: %s", len(found), strings.Join(slices.Sorted(slices.Values(found)), " "))
	}
	_, version, _ = strings.Cut(filepath.Base(found[0]), "-")
	return version, found[0], nil
}
