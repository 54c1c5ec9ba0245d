package xcat

import (
	"fmt"
	"slices"
	"strings"

	"mimeo/internal/cluster/node"
)

// cell is a place in the tables.
type cell struct {
	table  string
	row    *Row // nil where a table as a whole is meant
	column string
}

func (c cell) file() string {
	if c.row == nil {
		return ""
	}
	return c.row.file
}

func (c cell) line() int {
	if c.row == nil {
		return 0
	}
	return c.row.Line
}

func (c cell) key() string {
	if c.row == nil {
		return ""
	}
	return c.row.Key
}

// found is a value that xCAT has for a node, and where it stands.
type found struct {
	value string
	at    cell
	group string // the group whose row gave it as it stands; empty for a node's own, and for what was worked out
}

// nextRecord at the end of a cell means that the next row that applies goes on with the value.
const nextRecord = "+=NEXTRECORD"

// reader looks values up for nodes as xCAT does.
type reader struct {
	db    *Database
	notes *notebook
	merge map[string]string // columns whose values of all rows are joined, and by what: site.hierarchicalattrs
	exprs map[string]compiled
}

type compiled struct {
	e   *Expression
	err error
}

func newReader(db *Database, notes *notebook) *reader {
	return &reader{db: db, notes: notes, merge: db.merged(), exprs: map[string]compiled{}}
}

// merged reads site.hierarchicalattrs: "postscripts" or "begin:|,postscripts".
func (db *Database) merged() map[string]string {
	out := map[string]string{}
	t := db.tables["site"]
	if t == nil || t.byKey["hierarchicalattrs"] == nil {
		return out
	}
	r := t.byKey["hierarchicalattrs"]
	r.used["value"] = true
	for item := range strings.SplitSeq(r.Cells["value"], ",") {
		column, by, _ := strings.Cut(item, ":")
		if column = strings.TrimSpace(column); column != "" {
			if by = strings.TrimSpace(by); by == "" {
				by = ","
			}
			out[column] = by
		}
	}
	return out
}

// groupsOf are the groups of a node in the order in which they give it values.
func (db *Database) groupsOf(name string) []string {
	r := db.tables["nodelist"].byKey[name]
	if r == nil {
		return nil
	}
	var out []string
	for g := range strings.SplitSeq(r.Cells["groups"], ",") {
		if g = strings.TrimSpace(g); g != "" && !slices.Contains(out, g) {
			out = append(out, g)
		}
	}
	return out
}

// get looks a value up: the node's own row, then the rows of its groups in their order (xcatdb(5)). An expression is
// worked out; where that cannot be, it is noted, and the node does without.
func (r *reader) get(name node.Name, own, table, column string) (found, bool) {
	cells := r.cells(own, table, column)
	if len(cells) == 0 {
		return found{}, false
	}
	f := found{at: cells[0]}
	if cells[0].row.Key != own {
		f.group = cells[0].row.Key
	}
	if by, ok := r.merge[column]; ok && table != "nodelist" {
		var parts []string
		for _, c := range cells {
			for p := range strings.SplitSeq(strings.TrimSuffix(c.row.Cells[column], nextRecord), by) {
				if !slices.Contains(parts, p) {
					parts = append(parts, p)
				}
			}
		}
		f.value = strings.Join(parts, by)
	} else {
		for _, c := range cells {
			f.value += strings.TrimSuffix(c.row.Cells[column], nextRecord)
		}
	}
	if len(cells) > 1 {
		f.group = ""
	}
	f, ok := r.work(name, own, f)
	if ok && r.db.stanzas && cells[0].row.Key == own && len(cells) == 1 {
		f.group = r.inheritedFrom(own, table, column, f.value)
	}
	return f, ok
}

// inheritedFrom is the group whose row says a value that a stanza file has of the node: lsdef shows of a node all that it
// inherits, as if it were its own.
func (r *reader) inheritedFrom(own, table, column, value string) string {
	cells := r.cellsOf(r.db.groupsOf(own), table, column)
	if len(cells) != 1 {
		return ""
	}
	quiet := &reader{db: r.db, notes: &notebook{}, exprs: r.exprs}
	f := found{value: cells[0].row.Cells[column], at: cells[0], group: cells[0].row.Key}
	if f, ok := quiet.work("", own, f); ok && f.value == value {
		cells[0].row.used[column] = true
		return f.group
	}
	return ""
}

// work works a value out, where it is an expression.
func (r *reader) work(name node.Name, own string, f found) (found, bool) {
	if !IsExpression(f.value) {
		return f, f.value != ""
	}
	f.group = ""
	c, ok := r.exprs[f.value]
	if !ok {
		c.e, c.err = Compile(f.value)
		r.exprs[f.value] = c
	}
	err := c.err
	if err == nil {
		f.value, err = c.e.Value(own)
	}
	if err != nil {
		r.notes.add(Left, f.at, name, "%v", err)
		return found{}, false
	}
	return f, f.value != ""
}

