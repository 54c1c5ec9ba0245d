package stateless

import (
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

// Profile is the recipe of a stateless image, as docs/formats/profile.md has it. A profile that LoadProfile gave holds
// all that it extends, and the text of every file and postscript.
type Profile struct {
	Name        string            `yaml:"-" json:"name"`
	Extends     string            `yaml:"extends" json:"extends,omitempty"`
	Description string            `yaml:"description" json:"description,omitempty"`
	Suite       string            `yaml:"suite" json:"suite"`
	Components  []string          `yaml:"components" json:"components"`
	Sources     []string          `yaml:"sources" json:"sources,omitempty"`
	Kernel      map[string]string `yaml:"kernel" json:"kernel"` // package by architecture
	Packages    []string          `yaml:"packages" json:"packages"`
	Firmware    []string          `yaml:"firmware" json:"firmware,omitempty"`
	Modules     Modules           `yaml:"modules" json:"modules"`
	Exclude     []string          `yaml:"exclude" json:"exclude"`
	Files       []File            `yaml:"files" json:"files,omitempty"`
	Cmdline     []string          `yaml:"cmdline" json:"cmdline,omitempty"`
	Init        string            `yaml:"init" json:"init,omitempty"` // process 1 of nodes whose boot state is stateless; "" means the agent
	Mounts      []Mount           `yaml:"mounts" json:"-"`
	LeaveOut    []string          `yaml:"leave_out" json:"-"` // files that a capture takes as zeros
	Postscripts Postscripts       `yaml:"postscripts" json:"-"`
}

// Modules are the kernel modules of the two files that hold some: folders below the kernel's module folder
// ("drivers/net/ethernet/") or single modules ("virtio_net"); one that starts with "-" is left out. What a chosen
// module depends on comes along.
type Modules struct {
	Initrd  []string `yaml:"initrd" json:"initrd"`
	Rootimg []string `yaml:"rootimg" json:"rootimg"`
}

// File is a file of the rootimg. Exactly one of Content, Source and Link is set, or none for an empty file.
type File struct {
	Path    string   `yaml:"path" json:"path"` // absolute
	Mode    FileMode `yaml:"mode" json:"mode"` // 0644 where left out
	Content string   `yaml:"content" json:"content,omitempty"`
	Source  string   `yaml:"source" json:"source,omitempty"` // read from this file, beside the profile
	Link    string   `yaml:"link" json:"link,omitempty"`     // a symbolic link to this path
}

// Mount is an NFS mount that the agent makes before it runs postscripts.
type Mount struct {
	Source  string `yaml:"source"`  // ADDRESS:/path; ${MASTER} stands for the management node
	Target  string `yaml:"target"`  // absolute path in the stateless image
	Options string `yaml:"options"` // as mount -o takes them
}

// Postscripts are programs that a node runs, in order.
type Postscripts struct {
	Pre  []Postscript `yaml:"pre"`  // before the task, in the stateless image
	Post []Postscript `yaml:"post"` // after it, in the stateless image
	Root []Postscript `yaml:"root"` // deploy: in the deployed system's root, before Post

	// First are left in the deployed system, which runs them itself at its first boot.
	First []Postscript `yaml:"first"`
}

// Postscript is a program that a node runs. Exactly one of Path, Content and Source is set.
type Postscript struct {
	Name    string   `yaml:"name"`
	Path    string   `yaml:"path"`    // on a mount of the stateless image
	Content string   `yaml:"content"` // the program itself
	Source  string   `yaml:"source"`  // read from this file, beside the profile
	Timeout Duration `yaml:"timeout"` // 0 means the agent's own
	Tasks   []string `yaml:"tasks"`   // of node.ScriptTasks; all where left out
}

// FileMode is permission bits as they stand in a profile: octal digits, as 0755.
type FileMode fs.FileMode

// What stands for values that could not be read: check tells of them, as it knows the line.
const (
	badMode     FileMode = 1 << 31
	badDuration Duration = -1
)

// UnmarshalYAML reads octal digits.
func (m *FileMode) UnmarshalYAML(text []byte) error {
	s := strings.Trim(strings.TrimSpace(string(text)), `"'`)
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "0o"), 8, 32)
	if *m = FileMode(n); err != nil || n > 0o7777 {
		*m = badMode
	}
	return nil
}

