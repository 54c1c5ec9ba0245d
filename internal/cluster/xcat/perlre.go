package xcat

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
)

// compilePerl makes a regular expression of one that was written for Perl. Only what both read alike is taken: of the
// rest an error says what it is. They are matched with the names of nodes, which are ASCII and have no ends of line, so
// that \d, \w, \s, \b and $ mean the same.
func compilePerl(pattern string) (*regexp.Regexp, error) {
	if pattern == "" {
		return nil, fmt.Errorf("the pattern is empty, which Perl takes for the pattern that matched last")
	}
	if err := checkPerl(pattern); err != nil {
		return nil, err
	}
	tree, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return nil, fmt.Errorf("the pattern is not understood: %s", strings.TrimPrefix(err.Error(), "error parsing regexp: "))
	}
	if repeatsEmptyGroup(tree, false) {
		return nil, fmt.Errorf("the pattern repeats a group that may be empty, of which Perl keeps another piece")
	}
	return regexp.Compile(pattern)
}

// checkPerl walks over a pattern and stops at what Perl reads otherwise, or what only Perl has.
func checkPerl(p string) error {
	inClass := false
	for i := 0; i < len(p); i++ {
		rest := p[i:]
		switch c := p[i]; {
		case c >= 0x80:
			return fmt.Errorf("%q in the pattern: names of nodes are ASCII", firstRune(rest))
		case c == '\\':
			if len(rest) < 2 {
				return fmt.Errorf("the pattern ends with a backslash")
			}
			e := rest[1]
			plain := !isAlnum(e) && e < 0x80
			if !plain && !strings.ContainsRune("dDwWsStnrf", rune(e)) && (inClass || !strings.ContainsRune("bBAz", rune(e))) {
				if e >= '1' && e <= '9' {
					return fmt.Errorf(`\%c in the pattern points back at a group, which is not supported`, e)
				}
				return fmt.Errorf(`\%c in the pattern is not supported`, e)
			}
			if (e == 'b' || e == 'B') && strings.HasPrefix(rest[2:], "{") {
				return fmt.Errorf(`\%c{ in the pattern is not supported`, e)
			}
			i++
		case inClass:
			if c == ']' {
				inClass = false
			}
			if strings.HasPrefix(rest, "[:") {
				end := strings.Index(rest, ":]")
				if end < 0 {
					return fmt.Errorf("[: in the pattern is not supported")
				}
				i += end + 1
			}
		case c == '[':
			inClass = true
			if strings.HasPrefix(rest, "[^]") {
				i += 2
			} else if strings.HasPrefix(rest, "[]") || strings.HasPrefix(rest, "[^") {
				i++
			}
		case strings.HasPrefix(rest, "(?"):
			if !strings.HasPrefix(rest, "(?:") && !strings.HasPrefix(rest, "(?i)") && !strings.HasPrefix(rest, "(?i:") {
				return fmt.Errorf("%q in the pattern is not supported", clip(rest[:min(len(rest), 4)]))
			}
		case c == '(' && strings.HasPrefix(rest, "(*"):
			return fmt.Errorf(`"(*" in the pattern is not supported`)
		case c == '{' && !isCount(rest):
			return fmt.Errorf(`"{" in the pattern is no count like {2} or {1,3}: write \{`)
		case c == '$' && len(rest) > 1 && rest[1] != ')' && rest[1] != '|':
			return fmt.Errorf(`"$" in the middle of the pattern is not supported`)
		}
	}
	return nil
}

var count = regexp.MustCompile(`^\{[0-9]{1,3}(,[0-9]{0,3})?\}`)

func isCount(s string) bool { return count.MatchString(s) }

func isAlnum(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

func firstRune(s string) string {
	for _, r := range s {
		return string(r)
	}
	return ""
}

// repeatsEmptyGroup tells whether a capturing group stands under a repetition whose body can match nothing. The last
// piece that the group keeps is then empty with Perl, and not so here.
func repeatsEmptyGroup(re *syntax.Regexp, repeated bool) bool {
	switch re.Op {
	case syntax.OpStar, syntax.OpPlus, syntax.OpRepeat:
		if canBeEmpty(re.Sub[0]) {
			repeated = true
		}
	case syntax.OpCapture:
		if repeated {
			return true
		}
	}
	for _, s := range re.Sub {
		if repeatsEmptyGroup(s, repeated) {
			return true
		}
	}
	return false
}

func canBeEmpty(re *syntax.Regexp) bool {
	switch re.Op {
	case syntax.OpStar, syntax.OpQuest, syntax.OpEmptyMatch, syntax.OpBeginText, syntax.OpEndText, syntax.OpBeginLine, syntax.OpEndLine,
		syntax.OpWordBoundary, syntax.OpNoWordBoundary:
		return true
	case syntax.OpRepeat:
		return re.Min == 0 || canBeEmpty(re.Sub[0])
	case syntax.OpPlus, syntax.OpCapture:
		return canBeEmpty(re.Sub[0])
	case syntax.OpLiteral:
		return len(re.Rune) == 0
	case syntax.OpConcat:
		for _, s := range re.Sub {
			if !canBeEmpty(s) {
				return false
			}
		}
		return true
	case syntax.OpAlternate:
		for _, s := range re.Sub {
			if canBeEmpty(s) {
				return true
			}
		}
	}
	return false
}
