package inventory

import (
	"bytes"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pressly/goose/v3"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

var updateForms = flag.Bool("update", false, "make what is missing in testdata/forms of the form before it")

// formKey sealed the passwords in testdata/forms.
var formKey = bytes.Repeat([]byte("k"), 32)

// load makes an inventory's file of SQL.
func load(t *testing.T, dir, text string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "mimeo.db"))
	if err == nil {
		db.SetMaxOpenConns(1)
		_, err = db.Exec(text)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "key"), formKey, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// column reads a column of texts.
func column(t *testing.T, db *sql.DB, query string, args ...any) (out []string) {
	t.Helper()
	rows, err := db.Query(query, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			t.Fatal(err)
		}
		out = append(out, s)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

func tables(t *testing.T, db *sql.DB) []string {
	t.Helper()
	return column(t, db, `SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name`)
}

// dump writes an inventory as SQL that makes it anew.
func dump(t *testing.T, db *sql.DB) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("BEGIN;\n")
	for _, text := range column(t, db, `SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY type = 'index', rowid`) {
		b.WriteString(text + ";\n")
	}
	for _, table := range append(tables(t, db), "sqlite_sequence") {
		if table == "sqlite_sequence" {
			b.WriteString("DELETE FROM sqlite_sequence;\n") // the rows before have filled it
		}
		values := "quote(" + strings.Join(column(t, db, `SELECT name FROM pragma_table_info(?) ORDER BY cid`, table), ") || ', ' || quote(") + ")"
		for _, row := range column(t, db, `SELECT `+values+` FROM `+table+` ORDER BY rowid`) {
			if table == "goose_db_version" {
				row = row[:strings.LastIndex(row, ",")] + ", '2026-01-01 00:00:00'"
			}
			fmt.Fprintf(&b, "INSERT INTO %s VALUES(%s);\n", table, row)
		}
	}
	return b.String() + "COMMIT;\n"
}

// counts are how many rows each table has.
func counts(t *testing.T, db *sql.DB) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, table := range tables(t, db) {
		if table != "goose_db_version" {
			out[table] = column(t, db, `SELECT count(*) FROM `+table)[0]
		}
	}
	return out
}

// schema is what all tables and indices are, whatever brought them there.
func schema(t *testing.T, db *sql.DB) (out []string) {
	t.Helper()
	for _, table := range tables(t, db) {
		out = append(out, column(t, db, `SELECT ? || '.' || name || ' ' || type || ' ' || "notnull" || ' ' || coalesce(dflt_value, '-') || ' ' || pk FROM pragma_table_info(?)`, table, table)...)
	}
	return append(out, column(t, db, `SELECT name || coalesce(sql, '') FROM sqlite_master WHERE type != 'table' ORDER BY name`)...)
}

