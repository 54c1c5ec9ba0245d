package xcat

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"mimeo/internal/cluster/node"
)

// Kind says what a note is about.
type Kind string

// The kinds.
const (
	Left  Kind = "left"  // cannot be carried over
	Check Kind = "check" // carried over, but a person should look at it
)

// Note is something that a person should know of an import: where it stands in xCAT's files, and why.
type Note struct {
	Kind   Kind        `json:"kind"`
	File   string      `json:"file,omitempty"`
	Line   int         `json:"line,omitempty"` // the first, where there are several
	Table  string      `json:"table"`
	Row    string      `json:"row,omitempty"` // node or group; empty where all rows are meant
	Column string      `json:"column,omitempty"`
	Rows   int         `json:"rows,omitempty"`  // rows that are meant, where Row is empty
	Value  string      `json:"value,omitempty"` // shortened; never of a password
	Why    string      `json:"why"`             // what it quotes is the first node's
	Nodes  []node.Name `json:"nodes,omitempty"` // that do without it, or should be looked at
}

// Where says where in xCAT's tables a note stands, as "ipmi.bmc of compute (ipmi.csv:3)".
func (n Note) Where() string {
	var b strings.Builder
	b.WriteString(n.Table)
	if n.Column != "" {
		b.WriteString("." + n.Column)
	}
	if n.Row != "" {
		b.WriteString(" of " + n.Row)
	}
	if n.Line > 0 {
		fmt.Fprintf(&b, " (%s:%d)", n.File, n.Line)
	}
	return b.String()
}

// Carried says how many nodes have a key from a column.
type Carried struct {
	Table  string `json:"table"`
	Column string `json:"column"`
	Key    string `json:"key"` // of Mimeo
	Nodes  int    `json:"nodes"`
}

// secret tells whether a column holds passwords.
func secret(table, column string) bool {
	return column == "password" || table == "passwd" && column != "key" && column != "username"
}

// notebook gathers notes: what is said of the same cell for the same reason becomes one, with all its nodes.
type notebook struct {
	notes []*Note
	index map[string]*Note
}

var quoted = regexp.MustCompile(`"[^"]*"`)

// add notes something of one cell (or row, or table) on behalf of a node.
func (b *notebook) add(kind Kind, c cell, n node.Name, format string, args ...any) {
	why := fmt.Sprintf(format, args...)
	note := Note{Kind: kind, File: c.file(), Line: c.line(), Table: c.table, Row: c.key(), Column: c.column, Why: why}
	if c.row != nil {
		c.row.used[c.column] = true
		if !secret(c.table, c.column) {
			note.Value = clip(c.row.Cells[c.column])
		}
	}
	b.put(note, n)
}

func (b *notebook) put(note Note, n node.Name) {
	if b.index == nil {
		b.index = map[string]*Note{}
	}
	// What differs from node to node is quoted: the first stands for all. Two of one node stay two.
	at := fmt.Sprintf("%s\x00%s\x00%d\x00%s\x00%s\x00%s\x00", note.Kind, note.File, note.Line, note.Table, note.Row, note.Column)
	id := at + quoted.ReplaceAllString(note.Why, "")
	have := b.index[id]
	if have != nil && have.Why != note.Why && (n == "" || have.last() == n) {
		id = at + note.Why
		have = b.index[id]
	}
	if have == nil {
		have = &note
		b.index[id] = have
		b.notes = append(b.notes, have)
	}
	if n != "" && have.last() != n { // nodes come one after the other
		have.Nodes = append(have.Nodes, n)
	}
}

func (n *Note) last() node.Name {
	if len(n.Nodes) == 0 {
		return ""
	}
	return n.Nodes[len(n.Nodes)-1]
}

// list gives the notes by table, line and column; first those of what is left behind.
func (b *notebook) list() []Note {
	out := make([]Note, len(b.notes))
	for i, n := range b.notes {
		out[i] = *n
	}
	slices.SortStableFunc(out, func(a, b Note) int {
		return cmp.Or(cmp.Compare(boolInt(a.Kind == Check), boolInt(b.Kind == Check)), cmp.Compare(tableRank(a.Table), tableRank(b.Table)),
			cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Why, b.Why))
	})
	return out
}

func tableRank(table string) int {
	if i := slices.Index(tableOrder, table); i >= 0 {
		return i
	}
	return len(tableOrder)
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}
