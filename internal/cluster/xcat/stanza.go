package xcat

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// stanzaMark is in the line that "lsdef -z" writes first.
const stanzaMark = "xCAT data object stanza file"

// stanza is one object of a stanza file.
type stanza struct {
	name  string
	line  int
	attrs map[string]stanzaAttr
}

type stanzaAttr struct {
	value string
	line  int
}

// addStanzas reads a stanza file (xcatstanzafile(5)) and puts its nodes, groups, networks, images and site settings into
// the tables they come from, so that from there on both kinds of file are read alike.
func (db *Database) addStanzas(file string, text []byte) error {
	if !utf8.Valid(text) || strings.IndexByte(string(text), 0) >= 0 {
		return fmt.Errorf("%s is no text in UTF-8", file)
	}
	db.stanzas = true
	defaults := map[string]map[string]stanzaAttr{}
	var current *stanza
	end := func() error {
		if current == nil {
			return nil
		}
		s := current
		current = nil
		return db.addStanza(file, s, defaults)
	}
	for i, l := range strings.Split(strings.TrimPrefix(string(text), "\ufeff"), "\n") {
		l = strings.TrimRight(l, "\r")
		trimmed := strings.TrimSpace(l)
		name, isHeader := strings.CutSuffix(trimmed, ":")
		key, value, isAttr := strings.Cut(trimmed, "=")
		switch {
		case trimmed == "" || strings.HasPrefix(trimmed, "#"):
		case isHeader && !isAttr:
			if err := end(); err != nil {
				return err
			}
			if name = strings.TrimSpace(name); name == "" || strings.ContainsAny(name, " \t,:\"") {
				return fmt.Errorf("%s:%d: no name of an object before the colon", file, i+1)
			}
			current = &stanza{name: name, line: i + 1, attrs: map[string]stanzaAttr{}}
		case isAttr && current == nil:
			return fmt.Errorf("%s:%d: an attribute before the first \"NAME:\"", file, i+1)
		case isAttr:
			key = strings.TrimSpace(key)
			if key == "" || strings.ContainsAny(key, " \t") {
				return fmt.Errorf("%s:%d: no name of an attribute before the equals sign", file, i+1)
			}
			if _, twice := current.attrs[key]; twice {
				return fmt.Errorf("%s:%d: %s has %q twice", file, i+1, current.name, clip(key))
			}
			current.attrs[key] = stanzaAttr{strings.TrimSpace(value), i + 1}
		default:
			return fmt.Errorf("%s:%d: neither \"NAME:\" nor ATTRIBUTE=VALUE: is this from \"lsdef -z\"?", file, i+1)
		}
	}
	return end()
}

func (db *Database) addStanza(file string, s *stanza, defaults map[string]map[string]stanzaAttr) error {
	if kind, ok := strings.CutPrefix(s.name, "default-"); ok && s.attrs["objtype"].value == "" {
		d := defaults[kind]
		if d == nil {
			d = map[string]stanzaAttr{}
			defaults[kind] = d
		}
		for k, a := range s.attrs {
			if a.value == "" {
				delete(d, k)
			} else {
				d[k] = a
			}
		}
		return nil
	}
	kind := s.attrs["objtype"].value
	if kind == "" {
		return fmt.Errorf("%s:%d: %s has no objtype", file, s.line, s.name)
	}
	for k, a := range defaults[kind] {
		if _, own := s.attrs[k]; !own {
			s.attrs[k] = a
		}
	}
	delete(s.attrs, "objtype")
	put := func(table, column string, a stanzaAttr, key string) { db.put(file, table, key, column, a) }
	switch kind {
	case "node", "group":
		if kind == "node" {
			put("nodelist", "node", stanzaAttr{s.name, s.line}, s.name)
		} else {
			put("nodegroup", "groupname", stanzaAttr{s.name, s.line}, s.name)
		}
		mgt := s.attrs["mgt"].value
		for k, a := range s.attrs {
			at, known := nodeAttributes[k]
			switch {
			case a.value == "":
			case kind == "group" && (schema["nodegroup"].columns[k] != "" || k == "grouptype" || k == "wherevals"):
				put("nodegroup", k, a, s.name)
			case kind == "group" && at.table == "nodelist":
				db.left(file, s, k, a, "a group has no such value")
			case !known:
				db.left(file, s, k, a, "Mimeo has no such attribute")
			case inOpenBMC[k] && mgt == "openbmc":
				put("openbmc", at.column, a, s.name)
			case inOpenBMC[k] && mgt == "" && kind == "group":
				// The members' own mgt says which table this is for.
				put("ipmi", at.column, a, s.name)
				put("openbmc", at.column, a, s.name)
				db.tables["openbmc"].byKey[s.name].used = db.tables["ipmi"].byKey[s.name].used // one cell in two places
			default:
				put(at.table, at.column, a, s.name)
			}
		}
	case "network":
		put("networks", "netname", stanzaAttr{s.name, s.line}, s.name)
		for k, a := range s.attrs {
			put("networks", k, a, s.name)
		}
	case "osimage":
		put("osimage", "imagename", stanzaAttr{s.name, s.line}, s.name)
	case "site":
		for k, a := range s.attrs {
			put("site", "value", a, k)
		}
	default:
		db.odd = append(db.odd, Note{Kind: Left, File: file, Line: s.line, Table: kind, Row: s.name, Why: "Mimeo has no such objects"})
	}
	return nil
}

func (db *Database) left(file string, s *stanza, key string, a stanzaAttr, why string) {
	db.odd = append(db.odd, Note{Kind: Left, File: file, Line: a.line, Table: "stanza", Row: s.name, Column: key, Why: why})
}

// put sets one cell, and makes its table and row where they are not there yet.
func (db *Database) put(file, table, key, column string, a stanzaAttr) {
	if a.value == "" {
		return
	}
	t := db.tables[table]
	if t == nil {
		t = &Table{Name: table, file: file, Columns: []string{schema[table].key}}
		db.tables[table] = t
	}
	if !t.has(column) {
		t.Columns = append(t.Columns, column)
	}
	r := t.byKey[key]
	if r == nil {
		r = &Row{Key: key, Line: a.line, Cells: map[string]string{schema[table].key: key}, file: file, used: map[string]bool{}}
		t.add(r, true)
	}
	r.Line = min(r.Line, a.line)
	r.Cells[column] = a.value
}