// Duration is a time as it stands in a profile: 90s, 10m, 1h30m.
type Duration time.Duration

// UnmarshalYAML reads a duration.
func (d *Duration) UnmarshalYAML(text []byte) error {
	s := strings.Trim(strings.TrimSpace(string(text)), `"'`)
	v, err := time.ParseDuration(s)
	if *d = Duration(v); err != nil || v < 0 {
		*d = badDuration
	}
	return nil
}

// MountsFor are the profile's mounts as a node is told to make them. vars gives the values for ${NAME} in Source and
// Options; MASTER is the one that the management node must give.
func (p Profile) MountsFor(vars map[string]string) ([]api.Mount, error) {
	var out []api.Mount
	for _, m := range p.Mounts {
		source, err := expand(m.Source, vars)
		if err != nil {
			return nil, fmt.Errorf("profile %s: mount on %s: source: %w", p.Name, m.Target, err)
		}
		options, err := expand(m.Options, vars)
		if err != nil {
			return nil, fmt.Errorf("profile %s: mount on %s: options: %w", p.Name, m.Target, err)
		}
		out = append(out, api.Mount{Source: source, Target: m.Target, Options: options})
	}
	return out, nil
}

// API is a postscript as a task has it.
func (s Postscript) API() api.Postscript {
	p := api.Postscript{Name: s.Name, Path: s.Path, TimeoutMS: time.Duration(s.Timeout).Milliseconds()}
	if s.Path == "" {
		p.Content = []byte(s.Content)
	}
	return p
}

// Stage are the postscripts of one of node.ScriptStages.
func (p Profile) Stage(stage string) []Postscript {
	return map[string][]Postscript{"pre": p.Postscripts.Pre, "post": p.Postscripts.Post, "root": p.Postscripts.Root, "first": p.Postscripts.First}[stage]
}

