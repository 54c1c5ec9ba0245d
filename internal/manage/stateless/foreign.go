package stateless

import (
	"archive/tar"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"mimeo/internal/cluster/node"
)

// A root for another architecture is made without running a program of that architecture. Its twin is installed first:
// the same packages for this machine, with their installation scripts. All that the scripts make (users, links between
// alternatives, services that are enabled) is the same for every architecture and stays; the files that came out of the
// packages go, and those of the foreign packages take their places, with the owners, modes and capabilities that the
// scripts gave to the twin's.

// triplets are the folder names that Debian gives to an architecture's libraries (multiarch).
var triplets = map[node.Arch]string{node.AMD64: "x86_64-linux-gnu", node.ARM64: "aarch64-linux-gnu", node.PPC64EL: "powerpc64le-linux-gnu"}

// dpkgInfo is where dpkg keeps what it knows of each installed package.
const dpkgInfo = "var/lib/dpkg/info"

// standing is what an installation script may change of a packaged file without changing what is in it.
type standing struct {
	mode       fs.FileMode
	uid, gid   int
	capability []byte // security.capability
	link       string // what a link points to
}

// foreignRoot is a twin on its way to the other architecture. Names are paths below the root, without a slash before.
type foreignRoot struct {
	dir       string
	root      *os.Root
	own, arch node.Arch
	diverted  map[string][2]string // name to where it was moved, and for which package's sake
	twin      map[string]standing  // files and links that the twin's packages brought
	folders   []string             // folders that they brought
	placed    map[string]bool      // what the foreign packages brought
}

// transplant turns the root in dir, in which own's packages are installed, into one of the foreign packages debs.
func transplant(ctx context.Context, dir string, own, arch node.Arch, debs []deb) (err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	f := &foreignRoot{dir: dir, root: root, own: own, arch: arch, diverted: map[string][2]string{}, twin: map[string]standing{}, placed: map[string]bool{}}
	if err := f.readDiversions(); err != nil {
		return fmt.Errorf("read the twin's diversions: %w", err)
	}
	if err := f.clear(); err != nil {
		return fmt.Errorf("take the twin's files away: %w", err)
	}
	if err := f.forget(); err != nil {
		return err
	}
	for _, d := range debs {
		if err := f.place(ctx, d); err != nil {
			return fmt.Errorf("unpack package %s: %w", d.name, err)
		}
	}
	if err := f.writeStatus(debs); err != nil {
		return fmt.Errorf("write the package database: %w", err)
	}
	return f.settle()
}

// readDiversions reads dpkg's list of files that a package had moved out of its way: three lines for each.
func (f *foreignRoot) readDiversions() error {
	text, err := f.root.ReadFile("var/lib/dpkg/diversions")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	for ; len(lines) >= 3; lines = lines[3:] {
		f.diverted[below(lines[0])] = [2]string{below(lines[1]), lines[2]}
	}
	return nil
}

