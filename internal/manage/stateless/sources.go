package stateless

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"mimeo/internal/cluster/api"
)

// source is one place that Debian packages come from: a stanza of a .sources file or a line of a .list file
// (sources.list(5)).
type source struct {
	uris       []string
	suites     []string
	components []string
	signedBy   string // file of keys, keys themselves (deb822, with line breaks), or nothing
	trusted    bool
	from       string // file, for messages
}

// machineSources are the Debian sources that this machine's own apt is configured with. etc is /etc/apt. Sources of
// others are left out: an image is made of Debian's packages, unless its profile names its own sources.
func machineSources(etc string) ([]source, error) {
	files, err := filepath.Glob(filepath.Join(etc, "sources.list.d", "*"))
	if err != nil {
		return nil, err
	}
	slices.Sort(files)
	files = append([]string{filepath.Join(etc, "sources.list")}, files...)
	var all []source
	for _, f := range files {
		text, err := os.ReadFile(f)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		switch filepath.Ext(f) {
		case ".sources":
			all = append(all, parseDeb822(string(text), f)...)
		case ".list":
			all = append(all, parseList(string(text), f)...)
		}
	}
	return slices.DeleteFunc(all, func(s source) bool { return !s.debian() }), nil
}

// parseList reads the one-line form: deb [ option=value ... ] URI suite component...
func parseList(text, from string) []source {
	var out []source
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb")
		if !ok || rest == "" || (rest[0] != ' ' && rest[0] != '\t') {
			continue
		}
		s := source{from: from}
		rest = strings.TrimSpace(rest)
		if strings.HasPrefix(rest, "[") {
			options, after, ok := strings.Cut(rest[1:], "]")
			if !ok {
				continue
			}
			rest = after
			for _, o := range strings.Fields(options) {
				key, value, _ := strings.Cut(o, "=")
				switch strings.ToLower(key) {
				case "signed-by":
					s.signedBy = value
				case "trusted":
					s.trusted = value == "yes"
				}
			}
		}
		words := strings.Fields(rest)
		if len(words) < 2 {
			continue
		}
		s.uris, s.suites, s.components = words[:1], words[1:2], words[2:]
		out = append(out, s)
	}
	return out
}

// parseDeb822 reads the form with stanzas of fields.
func parseDeb822(text, from string) []source {
	var out []source
	for _, fields := range stanzas(text) {
		if !slices.Contains(strings.Fields(fields["types"]), "deb") || strings.EqualFold(strings.TrimSpace(fields["enabled"]), "no") {
			continue
		}
		s := source{from: from, uris: strings.Fields(fields["uris"]), suites: strings.Fields(fields["suites"]),
			components: strings.Fields(fields["components"]), signedBy: strings.TrimSpace(fields["signed-by"]),
			trusted: strings.EqualFold(strings.TrimSpace(fields["trusted"]), "yes")}
		if len(s.uris) > 0 && len(s.suites) > 0 {
			out = append(out, s)
		}
	}
	return out
}

// stanzas reads paragraphs of "Field: value" lines, as deb822(5) has them. Names are in lower case; the lines of a
// value keep their line breaks.
func stanzas(text string) []map[string]string {
	var out []map[string]string
	var cur map[string]string
	var last string
	sc := bufio.NewScanner(strings.NewReader(text))
	sc.Buffer(nil, 16<<20)
	for sc.Scan() {
		line := sc.Text()
		switch {
		case strings.TrimSpace(line) == "":
			cur = nil
		case line[0] == '#':
		case line[0] == ' ' || line[0] == '\t':
			if cur != nil && last != "" {
				cur[last] += "\n" + line
			}
		default:
			name, value, ok := strings.Cut(line, ":")
			if !ok {
				last = ""
				continue
			}
			if cur == nil {
				cur = map[string]string{}
				out = append(out, cur)
			}
			last = strings.ToLower(name)
			cur[last] = strings.TrimSpace(value)
		}
	}
	return out
}

// debian says whether a source is Debian's own. A source signed by others' keys is not; where the keys do not tell,
// the path on the mirror does (/debian, /debian-security, a mirror list of that name).
func (s source) debian() bool {
	if strings.HasPrefix(s.signedBy, "/") {
		return strings.Contains(filepath.Base(s.signedBy), "debian-archive")
	}
	for _, u := range s.uris {
		for _, part := range strings.Split(u, "/") {
			if part == "debian" || strings.HasPrefix(part, "debian-security") || part == "debian.list" {
				return slices.Contains(s.components, "main")
			}
		}
	}
	return false
}

// forSuite are the sources of one Debian release with the components asked for, in the one-line form, made from the
// sources of the release that this machine runs: bookworm, bookworm-updates and bookworm-security become trixie,
// trixie-updates and trixie-security on the same mirror. base are the names of this machine's release.
func forSuite(all []source, base []string, suite string, components []string) []string {
	var out []string
	for _, s := range all {
		for _, have := range s.suites {
			name, ok := renameSuite(have, base, suite)
			if !ok {
				continue
			}
			for _, u := range s.uris {
				line := "deb "
				var options []string
				if strings.HasPrefix(s.signedBy, "/") {
					options = append(options, "signed-by="+s.signedBy)
				}
				if s.trusted {
					options = append(options, "trusted=yes")
				}
				if len(options) > 0 {
					line += "[" + strings.Join(options, " ") + "] "
				}
				line += u + " " + name + " " + strings.Join(components, " ")
				if !slices.Contains(out, line) {
					out = append(out, line)
				}
			}
		}
	}
	return out
}

// renameSuite gives the name of the wanted release for one of this machine's; backports and proposed updates are not
// taken over.
func renameSuite(have string, base []string, want string) (string, bool) {
	for _, b := range base {
		switch have {
		case b:
			return want, true
		case b + "-updates", b + "-security":
			return want + strings.TrimPrefix(have, b), true
		case b + "/updates": // the name of security updates before Debian 11
			return want + "-security", true
		}
	}
	return "", false
}

// releaseNames are the names under which sources may speak of the release that this machine runs.
func releaseNames(osRelease string) []string {
	names := []string{"stable", "oldstable", "oldoldstable", "testing"}
	text, err := os.ReadFile(osRelease)
	if err != nil {
		return names
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok {
			names = append([]string{strings.Trim(v, `"'`)}, names...)
		}
	}
	return names
}

// sourcesFor are the lines of sources.list for a profile: its own, or the machine's for its release.
func sourcesFor(own []string, suite string, components []string) ([]string, error) {
	if len(own) > 0 {
		return own, nil
	}
	all, err := machineSources("/etc/apt")
	if err != nil {
		return nil, fmt.Errorf("read this machine's package sources: %w", err)
	}
	lines := forSuite(all, releaseNames("/etc/os-release"), suite, components)
	if len(lines) == 0 {
		return nil, &api.Error{Code: "failed", Message: fmt.Sprintf("no Debian source in /etc/apt/sources.list or /etc/apt/sources.list.d from which %s could be had", suite),
			Hint: `name one in the profile: "sources: [deb MIRROR SUITE main]"`}
	}
	return lines, nil
}
