package stateless

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// moduleTree is the modules of one kernel, as depmod(8) describes them. Modules are named by their path below the
// tree, as kernel/drivers/net/virtio_net.ko.
type moduleTree struct {
	root    string // the folder that holds lib/modules
	version string
	deps    map[string][]string // module to all modules that it needs
	byName  map[string]string   // virtio_net to its path
	soft    map[string][]string // module name to names that should be loaded before or after it
}

func (t *moduleTree) dir() string { return filepath.Join(t.root, "lib/modules", t.version) }

// readModules makes the tree of a kernel that lies unpacked in root.
func readModules(ctx context.Context, root, version string) (*moduleTree, error) {
	t := &moduleTree{root: root, version: version, deps: map[string][]string{}, byName: map[string]string{}, soft: map[string][]string{}}
	if err := t.uncompress(ctx); err != nil {
		return nil, err
	}
	if err := depmod(ctx, root, version); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(t.dir(), "modules.dep"))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		module, needs, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf("modules.dep of kernel %s: line %q has no colon", version, line)
		}
		t.deps[module] = strings.Fields(needs)
		t.byName[moduleOf(module)] = module
	}
	if len(t.deps) == 0 {
		return nil, fmt.Errorf("kernel %s has no modules", version)
	}
	if text, err = os.ReadFile(filepath.Join(t.dir(), "modules.softdep")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) < 3 || words[0] != "softdep" {
			continue
		}
		for _, w := range words[2:] {
			if !strings.HasSuffix(w, ":") {
				t.soft[plain(words[1])] = append(t.soft[plain(words[1])], plain(w))
			}
		}
	}
	return t, nil
}

