package lvm

import (
	"strconv"
	"strings"
)

// section is a part of the metadata's text: "name { key = value ... }".
type section struct {
	values   map[string][]string // text and numbers as they stand; lists have several, or none
	sections map[string]*section
	order    []string // of the sections
}

const (
	maxDepth = 8
	maxItems = 1 << 20 // values and sections of a text
)

// parser reads LVM2's configuration syntax: comments, "key = 1", `key = "text"`, "key = [ ... ]", and sections.
type parser struct {
	s     string
	items int
}

func parse(text string) (*section, error) {
	p := &parser{s: strings.TrimRight(text, "\x00")}
	return p.section(0)
}

func (p *parser) space() {
	for {
		p.s = strings.TrimLeft(p.s, " \t\r\n")
		if !strings.HasPrefix(p.s, "#") {
			return
		}
		if i := strings.IndexByte(p.s, '\n'); i >= 0 {
			p.s = p.s[i:]
		} else {
			p.s = ""
		}
	}
}

// take takes c where it comes next.
func (p *parser) take(c byte) bool {
	p.space()
	if p.s == "" || p.s[0] != c {
		return false
	}
	p.s = p.s[1:]
	return true
}

func (p *parser) section(depth int) (*section, error) {
	out := &section{values: map[string][]string{}, sections: map[string]*section{}}
	for {
		p.space()
		if p.s == "" || p.s[0] == '}' {
			if (p.s == "") != (depth == 0) {
				return nil, damaged("its text has brackets that do not match")
			}
			return out, nil
		}
		if p.items++; p.items > maxItems {
			return nil, damaged("its text is too long")
		}
		name := p.word()
		if name == "" {
			return nil, damaged("its text has %.20q where a name should be", p.s)
		}
		if _, twice := out.values[name]; twice || out.sections[name] != nil {
			return nil, damaged("its text has %s twice", name)
		}
		switch {
		case p.take('='):
			v, err := p.value()
			if err != nil {
				return nil, err
			}
			out.values[name] = v
		case p.take('{'):
			if depth == maxDepth {
				return nil, damaged("its text is too deep")
			}
			s, err := p.section(depth + 1)
			if err != nil {
				return nil, err
			}
			if !p.take('}') {
				return nil, damaged("its text has brackets that do not match")
			}
			out.sections[name] = s
			out.order = append(out.order, name)
		default:
			return nil, damaged("its text has neither value nor section for %s", name)
		}
	}
}

func (p *parser) word() string {
	i := strings.IndexFunc(p.s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_.+-/", r))
	})
	if i < 0 {
		i = len(p.s)
	}
	w := p.s[:i]
	p.s = p.s[i:]
	return w
}

func (p *parser) value() ([]string, error) {
	if !p.take('[') {
		v, err := p.single()
		return []string{v}, err
	}
	list := []string{}
	for !p.take(']') {
		if p.items++; p.items > maxItems {
			return nil, damaged("its text is too long")
		}
		v, err := p.single()
		if err != nil {
			return nil, err
		}
		list = append(list, v)
		if !p.take(',') {
			if !p.take(']') {
				return nil, damaged("its text has a list without an end")
			}
			break
		}
	}
	return list, nil
}

func (p *parser) single() (string, error) {
	if !p.take('"') {
		p.space()
		if w := p.word(); w != "" {
			return w, nil
		}
		return "", damaged("its text has %.20q where a value should be", p.s)
	}
	var out strings.Builder
	for i := 0; i < len(p.s); i++ {
		switch c := p.s[i]; {
		case c == '\\' && i+1 < len(p.s):
			i++
			out.WriteByte(p.s[i])
		case c == '"':
			p.s = p.s[i+1:]
			return out.String(), nil
		default:
			out.WriteByte(c)
		}
	}
	return "", damaged("its text has quotes that do not match")
}

// text returns a single value, or "".
func (s *section) text(key string) string {
	if v := s.values[key]; len(v) == 1 {
		return v[0]
	}
	return ""
}

// number returns a single value that must be a number from 0 to most.
func (s *section) number(key string, most int64) (int64, error) {
	n, err := strconv.ParseInt(s.text(key), 10, 64)
	if err != nil || n < 0 || n > most {
		return 0, damaged("its text says %s = %q", key, s.text(key))
	}
	return n, nil
}

// sub returns a section, an empty one where there is none.
func (s *section) sub(name string) *section {
	if x := s.sections[name]; x != nil {
		return x
	}
	return &section{}
}
