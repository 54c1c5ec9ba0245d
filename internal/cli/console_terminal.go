package cli

import (
	"os"
	"strings"

	"golang.org/x/term"
)

// rawTerminal is a terminal that passes on each key as it is.
type rawTerminal struct {
	fd    int
	state *term.State // as it was
}

func makeRaw(f *os.File) (*rawTerminal, error) {
	fd := int(f.Fd())
	state, err := term.MakeRaw(fd)
	if err != nil {
		return nil, err
	}
	return &rawTerminal{fd, state}, nil
}

// restore makes the terminal what it was; again makes it raw once more.
func (r *rawTerminal) restore() { term.Restore(r.fd, r.state) }
func (r *rawTerminal) again()   { term.MakeRaw(r.fd) }

// escape finds, in what is typed, what is for mimeo: at the beginning of a line, a character and the one after it.
type escape struct {
	on    bool
	char  byte
	inner bool // within a line
	seen  bool // char was typed, at the beginning of one
}

// parseEscape reads a character, ^X or none.
func parseEscape(s string) (escape, error) {
	switch {
	case s == "none":
		return escape{}, nil
	case len(s) == 2 && s[0] == '^' && s[1] >= '?' && s[1] <= 'z':
		return escape{on: true, char: strings.ToUpper(s)[1] ^ 0x40}, nil
	case len(s) == 1 && s[0] != '\r' && s[0] != '\n':
		return escape{on: true, char: s[0]}, nil
	}
	return escape{}, usagef("--escape %q: want one character, ^X for Control-X, or none", s)
}

func (e escape) String() string {
	if e.char < ' ' || e.char == 0x7f {
		return "^" + string(rune(e.char^0x40))
	}
	return string(rune(e.char))
}

// feed passes what is typed to send, and what is for mimeo to act: one of ".B?" or Control-Z.
func (e *escape) feed(b []byte, send func([]byte), act func(byte)) {
	var out []byte
	flush := func() {
		if len(out) > 0 {
			send(out)
		}
		out = nil
	}
	for _, c := range b {
		switch {
		case !e.on:
			out = append(out, c)
			continue
		case e.seen:
			e.seen = false
			if strings.IndexByte(".B?\x1a", c) >= 0 {
				flush()
				act(c)
				continue
			}
			if c != e.char { // it was for the node after all
				out = append(out, e.char)
			}
		case !e.inner && c == e.char:
			e.seen = true
			continue
		}
		out = append(out, c)
		e.inner = c != '\r' && c != '\n'
	}
	flush()
}
