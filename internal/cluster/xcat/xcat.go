// Package xcat reads an xCAT management node's tables and says what of them Mimeo can carry over.
//
// The tables are CSV files as tabdump and dumpxCATdb write them, one for each table, or a stanza file as "lsdef -z"
// writes it. What is read here follows xCAT's manual: xcatdb(5) for rows that are keyed by groups and for expressions in
// cells, tabdump(8) for the files, xcatstanzafile(5) for stanzas, and a page of section 5 for each table.
//
// What cannot be carried over is never guessed at: it becomes a Note that names the file, the line, the row and the
// column, and says why.
package xcat

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

const (
	maxFile = 64 << 20 // bytes of one file; the tables of 10,000 nodes are a tenth of that
	maxRows = 1 << 20  // rows of one table
)

// Database is what the files of an xCAT management node say.
type Database struct {
	tables  map[string]*Table
	skipped []string // files that are there and are not read
	stanzas bool     // read from a stanza file, which has all that there is
	odd     []Note   // what was wrong in files that could be read all the same
}

// Table is one of xCAT's tables: the rows that count, in order of the file.
type Table struct {
	Name    string
	Columns []string
	Rows    []*Row

	file  string
	off   int             // rows that the column "disable" turns off
	byKey map[string]*Row // the first row of each key
}

// Row is a row of a table. Cells that are empty are not in it: xCAT makes no difference between empty and not set.
type Row struct {
	Key   string // the node or group; in tables that are not keyed by node what they are keyed by
	Line  int    // where it begins in its file, from 1
	Cells map[string]string

	file string
	used map[string]bool // cells that were looked at on behalf of some node, or have a note of their own
}

// Read reads every table that it knows of one folder. A file that cannot be read right is an error that names the line;
// files that are no tables, or tables that mean nothing to Mimeo, are passed over.
func Read(dir fs.FS) (*Database, error) {
	db := newDatabase()
	entries, err := fs.ReadDir(dir, ".")
	if err != nil {
		return nil, fmt.Errorf("read xCAT's tables: %w", err)
	}
	var stanzas []string
	for _, e := range entries {
		name := e.Name()
		if e.IsDir() || strings.HasPrefix(name, ".") {
			continue
		}
		base, isCSV := strings.CutSuffix(name, ".csv")
		_, known := schema[base]
		switch {
		case isCSV && known:
			b, err := readFile(dir, name)
			if err != nil {
				return nil, err
			}
			if err := db.addCSV(base, name, b); err != nil {
				return nil, err
			}
		case !isCSV && isStanzaFile(dir, name):
			stanzas = append(stanzas, name)
		default:
			db.skipped = append(db.skipped, name)
		}
	}
	if len(stanzas) > 0 && len(db.tables) > 0 {
		return nil, fmt.Errorf("%s and %s.csv both say what nodes there are: keep the tables or the stanza file", stanzas[0], db.names()[0])
	}
	for _, name := range stanzas {
		b, err := readFile(dir, name)
		if err != nil {
			return nil, err
		}
		if err := db.addStanzas(name, b); err != nil {
			return nil, err
		}
	}
	return db, db.complete()
}

// ReadStanzas reads one stanza file, as "lsdef -z" writes it. The name stands in errors and notes.
func ReadStanzas(name string, text []byte) (*Database, error) {
	db := newDatabase()
	if err := db.addStanzas(name, text); err != nil {
		return nil, err
	}
	return db, db.complete()
}

// ErrNoNodes means that the files do not say what nodes there are.
var ErrNoNodes = errors.New("no nodes: want nodelist.csv, as tabdump writes it, or a stanza file with nodes, as \"lsdef -t node -l -z\" writes it")

func (db *Database) complete() error {
	if t := db.tables["nodelist"]; t == nil || len(t.Rows) == 0 {
		return ErrNoNodes
	}
	return nil
}

func newDatabase() *Database { return &Database{tables: map[string]*Table{}} }

// Skipped are the files of the folder that were not read, in order of their names.
func (db *Database) Skipped() []string { return db.skipped }

// Table is one of the tables, or nil where it is not there.
func (db *Database) Table(name string) *Table { return db.tables[name] }

// names are the tables that are there, in the schema's order.
func (db *Database) names() []string {
	var out []string
	for _, n := range tableOrder {
		if db.tables[n] != nil {
			out = append(out, n)
		}
	}
	return out
}

// missing are tables that are read where they are there, in the schema's order. site is read for one setting alone.
func (db *Database) missing() []string {
	var out []string
	for _, n := range tableOrder {
		if db.tables[n] == nil && !db.stanzas && n != "site" {
			out = append(out, n)
		}
	}
	return out
}

func readFile(dir fs.FS, name string) ([]byte, error) {
	info, err := fs.Stat(dir, name)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("%s: %d bytes are more than a table can have (%d)", name, info.Size(), maxFile)
	}
	return fs.ReadFile(dir, name)
}

// isStanzaFile knows a stanza file by its name, or by the line that lsdef puts first.
func isStanzaFile(dir fs.FS, name string) bool {
	if ext := path.Ext(name); ext == ".stanza" || ext == ".stanzas" || ext == ".lsdef" {
		return true
	}
	f, err := dir.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, 256)
	n, _ := f.Read(head)
	return strings.Contains(string(head[:n]), stanzaMark)
}

// add puts a row into a table. A second row of the same key is kept only in tables that may have several.
func (t *Table) add(r *Row, several bool) (kept bool) {
	if t.byKey == nil {
		t.byKey = map[string]*Row{}
	}
	if _, ok := t.byKey[r.Key]; ok && !several {
		return false
	} else if !ok {
		t.byKey[r.Key] = r
	}
	t.Rows = append(t.Rows, r)
	return true
}

// isOff tells whether a row's column "disable" turns it off: xCAT keeps a row on for nothing, 0 and no.
func isOff(v string) bool {
	return v != "" && v != "0" && !strings.EqualFold(v, "no")
}

func (t *Table) has(column string) bool { return slices.Contains(t.Columns, column) }
