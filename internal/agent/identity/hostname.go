package identity

import (
	"fmt"
	"regexp"
	"strings"
)

var hostnameText = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$`)

// hostname writes /etc/hostname and changes the lines of /etc/hosts that name this machine.
func (t *tree) hostname(name string) error {
	if name == "" {
		return nil
	}
	if len(name) > 253 || !hostnameText.MatchString(name) {
		return fmt.Errorf("%q is not a host name", name)
	}
	b, had, err := t.read("etc/hostname")
	if err != nil {
		return err
	}
	old := firstWord(string(b))
	if !had {
		if _, err := t.r.Stat("etc"); err != nil {
			return err
		}
	}
	if err := t.write("etc/hostname", []byte(name+"\n"), 0o644); err != nil {
		return err
	}
	t.did("host name %s", name)
	hosts, ok, err := t.read("etc/hosts")
	if err != nil || !ok {
		return err
	}
	if changed := renameHosts(string(hosts), old, name); changed != string(hosts) {
		return t.write("etc/hosts", []byte(changed), 0o644)
	}
	return nil
}

// firstWord returns the first word that is no comment (hostname(5)).
func firstWord(s string) string {
	for line := range strings.Lines(s) {
		if l := strings.TrimSpace(line); l != "" && l[0] != '#' {
			return strings.Fields(l)[0]
		}
	}
	return ""
}

// renameHosts changes the lines of a hosts file that are for the machine itself: 127.0.1.1, which Debian has for that,
// gets the new name, whatever it had; on 127.0.0.1 and ::1 only the old name is changed. A domain behind the old name
// stays.
func renameHosts(hosts, old, name string) string {
	short, domain, _ := strings.Cut(name, ".")
	oldShort, _, _ := strings.Cut(old, ".")
	var out strings.Builder
	for line := range strings.Lines(hosts) {
		text, comment, commented := strings.Cut(strings.TrimRight(line, "\r\n"), "#")
		w := strings.Fields(text)
		switch {
		case len(w) < 2:
		case w[0] == "127.0.1.1":
			_, d, _ := strings.Cut(w[1], ".")
			if domain != "" {
				d = domain
			}
			w = []string{w[0], short}
			if d != "" {
				w = []string{w[0], short + "." + d, short}
			}
			line = rebuild(w, comment, commented)
		case w[0] == "127.0.0.1" || w[0] == "::1":
			hit := false
			for i, h := range w[1:] {
				first, rest, dotted := strings.Cut(h, ".")
				if oldShort == "" || oldShort == "localhost" || !strings.EqualFold(first, oldShort) {
					continue
				}
				hit = true
				w[i+1] = short
				if dotted {
					if domain != "" {
						rest = domain
					}
					w[i+1] = short + "." + rest
				}
			}
			if hit {
				line = rebuild(w, comment, commented)
			}
		}
		out.WriteString(line)
	}
	return out.String()
}

func rebuild(words []string, comment string, commented bool) string {
	line := words[0] + "\t" + strings.Join(words[1:], " ")
	if commented {
		line += " #" + comment
	}
	return line + "\n"
}
