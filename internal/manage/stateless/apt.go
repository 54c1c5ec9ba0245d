package stateless

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"mimeo/internal/cluster/node"
)

// aptDir is an apt of our own: lists, cache and an empty package database in one folder, for one release and one
// architecture. The machine's apt is read (how to reach its mirrors, keys, passwords) and never changed.
type aptDir struct {
	dir  string
	conf string
	arch node.Arch
	lock *os.File
}

// deb is one Debian package as the lists describe it.
type deb struct {
	name, version, arch string
	file                string // where it lies once it is fetched
	size                int64
	sha256              string
	stanza              string // its paragraph of the lists
}

// openApt makes or opens the folder and takes its lock; others wait. sources are lines of sources.list(5).
func openApt(ctx context.Context, dir string, arch node.Arch, sources []string) (_ *aptDir, err error) {
	for _, d := range []string{"etc/apt.conf.d", "etc/preferences.d", "etc/sources.list.d", "state/lists/partial", "cache/archives/partial", "debs", "log"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	a := &aptDir{dir: dir, conf: filepath.Join(dir, "apt.conf"), arch: arch}
	if a.lock, err = flock(ctx, filepath.Join(dir, "lock"), syscall.LOCK_EX, true); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.close())
		}
	}()
	acquire, err := machineAcquire(ctx)
	if err != nil {
		return nil, err
	}
	conf := fmt.Sprintf(`Dir "%[1]s";
Dir::State "%[1]s/state";
Dir::State::status "%[1]s/status";
Dir::Cache "%[1]s/cache";
Dir::Etc "%[1]s/etc";
Dir::Etc::netrc "/etc/apt/auth.conf";
Dir::Etc::netrcparts "/etc/apt/auth.conf.d";
Dir::Etc::trusted "/etc/apt/trusted.gpg";
Dir::Etc::trustedparts "/etc/apt/trusted.gpg.d";
Dir::Log "%[1]s/log";
APT::Architecture "%[2]s";
APT::Architectures { "%[2]s"; };
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
`, dir, arch) + acquire
	for name, text := range map[string]string{"apt.conf": conf, "status": "", "etc/sources.list": strings.Join(sources, "\n") + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func (a *aptDir) close() error { return a.lock.Close() }

// machineAcquire are the settings of the machine's own apt that say how to reach its mirrors: proxies, certificates,
// time limits. Hooks and index targets are its own affair.
func machineAcquire(ctx context.Context) (string, error) {
	out, err := command{name: "apt-config", args: []string{"dump"}}.run(ctx)
	if err != nil {
		return "", fmt.Errorf("read this machine's apt configuration: %w", err)
	}
	var b strings.Builder
	for line := range strings.Lines(string(out)) {
		if acquireSetting(line) {
			b.WriteString(line)
		}
	}
	return b.String(), nil
}

func acquireSetting(line string) bool {
	rest, ok := strings.CutPrefix(line, "Acquire::")
	if !ok || strings.Contains(line, `::Proxy-Auto-Detect "";`) {
		return false
	}
	for _, own := range []string{"IndexTargets", "Languages", "GzipIndexes", "CompressionTypes", "Retries", "cdrom", "Changelogs"} {
		if strings.HasPrefix(rest, own) {
			return false
		}
	}
	return true
}

func (a *aptDir) run(ctx context.Context, name string, args ...string) ([]byte, error) {
	return command{name: name, args: args, env: []string{"APT_CONFIG=" + a.conf}}.run(ctx)
}

// update fetches the lists. Where that fails and lists of an earlier time are there, those are used, and warn is told.
func (a *aptDir) update(ctx context.Context, warn func(string)) error {
	_, err := a.run(ctx, "apt-get", "update", "-q", "--error-on=any")
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return err
	}
	lists, _ := filepath.Glob(filepath.Join(a.dir, "state/lists/*_Packages*"))
	if len(lists) == 0 {
		return fmt.Errorf("fetch package lists: %w", err)
	}
	warn(fmt.Sprintf("warning: the package lists could not be renewed, going on with those of an earlier build (%v)", err))
	return nil
}

// resolve gives the packages that an installation of these on an empty system would bring, with Debian's essential
// packages where essential is set, sorted by name.
func (a *aptDir) resolve(ctx context.Context, packages []string, essential bool) ([]deb, error) {
	args := []string{"install", "-q", "-y", "--print-uris"}
	if essential {
		names, err := a.essential(ctx)
		if err != nil {
			return nil, err
		}
		args = append(args, names...)
		// apt treats itself as essential; nothing is installed in the image later on. Of the two ways to a merged
		// /usr the small one is taken, as mmdebstrap merges it from the start.
		args = append(args, "apt-", "usr-is-merged")
	}
	args = append(args, packages...)
	out, err := a.run(ctx, "apt-get", args...)
	if err != nil {
		return nil, fmt.Errorf("find the packages that are needed: %w", err)
	}
	var files []string
	for line := range strings.Lines(string(out)) {
		if !strings.HasPrefix(line, "'") {
			continue
		}
		if f := strings.Fields(line); len(f) >= 3 {
			files = append(files, f[1])
		}
	}
	return a.describe(ctx, files)
}

