package xcat

import (
	"fmt"
	"math"
	"strings"
)

// calculation is what stands in parentheses in an expression: Perl under "use integer", of which are understood integers,
// texts in quotes, $1 to $9, + - * / %, ., comparisons of numbers, !, &&, ||, ?:, parentheses, and the functions sprintf,
// int, abs, lc, uc, ord, length and xCAT's own a2idx, a2zidx, dim2idx, skip, ipadd and mknum.
type calculation struct {
	eval func(env *names) (scalar, error)
}

// names are what $1, $2... stand for.
type names struct {
	node  string
	match []int
}

// value works out the calculation for a node whose name matched.
func (c *calculation) value(node string, match []int) (string, error) {
	v, err := c.eval(&names{node, match})
	return v.text, err
}

type evaluator = func(*names) (scalar, error)

// calcParser reads a calculation. It descends by Perl's precedence (perlop(1)).
type calcParser struct {
	text  string
	pos   int
	depth int
}

func parseCalculation(text string) (*calculation, error) {
	p := &calcParser{text: text}
	e, err := p.ternary()
	if err != nil {
		return nil, err
	}
	if p.space(); p.pos < len(p.text) {
		return nil, p.unsupported()
	}
	return &calculation{e}, nil
}

func (p *calcParser) unsupported() error {
	p.space()
	if p.pos >= len(p.text) {
		return fmt.Errorf("the calculation (%s) ends too early", clip(p.text))
	}
	return fmt.Errorf("the calculation (%s) is not supported from %q on", clip(p.text), clip(p.text[p.pos:]))
}

func (p *calcParser) space() {
	for p.pos < len(p.text) && (p.text[p.pos] == ' ' || p.text[p.pos] == '\t') {
		p.pos++
	}
}

// take reads one of the operators, the first that stands there.
func (p *calcParser) take(ops ...string) string {
	p.space()
	for _, op := range ops {
		if strings.HasPrefix(p.text[p.pos:], op) {
			p.pos += len(op)
			return op
		}
	}
	return ""
}

// beside tells whether an operator stands here that is not the beginning of a longer one.
func (p *calcParser) beside(op string, not ...string) bool {
	p.space()
	rest := p.text[p.pos:]
	for _, n := range not {
		if strings.HasPrefix(rest, n) {
			return false
		}
	}
	if strings.HasPrefix(rest, op) {
		p.pos += len(op)
		return true
	}
	return false
}

func (p *calcParser) ternary() (evaluator, error) {
	if p.depth++; p.depth > 50 {
		return nil, fmt.Errorf("the calculation is nested too deep")
	}
	defer func() { p.depth-- }()
	cond, err := p.or()
	if err != nil || p.take("?") == "" {
		return cond, err
	}
	yes, err := p.ternary()
	if err != nil {
		return nil, err
	}
	if p.take(":") == "" {
		return nil, p.unsupported()
	}
	no, err := p.ternary()
	return func(e *names) (scalar, error) {
		c, err := cond(e)
		if err != nil {
			return c, err
		}
		if c.isTrue() {
			return yes(e)
		}
		return no(e)
	}, err
}

func (p *calcParser) or() (evaluator, error) {
	return p.lazy("||", true, func() (evaluator, error) { return p.lazy("&&", false, p.equality) })
}

// lazy is && or ||, which give the operand that decided.
func (p *calcParser) lazy(op string, stop bool, operand func() (evaluator, error)) (evaluator, error) {
	left, err := operand()
	for err == nil && p.take(op) != "" {
		a := left
		var b evaluator
		b, err = operand()
		left = func(e *names) (scalar, error) {
			v, err := a(e)
			if err != nil || v.isTrue() == stop {
				return v, err
			}
			return b(e)
		}
	}
	return left, err
}

func (p *calcParser) equality() (evaluator, error) {
	left, err := p.relation()
	if err != nil {
		return nil, err
	}
	if op := p.take("==", "!="); op != "" {
		if strings.HasPrefix(p.text[p.pos:], "=") {
			return nil, p.unsupported()
		}
		right, err := p.relation()
		return binary(left, right, func(a, b int64) (scalar, error) { return truth((a == b) == (op == "==")), nil }), err
	}
	return left, nil
}

func (p *calcParser) relation() (evaluator, error) {
	left, err := p.sum()
	if err != nil {
		return nil, err
	}
	for _, not := range []string{"<<", ">>", "<=>"} {
		if p.space(); strings.HasPrefix(p.text[p.pos:], not) {
			return nil, p.unsupported()
		}
	}
	if op := p.take("<=", ">=", "<", ">"); op != "" {
		right, err := p.sum()
		return binary(left, right, func(a, b int64) (scalar, error) {
			return truth(map[string]bool{"<=": a <= b, ">=": a >= b, "<": a < b, ">": a > b}[op]), nil
		}), err
	}
	return left, nil
}

