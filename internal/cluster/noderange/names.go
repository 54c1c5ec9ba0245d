package noderange

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"mimeo/internal/cluster/node"
)

var numbered = regexp.MustCompile(`^(.*?)(\d+)$`)

// names makes what a word without operators names: a node, a group, or a row.
func (p *parser) names(start int, word string) (*set, error) {
	if p.known != nil {
		// A node's own name goes before what a hyphen or plus in it could mean.
		if _, ok := p.find(word); ok {
			return newSet(node.Name(word)), nil
		}
		if m, ok := p.known.Members(word); ok {
			return newSet(m...), p.spend(start, len(m))
		}
	}
	made, err := p.make(start, word)
	if err != nil {
		return nil, err
	}
	if err := p.spend(start, len(made)); err != nil {
		return nil, err
	}
	out := newSet()
	for _, n := range made {
		if !node.IsName(n) {
			return nil, p.errorf(start, "%q is no name for a node: want lower-case letters, digits and hyphens, at most 63", n)
		}
		if _, ok := p.find(n); p.known != nil && !ok {
			m, ok := p.known.Members(n) // rack[1-3] may be three groups
			if !ok {
				return nil, p.unknown(start, "no node %q", n)
			}
			if err := p.spend(start, len(m)); err != nil {
				return nil, err
			}
			out.add(m)
			continue
		}
		out.add([]node.Name{node.Name(n)})
	}
	return out, nil
}

func (p *parser) find(name string) (node.Name, bool) {
	if p.known == nil {
		return "", false
	}
	if p.index == nil {
		p.index = map[node.Name]bool{}
		for _, n := range p.known.Names() {
			p.index[n] = true
		}
	}
	return node.Name(name), p.index[node.Name(name)]
}

// make expands brackets, FROM-TO and FROM+N.
func (p *parser) make(start int, word string) ([]string, error) {
	if strings.ContainsAny(word, "[]") {
		return p.brackets(start, word)
	}
	if from, more, ok := strings.Cut(word, "+"); ok {
		n, err := strconv.Atoi(more)
		m := numbered.FindStringSubmatch(from)
		if err != nil || n < 0 || m == nil {
			return nil, p.errorf(start, "%q: want NAME01+NUMBER", word)
		}
		first, err := strconv.Atoi(m[2])
		if err != nil || n >= maxNodes {
			return nil, p.errorf(start, "%q names too many nodes", word)
		}
		return row(m[1], "", m[2], first, first+n), nil
	}
	// n01-n16, whose name before the number is the same on both sides. Any hyphen may be the one.
	for i := 1; i < len(word)-1; i++ {
		if word[i] != '-' {
			continue
		}
		a, b := numbered.FindStringSubmatch(word[:i]), numbered.FindStringSubmatch(word[i+1:])
		if a == nil || b == nil || a[1] == "" || a[1] != b[1] {
			continue
		}
		return p.row(start, a[1], "", a[2], b[2])
	}
	return []string{word}, nil
}

// brackets expands each [..] of a word, the last one fastest.
func (p *parser) brackets(start int, word string) ([]string, error) {
	out := []string{""}
	for rest, at := word, start; rest != ""; {
		open := strings.IndexByte(rest, '[')
		if i := strings.IndexByte(rest, ']'); i >= 0 && (open < 0 || i < open) {
			return nil, p.errorf(at+i, "this bracket closes nothing")
		}
		if open < 0 {
			for i := range out {
				out[i] += rest
			}
			break
		}
		end := strings.IndexByte(rest, ']')
		if end < 0 {
			return nil, p.errorf(at+open, "this bracket is not closed")
		}
		var values []string
		pos := at + open + 1
		for _, part := range strings.Split(rest[open+1:end], ",") {
			lo, hi, isRow := strings.Cut(part, "-")
			if !isRow {
				lo, hi, isRow = strings.Cut(part, ":")
			}
			if !isRow {
				hi = lo
			}
			v, err := p.row(pos, "", "", lo, hi)
			if err != nil {
				return nil, err
			}
			if len(values)+len(v) > maxNodes {
				return nil, p.errorf(pos, "names more than %d nodes", maxNodes)
			}
			values = append(values, v...)
			pos += len(part) + 1
		}
		if len(out)*len(values) > maxNodes {
			return nil, p.errorf(at+open, "names more than %d nodes", maxNodes)
		}
		if err := p.spend(at+open, len(out)*len(values)); err != nil {
			return nil, err
		}
		next := make([]string, 0, len(out)*len(values))
		for _, o := range out {
			for _, v := range values {
				next = append(next, o+rest[:open]+v)
			}
		}
		out, at, rest = next, at+end+1, rest[end+1:]
	}
	return out, nil
}

func (p *parser) row(pos int, head, tail, lo, hi string) ([]string, error) {
	if lo == "" || strings.Trim(lo+hi, "0123456789") != "" || hi == "" {
		return nil, p.errorf(pos, "want a number, or a row of numbers like 01-16")
	}
	from, err1 := strconv.Atoi(lo)
	to, err2 := strconv.Atoi(hi)
	switch {
	case err1 != nil || err2 != nil:
		return nil, p.errorf(pos, "the number is too large")
	case from > to:
		return nil, p.errorf(pos, "the row runs backwards")
	case to-from >= maxNodes:
		return nil, p.errorf(pos, "names more than %d nodes", maxNodes)
	}
	return row(head, tail, lo, from, to), nil
}

// row makes names with numbers as wide as the first was written.
func row(head, tail, written string, from, to int) []string {
	width := 1
	if strings.HasPrefix(written, "0") {
		width = len(written)
	}
	out := make([]string, 0, to-from+1)
	for i := from; i <= to; i++ {
		out = append(out, fmt.Sprintf("%s%0*d%s", head, width, i, tail))
	}
	return out
}