// TestForms brings an inventory of each form that there ever was, with rows in each of its tables, to the form of today. They lie in
// testdata/forms, one for each migration, and never change: an inventory of that form looks like that.
//
// With a new migration: "go test ./internal/manage/inventory -run TestForms -update" makes the new file of the one before; put a row into
// each new table there by hand, and a look at it into check below.
func TestForms(t *testing.T) {
	fresh := open(t, t.TempDir())
	want := schema(t, fresh.sql)
	p, err := goose.NewProvider(goose.DialectSQLite3, fresh.sql, mustSub())
	if err != nil {
		t.Fatal(err)
	}
	before := ""
	for _, source := range p.ListSources() {
		name := fmt.Sprintf("testdata/forms/%05d.sql", source.Version)
		b, err := os.ReadFile(name)
		if errors.Is(err, os.ErrNotExist) && *updateForms && before != "" {
			b = []byte(next(t, before, source.Version))
			err = os.WriteFile(name, b, 0o644)
		}
		if err != nil {
			t.Fatalf("%v: a migration wants an inventory of its form: see the comment of TestForms", err)
		}
		before = string(b)
		t.Run(fmt.Sprint(source.Version), func(t *testing.T) {
			dir := t.TempDir()
			db := load(t, dir, before)
			had := counts(t, db)
			if newest := column(t, db, `SELECT max(version_id) FROM goose_db_version`); newest[0] != fmt.Sprint(source.Version) {
				t.Errorf("%s is of form %s", name, newest)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			for _, table := range slices.Sorted(maps.Keys(had)) {
				if had[table] == "0" {
					t.Errorf("%s has no row in %s: put one there", name, table)
				}
			}
			d := open(t, dir)
			if got := schema(t, d.sql); !slices.Equal(got, want) {
				t.Errorf("it becomes\n%s\na new one is\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			has := counts(t, d.sql)
			for table, n := range had {
				if has[table] != n {
					t.Errorf("%s has %s rows, and had %s", table, has[table], n)
				}
			}
			check(t, d, source.Version)
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			open(t, dir) // a second start
		})
	}
}

// next is an inventory in the form of a later migration.
func next(t *testing.T, before string, version int64) string {
	t.Helper()
	db := load(t, t.TempDir(), before)
	defer db.Close()
	p, err := goose.NewProvider(goose.DialectSQLite3, db, mustSub())
	if err == nil {
		_, err = p.UpTo(t.Context(), version)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dump(t, db)
}

// check looks whether all is there that an inventory of a form in testdata/forms had.
func check(t *testing.T, d *DB, form int64) {
	t.Helper()
	ctx := t.Context()
	fine := func(what string, err error, ok bool) {
		t.Helper()
		if err != nil || !ok {
			t.Errorf("%s is not what it was (%v)", what, err)
		}
	}
	n, err := d.Node(ctx, "n01")
	fine("the node", err, slices.Equal(n.Groups, []string{"rack1"}) && len(n.NICs) == 1 && n.NICs[0].IP == "10.0.0.11" && n.BMC.URL == "ipmi://10.0.9.1" && n.Disk.Serial == "S1" &&
		n.Boot == node.BootCapture && n.Labels["row"] == "7" && n.Arch == node.AMD64)
	n, ok, err := d.NodeByMAC(ctx, "52:54:00:00:00:01")
	fine("the node's card", err, ok && n.Name == "n01")
	password, err := d.BMCPassword(ctx, "n01")
	fine("the BMC's password", err, password == "secret")
	f, err := d.Facts(ctx, "n01")
	fine("what is known of the node", err, f.Hardware != nil && f.Hardware.Product == "box" && f.SeenAt != nil && f.LastEvent == "agent" && len(f.SSHKeys) == 1 && f.BootNonce == "nonce")
	var j struct{ api.Job }
	fine("a job", d.Job(ctx, "j1", &j), j.Image == "web" && j.Phase == api.PhaseDone && j.Ended != nil)
	active := 0
	fine("the job that runs", d.Jobs(ctx, JobFilter{Active: true}, func([]byte) error { active++; return nil }), active == 1)
	update(t, d, func(tx *Tx) error {
		id, err := tx.NextJobID()
		fine("the next job's ID", err, id == "j8")
		ids, err := tx.JobsOfKey("key")
		fine("a job's key", err, slices.Equal(ids, []string{"j1"}))
		return nil
	})
	evs, err := d.Events(ctx, "n01", "", 10)
	fine("the events", err, len(evs) == 1 && evs[0].Kind == "agent" && evs[0].Addr == "10.0.0.11")
	rev, err := d.Revision(ctx, "web", 1)
	fine("a revision's facts", err, rev.Job == "j1")
	who, err := d.Token(ctx, "a token")
	fine("a token", err, who.Name == "admin" && who.Role == "admin")
	leases, err := d.DHCPLeases(ctx)
	fine("the leases", err, len(leases) == 1 && leases[0].Addr.String() == "10.0.0.100")
	if form >= 2 {
		groups, err := d.Groups(ctx)
		fine("the groups", err, len(groups) == 1 && groups[0].Name == "rack1")
	}
	if form >= 3 {
		var b, s struct {
			ID string `json:"id"`
		}
		fine("a batch", d.Batch(ctx, "b1", &b), b.ID == "b1")
		fine("a schedule", d.Schedule(ctx, "s1", &s), s.ID == "s1")
	}
	if form >= 5 {
		_, err := d.Certificate(ctx, "j1")
		fine("a certificate", err, true)
	}
	if form >= 7 {
		rule, err := d.Retention(ctx, "web")
		fine("a retention rule", err, rule != api.RetentionRule{})
		pins, err := d.Pins(ctx, "web")
		fine("a pin", err, pins[1])
	}
	if form >= 13 {
		last, err := d.Deployed(ctx, "n01")
		fine("what the last deploy left", err, last != nil && last.Rev == 1 && last.Disk.Serial == "S1")
	}
	if form >= 12 {
		set, err := d.ImageSet(ctx, "web")
		fine("what was said of an image", err, set["postscripts.root"] == "motd")
	}
	if form >= 11 {
		_, m, ok, err := d.NextHook(ctx, "https://ops.example/mimeo")
		fine("a hook's message", err, ok && len(m) > 0)
	}
}
