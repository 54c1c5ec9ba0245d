// Package noderange reads n[01-16],-n07,@rack3 and expands it.
package noderange

import (
	"fmt"
	"regexp"
	"sort"
	"strconv"
	"strings"

	"mimeo/internal/cluster/node"
)

// maxNodes bounds what an expression may name, so that a slip like n[1-99999999] is an error and not a full memory.
const maxNodes = 100_000

// maxDepth bounds how deep parentheses may stand in each other.
const maxDepth = 100

// Lookup knows the nodes that there are.
type Lookup interface {
	Names() []node.Name                                        // all nodes, in the order to list them
	Members(group string) ([]node.Name, bool)                  // false where there is no such group
	Attribute(n node.Name, key string) (value string, ok bool) // as "mimeo node set" names them
}

// Error points at the place in an expression that cannot be understood.
type Error struct {
	Expr string
	Pos  int // bytes from the start of Expr
	Why  string
}

func (e *Error) Error() string {
	return fmt.Sprintf("noderange: %s\n  %s\n  %s^", e.Why, e.Expr, strings.Repeat(" ", e.Pos))
}

// Expand returns the nodes that expr names, in the order in which it names them, each once. With a Lookup, a name that
// it does not know is an error; without one (nil) names are made, and groups, regular expressions and attributes are
// errors.
//
// The syntax is that of xCAT's noderange(3): lists with commas, rows n[01-16], n01-n16 and n01+15, groups by name or
// @name, exclusion with a leading -, intersection with @, /regular expressions/, attributes with ==, !=, =~, !~, and
// parentheses. Reading a file by ^name is left out: the server reads no file for a caller.
func Expand(expr string, known Lookup) ([]node.Name, error) {
	p := &parser{expr: expr, known: known}
	s, err := p.list(0)
	if err != nil {
		return nil, err
	}
	if p.pos < len(expr) {
		return nil, p.errorf(p.pos, "%q closes nothing", expr[p.pos])
	}
	return s.order, nil
}

// set is a set of nodes that keeps their order.
type set struct {
	order []node.Name
	has   map[node.Name]bool
}

func newSet(names ...node.Name) *set {
	s := &set{has: map[node.Name]bool{}}
	s.add(names)
	return s
}

func (s *set) add(names []node.Name) {
	for _, n := range names {
		if !s.has[n] {
			s.has[n] = true
			s.order = append(s.order, n)
		}
	}
}

// keep drops the nodes for which f is false.
func (s *set) keep(f func(node.Name) bool) {
	out := s.order[:0:0]
	for _, n := range s.order {
		if f(n) {
			out = append(out, n)
		} else {
			delete(s.has, n)
		}
	}
	s.order = out
}

type parser struct {
	expr  string
	pos   int
	known Lookup
}

func (p *parser) errorf(pos int, format string, args ...any) error {
	return &Error{Expr: p.expr, Pos: pos, Why: fmt.Sprintf(format, args...)}
}

func (p *parser) blanks() {
	for p.pos < len(p.expr) && (p.expr[p.pos] == ' ' || p.expr[p.pos] == '\t') {
		p.pos++
	}
}

func (p *parser) peek() byte {
	if p.pos < len(p.expr) {
		return p.expr[p.pos]
	}
	return 0
}

// list = [ "-" ] term { "," [ "-" ] term }, up to the end or a closing parenthesis.
func (p *parser) list(depth int) (*set, error) {
	if depth > maxDepth {
		return nil, p.errorf(p.pos, "parentheses are nested too deep")
	}
	out := newSet()
	for first := true; ; first = false {
		p.blanks()
		minus := p.peek() == '-'
		start := p.pos
		if minus {
			p.pos++
		}
		t, err := p.term(depth)
		if err != nil {
			return nil, err
		}
		switch {
		case !minus:
			out.add(t.order)
		case first && p.known != nil:
			out.add(p.known.Names()) // -n07 alone: all but n07
			fallthrough
		case !first:
			out.keep(func(n node.Name) bool { return !t.has[n] })
		default:
			return nil, p.errorf(start, "nothing to exclude from")
		}
		if len(out.order) > maxNodes {
			return nil, p.errorf(start, "names more than %d nodes", maxNodes)
		}
		p.blanks()
		if p.peek() != ',' {
			return out, nil
		}
		p.pos++
	}
}

// term = atom { "@" atom }
func (p *parser) term(depth int) (*set, error) {
	out, err := p.atom(depth)
	for err == nil {
		p.blanks()
		if p.peek() != '@' {
			return out, nil
		}
		p.pos++
		var t *set
		if t, err = p.atom(depth); err == nil {
			out.keep(func(n node.Name) bool { return t.has[n] })
		}
	}
	return nil, err
}

func (p *parser) atom(depth int) (*set, error) {
	p.blanks()
	start := p.pos
	switch c := p.peek(); {
	case c == 0 || c == ',' || c == ')':
		return nil, p.errorf(start, "a node's name is missing here")
	case c == '(':
		p.pos++
		s, err := p.list(depth + 1)
		if err != nil {
			return nil, err
		}
		if p.peek() != ')' {
			return nil, p.errorf(start, "this parenthesis is not closed")
		}
		p.pos++
		return s, nil
	case c == '^':
		return nil, p.errorf(start, "reading nodes from a file is not done here")
	case c == '/':
		return p.regex(start)
	case c == '@':
		p.pos++
		word := p.word()
		return p.group(start, word)
	}
	word := p.word()
	if word == "" {
		return nil, p.errorf(start, "%q has no place here", p.expr[start])
	}
	if i := strings.IndexAny(word, "=!"); i > 0 {
		return p.attribute(start, word, i)
	}
	return p.names(start, word)
}

