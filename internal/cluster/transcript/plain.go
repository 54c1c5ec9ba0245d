package transcript

import (
	"bytes"
	"fmt"
	"io"
	"time"
)

// timeLayout is that of the times before lines.
const timeLayout = "2006-01-02 15:04:05.000"

// maxLine bounds a line that does not end, in bytes.
const maxLine = 4096

// Plain writes records as lines of text, each with the time at which it began: without the sequences that move a
// terminal's cursor and set its colours, and with all that is no text left out.
type Plain struct {
	w     io.Writer
	line  []byte
	began time.Time
	state int // of an escape sequence
}

// NewPlain makes one. Flush it at the end.
func NewPlain(w io.Writer) *Plain { return &Plain{w: w} }

// States of an escape sequence (ECMA-48 5.3, 5.4; the strings of 5.6 end with BEL or ESC \).
const (
	text = iota
	escape
	intermediate
	control
	str
	strEscape
)

// Write adds a record.
func (p *Plain) Write(r Record) error {
	if r.Kind == Note {
		if err := p.Flush(); err != nil {
			return err
		}
		_, err := fmt.Fprintf(p.w, "%s  [%s]\n", r.Time.Format(timeLayout), bytes.Map(printable, r.Data))
		return err
	}
	for _, c := range r.Data {
		if p.skip(c) {
			continue
		}
		if len(p.line) == 0 {
			p.began = r.Time
		}
		switch {
		case c == '\n', len(p.line) >= maxLine:
			if err := p.end(); err != nil {
				return err
			}
			if c == '\n' {
				continue
			}
			p.began = r.Time
			p.line = append(p.line, c)
		case c == '\b':
			p.line = p.line[:max(0, len(p.line)-1)]
		case c == '\t' || c >= ' ' && c != 0x7f:
			p.line = append(p.line, c)
		}
	}
	return nil
}

func printable(r rune) rune {
	if r < ' ' || r == 0x7f {
		return ' '
	}
	return r
}

// skip takes the bytes of escape sequences.
func (p *Plain) skip(c byte) bool {
	switch p.state {
	case text:
		if c == 0x1b {
			p.state = escape
			return true
		}
		return false
	case escape:
		switch {
		case c == '[':
			p.state = control
		case c == ']' || c == 'P' || c == 'X' || c == '^' || c == '_':
			p.state = str
		case c >= 0x20 && c <= 0x2f:
			p.state = intermediate
		default:
			p.state = text
		}
	case intermediate:
		if c < 0x20 || c > 0x2f {
			p.state = text
		}
	case control:
		switch {
		case c == 0x1b:
			p.state = escape
		case c >= 0x40 && c <= 0x7e:
			p.state = text
		case c < 0x20: // the sequence is broken; a new line counts
			p.state = text
			return c != '\n'
		}
	case str, strEscape:
		switch {
		case c == 0x07, p.state == strEscape && c == '\\':
			p.state = text
		case c == 0x1b:
			p.state = strEscape
		case c == '\n':
			p.state = text
			return false
		default:
			p.state = str
		}
	}
	return true
}

func (p *Plain) end() error {
	line := p.line
	p.line = p.line[:0]
	_, err := fmt.Fprintf(p.w, "%s  %s\n", p.began.Format(timeLayout), bytes.ToValidUTF8(line, []byte("\uFFFD")))
	return err
}

// Flush writes a line that has not ended.
func (p *Plain) Flush() error {
	if len(p.line) == 0 {
		return nil
	}
	return p.end()
}