var variable = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)\}`)

func expand(s string, vars map[string]string) (string, error) {
	var unknown string
	out := variable.ReplaceAllStringFunc(s, func(v string) string {
		name := v[2 : len(v)-1]
		value, ok := vars[name]
		if !ok {
			unknown = name
		}
		return value
	})
	if unknown != "" {
		return "", fmt.Errorf("${%s} has no value", unknown)
	}
	return out, nil
}

// fault is something wrong with a profile, and where: the path of the value as goccy/go-yaml writes it.
type fault struct {
	path string
	text string
}

var (
	packageName = regexp.MustCompile(`^-?[a-z0-9][a-z0-9+.-]+$`)
	suiteName   = regexp.MustCompile(`^[a-z][a-z0-9.-]*$`)
	moduleName  = regexp.MustCompile(`^-?[A-Za-z0-9_][A-Za-z0-9_./+-]*$`)
	scriptName  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
)

// check finds the first thing that is wrong with what stands in one profile file.
func (p *Profile) check() *fault {
	switch {
	case p.Extends != "" && !profileName.MatchString(p.Extends):
		return &fault{"$.extends", fmt.Sprintf("%q is not the name of a profile", p.Extends)}
	case p.Suite != "" && !suiteName.MatchString(p.Suite):
		return &fault{"$.suite", fmt.Sprintf("%q is not the name of a Debian release", p.Suite)}
	}
	if p.Init != "" && (!cleanAbs(p.Init) || !okWord(p.Init)) {
		return &fault{"$.init", fmt.Sprintf("%q is not the absolute path of a program", p.Init)}
	}
	for arch, name := range p.Kernel {
		if _, ok := machines[nodeArch(arch)]; !ok {
			return &fault{"$.kernel", fmt.Sprintf("architecture %q is none of amd64, arm64, ppc64el", arch)}
		}
		if !packageName.MatchString(name) || name[0] == '-' {
			return &fault{"$.kernel." + arch, fmt.Sprintf("%q is not the name of a package", name)}
		}
	}
	lists := []struct {
		path  string
		items []string
		ok    func(string) bool
		what  string
	}{
		{"$.components", p.Components, suiteName.MatchString, "the name of a component"},
		{"$.sources", p.Sources, func(s string) bool { return strings.HasPrefix(s, "deb ") && !strings.ContainsAny(s, "\n\r") }, `a line "deb [options] URI suite component..."`},
		{"$.packages", p.Packages, packageName.MatchString, "the name of a package"},
		{"$.firmware", p.Firmware, packageName.MatchString, "the name of a package"},
		{"$.modules.initrd", p.Modules.Initrd, moduleName.MatchString, "a kernel module or a folder of them"},
		{"$.modules.rootimg", p.Modules.Rootimg, moduleName.MatchString, "a kernel module or a folder of them"},
		{"$.exclude", p.Exclude, okPattern, "an absolute path or pattern"},
		{"$.cmdline", p.Cmdline, okWord, "one word of printable ASCII"},
		{"$.leave_out", p.LeaveOut, OKLeaveOut, "a path or a name of files to leave out"},
	}
	for _, l := range lists {
		for i, item := range l.items {
			if !l.ok(item) {
				return &fault{fmt.Sprintf("%s[%d]", l.path, i), fmt.Sprintf("%q is not %s", item, l.what)}
			}
		}
	}
	for i, f := range p.Files {
		if text := f.check(); text != "" {
			return &fault{fmt.Sprintf("$.files[%d]", i), text}
		}
	}
	for i, m := range p.Mounts {
		if text := m.check(); text != "" {
			return &fault{fmt.Sprintf("$.mounts[%d]", i), text}
		}
	}
	for _, stage := range node.ScriptStages {
		for i, ps := range p.Stage(stage) {
			if text := ps.check(stage); text != "" {
				return &fault{fmt.Sprintf("$.postscripts.%s[%d]", stage, i), text}
			}
		}
	}
	return nil
}

func okPattern(s string) bool {
	_, err := path.Match(strings.TrimPrefix(s, "-"), "/")
	return err == nil && cleanAbs(strings.TrimPrefix(s, "-"))
}

// OKLeaveOut is true for a pattern of files to leave out that the agent takes.
func OKLeaveOut(s string) bool {
	_, err := path.Match(s, "/")
	return err == nil && s != "" && path.Clean(s) != "/" && !slices.Contains(strings.Split(s, "/"), "..") && !strings.ContainsAny(s, "\x00\n")
}

func okWord(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) < 0
}

// cleanAbs is true for an absolute path that is not the root, and that says where it leads at first sight.
func cleanAbs(s string) bool {
	return len(s) > 1 && s[0] == '/' && path.Clean(s) == s && !strings.ContainsAny(s, "\x00\n")
}

func countSet(values ...string) int {
	n := 0
	for _, v := range values {
		if v != "" {
			n++
		}
	}
	return n
}

func (f File) check() string {
	switch {
	case !cleanAbs(f.Path):
		return fmt.Sprintf("path %q is not an absolute path", f.Path)
	case countSet(f.Content, f.Source, f.Link) > 1:
		return "has more than one of content, source and link"
	case f.Mode == badMode:
		return "mode is not an octal number up to 7777"
	case f.Link != "" && f.Mode != 0:
		return "a link has no mode"
	}
	return ""
}

func (m Mount) check() string {
	server, export, ok := strings.Cut(m.Source, ":/")
	switch {
	case !ok || server == "" || !okWord(m.Source):
		return fmt.Sprintf("source %q is not ADDRESS:/path", m.Source)
	case !cleanAbs("/"+export) && export != "":
		return fmt.Sprintf("source %q does not name an absolute path", m.Source)
	case !cleanAbs(m.Target):
		return fmt.Sprintf("target %q is not an absolute path", m.Target)
	case m.Options != "" && !okWord(m.Options):
		return fmt.Sprintf("options %q hold blanks", m.Options)
	}
	return ""
}

func (s Postscript) check(stage string) string {
	for _, t := range s.Tasks {
		if !node.InTask(stage, t) {
			return fmt.Sprintf("tasks of %s: %q is no task that has stage %s", s.Name, t, stage)
		}
	}
	switch {
	case !scriptName.MatchString(s.Name):
		return fmt.Sprintf("name %q is not letters, digits, dots, hyphens and underscores", s.Name)
	case countSet(s.Path, s.Content, s.Source) != 1:
		return fmt.Sprintf("%s needs exactly one of path, content and source", s.Name)
	case s.Timeout == badDuration:
		return fmt.Sprintf("timeout of %s is not a time like 90s or 10m", s.Name)
	case s.Path != "" && !cleanAbs(s.Path):
		return fmt.Sprintf("path %q is not an absolute path", s.Path)
	}
	return ""
}

// over lays what child says over base: lists grow, single values and entries with the same key are replaced, and an
// item "-X" of a list takes X away.
func over(base, child Profile) Profile {
	out := child
	pick := func(c, b string) string {
		if c != "" {
			return c
		}
		return b
	}
	out.Suite = pick(child.Suite, base.Suite)
	out.Description = pick(child.Description, base.Description)
	out.Init = pick(child.Init, base.Init)
	if child.Components == nil {
		out.Components = base.Components
	}
	if child.Sources == nil {
		out.Sources = base.Sources
	}
	out.Kernel = map[string]string{}
	for _, m := range []map[string]string{base.Kernel, child.Kernel} {
		for k, v := range m {
			out.Kernel[k] = v
		}
	}
	out.Packages = without(base.Packages, child.Packages)
	out.Firmware = without(base.Firmware, child.Firmware)
	out.Exclude = without(base.Exclude, child.Exclude)
	out.LeaveOut = without(base.LeaveOut, child.LeaveOut)
	out.Cmdline = slices.Concat(base.Cmdline, child.Cmdline)
	// The order matters to modules, where the last word on a module holds.
	out.Modules.Initrd = slices.Concat(base.Modules.Initrd, child.Modules.Initrd)
	out.Modules.Rootimg = slices.Concat(base.Modules.Rootimg, child.Modules.Rootimg)
	out.Files = replace(base.Files, child.Files, func(f File) string { return f.Path })
	out.Mounts = replace(base.Mounts, child.Mounts, func(m Mount) string { return m.Target })
	key := func(s Postscript) string { return s.Name }
	out.Postscripts.Pre = replace(base.Postscripts.Pre, child.Postscripts.Pre, key)
	out.Postscripts.Post = replace(base.Postscripts.Post, child.Postscripts.Post, key)
	out.Postscripts.Root = replace(base.Postscripts.Root, child.Postscripts.Root, key)
	out.Postscripts.First = replace(base.Postscripts.First, child.Postscripts.First, key)
	return out
}

// without appends b to a; an item "-X" takes X away again.
func without(a, b []string) []string {
	var out []string
	for _, s := range slices.Concat(a, b) {
		if gone, ok := strings.CutPrefix(s, "-"); ok {
			out = slices.DeleteFunc(out, func(x string) bool { return x == gone })
		} else if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// replace appends b to a; an item with a key that is there takes its place.
func replace[T any](a, b []T, key func(T) string) []T {
	out := slices.Clone(a)
	for _, item := range b {
		if i := slices.IndexFunc(out, func(x T) bool { return key(x) == key(item) }); i >= 0 {
			out[i] = item
		} else {
			out = append(out, item)
		}
	}
	return out
}