// word reads up to a comma, @ or parenthesis that does not stand in brackets.
func (p *parser) word() string {
	start, inside := p.pos, false
	for ; p.pos < len(p.expr); p.pos++ {
		switch c := p.expr[p.pos]; {
		case c == '[':
			inside = true
		case c == ']':
			inside = false
		case !inside && (c == ',' || c == '@' || c == '(' || c == ')'):
			return strings.TrimRight(p.expr[start:p.pos], " \t")
		}
	}
	return strings.TrimRight(p.expr[start:p.pos], " \t")
}

func (p *parser) regex(start int) (*set, error) {
	end := strings.IndexByte(p.expr[start+1:], '/')
	if end < 0 {
		return nil, p.errorf(start, "this regular expression is not closed by /")
	}
	text := p.expr[start+1 : start+1+end]
	p.pos = start + end + 2
	re, err := regexp.Compile(text)
	if err != nil {
		return nil, p.errorf(start, "regular expression: %v", err)
	}
	if p.known == nil {
		return nil, p.errorf(start, "a regular expression cannot make names")
	}
	s := newSet(p.known.Names()...)
	s.keep(func(n node.Name) bool { return re.MatchString(string(n)) })
	return s, nil
}

func (p *parser) group(start int, name string) (*set, error) {
	if p.known != nil {
		if m, ok := p.known.Members(name); ok {
			return newSet(m...), nil
		}
	}
	return nil, p.errorf(start, "no group %q", name)
}

// attribute selects by KEY==VALUE, !=, =~ or !~. A node without the attribute has the empty value.
func (p *parser) attribute(start int, word string, i int) (*set, error) {
	if len(word) < i+2 {
		return nil, p.errorf(start+i, "want ==, !=, =~ or !~")
	}
	key, op, value := strings.TrimSpace(word[:i]), word[i:i+2], strings.TrimSpace(word[i+2:])
	var match func(string) bool
	switch op {
	case "==", "!=":
		match = func(v string) bool { return v == value }
	case "=~", "!~":
		re, err := regexp.Compile(value)
		if err != nil {
			return nil, p.errorf(start+i+2, "regular expression: %v", err)
		}
		match = re.MatchString
	default:
		return nil, p.errorf(start+i, "want ==, !=, =~ or !~")
	}
	if p.known == nil {
		return nil, p.errorf(start, "an attribute cannot make names")
	}
	s := newSet(p.known.Names()...)
	s.keep(func(n node.Name) bool {
		v, _ := p.known.Attribute(n, key)
		return match(v) == (op[0] == '=')
	})
	return s, nil
}

var (
	plainName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	numbered  = regexp.MustCompile(`^(.*?)(\d+)$`)
)

// names makes what a word without operators names: a node, a group, or a row.
func (p *parser) names(start int, word string) (*set, error) {
	if p.known != nil {
		// A node's own name goes before what a hyphen or plus in it could mean.
		if _, ok := p.find(word); ok {
			return newSet(node.Name(word)), nil
		}
		if m, ok := p.known.Members(word); ok {
			return newSet(m...), nil
		}
	}
	made, err := p.make(start, word)
	if err != nil {
		return nil, err
	}
	out := newSet()
	for _, n := range made {
		if !plainName.MatchString(n) {
			return nil, p.errorf(start, "%q is no name for a node: want lower-case letters, digits and hyphens, at most 63", n)
		}
		if _, ok := p.find(n); p.known != nil && !ok {
			return nil, p.errorf(start, "no node %q", n)
		}
		out.add([]node.Name{node.Name(n)})
	}
	return out, nil
}

func (p *parser) find(name string) (node.Name, bool) {
	if p.known == nil {
		return "", false
	}
	if k, ok := p.known.(interface{ Has(node.Name) bool }); ok {
		return node.Name(name), k.Has(node.Name(name))
	}
	for _, n := range p.known.Names() {
		if string(n) == name {
			return n, true
		}
	}
	return "", false
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
			values = append(values, v...)
			pos += len(part) + 1
		}
		if len(out)*len(values) > maxNodes {
			return nil, p.errorf(at+open, "names more than %d nodes", maxNodes)
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

// Fold writes names shortly, so that Expand gives them back, sorted: n[01-16],gpu1.
func Fold(names []node.Name) string {
	type key struct {
		head  string
		width int
	}
	rows := map[key][]int{}
	var out []string
	for _, n := range names {
		m := numbered.FindStringSubmatch(string(n))
		if m == nil || m[1] == "" || len(m[2]) > 9 {
			out = append(out, string(n))
			continue
		}
		i, _ := strconv.Atoi(m[2])
		w := 0
		if strings.HasPrefix(m[2], "0") || len(m[2]) > 1 {
			w = len(m[2])
		}
		if !strings.HasPrefix(m[2], "0") && rows[key{m[1], len(m[2])}] == nil {
			w = 0
		}
		rows[key{m[1], w}] = append(rows[key{m[1], w}], i)
	}
	for k, nums := range rows {
		sort.Ints(nums)
		var parts []string
		for i := 0; i < len(nums); {
			j := i
			for j+1 < len(nums) && nums[j+1] <= nums[j]+1 {
				j++
			}
			part := fmt.Sprintf("%0*d", max(1, k.width), nums[i])
			if nums[j] > nums[i] {
				part += fmt.Sprintf("-%0*d", max(1, k.width), nums[j])
			}
			parts = append(parts, part)
			i = j + 1
		}
		if len(parts) == 1 && !strings.Contains(parts[0], "-") {
			out = append(out, k.head+parts[0])
		} else {
			out = append(out, k.head+"["+strings.Join(parts, ",")+"]")
		}
	}
	sort.Strings(out)
	return strings.Join(out, ",")
}