// below makes a path of a package one below the root.
func below(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

// at is where a package's file lies: there, or where another package had it moved to.
func (f *foreignRoot) at(name, pkg string) string {
	if to, ok := f.diverted[name]; ok && to[1] != pkg {
		return to[0]
	}
	return name
}

// clear removes what the twin's packages brought, and keeps in mind how it stood.
func (f *foreignRoot) clear() error {
	lists, err := fs.Glob(f.root.FS(), dpkgInfo+"/*.list")
	if err != nil {
		return err
	}
	if len(lists) == 0 {
		return errors.New("dpkg has no list of files there")
	}
	for _, list := range lists {
		text, err := f.root.ReadFile(list)
		if err != nil {
			return err
		}
		pkg, _, _ := strings.Cut(strings.TrimSuffix(path.Base(list), ".list"), ":")
		for line := range strings.Lines(string(text)) {
			name := f.at(below(strings.TrimSuffix(line, "\n")), pkg)
			if name == "" {
				continue
			}
			if err := f.clearOne(name); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *foreignRoot) clearOne(name string) error {
	// A folder, or a link to one: /bin is packaged as a folder and is a link.
	if info, err := f.root.Stat(name); err == nil && info.IsDir() {
		f.folders = append(f.folders, name)
		return nil
	}
	info, err := f.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // of two packages, or taken away by a script
	}
	if err != nil {
		return err
	}
	s := standing{mode: info.Mode()}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(f.dir, name), &st); err != nil {
		return &fs.PathError{Op: "lstat", Path: name, Err: err}
	}
	s.uid, s.gid = int(st.Uid), int(st.Gid)
	if s.capability, err = capabilityOf(filepath.Join(f.dir, name)); err != nil {
		return &fs.PathError{Op: "read capabilities of", Path: name, Err: err}
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		if s.link, err = f.root.Readlink(name); err != nil {
			return err
		}
	}
	f.twin[f.foreignName(name)] = s
	return f.root.Remove(name)
}

// capabilityOf reads a file's capabilities (capabilities(7)), or nothing.
func capabilityOf(name string) ([]byte, error) {
	var b [64]byte
	n, err := unix.Lgetxattr(name, "security.capability", b[:])
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return b[:n], nil
}

// foreignName is the name that one of the twin's files has on the other architecture.
func (f *foreignRoot) foreignName(name string) string {
	return strings.ReplaceAll(name, triplets[f.own], triplets[f.arch])
}

// forget empties what dpkg knew of the twin.
func (f *foreignRoot) forget() error {
	if err := f.root.RemoveAll(dpkgInfo); err != nil {
		return err
	}
	if err := f.root.MkdirAll(dpkgInfo, 0o755); err != nil {
		return err
	}
	return f.root.WriteFile(dpkgInfo+"/format", []byte("1\n"), 0o644)
}

// place unpacks one package, and tells dpkg's database of it.
func (f *foreignRoot) place(ctx context.Context, d deb) error {
	var list strings.Builder
	err := readTar(ctx, "--fsys-tarfile", d.file, func(h *tar.Header, r io.Reader) error {
		name := below(h.Name)
		if name == "" {
			list.WriteString("/.\n")
			return nil
		}
		list.WriteString("/" + name + "\n")
		return f.put(f.at(name, d.name), h, r)
	})
	if err != nil {
		return err
	}
	base := dpkgInfo + "/" + d.name
	if strings.Contains(d.stanza, "\nMulti-Arch: same\n") {
		base += ":" + d.arch
	}
	if err := f.root.WriteFile(base+".list", []byte(list.String()), 0o644); err != nil {
		return err
	}
	return readTar(ctx, "--ctrl-tarfile", d.file, func(h *tar.Header, r io.Reader) error {
		name := below(h.Name)
		if h.Typeflag != tar.TypeReg || name == "control" || strings.Contains(name, "/") {
			return nil
		}
		return f.write(base+"."+name, r, fs.FileMode(h.Mode)&0o777)
	})
}

// readTar gives each member of one of the two archives in a package.
func readTar(ctx context.Context, which, file string, each func(*tar.Header, io.Reader) error) error {
	cmd := exec.CommandContext(ctx, "dpkg-deb", which, file)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start dpkg-deb: %w", err)
	}
	err = func() error {
		for t := tar.NewReader(out); ; {
			h, err := t.Next()
			if errors.Is(err, io.EOF) {
				_, err = io.Copy(io.Discard, out)
				return err
			}
			if err != nil {
				return err
			}
			if err := each(h, t); err != nil {
				return err
			}
		}
	}()
	if err != nil {
		_ = cmd.Process.Kill() // it may be blocked on a pipe that nobody reads
		_ = cmd.Wait()
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("dpkg-deb %s: %w: %s", which, err, lastLines(errs.String(), 3))
	}
	return nil
}

// put places one member of a package. What stood in the twin stands the same here.
func (f *foreignRoot) put(name string, h *tar.Header, r io.Reader) error {
	mode := goMode(fs.FileMode(h.Mode))
	if h.Typeflag == tar.TypeDir {
		return f.putFolder(name, mode, h)
	}
	if err := f.root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	// A link that a script made in its place, or the same file of another package.
	if err := f.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f.placed[name] = true
	uid, gid := h.Uid, h.Gid
	stood, known := f.twin[name]
	if known {
		uid, gid = stood.uid, stood.gid
	}
	switch h.Typeflag {
	case tar.TypeReg:
		if err := f.write(name, r, 0o600); err != nil {
			return err
		}
	case tar.TypeSymlink:
		if err := f.root.Symlink(h.Linkname, name); err != nil {
			return err
		}
		return f.root.Lchown(name, uid, gid)
	case tar.TypeLink:
		return f.root.Link(below(h.Linkname), name)
	default:
		return fmt.Errorf("%s is neither file nor folder nor link", name)
	}
	if err := f.root.Lchown(name, uid, gid); err != nil {
		return err
	}
	if known && stood.mode.IsRegular() {
		mode = stood.mode
	}
	if err := f.root.Chmod(name, mode); err != nil {
		return err
	}
	if stood.capability == nil {
		return nil
	}
	return unix.Lsetxattr(filepath.Join(f.dir, name), "security.capability", stood.capability, 0)
}