// uncompress unpacks modules that come compressed: they are compressed with the file that holds them, and the agent
// loads plain ones. The signature of a module lies inside.
func (t *moduleTree) uncompress(ctx context.Context) error {
	packed := map[string][]string{}
	err := filepath.WalkDir(t.dir(), func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			switch {
			case strings.HasSuffix(p, ".ko.xz"):
				packed["xz"] = append(packed["xz"], p)
			case strings.HasSuffix(p, ".ko.zst"):
				packed["zstd"] = append(packed["zstd"], p)
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	for program, files := range packed {
		args := []string{"-d", "-q", "-f"}
		if program == "zstd" {
			args = append(args, "--rm")
		}
		for part := range slices.Chunk(files, 500) {
			if _, err := (command{name: program, args: append(args, part...)}).run(ctx); err != nil {
				return fmt.Errorf("uncompress kernel modules: %w", err)
			}
		}
	}
	return nil
}

// depmod writes the lists of modules below root.
func depmod(ctx context.Context, root, version string) error {
	if _, err := (command{name: "depmod", args: []string{"-b", root, version}}).run(ctx); err != nil {
		return fmt.Errorf("list modules of kernel %s: %w", version, err)
	}
	return nil
}

// moduleOf is a module's name from its path: what lsmod shows.
func moduleOf(file string) string { return plain(strings.TrimSuffix(path.Base(file), ".ko")) }

func plain(name string) string { return strings.ReplaceAll(name, "-", "_") }

// choose gives the modules that a list of a profile means, with all that they need, sorted. The last word on a module
// holds; what a chosen module needs is there whatever the list says of it.
func (t *moduleTree) choose(list []string) []string {
	chosen := map[string]bool{}
	var add func(module string)
	add = func(module string) {
		if chosen[module] {
			return
		}
		chosen[module] = true
		for _, m := range t.deps[module] {
			add(m)
		}
		for _, name := range t.soft[moduleOf(module)] {
			if m, ok := t.byName[name]; ok {
				add(m)
			}
		}
	}
	for module := range t.deps {
		want := false
		for _, item := range list {
			pattern, minus := strings.CutPrefix(item, "-")
			if matchModule(pattern, module) {
				want = !minus
			}
		}
		if want {
			add(module)
		}
	}
	out := make([]string, 0, len(chosen))
	for m := range chosen {
		out = append(out, m)
	}
	slices.Sort(out)
	return out
}

// matchModule tells whether a word of a profile's list means a module: a folder that ends with a slash, a path, or a
// name.
func matchModule(pattern, module string) bool {
	below := strings.TrimPrefix(module, "kernel/")
	switch {
	case strings.HasSuffix(pattern, "/"):
		return strings.HasPrefix(below, pattern)
	case strings.Contains(pattern, "/"):
		return path.Dir(pattern) == path.Dir(below) && moduleOf(pattern) == moduleOf(below)
	}
	return moduleOf(pattern) == moduleOf(below)
}

// install copies modules below another root and lists them there. lean leaves out the lists in binary form, which only
// kmod's programs read.
func (t *moduleTree) install(ctx context.Context, modules []string, root string, lean bool) error {
	dir := filepath.Join(root, "lib/modules", t.version)
	for _, m := range slices.Concat(modules, []string{"modules.order", "modules.builtin", "modules.builtin.modinfo"}) {
		to := filepath.Join(dir, filepath.FromSlash(m))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		err := copyFile(filepath.Join(t.dir(), filepath.FromSlash(m)), to, 0o644)
		if err != nil && !(errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(m, "modules.")) {
			return err
		}
	}
	if err := depmod(ctx, root, t.version); err != nil {
		return err
	}
	drop := []string{"modules.symbols", "modules.symbols.bin", "modules.devname"}
	if lean {
		drop = append(drop, "modules.alias.bin", "modules.dep.bin", "modules.builtin.bin", "modules.builtin.alias.bin", "modules.order", "modules.builtin.modinfo")
	}
	for _, name := range drop {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// firmware are the files that these modules may ask the kernel for, by their own word (MODULE_FIRMWARE in .modinfo),
// as paths or patterns below lib/firmware, sorted.
func (t *moduleTree) firmware(modules []string) ([]string, error) {
	var out []string
	for _, m := range modules {
		names, err := modinfo(filepath.Join(t.dir(), filepath.FromSlash(m)), "firmware")
		if err != nil {
			return nil, err
		}
		out = append(out, names...)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// modinfo are the values of one key in a module's .modinfo section, which is a run of "key=value" ended by zero bytes.
func modinfo(file, key string) ([]string, error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", file, err)
	}
	defer f.Close()
	s := f.Section(".modinfo")
	if s == nil {
		return nil, nil
	}
	data, err := s.Data()
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", file, err)
	}
	var out []string
	for _, entry := range bytes.Split(data, []byte{0}) {
		if v, ok := bytes.CutPrefix(entry, []byte(key+"=")); ok {
			out = append(out, string(v))
		}
	}
	return out, nil
}

// installFirmware copies the firmware that modules ask for from the unpacked firmware packages, as far as those have
// it. It gives the number of files.
func (t *moduleTree) installFirmware(from string, modules []string, root string) (int, error) {
	names, err := t.firmware(modules)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, base := range []string{"lib/firmware", "usr/lib/firmware"} {
		src, err := os.OpenRoot(filepath.Join(from, base))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return n, err
		}
		for _, name := range names {
			for _, pattern := range []string{name, name + ".xz", name + ".zst"} {
				found, err := fs.Glob(src.FS(), pattern)
				if err != nil {
					continue // not a pattern that Go can read: no such file
				}
				for _, f := range found {
					b, err := src.ReadFile(f)
					if err != nil {
						continue // a folder, or a link to what another package has
					}
					to := filepath.Join(root, "lib/firmware", filepath.FromSlash(f))
					if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
						return n, errors.Join(err, src.Close())
					}
					if err := os.WriteFile(to, b, 0o644); err != nil {
						return n, errors.Join(err, src.Close())
					}
					n++
				}
			}
		}
		if err := src.Close(); err != nil {
			return n, err
		}
	}
	return n, nil
}
