package inventory

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

// addNodes makes nodes with one network card each.
func addNodes(t *testing.T, d *DB, names ...node.Name) {
	t.Helper()
	update(t, d, func(tx *Tx) error {
		for i, n := range names {
			if err := tx.PutNode(node.Node{Name: n, Boot: node.BootDisk, NICs: []node.NIC{{MAC: fmt.Sprintf("52:54:00:00:01:%02x", i)}}}); err != nil {
				return err
			}
		}
		return nil
	})
}

func TestOneProcess(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	if _, err := Open(t.Context(), dir); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), dir) {
		t.Errorf("a second process: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
}

// Nothing in the state folder is readable for others, whatever the umask and however it was before.
func TestModes(t *testing.T) {
	dir := t.TempDir()
	defer unix.Umask(unix.Umask(0))
	if err := os.WriteFile(filepath.Join(dir, "mimeo.db"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	d := open(t, dir)
	addNodes(t, d, "n1")
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) < 4 {
		t.Fatalf("%v, %v", entries, err)
	}
	for _, e := range entries {
		if fi, err := e.Info(); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o (%v)", e.Name(), fi.Mode().Perm(), err)
		}
	}
}

func TestNewerIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	if _, err := d.sql.Exec(`INSERT INTO goose_db_version(version_id, is_applied) VALUES(900, 1)`); err != nil {
		t.Fatal(err)
	}
	d.Close()
	if _, err := Open(t.Context(), dir); !errors.Is(err, ErrNewer) || !strings.Contains(err.Error(), "900") {
		t.Errorf("%v", err)
	}
}

func TestDamage(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mimeo.db"), []byte(strings.Repeat("this is no database\n", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "mimeo.db") {
		t.Errorf("a file that is no database: %v", err)
	}
	dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "key"), []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "5 bytes") {
		t.Errorf("a key that is too short: %v", err)
	}
	if _, err := Open(t.Context(), filepath.Join(dir, "missing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
}

// What was committed is there after a power cut, and nothing else: the files as they lie there at that moment.
func TestPowerCut(t *testing.T) {
	dir, after := t.TempDir(), t.TempDir()
	d := open(t, dir)
	addNodes(t, d, "n1")
	update(t, d, func(tx *Tx) error { return tx.SetBMCPassword("n1", "geheim") })
	update(t, d, func(tx *Tx) error {
		if err := tx.SetBoot("n1", node.BootCapture, "", false); err != nil {
			return err
		}
		for _, f := range []string{"key", "mimeo.db", "mimeo.db-wal"} {
			b, err := os.ReadFile(filepath.Join(dir, f))
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(after, f), b, 0o600); err != nil {
				return err
			}
		}
		return nil
	})
	d = open(t, after)
	n, err := d.Node(t.Context(), "n1")
	if err != nil || n.Boot != node.BootDisk {
		t.Errorf("boot state %s, %v", n.Boot, err)
	}
	if p, err := d.BMCPassword(t.Context(), "n1"); err != nil || p != "geheim" {
		t.Errorf("password %q, %v", p, err)
	}
}

// The disk runs full: errors say so, what is there stays, and all goes on when there is room.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal("this test needs root: ", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	d := open(t, dir)
	defer d.Close()
	addNodes(t, d, "n1")
	text := strings.Repeat("x", 20_000)
	var err error
	for i := 0; i < 200 && err == nil; i++ {
		err = d.AddEvent(t.Context(), &api.Event{Node: "n1", Kind: "log", Text: text})
	}
	if err == nil || !strings.Contains(err.Error(), "disk") || !strings.Contains(err.Error(), "full") {
		t.Fatalf("a full disk: %v", err)
	}
	if n, err := d.Node(t.Context(), "n1"); err != nil || n.Name != "n1" {
		t.Errorf("%+v, %v", n, err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=8m"); err != nil {
		t.Fatal(err)
	}
	if err := d.AddEvent(t.Context(), &api.Event{Node: "n1", Kind: "log", Text: "room again"}); err != nil {
		t.Errorf("there is room: %v", err)
	}
	evs, err := d.Events(t.Context(), "n1", "", 1)
	if err != nil || len(evs) != 1 || evs[0].Text != "room again" {
		t.Errorf("%v, %v", len(evs), err)
	}
}

