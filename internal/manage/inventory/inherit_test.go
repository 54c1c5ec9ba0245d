package inventory

import (
	"context"
	"database/sql"
	"encoding/json"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pressly/goose/v3"

	"mimeo/internal/cluster/node"
)

// oldInventory makes an inventory of the first form, as it was before groups had values of their own.
func oldInventory(t *testing.T, dir string, nodes ...node.Node) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "mimeo.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	p, err := goose.NewProvider(goose.DialectSQLite3, db, mustSub())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		b, err := json.Marshal(n)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.Exec(`INSERT INTO nodes(name, data) VALUES(?, ?)`, n.Name, string(b)); err != nil {
			t.Fatal(err)
		}
		for _, c := range n.NICs {
			if _, err := db.Exec(`INSERT INTO nics(mac, node, ip) VALUES(?, ?, nullif(?, ''))`, c.MAC, n.Name, c.IP); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// An inventory that was written before groups had values reads as it did.
func TestUpgrade(t *testing.T) {
	full := node.Node{Name: "a", Groups: []string{"rack3", "gpu"}, NICs: []node.NIC{{MAC: "02:00:00:00:00:01"}, {MAC: "02:00:00:00:00:02", IP: "10.0.0.2"}},
		BMC:  node.BMC{URL: "ipmi://10.0.9.1", User: "o\"p's", Insecure: true, CipherSuite: 3},
		Arch: node.PPC64EL, Firmware: node.OPAL, Disk: node.DiskRule{Serial: "007", WWN: "w", Bus: "nvme", ByPath: "p", MinSize: 400e9, MaxSize: 512 << 30},
		Profile: "own", Boot: node.BootStateless, BootOnce: true, Knobs: node.Knobs{DiskBoot: "exit", Loader: "own", Console: "ttyS0", Cmdline: "a=b c"},
		Labels: map[string]string{"row": "7", "odd label": "x", "null": "null"}, Hostname: "a.example", Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), LastImage: "web@3"}
	bare := node.Node{Name: "b", Boot: node.BootDisk, NICs: []node.NIC{{MAC: "02:00:00:00:00:03"}}}
	dir := t.TempDir()
	oldInventory(t, dir, full, bare, node.Node{Name: "c", Boot: node.BootDisk})
	d := open(t, dir)
	for _, want := range []node.Node{full, bare} {
		got, err := d.Node(t.Context(), want.Name)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%v %s", err, diff)
		}
	}
	if got, ok, err := d.NodeByMAC(t.Context(), "02:00:00:00:00:02"); err != nil || !ok || got.Name != "a" {
		t.Errorf("%v %v %v", got, ok, err)
	}
	groups, err := d.Groups(t.Context())
	if err != nil || len(groups) != 2 || groups[0].Name != "gpu" || len(groups[0].Nodes) != 1 {
		t.Errorf("%+v, %v", groups, err)
	}
	// What it showed before still gives way to what it shows now.
	if err := d.Learn(t.Context(), "a", node.UEFI, node.AMD64); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Node(t.Context(), "a"); err != nil || got.Firmware != node.UEFI || got.Arch != node.AMD64 {
		t.Errorf("%+v, %v", got, err)
	}
}

// A node that is read, changed and written keeps inheriting what it inherited.
func TestPutNodeKeepsInheriting(t *testing.T) {
	d := open(t, t.TempDir())
	update(t, d, func(tx *Tx) error {
		if _, err := tx.tx.Exec(`INSERT INTO groups(name, own) VALUES('rack3', '{"profile":"rack","label.row":"{n}","arch":"arm64"}'), ('all', '{"profile":"none","bmc.user":"ops"}')`); err != nil {
			return err
		}
		return tx.PutNode(node.Node{Name: "n07", Groups: []string{"rack3"}, Boot: node.BootDisk})
	})
	change := func(f func(*node.Node)) (got node.Node) {
		t.Helper()
		update(t, d, func(tx *Tx) error {
			n, err := tx.Node("n07")
			if err != nil {
				return err
			}
			f(&n)
			return tx.PutNode(n)
		})
		got, err := d.Node(context.Background(), "n07")
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	got := change(func(n *node.Node) { n.LastImage, n.Hostname = "web@1", "seven" })
	if got.Profile != "rack" || got.Labels["row"] != "7" || got.BMC.User != "ops" || got.Arch != node.ARM64 || got.Hostname != "seven" || got.LastImage != "web@1" {
		t.Fatalf("%+v", got)
	}
	s, err := d.Sources(t.Context(), "n07")
	if diff := cmp.Diff(node.Values{"groups": "rack3", "hostname": "seven"}, s.Own); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	if got := change(func(n *node.Node) { n.Profile = "mine" }); got.Profile != "mine" {
		t.Errorf("%+v", got)
	}
	if got := change(func(n *node.Node) { n.Profile = "" }); got.Profile != "rack" {
		t.Errorf("%+v", got)
	}
	// What a node shows does not go over what was said.
	if err := d.Learn(t.Context(), "n07", node.UEFI, node.AMD64); err != nil {
		t.Fatal(err)
	}
	if got := change(func(*node.Node) {}); got.Arch != node.ARM64 || got.Firmware != node.UEFI {
		t.Errorf("%+v", got)
	}
}