// essential are the names of the packages that are marked so in the lists.
func (a *aptDir) essential(ctx context.Context) ([]string, error) {
	out, err := a.run(ctx, "apt-cache", "dumpavail")
	if err != nil {
		return nil, fmt.Errorf("list essential packages: %w", err)
	}
	var names []string
	for _, s := range stanzas(string(out)) {
		if s["essential"] == "yes" {
			names = append(names, s["package"])
		}
	}
	if len(names) == 0 {
		return nil, errors.New("the package lists name no essential package")
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// names are the names of all packages in the lists.
func (a *aptDir) names(ctx context.Context) (map[string]bool, error) {
	out, err := a.run(ctx, "apt-cache", "pkgnames")
	if err != nil {
		return nil, fmt.Errorf("list packages: %w", err)
	}
	names := map[string]bool{}
	for _, n := range strings.Fields(string(out)) {
		names[n] = true
	}
	return names, nil
}

// describe reads what the lists say of packages that are given by the name of their file, NAME_VERSION_ARCH.deb.
func (a *aptDir) describe(ctx context.Context, files []string) ([]deb, error) {
	args := []string{"show", "--no-all-versions"}
	for _, f := range files {
		parts := strings.Split(strings.TrimSuffix(f, ".deb"), "_")
		if len(parts) != 3 {
			return nil, fmt.Errorf("package file %q is not NAME_VERSION_ARCH.deb", f)
		}
		version := strings.ReplaceAll(parts[1], "%3a", ":")
		args = append(args, parts[0]+":"+a.archOf(parts[2])+"="+version)
	}
	out, err := a.run(ctx, "apt-cache", args...)
	if err != nil {
		return nil, fmt.Errorf("read package lists: %w", err)
	}
	var debs []deb
	for _, text := range strings.Split(strings.TrimSpace(string(out)), "\n\n") {
		d, err := parseDeb(text)
		if err != nil {
			return nil, err
		}
		d.file = filepath.Join(a.dir, "debs", d.name+"_"+strings.ReplaceAll(d.version, ":", "%3a")+"_"+d.arch+".deb")
		if !slices.ContainsFunc(debs, func(x deb) bool { return x.name == d.name }) {
			debs = append(debs, d)
		}
	}
	if len(debs) != len(files) {
		return nil, fmt.Errorf("read package lists: asked for %d packages, found %d", len(files), len(debs))
	}
	slices.SortFunc(debs, func(x, y deb) int { return strings.Compare(x.name, y.name) })
	return debs, nil
}

func (a *aptDir) archOf(arch string) string {
	if arch == "all" {
		return string(a.arch)
	}
	return arch
}

func parseDeb(text string) (deb, error) {
	all := stanzas(text)
	if len(all) != 1 {
		return deb{}, errors.New("read package lists: no paragraph")
	}
	f := all[0]
	d := deb{name: f["package"], version: f["version"], arch: f["architecture"], sha256: f["sha256"], stanza: text}
	var err error
	if d.size, err = strconv.ParseInt(f["size"], 10, 64); err != nil || d.name == "" || d.version == "" || d.arch == "" || len(d.sha256) != 64 ||
		strings.ContainsAny(d.name+d.version+d.arch, "/ ") {
		return deb{}, fmt.Errorf("read package lists: package %q has no name, version, architecture, size or SHA-256", d.name)
	}
	return d, nil
}

// fetch makes sure that the packages lie in the cache with the content that the lists promise. It gives the bytes that
// had to be fetched.
func (a *aptDir) fetch(ctx context.Context, debs []deb) (int64, error) {
	var missing []string
	var n int64
	for _, d := range debs {
		if err := d.verify(); err == nil {
			continue
		}
		if err := os.Remove(d.file); err != nil && !errors.Is(err, os.ErrNotExist) {
			return 0, err
		}
		missing = append(missing, d.name+"="+d.version)
		n += d.size
	}
	if len(missing) == 0 {
		return 0, nil
	}
	cmd := command{name: "apt-get", args: append([]string{"download", "-q"}, missing...), env: []string{"APT_CONFIG=" + a.conf},
		dir: filepath.Join(a.dir, "debs")}
	if _, err := cmd.run(ctx); err != nil {
		return 0, fmt.Errorf("fetch %d packages: %w", len(missing), err)
	}
	for _, d := range debs {
		if err := d.verify(); err != nil {
			return 0, fmt.Errorf("fetch package %s: %w", d.name, err)
		}
	}
	return n, nil
}

// verify holds the file against size and SHA-256 of the lists, which apt has held against Debian's signature.
func (d deb) verify() error {
	n, sum, err := hashFile(d.file)
	if err != nil {
		return err
	}
	if n != d.size || sum != d.sha256 {
		return fmt.Errorf("%s is not what the package lists promise", d.file)
	}
	return nil
}

// tidy removes cached packages of these names with other versions.
func (a *aptDir) tidy(debs []deb) {
	keep := map[string]string{}
	for _, d := range debs {
		keep[d.name] = filepath.Base(d.file)
	}
	entries, _ := os.ReadDir(filepath.Join(a.dir, "debs"))
	for _, e := range entries {
		name, _, _ := strings.Cut(e.Name(), "_")
		if k, ok := keep[name]; ok && k != e.Name() {
			_ = os.Remove(filepath.Join(a.dir, "debs", e.Name()))
		}
	}
}

// hashFile gives length and SHA-256 of a file.
func hashFile(name string) (int64, string, error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return 0, "", fmt.Errorf("read %s: %w", name, err)
	}
	return n, hex.EncodeToString(h.Sum(nil)), nil
}