// Somebody with another tool holds the database.
func TestBusy(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	addNodes(t, d, "n1")
	other, err := os.OpenFile(filepath.Join(dir, "mimeo.db-shm"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	// The writer's lock of a WAL database is byte 120 of its index (SQLite, "WAL-mode File Format", 2.3.1). A lock of
	// an open file description is one of another process to SQLite, whose own belong to the process.
	l := unix.Flock_t{Type: unix.F_WRLCK, Start: 120, Len: 1}
	if err := unix.FcntlFlock(other.Fd(), unix.F_OFD_SETLK, &l); err != nil {
		t.Fatal(err)
	}
	if _, err := d.sql.Exec(`PRAGMA busy_timeout = 50`); err != nil {
		t.Fatal(err)
	}
	err = d.AddEvent(t.Context(), &api.Event{Node: "n1", Kind: "log"})
	if err == nil || !strings.Contains(err.Error(), "another process holds the database") {
		t.Errorf("%v", err)
	}
	if _, err := d.Node(t.Context(), "n1"); err != nil {
		t.Errorf("reading needs no such lock: %v", err)
	}
	l.Type = unix.F_UNLCK
	if err := unix.FcntlFlock(other.Fd(), unix.F_OFD_SETLK, &l); err != nil {
		t.Fatal(err)
	}
	if err := d.AddEvent(t.Context(), &api.Event{Node: "n1", Kind: "log"}); err != nil {
		t.Errorf("it is free again: %v", err)
	}
}

// A caller who goes away gives up; the next one is not disturbed.
func TestContext(t *testing.T) {
	d := open(t, t.TempDir())
	addNodes(t, d, "n1")
	ctx, cancel := context.WithCancel(t.Context())
	err := d.Update(ctx, func(tx *Tx) error {
		cancel()
		return tx.SetBoot("n1", node.BootShell, "", false)
	})
	if err == nil {
		t.Error("a change went through whose caller had gone")
	}
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	update(t, d, func(tx *Tx) error {
		if _, err := d.Nodes(ctx); err == nil || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a reader beside a transaction: %v", err)
		}
		return nil
	})
	if n, err := d.Node(t.Context(), "n1"); err != nil || n.Boot != node.BootDisk {
		t.Errorf("%s, %v", n.Boot, err)
	}
}

func TestKeysAreForgotten(t *testing.T) {
	d := open(t, t.TempDir())
	now := time.Now()
	d.now = func() time.Time { return now }
	put := func(key string) error {
		return d.Update(t.Context(), func(tx *Tx) error { return tx.PutKey(key, []string{"j1"}) })
	}
	known := func(key string) (ok bool) {
		update(t, d, func(tx *Tx) error {
			ids, err := tx.JobsOfKey(key)
			ok = len(ids) > 0
			return err
		})
		return ok
	}
	if err := put("old"); err != nil || !known("old") {
		t.Fatal(err)
	}
	if err := put("old"); err == nil {
		t.Error("a key twice")
	}
	now = now.Add(keepKeys + time.Hour)
	if err := put("new"); err != nil || known("old") || !known("new") {
		t.Errorf("%v; a key stays for ever: %v", err, known("old"))
	}
}

func TestJobFilter(t *testing.T) {
	d := open(t, t.TempDir())
	update(t, d, func(tx *Tx) error {
		for i, j := range []struct {
			n      node.Name
			active bool
		}{{"n1", false}, {"n2", false}, {"n1", false}, {"n3", true}, {"n1", true}} {
			id := fmt.Sprint("j", i+1)
			if err := tx.PutJob(id, j.n, j.active, id); err != nil {
				return err
			}
		}
		return nil
	})
	for _, tc := range []struct {
		f    JobFilter
		want string
	}{
		{JobFilter{}, "j5 j4 j3 j2 j1"},
		{JobFilter{Limit: 2}, "j5 j4"},
		{JobFilter{Active: true}, "j5 j4"},
		{JobFilter{Nodes: []node.Name{"n1", "n2"}}, "j5 j3 j2 j1"},
		{JobFilter{Nodes: []node.Name{"n1", "n2", "gone'"}, Limit: 3}, "j5 j3 j2"},
		{JobFilter{Nodes: []node.Name{"n2"}, Active: true}, ""},
		{JobFilter{Nodes: []node.Name{}}, ""},
	} {
		got := ""
		err := d.Jobs(t.Context(), tc.f, func(b []byte) error { got += strings.Trim(string(b), `"`) + " "; return nil })
		if strings.TrimSpace(got) != tc.want || err != nil {
			t.Errorf("%+v: %s, %v; want %s", tc.f, got, err, tc.want)
		}
	}
}
