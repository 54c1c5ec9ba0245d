// Package modules loads the kernel modules that this machine's devices ask for.
//
// It reads the files that depmod writes, as modules.dep(5) and depmod.d(5) describe them, and the devices' modalias
// files in sysfs. No other program is needed.
package modules

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Index knows the modules of one kernel.
type Index struct {
	dir     string
	paths   map[string]string   // module to file below dir
	deps    map[string][]string // module to those it needs, in the order in which they are loaded
	soft    map[string]softdep
	builtin map[string]bool
	aliases map[string][]alias // by the text before the first colon
	block   map[string]bool    // by alias never loaded, only by name
	options map[string][]string
}

type alias struct {
	pattern string
	literal string // what stands before the first wildcard
	module  string
}

type softdep struct{ pre, post []string }

// maxFile bounds the files of depmod, the largest of which has some 3 MiB with a stock kernel.
const maxFile = 64 << 20

// Open reads the index of a kernel from its folder, as /lib/modules/6.1.0-40-amd64. config are folders of modprobe.d(5)
// files, of which blacklist, options, softdep and alias lines are used; cmdline is the kernel's command line.
// A kernel without modules has no such folder: then all is built in and the index is empty.
func Open(dir string, config []string, cmdline string) (*Index, error) {
	x := &Index{dir: dir, paths: map[string]string{}, deps: map[string][]string{}, soft: map[string]softdep{}, builtin: map[string]bool{},
		aliases: map[string][]alias{}, block: map[string]bool{}, options: map[string][]string{}}
	for _, f := range []struct {
		name string
		line func(string)
	}{
		{"modules.dep", x.depLine},
		{"modules.builtin", func(l string) { x.builtin[nameOf(l)] = true }},
		{"modules.alias", x.configLine},
		{"modules.softdep", x.configLine},
	} {
		if err := eachLine(filepath.Join(dir, f.name), f.line); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read the index of kernel modules: %w", err)
		}
	}
	for _, d := range config {
		files, _ := filepath.Glob(filepath.Join(d, "*.conf")) // the pattern is well formed
		for _, f := range files {
			if err := eachLine(f, x.configLine); err != nil {
				return nil, fmt.Errorf("read module configuration: %w", err)
			}
		}
	}
	x.cmdline(cmdline)
	return x, nil
}

func eachLine(name string, fn func(string)) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	sc := bufio.NewScanner(io.LimitReader(f, maxFile))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		if l := strings.TrimSpace(sc.Text()); l != "" && l[0] != '#' {
			fn(l)
		}
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// Normal returns a module's name as the kernel spells it: with underscores.
func Normal(name string) string { return strings.ReplaceAll(name, "-", "_") }

// nameOf returns the module in a file, as kernel/drivers/net/virtio_net.ko.xz.
func nameOf(file string) string {
	base := path.Base(file)
	if i := strings.Index(base, ".ko"); i > 0 {
		base = base[:i]
	}
	return Normal(base)
}

// depLine reads "FILE: FILE FILE", in which the last is loaded first.
func (x *Index) depLine(l string) {
	file, rest, ok := strings.Cut(l, ":")
	if !ok {
		return
	}
	m := nameOf(file)
	x.paths[m] = file
	for _, d := range strings.Fields(rest) {
		x.deps[m] = append(x.deps[m], nameOf(d))
	}
	slices.Reverse(x.deps[m])
}

// configLine reads a line of modules.alias, modules.softdep or modprobe.d.
func (x *Index) configLine(l string) {
	w := strings.Fields(l)
	if len(w) < 2 {
		return
	}
	switch w[0] {
	case "alias":
		if len(w) == 3 {
			x.addAlias(w[1], Normal(w[2]))
		}
	case "blacklist":
		x.block[Normal(w[1])] = true
	case "options":
		m := Normal(w[1])
		x.options[m] = append(x.options[m], w[2:]...)
	case "softdep":
		m := Normal(w[1])
		s := x.soft[m]
		var to *[]string
		for _, d := range w[2:] {
			switch d {
			case "pre:":
				to = &s.pre
			case "post:":
				to = &s.post
			default:
				if to != nil {
					*to = append(*to, d)
				}
			}
		}
		x.soft[m] = s
	}
}

func (x *Index) addAlias(pattern, module string) {
	lit := pattern
	if i := strings.IndexAny(pattern, `*?[\`); i >= 0 {
		lit = pattern[:i]
	}
	bus := busOf(lit)
	x.aliases[bus] = append(x.aliases[bus], alias{pattern, lit, module})
}

// busOf returns what stands before the first colon, or nothing: names without a bus are in one list.
func busOf(s string) string {
	bus, _, ok := strings.Cut(s, ":")
	if !ok {
		return ""
	}
	return bus
}

// cmdline reads modprobe.blacklist=A,B, module_blacklist=A,B and MODULE.OPTION=VALUE.
func (x *Index) cmdline(line string) {
	for _, w := range strings.Fields(line) {
		key, value, has := strings.Cut(w, "=")
		switch m, opt, dotted := strings.Cut(key, "."); {
		case key == "modprobe.blacklist", key == "module_blacklist":
			for _, b := range strings.Split(value, ",") {
				x.block[Normal(b)] = true
			}
		case dotted && opt != "":
			if has {
				opt += "=" + value
			}
			x.options[Normal(m)] = append(x.options[Normal(m)], opt)
		}
	}
}

// Builtin tells whether a module is part of the kernel.
func (x *Index) Builtin(name string) bool { return x.builtin[Normal(name)] }

// Path returns a module's file below the kernel's folder, or "".
func (x *Index) Path(name string) string { return x.paths[Normal(name)] }

// Match returns the modules that a device with this modalias asks for, in the order of modules.alias, without those
// that are built in, unknown or blacklisted.
func (x *Index) Match(modalias string) []string {
	var out []string
	for _, list := range [][]alias{x.aliases[busOf(modalias)], x.aliases[""]} {
		for _, a := range list {
			if !strings.HasPrefix(modalias, a.literal) || !match(a.pattern, modalias) {
				continue
			}
			if !x.block[a.module] && !x.builtin[a.module] && x.paths[a.module] != "" && !slices.Contains(out, a.module) {
				out = append(out, a.module)
			}
		}
		if busOf(modalias) == "" {
			break
		}
	}
	return out
}

// Order returns the modules to load for name, it included, in their order: soft dependencies before, hard ones, the
// module, soft ones after. Those that are built in or not there are left out; so is name where it is unknown.
func (x *Index) Order(name string) []string {
	var out []string
	seen := map[string]bool{}
	var add func(string)
	add = func(m string) {
		if m = Normal(m); seen[m] || x.builtin[m] || x.paths[m] == "" {
			return
		}
		seen[m] = true
		for _, d := range x.soft[m].pre {
			add(d)
		}
		for _, d := range x.deps[m] {
			add(d)
		}
		out = append(out, m)
		for _, d := range x.soft[m].post {
			add(d)
		}
	}
	add(name)
	return out
}
