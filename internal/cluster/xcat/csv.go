package xcat

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// csvReader reads what tabdump writes (tabdump(8)): a first line "#column,column,...", then a row a line. A cell is
// empty, or stands in double quotes with each quote in it doubled, and may then hold commas and ends of line. Cells
// without quotes, as people write them with tabedit, are read up to the next comma.
type csvReader struct {
	file string
	text []byte
	pos  int
	line int
}

// record is a row and the line on which it begins.
type record struct {
	line  int
	cells []string
}

func (r *csvReader) errorf(line int, format string, args ...any) error {
	return fmt.Errorf("%s:%d: %s", r.file, line, fmt.Sprintf(format, args...))
}

// next reads a row; ok is false at the end.
func (r *csvReader) next() (rec record, ok bool, err error) {
	for r.pos < len(r.text) && (r.text[r.pos] == '\n' || r.text[r.pos] == '\r') {
		if r.text[r.pos] == '\n' {
			r.line++
		}
		r.pos++
	}
	if r.pos >= len(r.text) {
		return rec, false, nil
	}
	rec.line = r.line
	for {
		cell, err := r.cell()
		if err != nil {
			return rec, false, err
		}
		rec.cells = append(rec.cells, cell)
		if len(rec.cells) > 1000 {
			return rec, false, r.errorf(rec.line, "more than 1000 cells in one row")
		}
		if r.pos >= len(r.text) {
			return rec, true, nil
		}
		if r.text[r.pos] == ',' {
			r.pos++
			continue
		}
		// cell stops at nothing but a comma, the end of a line and the end of the file.
		if r.text[r.pos] == '\r' {
			r.pos++
		}
		if r.pos < len(r.text) {
			r.pos++
			r.line++
		}
		return rec, true, nil
	}
}

// cell reads up to the comma or the end of the line, and leaves those for next.
func (r *csvReader) cell() (string, error) {
	rest := r.text[r.pos:]
	if len(rest) == 0 || rest[0] != '"' {
		n := bytes.IndexAny(rest, ",\n")
		if n < 0 {
			n = len(rest)
		}
		if n > 0 && n < len(rest) && rest[n] == '\n' && rest[n-1] == '\r' {
			n--
		}
		if bytes.IndexByte(rest[:n], '"') >= 0 {
			return "", r.errorf(r.line, "a quote inside a cell that does not begin with one") // the cell may be a password: it is not shown
		}
		r.pos += n
		return string(rest[:n]), nil
	}
	start := r.line
	var b strings.Builder
	for i := 1; i < len(rest); i++ {
		switch c := rest[i]; {
		case c == '\n':
			r.line++
			b.WriteByte(c)
		case c != '"':
			b.WriteByte(c)
		case i+1 < len(rest) && rest[i+1] == '"':
			b.WriteByte('"')
			i++
		default:
			r.pos += i + 1
			after := rest[i+1:]
			if len(after) > 0 && after[0] != ',' && after[0] != '\n' && !(after[0] == '\r' && len(after) > 1 && after[1] == '\n') {
				return "", r.errorf(r.line, "text after a closing quote: want a comma or the end of the line (a quote in a cell is doubled)")
			}
			return b.String(), nil
		}
	}
	return "", r.errorf(start, "a quote is opened and never closed")
}

// addCSV reads a table.
func (db *Database) addCSV(table, file string, text []byte) error {
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	if !utf8.Valid(text) || bytes.IndexByte(text, 0) >= 0 {
		return fmt.Errorf("%s is no text in UTF-8", file)
	}
	r := &csvReader{file: file, text: text, line: 1}
	head, ok, err := r.next()
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%s is empty: want a first line like #%s", file, schema[table].key+",...")
	}
	if !strings.HasPrefix(head.cells[0], "#") {
		return r.errorf(head.line, "want the column names first, as in #%s,...: is this from tabdump?", schema[table].key)
	}
	t := &Table{Name: table, file: file}
	for i, c := range head.cells {
		c = strings.TrimSpace(c)
		if i == 0 {
			c = strings.TrimSpace(strings.TrimPrefix(c, "#"))
		}
		if c == "" {
			return r.errorf(head.line, "column %d has no name", i+1)
		}
		if slices.Contains(t.Columns, c) {
			return r.errorf(head.line, "two columns are named %q", clip(c))
		}
		t.Columns = append(t.Columns, c)
	}
	key := schema[table].key
	if !t.has(key) {
		return r.errorf(head.line, "no column %q: is this the table %s?", key, table)
	}
	for n := 0; ; n++ {
		rec, ok, err := r.next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if n >= maxRows {
			return r.errorf(rec.line, "more than %d rows", maxRows)
		}
		if strings.HasPrefix(rec.cells[0], "#") {
			continue // a row that somebody turned off by hand
		}
		if err := db.addRecord(t, r, rec); err != nil {
			return err
		}
	}
	db.tables[table] = t
	return nil
}

func (db *Database) addRecord(t *Table, r *csvReader, rec record) error {
	row := &Row{Line: rec.line, Cells: map[string]string{}, file: r.file, used: map[string]bool{}}
	for i, v := range rec.cells {
		if v == "" {
			continue
		}
		if i >= len(t.Columns) {
			return r.errorf(rec.line, "the row has %d cells for %d columns", len(rec.cells), len(t.Columns))
		}
		row.Cells[t.Columns[i]] = v
	}
	s := schema[t.Name]
	row.Key = row.Cells[s.key]
	if isOff(row.Cells["disable"]) {
		t.off++
		return nil
	}
	if row.Key == "" {
		if len(row.Cells) == 0 {
			return nil
		}
		return r.errorf(rec.line, "the row has no %s", s.key)
	}
	if !t.add(row, s.several) {
		db.odd = append(db.odd, Note{Kind: Left, File: r.file, Line: rec.line, Table: t.Name, Row: row.Key,
			Why: fmt.Sprintf("a second row for the same %s: the first, on line %d, counts", s.key, t.byKey[row.Key].Line)})
	}
	return nil
}

// clip shortens a text for an error.
func clip(s string) string {
	if len(s) > 60 {
		s = strings.ToValidUTF8(s[:60], "") + "…"
	}
	return s
}
