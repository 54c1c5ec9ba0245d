package internal_test

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// pages are all texts for people, by their paths.
func pages(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, top := range []string{"../README.md", "../ARCHITECTURE.md", "../docs", "../changelog"} {
		err := filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Ext(p) != ".md" {
				return err
			}
			b, err := os.ReadFile(p)
			out[p] = string(b)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// TestCommandsInDocs has our programs say whether they know each command and flag that the pages show.
func TestCommandsInDocs(t *testing.T) {
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin, "../cmd/...")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	seen := map[string]bool{}
	for page, text := range pages(t) {
		if strings.HasPrefix(page, "../docs/design/") {
			continue // also has what was thought of and is not there
		}
		for _, words := range commands(text) {
			line := strings.Join(words, " ")
			if seen[line] {
				continue
			}
			seen[line] = true
			if why := unknown(bin, words); why != "" {
				t.Errorf("%s: %q: %s", strings.TrimPrefix(page, "../"), line, why)
			}
		}
	}
	if len(seen) < 100 {
		t.Errorf("only %d commands were found", len(seen))
	}
}

var (
	ours    = regexp.MustCompile(`^(?:\$ |# )?(?:sudo )?(?:bin/)?(mimeo|mimeod|mimeo-agent)( |$)`)
	span    = regexp.MustCompile("`([^`\n]+)`")
	usage   = regexp.MustCompile(`(?m)^Usage:\n  (.*)$`)
	isWord  = regexp.MustCompile(`^[a-z][a-z-]*$`)
	comment = regexp.MustCompile(`\s+#\s.*$`)
)

// commands finds the calls of our programs in code blocks and code spans, split into words.
func commands(text string) [][]string {
	var lines []string
	fenced := false
	joined := strings.ReplaceAll(text, "\\\n", " ")
	for l := range strings.Lines(joined) {
		l = strings.TrimRight(l, "\n")
		if strings.HasPrefix(strings.TrimSpace(l), "```") {
			fenced = !fenced
			continue
		}
		if fenced || strings.HasPrefix(l, "    ") {
			lines = append(lines, strings.TrimSpace(l))
			continue
		}
		for _, m := range span.FindAllStringSubmatch(l, -1) {
			lines = append(lines, m[1])
		}
	}
	var out [][]string
	for _, l := range lines {
		for _, part := range split(comment.ReplaceAllString(l, "")) {
			if m := ours.FindStringSubmatch(strings.Join(part, " ")); m != nil {
				i := slices.IndexFunc(part, func(w string) bool { return strings.TrimPrefix(w, "bin/") == m[1] })
				part[i] = m[1]
				out = append(out, part[i:])
			}
		}
	}
	return out
}

// split splits a line as a shell does, into commands and these into words.
func split(line string) (out [][]string) {
	var words []string
	var word strings.Builder
	quote, open := rune(0), false
	end := func() {
		if open {
			words = append(words, word.String())
		}
		word.Reset()
		open = false
	}
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '"' || r == '\'':
			quote, open = r, true
		case strings.ContainsRune("|;&<>", r):
			end()
			out, words = append(out, words), nil
		case unicode.IsSpace(r):
			end()
		default:
			word.WriteRune(r)
			open = true
		}
	}
	end()
	return append(out, words)
}

// unknown tells what a program does not know of a call, by its own help; "" where it knows all.
func unknown(bin string, words []string) string {
	args := slices.Clone(words[1:])
	for i, a := range args {
		// What is optional stands in brackets in some pages; "..." stands for anything.
		if strings.HasPrefix(a, "[-") {
			a = strings.TrimSuffix(a[1:], "]")
		}
		args[i] = strings.TrimRight(a, ",.…")
	}
	args = slices.DeleteFunc(args, func(a string) bool { return a == "" || a == "]" })
	topic := len(args) > 0 && args[0] == "help"
	if topic {
		args = args[1:] // "help ranges" is the help of ranges
	}
	cmd := exec.Command(filepath.Join(bin, words[0]), append(args, "--help")...)
	cmd.Env = append(os.Environ(), "HOME=/nonexistent")
	out, err := cmd.CombinedOutput()
	m := usage.FindSubmatch(out)
	if topic && err == nil && m == nil {
		return "" // a page without a command
	}
	if bytes.Contains(out, []byte("arg(s)")) {
		return "" // its last flag took --help as its value: all of them are known
	}
	if err != nil || m == nil {
		first, _, _ := bytes.Cut(bytes.TrimSpace(out), []byte("\n"))
		return string(first)
	}
	// The words in small letters of the usage are the command; what follows them must be wanted.
	path := strings.Fields(string(m[1]))[1:]
	n := slices.IndexFunc(path, func(w string) bool { return !isWord.MatchString(w) })
	if n < 0 {
		n = len(path)
	}
	rest := slices.Clone(args)
	for _, w := range path[:n] {
		i := slices.Index(rest, w)
		if i < 0 {
			return "its help is that of " + strings.Join(path[:n], " ")
		}
		rest = slices.Delete(rest, i, i+1)
	}
	if n < len(path) && path[n] == "[command]" && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
		return "there is no command " + rest[0]
	}
	return ""
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
)

// TestLinksInDocs follows the links between the pages, headings included.
func TestLinksInDocs(t *testing.T) {
	all := pages(t)
	for page, text := range all {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			to, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(to, "://") || strings.HasPrefix(to, "mailto:") {
				continue
			}
			target := page
			if to != "" {
				target = filepath.Join(filepath.Dir(page), to)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: the link %s leads nowhere", strings.TrimPrefix(page, "../"), m[1])
				continue
			}
			if anchor == "" {
				continue
			}
			found := false
			for _, h := range heading.FindAllStringSubmatch(all[target], -1) {
				found = found || slug(h[1]) == anchor
			}
			if !found {
				t.Errorf("%s: %s has no heading for #%s", strings.TrimPrefix(page, "../"), strings.TrimPrefix(target, "../"), anchor)
			}
		}
	}
}

// slug is what a heading's anchor is called.
func slug(heading string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(heading) {
		switch {
		case unicode.IsLetter(r) || unicode.IsDigit(r) || r == '-' || r == '_':
			b.WriteRune(r)
		case r == ' ':
			b.WriteByte('-')
		}
	}
	return b.String()
}
