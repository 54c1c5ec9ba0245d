package roster

import (
	"bytes"
	"encoding/csv"
	"errors"
	"io"
	"slices"
	"strings"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

// The columns that are no keys.
const (
	columnKind = "kind" // node or group; node where the column is missing or the cell empty
	columnName = "name"
)

func writeCSV(inv api.Inventory) ([]byte, error) {
	var out bytes.Buffer
	w := csv.NewWriter(&out)
	keys := keysOf(inv.Groups, inv.Nodes)
	w.Write(append([]string{columnKind, columnName}, keys...))
	row := func(kind string, it api.InventoryItem) {
		cells := []string{kind, it.Name}
		for _, k := range keys {
			cells = append(cells, it.Set[k])
		}
		w.Write(cells)
	}
	for _, g := range inv.Groups {
		row("group", g)
	}
	for _, n := range inv.Nodes {
		row("node", n)
	}
	w.Flush()
	return out.Bytes(), w.Error()
}

// separator tells what stands between cells: spreadsheets write commas, semicolons or tabs, by the language that they
// are set to.
func separator(text []byte) rune {
	head, _, _ := bytes.Cut(text, []byte("\n"))
	for _, c := range ",;\t" {
		if bytes.ContainsRune(head, c) {
			return c
		}
	}
	return ','
}

func (r *reader) csv(text []byte) {
	in := csv.NewReader(bytes.NewReader(text))
	in.Comma = separator(text)
	in.FieldsPerRecord = -1
	in.ReuseRecord = true
	head, err := in.Read()
	if err != nil {
		r.csvError(err)
		if errors.Is(err, io.EOF) {
			r.errorf(1, 1, "there is nothing in it: want a first line with the names of the columns")
		}
		return
	}
	head = slices.Clone(head)
	kind, name := r.columns(in, head)
	if len(r.errs) > 0 {
		return
	}
	for {
		row, err := in.Read()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			r.csvError(err)
			return
		}
		r.row(in, head, row, kind, name)
	}
}

func (r *reader) csvError(err error) {
	var p *csv.ParseError
	if errors.As(err, &p) {
		r.errorf(p.Line, p.Column, "%v", p.Err)
	} else if !errors.Is(err, io.EOF) {
		r.errorf(1, 1, "%v", err)
	}
}

// columns reads the first line.
func (r *reader) columns(in *csv.Reader, head []string) (kind, name int) {
	kind, name = -1, -1
	for i := range head {
		line, column := in.FieldPos(i)
		c := strings.TrimSpace(head[i])
		head[i] = c
		switch {
		case c == "" || slices.Contains(head[:i], c):
			if c != "" {
				r.errorf(line, column, "the column %s is there twice", c)
			}
		case c == columnKind:
			kind = i
		case c == columnName:
			name = i
		default:
			if _, err := node.Check(c, ""); err != nil {
				r.errorf(line, column, "column %q: %v", c, err)
			}
		}
	}
	if name < 0 {
		r.errorf(1, 1, "there is no column %q", columnName)
	}
	return kind, name
}

func (r *reader) row(in *csv.Reader, head, row []string, kind, name int) {
	cell := func(i int) string {
		if i < 0 || i >= len(row) {
			return ""
		}
		return strings.TrimSpace(row[i])
	}
	if strings.TrimSpace(strings.Join(row, "")) == "" {
		return
	}
	place := func(i int) (line, column int) { return in.FieldPos(min(max(i, 0), len(row)-1)) }
	isGroup := false
	switch k := cell(kind); k {
	case "", "node":
	case "group":
		isGroup = true
	default:
		line, column := place(kind)
		r.errorf(line, column, "kind %q: want node or group", k)
		return
	}
	line, column := place(name)
	it := r.item(line, column, isGroup, cell(name))
	if it == nil {
		return
	}
	for i := range max(len(head), len(row)) {
		v := cell(i)
		switch {
		case i == kind || i == name:
		case i >= len(head) || head[i] == "":
			if v != "" {
				line, column := place(i)
				r.errorf(line, column, "%q stands under no column", v)
			}
		case v == "" && head[i] == node.KeyPassword:
			// A column of passwords that was filled in for some does not take the others' away.
		case v == "" && isGroup && !node.OfGroup(head[i]):
		default:
			if head[i] == node.KeyPassword {
				v = row[i] // blanks may belong to it
			}
			line, column := place(i)
			r.value(line, column, isGroup, it, head[i], v)
		}
	}
}
