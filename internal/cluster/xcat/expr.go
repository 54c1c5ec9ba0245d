package xcat

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Expression is a cell that makes another value for each node, as xcatdb(5) describes it under "groups and regular
// expressions in tables":
//
//	/PATTERN/REPLACEMENT/   the part of the node's name that matches is replaced; the replacement is taken as it stands
//	|PATTERN|REPLACEMENT|   each piece in parentheses is worked out with integers first: |n(\d+)|10.0.0.($1+32)|
//	|REPLACEMENT|           the same; $1, $2... are the numbers in the node's name
type Expression struct {
	pattern *regexp.Regexp // nil where it is derived from each name
	text    string         // /../../ and |..|..| without parentheses: the replacement
	pieces  []piece        // |..| with parentheses
}

// piece is text that is taken as it stands, or something to work out.
type piece struct {
	text string
	calc *calculation
}

var (
	// slashes and bars are how xCAT tells an expression from a value.
	slashes = regexp.MustCompile(`^/[^/]*/[^/]*/$`)
	bars    = regexp.MustCompile(`^\|.*\|$`)
)

// IsExpression tells whether xCAT takes a cell for an expression.
func IsExpression(cell string) bool { return slashes.MatchString(cell) || bars.MatchString(cell) }

// Compile reads an expression. Its errors say what of Perl is not supported.
func Compile(cell string) (*Expression, error) {
	switch {
	case slashes.MatchString(cell):
		pattern, text, _ := strings.Cut(cell[1:len(cell)-1], "/")
		re, err := compilePerl(pattern)
		if err != nil {
			return nil, err
		}
		return &Expression{pattern: re, text: text}, plainText(text)
	case bars.MatchString(cell):
		return compileBars(cell[1 : len(cell)-1])
	}
	return nil, fmt.Errorf("no expression: want /PATTERN/REPLACEMENT/ or |PATTERN|REPLACEMENT|")
}

func compileBars(inner string) (*Expression, error) {
	e := &Expression{}
	pattern, text, both := strings.Cut(inner, "|")
	if !both {
		pattern, text = "", inner
		if inner == "" {
			return nil, fmt.Errorf("there is nothing between the bars")
		}
	}
	if both {
		re, err := compilePerl(pattern)
		if err != nil {
			return nil, err
		}
		e.pattern = re
	}
	if !strings.ContainsAny(text, "()") {
		e.text = text
		return e, plainText(text)
	}
	if strings.Contains(text, `\`) {
		return nil, fmt.Errorf("a backslash beside parentheses in the replacement is not supported")
	}
	for text != "" {
		open := strings.IndexAny(text, "()")
		if open < 0 {
			e.pieces = append(e.pieces, piece{text: text})
			break
		}
		if open > 0 {
			e.pieces = append(e.pieces, piece{text: text[:open]})
		}
		end := closing(text[open:])
		if end < 0 {
			return nil, fmt.Errorf("the parentheses of the replacement do not pair up")
		}
		calc, err := parseCalculation(text[open+1 : open+end])
		if err != nil {
			return nil, err
		}
		e.pieces = append(e.pieces, piece{calc: calc})
		text = text[open+end+1:]
	}
	for _, p := range e.pieces {
		if err := plainText(p.text); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// closing finds the parenthesis that closes the one with which the text begins.
func closing(s string) int {
	depth := 0
	for i := range len(s) {
		switch s[i] {
		case '(':
			depth++
		case ')':
			depth--
			if depth == 0 {
				return i
			}
			if depth < 0 {
				return -1
			}
		}
	}
	return -1
}

var variable = regexp.MustCompile(`\$[0-9{&]|\\[0-9]`)

// plainText refuses what looks like a variable where xCAT leaves it as it stands: the value would be of no use there
// either, and whoever wrote it meant something else.
func plainText(s string) error {
	if v := variable.FindString(s); v != "" {
		return fmt.Errorf("%q outside parentheses, where xCAT puts in no value", v)
	}
	return nil
}

// ErrNoMatch means that an expression's pattern does not match the node's name. xCAT then takes the name itself.
var ErrNoMatch = errors.New("the pattern does not match the node's name, and xCAT takes the name itself for the value")

// Value works out the expression for a node. An empty value means that the node has none.
func (e *Expression) Value(node string) (string, error) {
	re := e.pattern
	if re == nil {
		re = numbersOf(node)
	}
	m := re.FindStringSubmatchIndex(node)
	if m == nil {
		return "", ErrNoMatch
	}
	if e.pieces == nil {
		return node[:m[0]] + e.text + node[m[1]:], nil
	}
	if m[0] != 0 || m[1] != len(node) {
		return "", fmt.Errorf("the pattern matches only %q of the node's name: with parentheses it has to match all of it", node[m[0]:m[1]])
	}
	var b strings.Builder
	for _, p := range e.pieces {
		if p.calc == nil {
			b.WriteString(p.text)
			continue
		}
		v, err := p.calc.value(node, m)
		if err != nil {
			return "", err
		}
		if strings.ContainsAny(v, "()") {
			return "", fmt.Errorf("a worked out piece has parentheses again")
		}
		b.WriteString(v)
	}
	return b.String(), nil
}

var digits = regexp.MustCompile(`[\D0]*(\d+)`)

// numbersOf makes the pattern of |REPLACEMENT|: a group for each number in the node's name, without its leading zeros.
func numbersOf(node string) *regexp.Regexp {
	n := len(digits.FindAllString(node, 50))
	return regexp.MustCompile("^" + strings.Repeat(`[\D0]*(\d+)`, n) + ".*$")
}
