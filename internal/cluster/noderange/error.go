package noderange

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Error points at the place in an expression that cannot be understood.
type Error struct {
	Expr string
	Pos  int // bytes from the start of Expr
	Why  string

	Unknown bool // what it names is not there; else it cannot be read at all
}

// shown is how many characters of a long expression are shown on each side of the place.
const shown = 60

func (e *Error) Error() string {
	pos := min(max(e.Pos, 0), len(e.Expr))
	before, after := visible(e.Expr[:pos]), visible(e.Expr[pos:])
	if n := utf8.RuneCountInString(before); n > shown {
		before = "…" + string([]rune(before)[n-shown:])
	}
	if n := utf8.RuneCountInString(after); n > shown {
		after = string([]rune(after)[:shown]) + "…"
	}
	return fmt.Sprintf("noderange: %s\n  %s\n  %s^", e.Why, before+after, strings.Repeat(" ", utf8.RuneCountInString(before)))
}

// visible replaces what would move a terminal's cursor, so that the caret stands where it should.
func visible(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}
