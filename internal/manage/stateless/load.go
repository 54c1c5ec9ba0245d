package stateless

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/parser"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

//go:embed profiles/*.yaml
var builtin embed.FS

// maxSource is the most that a file or postscript of a profile may hold, in bytes: a profile is kept in memory.
const maxSource = 16 << 20

func nodeArch(s string) node.Arch { return node.Arch(s) }

// Profiles are the names of all profiles: the built-in ones and those in the state folder's profiles.
func Profiles(state string) ([]string, error) {
	var names []string
	add := func(entries []fs.DirEntry) {
		for _, e := range entries {
			if name, ok := strings.CutSuffix(e.Name(), ".yaml"); ok && profileName.MatchString(name) {
				names = append(names, name)
			}
		}
	}
	entries, err := builtin.ReadDir("profiles")
	if err != nil {
		return nil, err
	}
	add(entries)
	entries, err = os.ReadDir(profilesDir(state))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list profiles: %w", err)
	}
	add(entries)
	slices.Sort(names)
	return slices.Compact(names), nil
}

// LoadProfile reads the profile with this name from the state folder's profiles, or the built-in one, with all that
// it extends. A profile that extends its own name extends the built-in one. An error names file and line.
func LoadProfile(state, name string) (Profile, error) {
	p, err := loadChain(state, name, nil)
	if err != nil {
		return Profile{}, err
	}
	p.Name = name
	if p.Suite == "" {
		return Profile{}, fmt.Errorf("profile %s: suite is missing", name)
	}
	return p, nil
}

func loadChain(state, name string, chain []string) (Profile, error) {
	if err := checkProfile(name); err != nil {
		return Profile{}, err
	}
	// The second time that a name comes up it means the built-in one.
	seen := 0
	for _, c := range chain {
		if c == name {
			seen++
		}
	}
	if seen > 1 {
		return Profile{}, fmt.Errorf("profile %s extends itself: %s", name, strings.Join(append(chain, name), " → "))
	}
	p, err := loadOne(state, name, seen == 1)
	if err != nil {
		return Profile{}, err
	}
	if p.Extends == "" {
		return over(Profile{}, p), nil
	}
	base, err := loadChain(state, p.Extends, append(chain, name))
	if err != nil {
		return Profile{}, fmt.Errorf("profile %s extends %s: %w", name, p.Extends, err)
	}
	return over(base, p), nil
}

// loadOne reads one profile file.
func loadOne(state, name string, builtinOnly bool) (Profile, error) {
	file := filepath.Join(profilesDir(state), name+".yaml")
	text, err := os.ReadFile(file)
	if builtinOnly || errors.Is(err, fs.ErrNotExist) {
		text, err = builtin.ReadFile("profiles/" + name + ".yaml")
		if errors.Is(err, fs.ErrNotExist) {
			if builtinOnly {
				return Profile{}, fmt.Errorf("profile %s extends itself, and there is no built-in profile of that name", name)
			}
			return Profile{}, &api.Error{Code: "not_found", Message: fmt.Sprintf("there is no profile %s", name),
				Hint: fmt.Sprintf("write %s, or see docs/stateless.md for the built-in ones", file)}
		}
		file = "built-in profile " + name
	}
	if err != nil {
		return Profile{}, fmt.Errorf("read profile: %w", err)
	}
	p, err := ParseProfile(text)
	if err != nil {
		return Profile{}, &api.Error{Code: "bad_request", Message: fmt.Sprintf("%s: %v", file, err)}
	}
	if err := p.readSources(profilesDir(state)); err != nil {
		return Profile{}, fmt.Errorf("%s: %w", file, err)
	}
	return p, nil
}

// ParseProfile reads the text of one profile file, without what it extends or reads from other files. An error starts
// with the line.
func ParseProfile(text []byte) (p Profile, err error) {
	// The YAML reader panics on some malformed texts (a tag in place of a list, for one). The daemon must not.
	defer func() {
		if r := recover(); r != nil {
			p, err = Profile{}, fmt.Errorf("line 1: this is not YAML that can be read: %s", strings.ReplaceAll(fmt.Sprint(r), "\n", " "))
		}
	}()
	if len(bytes.TrimSpace(text)) == 0 {
		return p, errors.New("line 1: the profile is empty")
	}
	if err := yaml.UnmarshalWithOptions(text, &p, yaml.Strict()); err != nil {
		return p, lineError(err)
	}
	if f := p.check(); f != nil {
		return p, fmt.Errorf("line %d: %s: %s", lineOf(text, f.path), strings.TrimPrefix(f.path, "$."), f.text)
	}
	return p, nil
}

// lineError turns an error of the YAML reader, which starts with [line:column] and goes on with an excerpt, into one
// line.
func lineError(err error) error {
	first, _, _ := strings.Cut(err.Error(), "\n")
	var line, col int
	if n, _ := fmt.Sscanf(first, "[%d:%d]", &line, &col); n == 2 {
		_, rest, _ := strings.Cut(first, "] ")
		return fmt.Errorf("line %d: %s", line, rest)
	}
	return errors.New(first)
}

// lineOf is the line of a value, or 1.
func lineOf(text []byte, path string) int {
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		return 1
	}
	p, err := yaml.PathString(path)
	if err != nil {
		return 1
	}
	n, err := p.FilterFile(file)
	if err != nil || n == nil || n.GetToken() == nil {
		return 1
	}
	return n.GetToken().Position.Line
}

// readSources reads the files that a profile names. They lie beside it, or anywhere by an absolute path.
func (p *Profile) readSources(dir string) error {
	read := func(name string) (string, error) {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		info, err := os.Stat(name)
		if err != nil {
			return "", err
		}
		if !info.Mode().IsRegular() || info.Size() > maxSource {
			return "", fmt.Errorf("%s is not a file of at most %d MiB", name, maxSource>>20)
		}
		b, err := os.ReadFile(name)
		return string(b), err
	}
	for i := range p.Files {
		f := &p.Files[i]
		if f.Source == "" {
			continue
		}
		var err error
		if f.Content, err = read(f.Source); err != nil {
			return fmt.Errorf("source of %s: %w", f.Path, err)
		}
	}
	for _, scripts := range [][]Postscript{p.Postscripts.Pre, p.Postscripts.Post, p.Postscripts.Root, p.Postscripts.First} {
		for i := range scripts {
			s := &scripts[i]
			if s.Source == "" {
				continue
			}
			var err error
			if s.Content, err = read(s.Source); err != nil {
				return fmt.Errorf("source of postscript %s: %w", s.Name, err)
			}
		}
	}
	return nil
}
