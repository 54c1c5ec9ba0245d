// Package noderange reads n[01-16],-n07,@rack3 and expands it.
package noderange

import (
	"fmt"
	"regexp"
	"strings"

	"mimeo/internal/cluster/node"
)

// maxNodes bounds what an expression may name, so that a slip like n[1-99999999] is an error and not a full memory.
const maxNodes = 100_000

// maxWork bounds how many names are looked at in all, and maxExpr how long an expression may be, so that a hostile one
// costs little. A hundred thousand nodes can be gone through twenty times.
const (
	maxWork = 2_000_000
	maxExpr = 64 << 10
)

// maxDepth bounds how deep parentheses may stand in each other.
const maxDepth = 100

// Lookup knows the nodes that there are.
type Lookup interface {
	Names() []node.Name                                        // all nodes, in the order to list them
	Members(group string) ([]node.Name, bool)                  // false where there is no such group
	HasAttribute(key string) bool                              // false where there is no such attribute
	Attribute(n node.Name, key string) (value string, ok bool) // as "mimeo node set" names them, own or inherited
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
	if len(expr) > maxExpr {
		return nil, p.errorf(maxExpr, "the expression is longer than %d bytes", maxExpr)
	}
	s, err := p.list(0)
	if err != nil {
		return nil, err
	}
	if p.pos < len(expr) {
		return nil, p.errorf(p.pos, "%q closes nothing", expr[p.pos])
	}
	return s.order, nil
}

type parser struct {
	expr  string
	pos   int
	known Lookup
	work  int                // names looked at so far
	index map[node.Name]bool // the names that known knows, once they were needed
}

// spend takes n names from the budget.
func (p *parser) spend(pos, n int) error {
	if p.work += n; p.work > maxWork {
		return p.errorf(pos, "this takes too much work; name fewer nodes at once")
	}
	return nil
}

func (p *parser) errorf(pos int, format string, args ...any) error {
	why := []rune(visible(fmt.Sprintf(format, args...)))
	if len(why) > 4*shown {
		why = append(why[:4*shown], '…')
	}
	return &Error{Expr: p.expr, Pos: pos, Why: string(why)}
}

func (p *parser) unknown(pos int, format string, args ...any) error {
	err := p.errorf(pos, format, args...)
	err.(*Error).Unknown = true
	return err
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
		if minus && first {
			if p.known == nil {
				return nil, p.errorf(start, "nothing to exclude from")
			}
			out.add(p.known.Names()) // -n07 alone: all but n07
		}
		cost := len(t.order)
		if minus {
			cost += len(out.order)
		}
		if err := p.spend(start, cost); err != nil {
			return nil, err
		}
		if minus {
			out.keep(func(n node.Name) bool { return !t.has[n] })
		} else {
			out.add(t.order)
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
		at := p.pos
		if t, err = p.atom(depth); err == nil {
			if err = p.spend(at, len(out.order)+len(t.order)); err == nil {
				out.keep(func(n node.Name) bool { return t.has[n] })
			}
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

// word reads up to a comma, @ or parenthesis that does not stand in brackets, or in the /expression/ of =~ or !~.
func (p *parser) word() string {
	start, inside := p.pos, false
	for ; p.pos < len(p.expr); p.pos++ {
		switch c := p.expr[p.pos]; {
		case c == '[':
			inside = true
		case c == ']':
			inside = false
		case c == '~' && strings.HasPrefix(p.expr[p.pos:], "~/") && p.pos > start && strings.IndexByte("=!", p.expr[p.pos-1]) >= 0:
			if end := strings.IndexByte(p.expr[p.pos+2:], '/'); end >= 0 {
				p.pos += 2 + end
			}
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
	return p.all(start, func(n node.Name) bool { return re.MatchString(string(n)) })
}

// group is the nodes of a group, or of several where the name has brackets.
func (p *parser) group(start int, name string) (*set, error) {
	if p.known == nil {
		return nil, p.unknown(start, "no group %q", name)
	}
	names := []string{name}
	if _, ok := p.known.Members(name); !ok && strings.ContainsAny(name, "[]") {
		var err error
		if names, err = p.brackets(start+1, name); err != nil {
			return nil, err
		}
	}
	out := newSet()
	for _, g := range names {
		m, ok := p.known.Members(g)
		if !ok {
			return nil, p.unknown(start, "no group %q", g)
		}
		if err := p.spend(start, 1+len(m)); err != nil {
			return nil, err
		}
		out.add(m)
	}
	return out, nil
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
		if v, ok := strings.CutPrefix(value, "/"); ok {
			value, ok = strings.CutSuffix(v, "/")
			if !ok {
				return nil, p.errorf(start+i+2, "this regular expression is not closed by /")
			}
		}
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
	if !p.known.HasAttribute(key) {
		return nil, p.unknown(start, "no attribute %q", key)
	}
	return p.all(start, func(n node.Name) bool {
		v, _ := p.known.Attribute(n, key)
		return match(v) == (op[0] == '=')
	})
}

// all is the set of all nodes for which f is true.
func (p *parser) all(start int, f func(node.Name) bool) (*set, error) {
	names := p.known.Names()
	if err := p.spend(start, len(names)); err != nil {
		return nil, err
	}
	s := newSet()
	for _, n := range names {
		if f(n) {
			s.add([]node.Name{n})
		}
	}
	return s, nil
}