func (f *foreignRoot) putFolder(name string, mode fs.FileMode, h *tar.Header) error {
	f.placed[name] = true
	if info, err := f.root.Stat(name); err == nil && info.IsDir() {
		return nil // it stands as the twin's packages or scripts made it
	}
	if to := f.twin[name].link; to != "" {
		return f.root.Symlink(to, name) // a script made it one, as /var/run
	}
	if err := f.root.MkdirAll(name, 0o755); err != nil {
		return err
	}
	if err := f.root.Lchown(name, h.Uid, h.Gid); err != nil {
		return err
	}
	return f.root.Chmod(name, mode)
}

func (f *foreignRoot) write(name string, r io.Reader, mode fs.FileMode) (err error) {
	out, err := f.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	_, err = io.Copy(out, r)
	return err
}

// notInstalled are the lines of the package lists that dpkg's database does not have.
var notInstalled = []string{"Filename", "Size", "MD5sum", "SHA1", "SHA256", "SHA512", "Description-md5", "Task", "Tag"}

// writeStatus makes the database that dpkg -l reads.
func (f *foreignRoot) writeStatus(debs []deb) error {
	var b strings.Builder
	for _, d := range debs {
		drop := false
		for line := range strings.Lines(d.stanza + "\n") {
			if strings.TrimSpace(line) == "" {
				continue
			}
			if line[0] != ' ' {
				key, _, _ := strings.Cut(line, ":")
				drop = slices.Contains(notInstalled, key)
			}
			if !drop {
				b.WriteString(line)
			}
			if strings.HasPrefix(line, "Package:") {
				b.WriteString("Status: install ok installed\n")
			}
		}
		b.WriteString("\n")
	}
	if err := f.root.RemoveAll("var/lib/dpkg/status"); err != nil {
		return err
	}
	if err := f.root.WriteFile("var/lib/dpkg/arch", []byte(string(f.arch)+"\n"), 0o644); err != nil {
		return err
	}
	return f.root.WriteFile("var/lib/dpkg/status", []byte(b.String()), 0o644)
}

// settle puts right what the twin's scripts made for its own architecture: links into its folder of libraries, and
// caches of where its libraries lie. Then nothing of the twin that runs may be left.
func (f *foreignRoot) settle() error {
	for _, name := range []string{"etc/ld.so.cache", "var/cache/ldconfig"} {
		if err := f.root.RemoveAll(name); err != nil {
			return err
		}
	}
	// Children come after their parents in a list, so that what is empty is found from the end.
	slices.Sort(f.folders)
	for _, name := range slices.Backward(slices.Compact(f.folders)) {
		if info, err := f.root.Lstat(name); err == nil && info.IsDir() && !f.placed[name] {
			_ = f.root.Remove(name) // fails where something is in it
		}
	}
	if f.root.Remove("usr/lib64") == nil { // it was empty: arm64 has none
		if err := f.root.Remove("lib64"); err != nil {
			return err
		}
	}
	return fs.WalkDir(f.root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch {
		case d.IsDir() && path.Base(name) == triplets[f.own] && !f.placed[name]:
			if err := f.root.RemoveAll(name); err != nil { // caches of plug-ins
				return err
			}
			return fs.SkipDir
		case d.Type()&fs.ModeSymlink != 0 && !f.placed[name]:
			return f.settleLink(name)
		case d.Type().IsRegular() && !f.placed[name]:
			if strings.Contains(path.Base(name), triplets[f.own]) {
				return f.root.Remove(name) // compiled from a file that is no longer there
			}
			return f.checkFile(name)
		}
		return nil
	})
}

func (f *foreignRoot) settleLink(name string) error {
	to, err := f.root.Readlink(name)
	if err != nil {
		return err
	}
	if want := f.foreignName(to); want != to {
		if err := f.root.Remove(name); err != nil {
			return err
		}
		return f.root.Symlink(want, name)
	}
	return nil
}

// checkFile refuses a program of this machine that a script has made or copied.
func (f *foreignRoot) checkFile(name string) error {
	in, err := f.root.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	var magic [4]byte
	if _, err := io.ReadFull(in, magic[:]); err != nil || string(magic[:]) != elf.ELFMAG {
		return nil
	}
	e, err := elf.NewFile(in)
	if err != nil {
		return nil // not a program that would run anywhere
	}
	if got := e.Machine.String(); got != machines[f.arch].elf {
		return fmt.Errorf("/%s is a program for %s that an installation script has made; it cannot be made for %s here", name, got, f.arch)
	}
	return nil
}