func (p *calcParser) sum() (evaluator, error) {
	left, err := p.product()
	for err == nil {
		var right evaluator
		a := left
		switch {
		case p.beside("+", "++", "+="):
			right, err = p.product()
			left = binary(a, right, addInts)
		case p.beside("-", "--", "-="):
			right, err = p.product()
			left = binary(a, right, func(x, y int64) (scalar, error) {
				if y == math.MinInt64 {
					return scalar{}, errTooLarge
				}
				return addInts(x, -y)
			})
		case p.beside(".", "..", ".="):
			right, err = p.product()
			left = func(e *names) (scalar, error) {
				x, err := a(e)
				if err != nil {
					return x, err
				}
				y, err := right(e)
				if len(x.text)+len(y.text) > 1000 {
					return x, errTooLarge
				}
				return textual(x.text + y.text), err
			}
		default:
			return left, nil
		}
	}
	return nil, err
}

func (p *calcParser) product() (evaluator, error) {
	left, err := p.unary()
	for err == nil {
		var right evaluator
		a := left
		switch {
		case p.beside("*", "**", "*="):
			right, err = p.unary()
			left = binary(a, right, func(x, y int64) (scalar, error) {
				if x > math.MaxInt32 || x < math.MinInt32 || y > math.MaxInt32 || y < math.MinInt32 {
					return scalar{}, errTooLarge
				}
				return integer(x * y), nil
			})
		case p.beside("/", "//", "/="):
			right, err = p.unary()
			left = binary(a, right, divide(func(x, y int64) int64 { return x / y }))
		case p.beside("%", "%="):
			right, err = p.unary()
			left = binary(a, right, divide(func(x, y int64) int64 { return x % y }))
		default:
			return left, nil
		}
	}
	return nil, err
}

func (p *calcParser) unary() (evaluator, error) {
	if p.depth++; p.depth > 50 {
		return nil, fmt.Errorf("the calculation is nested too deep")
	}
	defer func() { p.depth-- }()
	switch {
	case p.beside("-", "--"):
		a, err := p.unary()
		return func(e *names) (scalar, error) {
			n, err := number(a, e)
			if err != nil || n == math.MinInt64 {
				return scalar{}, orTooLarge(err)
			}
			return integer(-n), nil
		}, err
	case p.beside("!", "!=", "!~"):
		a, err := p.unary()
		return func(e *names) (scalar, error) {
			v, err := a(e)
			return truth(!v.isTrue()), err
		}, err
	}
	return p.primary()
}

func (p *calcParser) primary() (evaluator, error) {
	p.space()
	rest := p.text[p.pos:]
	if rest == "" {
		return nil, p.unsupported()
	}
	switch c := rest[0]; {
	case c == '(':
		p.pos++
		e, err := p.ternary()
		if err != nil {
			return nil, err
		}
		if p.take(")") == "" {
			return nil, p.unsupported()
		}
		return e, nil
	case c == '$':
		return p.group(rest)
	case c >= '0' && c <= '9':
		n := 0
		for n < len(rest) && rest[n] >= '0' && rest[n] <= '9' {
			n++
		}
		if n > 1 && c == '0' {
			return nil, fmt.Errorf("%s in a calculation is a number to the base of 8 for Perl: write it without the zero", clip(rest[:n]))
		}
		v := textual(rest[:n])
		if !v.number || n < len(rest) && (isAlnum(rest[n]) || rest[n] == '_' || rest[n] == '.') { // 3.$1 is the fraction 3. for Perl
			return nil, p.unsupported()
		}
		p.pos += n
		return func(*names) (scalar, error) { return v, nil }, nil
	case c == '\'' || c == '"':
		end := strings.IndexByte(rest[1:], c)
		if end < 0 {
			return nil, p.unsupported()
		}
		s := rest[1 : 1+end]
		if strings.Contains(s, `\`) || c == '"' && strings.ContainsAny(s, "$@") {
			return nil, p.unsupported()
		}
		p.pos += end + 2
		return func(*names) (scalar, error) { return textual(s), nil }, nil
	}
	return p.call(rest)
}

// group is $1 to $9, or ${1}.
func (p *calcParser) group(rest string) (evaluator, error) {
	s := rest[1:]
	braces := strings.HasPrefix(s, "{")
	s = strings.TrimPrefix(s, "{")
	if s == "" || s[0] < '1' || s[0] > '9' || len(s) > 1 && s[1] >= '0' && s[1] <= '9' || braces && !strings.HasPrefix(s[1:], "}") {
		return nil, p.unsupported()
	}
	g := int(s[0] - '0')
	p.pos += 2
	if braces {
		p.pos += 2
	}
	return func(e *names) (scalar, error) {
		if 2*g+1 >= len(e.match) || e.match[2*g] < 0 {
			return scalar{}, fmt.Errorf("there is no $%d in %q", g, e.node)
		}
		return textual(e.node[e.match[2*g]:e.match[2*g+1]]), nil
	}, nil
}