// cells are those that make up a value: mostly one; several where one ends with +=NEXTRECORD, or the column is one that
// is joined from all groups.
func (r *reader) cells(own, table, column string) []cell {
	keys := []string{own}
	if table != "nodelist" {
		keys = append(keys, r.db.groupsOf(own)...)
	}
	out := r.cellsOf(keys, table, column)
	for _, c := range out {
		c.row.used[column] = true
	}
	return out
}

func (r *reader) cellsOf(keys []string, table, column string) []cell {
	t := r.db.tables[table]
	if t == nil {
		return nil
	}
	_, join := r.merge[column]
	var out []cell
	for _, k := range keys {
		row := t.byKey[k]
		if row == nil || row.Cells[column] == "" {
			continue
		}
		out = append(out, cell{table, row, column})
		if !join && !strings.HasSuffix(row.Cells[column], nextRecord) {
			break
		}
	}
	return out
}

// rows are a node's rows in a table that may have several: its own, or else those of the first group that has any.
func (r *reader) rows(own, table string) []*Row {
	t := r.db.tables[table]
	if t == nil {
		return nil
	}
	for _, k := range append([]string{own}, r.db.groupsOf(own)...) {
		if t.byKey[k] == nil {
			continue
		}
		var out []*Row
		for _, row := range t.Rows {
			if row.Key == k {
				out = append(out, row)
			}
		}
		return out
	}
	return nil
}

// attribute looks up what lsdef shows under a name. known is false for a name that no table here has.
func (r *reader) attribute(own, name string) (value string, has, known bool) {
	if name == "node" {
		return own, true, true
	}
	at, ok := nodeAttributes[name]
	if !ok || at.table == "switch" {
		return "", false, false
	}
	quiet := &reader{db: r.db, notes: &notebook{}, merge: r.merge, exprs: r.exprs}
	if at.table == "ipmi" || at.table == "openbmc" { // shown only where mgt is the like
		mgt, _ := quiet.get("", own, "nodehm", "mgt")
		if inOpenBMC[name] && mgt.value == "openbmc" {
			at.table = "openbmc"
		}
		if mgt.value != at.table {
			return "", false, true
		}
	}
	f, has := quiet.get("", own, at.table, at.column)
	return f.value, has, true
}

// dynamicMembers finds the nodes of a group that is given by what its nodes have in common: wherevals of nodegroup(5),
// ATTRIBUTE==VALUE, !=, =~ or !~ with :: between them, all of which have to hold. A node without the attribute is none
// of them, whatever the operator.
func (r *reader) dynamicMembers(wherevals string, nodes []string) ([]string, error) {
	type test struct {
		attr  string
		holds func(string) bool
	}
	var tests []test
	for part := range strings.SplitSeq(wherevals, "::") {
		part = strings.TrimSpace(part)
		op, at := "", -1
		for _, o := range []string{"==", "=~", "!=", "!~"} {
			if i := strings.Index(part, o); i > 0 && (at < 0 || i < at) {
				op, at = o, i
			}
		}
		if at < 0 {
			if i := strings.Index(part, "="); i > 0 {
				op, at = "=", i
			} else {
				return nil, fmt.Errorf("%q is none of ATTR==VALUE, ATTR!=VALUE, ATTR=~REGEX, ATTR!~REGEX", clip(part))
			}
		}
		t := test{attr: strings.TrimSpace(part[:at])}
		value := part[at+len(op):]
		if slices.ContainsFunc(tests, func(o test) bool { return o.attr == t.attr }) {
			return nil, fmt.Errorf("the attribute %s is asked for twice", clip(t.attr))
		}
		switch op {
		case "==", "=":
			t.holds = func(v string) bool { return v == value }
		case "!=":
			t.holds = func(v string) bool { return v != value }
		default:
			re, err := compilePerl(strings.TrimSuffix(strings.TrimPrefix(value, "/"), "/"))
			if err != nil {
				return nil, err
			}
			t.holds = func(v string) bool { return re.MatchString(v) == (op == "=~") }
		}
		tests = append(tests, t)
	}
	var out []string
	for _, n := range nodes {
		all := true
		for _, t := range tests {
			v, has, known := r.attribute(n, t.attr)
			if !known {
				return nil, fmt.Errorf("it asks for the attribute %s, which is not in the tables that are read", clip(t.attr))
			}
			if !has || !t.holds(v) {
				all = false
				break
			}
		}
		if all {
			out = append(out, n)
		}
	}
	return out, nil
}
