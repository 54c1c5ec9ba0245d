package xcat

import (
	"encoding/csv"
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// tabdump writes a table as tabdump does: what is set in quotes, which are doubled inside, and nothing for the rest.
func tabdump(columns []string, rows ...[]string) string {
	var b strings.Builder
	b.WriteString("#" + strings.Join(columns, ",") + "\n")
	for _, r := range rows {
		for i, v := range r {
			if i > 0 {
				b.WriteByte(',')
			}
			if v != "" {
				b.WriteString(`"` + strings.ReplaceAll(v, `"`, `""`) + `"`)
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// TestCSVRoundTrip writes tables at random and reads them back, cell by cell; Go's own CSV reader is asked as well.
func TestCSVRoundTrip(t *testing.T) {
	r := rand.New(rand.NewSource(3))
	bits := []string{"a", "Z", "0", " ", ",", `"`, `""`, "\n", "#", "|n(\\d+)|10.0.0.($1+0)|", "é", "'", "=", "\t", `\`}
	for i := range 500 {
		columns := []string{"node", "ip", "hostnames", "comments"}[:2+r.Intn(3)]
		var rows [][]string
		for n := range r.Intn(20) {
			row := []string{fmt.Sprintf("n%d", n)}
			for range columns[1:] {
				v := ""
				for range r.Intn(6) {
					v += bits[r.Intn(len(bits))]
				}
				row = append(row, v)
			}
			rows = append(rows, row)
		}
		text := tabdump(columns, rows...)
		db := newDatabase()
		if err := db.addCSV("hosts", "hosts.csv", []byte(text)); err != nil {
			t.Fatalf("%d: %v\n%s", i, err, text)
		}
		table := db.Table("hosts")
		if !slices.Equal(table.Columns, columns) || len(table.Rows) != len(rows) {
			t.Fatalf("%d: %v, %d rows of %d\n%s", i, table.Columns, len(table.Rows), len(rows), text)
		}
		judge, err := csv.NewReader(strings.NewReader(text[1:])).ReadAll()
		if err != nil {
			t.Fatalf("%d: encoding/csv: %v\n%s", i, err, text)
		}
		line := 2
		for n, row := range table.Rows {
			for c, name := range columns {
				if got := row.Cells[name]; got != rows[n][c] || got != judge[n+1][c] {
					t.Errorf("%d: row %d, %s: %q, want %q (encoding/csv: %q)", i, n, name, got, rows[n][c], judge[n+1][c])
				}
			}
			if row.Line != line {
				t.Errorf("%d: row %d is on line %d, want %d", i, n, row.Line, line)
			}
			line += 1 + strings.Count(strings.Join(rows[n], ""), "\n")
		}
	}
}

// read reads a folder of tables; a nodelist is there if none is given.
func read(t *testing.T, files map[string]string) (*Database, error) {
	t.Helper()
	dir := fstest.MapFS{}
	for name, text := range files {
		dir[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return Read(dir)
}

func TestCSVReading(t *testing.T) {
	nodelist := "#node,groups,comments,disable\n\"n1\",\"a\",,\n"
	for name, c := range map[string]struct {
		text string
		want string // rows as KEY=IP, or ! and a piece of the error
	}{
		"as tabdump writes":      {"#node,ip,hostnames,otherinterfaces,comments,disable\n\"n1\",\"10.0.0.1\",,,,\n", "n1=10.0.0.1"},
		"disable":                {"#node,ip,disable\n\"a\",\"1\",\"1\"\n\"b\",\"2\",\"yes\"\n\"c\",\"3\",\"0\"\n\"d\",\"4\",\"no\"\n\"e\",\"5\",\"NO\"\n\"f\",\"6\",\n", "c=3 d=4 e=5 f=6"},
		"no last newline":        {"#node,ip\n\"n1\",\"10.0.0.1\"", "n1=10.0.0.1"},
		"CRLF and BOM":           {"\ufeff#node,ip\r\n\"n1\",\"10.0.0.1\"\r\nn2,10.0.0.2\r\n\r\n", "n1=10.0.0.1 n2=10.0.0.2"},
		"without quotes":         {"#node,ip\nn1,10.0.0.1\n", "n1=10.0.0.1"},
		"turned off by hand":     {"#node,ip\n#n1,10.0.0.1\nn2,10.0.0.2\n", "n2=10.0.0.2"},
		"columns in other order": {"#ip,node\n\"10.0.0.1\",\"n1\"\n", "n1=10.0.0.1"},
		"short row":              {"#node,ip,comments\n\"n1\",\"10.0.0.1\"\n", "n1=10.0.0.1"},
		"long row":               {"#node,ip\n\"n1\",\"10.0.0.1\",,\n", "n1=10.0.0.1"},
		"an empty row":           {"#node,ip\n,\n\"n1\",\"1\"\n", "n1=1"},
		"twice":                  {"#node,ip\n\"n1\",\"1\"\n\"n1\",\"2\"\n", "n1=1"},
		"comma and newline":      {"#node,ip\n\"n1\",\"a,b\nc\"\"d\"\n\"n2\",\"2\"\n", "n1=a,b\nc\"d n2=2"},
		"too long a row":         {"#node,ip\n\"n1\",\"1\",\"2\"\n", "!hosts.csv:2: the row has 3 cells for 2 columns"},
		"open quote":             {"#node,ip\n\"n1\",\"1\n\"n2\",\"1\"\n", "!hosts.csv:3: text after a closing quote"},
		"open quote at the end":  {"#node,ip\n\"n1\",\"1\n\n", "!hosts.csv:2: a quote is opened and never closed"},
		"quote in the middle":    {"#node,ip\nn1,1\"secret\"\n", "!hosts.csv:2: a quote inside a cell"},
		"no header":              {"\"n1\",\"1\"\n", "!hosts.csv:1: want the column names first"},
		"another table":          {"#key,value\n", "!hosts.csv:1: no column \"node\""},
		"empty":                  {"", "!hosts.csv is empty"},
		"column twice":           {"#node,ip,ip\n", "!two columns are named \"ip\""},
		"column without a name":  {"#node,,ip\n", "!column 2 has no name"},
		"no node":                {"#node,ip\n,\"1\"\n", "!hosts.csv:2: the row has no node"},
		"no text":                {"#node,ip\n\"n1\",\"\xff\"\n", "!hosts.csv is no text"},
		"a zero byte":            {"#node,ip\n\"n1\",\"\x00\"\n", "!hosts.csv is no text"},
	} {
		db, err := read(t, map[string]string{"nodelist.csv": nodelist, "hosts.csv": c.text})
		if want, isError := strings.CutPrefix(c.want, "!"); isError {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want an error with %q", name, err, want)
			} else if strings.Contains(err.Error(), "secret") {
				t.Errorf("%s: the error shows a cell: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got []string
		for _, r := range db.Table("hosts").Rows {
			got = append(got, r.Key+"="+r.Cells["ip"])
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s: %q, want %q", name, s, c.want)
		}
	}
}

func TestRead(t *testing.T) {
	nodelist := "#node,groups\n\"n1\",\"a\"\n"
	stanzas := "# <xCAT data object stanza file>\n\nn1:\n    objtype=node\n"
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"no nodes":        {map[string]string{"hosts.csv": "#node,ip\n"}, "no nodes"},
		"an empty folder": {nil, "no nodes"},
		"both kinds":      {map[string]string{"nodelist.csv": nodelist, "all.stanza": stanzas}, "both say what nodes there are"},
	} {
		if _, err := read(t, c.files); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", name, err, c.want)
		}
	}
	db, err := read(t, map[string]string{"nodelist.csv": nodelist, "policy.csv": "x", "notes.txt": "y", ".hidden": "z", "hosts.csv.old": "\xff"})
	if err != nil || strings.Join(db.Skipped(), " ") != "hosts.csv.old notes.txt policy.csv" {
		t.Errorf("%v, %v", db.Skipped(), err)
	}
	if db, err = read(t, map[string]string{"dump": stanzas}); err != nil || db.Table("nodelist").Rows[0].Key != "n1" {
		t.Errorf("a stanza file known by its first line: %v", err)
	}
}

func FuzzCSV(f *testing.F) {
	f.Add("#node,ip\n\"n1\",\"10.0.0.1\"\n")
	f.Add("#node,ip,disable\r\nn1,\"a,b\"\"c\nd\",1\r\n#x\n")
	f.Fuzz(func(t *testing.T, text string) {
		db := newDatabase()
		if err := db.addCSV("hosts", "hosts.csv", []byte(text)); err != nil {
			return
		}
		table := db.Table("hosts")
		var rows [][]string
		for _, r := range table.Rows {
			var row []string
			for _, c := range table.Columns {
				row = append(row, r.Cells[c])
			}
			rows = append(rows, row)
		}
		if slices.ContainsFunc(table.Columns, func(c string) bool { return strings.ContainsAny(c, "\",#\r\n") }) {
			return // tabdump's own names are plain
		}
		again := newDatabase()
		if err := again.addCSV("hosts", "hosts.csv", []byte(tabdump(table.Columns, rows...))); err != nil {
			t.Fatalf("written again: %v", err)
		}
		for i, r := range again.Table("hosts").Rows {
			for c, v := range table.Rows[i].Cells {
				if r.Cells[c] != v {
					t.Errorf("row %d, %s: %q, then %q", i, c, v, r.Cells[c])
				}
			}
		}
	})
}
