package inventory

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mimeo/internal/boot/dhcp"
	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

func open(t *testing.T, dir string) *DB {
	t.Helper()
	d, err := Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func update(t *testing.T, d *DB, f func(*Tx) error) {
	t.Helper()
	if err := d.Update(t.Context(), f); err != nil {
		t.Fatal(err)
	}
}

func n(name node.Name, nics ...node.NIC) node.Node {
	return node.Node{Name: name, Boot: node.BootDisk, NICs: nics}
}

func TestPasswordsAreSealed(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	update(t, d, func(tx *Tx) error {
		return errors.Join(tx.PutNode(n("a")), tx.PutNode(n("b")), tx.SetBMCPassword("a", "open sesame"))
	})
	if p, err := d.BMCPassword(t.Context(), "a"); p != "open sesame" || err != nil {
		t.Errorf("%q, %v", p, err)
	}
	if p, err := d.BMCPassword(t.Context(), "b"); p != "" || err != nil {
		t.Errorf("none was set: %q, %v", p, err)
	}
	// A row that is moved to another node opens nothing.
	if _, err := d.sql.Exec(`UPDATE nodes SET bmc_sealed = (SELECT bmc_sealed FROM nodes WHERE name = 'a') WHERE name = 'b'`); err != nil {
		t.Fatal(err)
	}
	if p, err := d.BMCPassword(t.Context(), "b"); p != "" || err == nil {
		t.Errorf("another node's password: %q, %v", p, err)
	}
	update(t, d, func(tx *Tx) error { return tx.SetBMCPassword("b", "") })
	if nb, err := d.Node(t.Context(), "b"); err != nil || nb.BMC.HasPassword {
		t.Errorf("%+v, %v", nb.BMC, err)
	}
	d.Close()
	for _, f := range []string{"mimeo.db", "mimeo.db-wal"} {
		if b, _ := os.ReadFile(filepath.Join(dir, f)); strings.Contains(string(b), "sesame") {
			t.Errorf("%s holds the password", f)
		}
	}
	key := filepath.Join(dir, "key")
	if err := os.WriteFile(key, make([]byte, 32), 0o600); err != nil {
		t.Fatal(err)
	}
	d = open(t, dir)
	if _, err := d.BMCPassword(t.Context(), "a"); err == nil || !strings.Contains(err.Error(), "set it anew") {
		t.Errorf("with another key: %v", err)
	}
	d.Close()
	os.WriteFile(key, []byte("short"), 0o600)
	if _, err := Open(t.Context(), dir); err == nil || !strings.Contains(err.Error(), key) {
		t.Errorf("with a key that is none: %v", err)
	}
}

func TestUpdateIsWhole(t *testing.T) {
	d := open(t, t.TempDir())
	err := d.Update(t.Context(), func(tx *Tx) error {
		return errors.Join(tx.PutNode(n("a", node.NIC{MAC: "02:00:00:00:00:01"})), tx.AddEvent(&api.Event{Node: "a", Kind: "x"}), errors.New("no"))
	})
	if _, nerr := d.Node(t.Context(), "a"); err == nil || !errors.Is(nerr, ErrNotFound) {
		t.Errorf("%v; %v", err, nerr)
	}
	if evs, err := d.Events(t.Context(), "a", "", 10); err != nil || len(evs) != 0 {
		t.Errorf("%d events, %v", len(evs), err)
	}
}

func TestCardsBelongToOne(t *testing.T) {
	d := open(t, t.TempDir())
	update(t, d, func(tx *Tx) error { return tx.PutNode(n("a", node.NIC{MAC: "02:00:00:00:00:01", IP: "10.0.0.1"})) })
	for _, nic := range []node.NIC{{MAC: "02:00:00:00:00:01"}, {MAC: "02:00:00:00:00:02", IP: "10.0.0.1"}} {
		var ae *api.Error
		if err := d.Update(t.Context(), func(tx *Tx) error { return tx.PutNode(n("b", nic)) }); !errors.As(err, &ae) || ae.Code != "conflict" || !strings.Contains(ae.Message, "a already") {
			t.Errorf("%+v: %v", nic, err)
		}
	}
	if got, ok, err := d.NodeByMAC(t.Context(), "02:00:00:00:00:01"); !ok || err != nil || got.Name != "a" {
		t.Errorf("%v %v %v", got.Name, ok, err)
	}
	if mac, ok, err := d.OwnerOf(t.Context(), "10.0.0.1"); !ok || err != nil || mac != "02:00:00:00:00:01" {
		t.Errorf("%v %v %v", mac, ok, err)
	}
	// A card that is taken away is free.
	update(t, d, func(tx *Tx) error {
		return errors.Join(tx.PutNode(n("a")), tx.PutNode(n("b", node.NIC{MAC: "02:00:00:00:00:01", IP: "10.0.0.1"})))
	})
	update(t, d, func(tx *Tx) error { return tx.DeleteNode("b") })
	if _, ok, _ := d.NodeByMAC(t.Context(), "02:00:00:00:00:01"); ok {
		t.Error("the card of a node that was removed is known")
	}
}

func TestJobs(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	put := func(node node.Name, active bool) (id string) {
		t.Helper()
		update(t, d, func(tx *Tx) (err error) {
			if id, err = tx.NextJobID(); err != nil {
				return err
			}
			for range 3 { // a job changes, its ID does not
				err = errors.Join(err, tx.PutJob(id, node, active, map[string]string{"id": id}))
			}
			return err
		})
		return id
	}
	if a, b := put("a", true), put("b", true); a != "j1" || b != "j2" {
		t.Errorf("jobs %s, %s", a, b)
	}
	if err := d.Update(t.Context(), func(tx *Tx) error { return tx.PutJob("j9", "a", true, 1) }); err == nil {
		t.Error("two active jobs of a node")
	}
	update(t, d, func(tx *Tx) error {
		return errors.Join(tx.PutNode(n("b")), tx.PutKey("k", []string{"j1", "j2"}), tx.DeleteNode("b"))
	})
	d.Close()
	d = open(t, dir)
	if c := put("a2", false); c != "j3" {
		t.Errorf("after a node was removed and the file opened again: %s, want j3", c)
	}
	var ids []string
	if err := d.Jobs(t.Context(), JobFilter{Limit: 10}, func(b []byte) error {
		var m map[string]string
		err := json.Unmarshal(b, &m)
		ids = append(ids, m["id"])
		return err
	}); err != nil || fmt.Sprint(ids) != "[j3 j1]" {
		t.Errorf("%v, %v", ids, err)
	}
	update(t, d, func(tx *Tx) error {
		if ids, err := tx.JobsOfKey("k"); err != nil || len(ids) != 2 {
			t.Errorf("%v, %v", ids, err)
		}
		if ids, err := tx.JobsOfKey("other"); err != nil || ids != nil {
			t.Errorf("%v, %v", ids, err)
		}
		return nil
	})
}

func TestEventsMakeRoom(t *testing.T) {
	d := open(t, t.TempDir())
	update(t, d, func(tx *Tx) error {
		if err := tx.PutNode(n("a")); err != nil {
			return err
		}
		for i := range keepEvents + 200 {
			if err := tx.AddEvent(&api.Event{Node: "a", Kind: "x", Addr: "10.0.0.1", Text: fmt.Sprint(i)}); err != nil {
				return err
			}
		}
		return nil
	})
	evs, err := d.Events(t.Context(), "a", "", 1<<20)
	if err != nil || len(evs) < keepEvents || len(evs) > keepEvents+64 || evs[len(evs)-1].Text != fmt.Sprint(keepEvents+199) {
		t.Errorf("%d events, %v", len(evs), err)
	}
	if f, err := d.Facts(t.Context(), "a"); err != nil || f.SeenAt == nil || f.LastEvent != "x" {
		t.Errorf("%+v, %v", f, err)
	}
}

func TestLeases(t *testing.T) {
	d := open(t, t.TempDir())
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	l := dhcp.Lease{Addr: netip.MustParseAddr("10.0.0.9"), MAC: "02:00:00:00:00:01", Node: "a", Expires: now.Add(time.Hour)}
	other := l
	other.MAC = "02:00:00:00:00:02"
	for i, tc := range []struct {
		l    dhcp.Lease
		at   time.Time
		want error
	}{{l, now, nil}, {l, now, nil}, {other, now, dhcp.ErrTaken}, {other, now.Add(2 * time.Hour), nil}} {
		if err := d.PutDHCPLease(t.Context(), tc.l, tc.at); !errors.Is(err, tc.want) || tc.want == nil && err != nil {
			t.Errorf("%d: %v, want %v", i, err, tc.want)
		}
	}
	all, err := d.DHCPLeases(t.Context())
	if err != nil || len(all) != 1 || all[0].MAC != other.MAC || !all[0].Expires.Equal(l.Expires) {
		t.Errorf("%+v, %v", all, err)
	}
	if err := d.DeleteDHCPLease(t.Context(), l.Addr); err != nil {
		t.Error(err)
	}
}

func TestTokens(t *testing.T) {
	d := open(t, t.TempDir())
	if have, err := d.HasTokens(t.Context()); have || err != nil {
		t.Error(have, err)
	}
	if err := d.PutToken(t.Context(), "secret", Token{Name: "me", Role: "viewer"}); err != nil {
		t.Fatal(err)
	}
	if who, err := d.Token(t.Context(), "secret"); err != nil || who.Name != "me" || who.Role != "viewer" {
		t.Error(who, err)
	}
	for _, bad := range []string{"", "Secret", tokenHash("secret")} {
		if _, err := d.Token(t.Context(), bad); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
