package server

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/cluster/roster"
)

// hall are 400 nodes in 40 groups.
func hall() (inv api.Inventory) {
	for g := range 40 {
		inv.Groups = append(inv.Groups, api.InventoryItem{Name: fmt.Sprintf("rack%02d", g+1), Set: map[string]string{"bmc": fmt.Sprintf("redfish://10.%d.9.{n}", g+1), "bmc.user": "ops", "label.room": fmt.Sprintf("b%d", g%4)}})
	}
	for i := range 400 {
		inv.Nodes = append(inv.Nodes, api.InventoryItem{Name: fmt.Sprintf("c%03d", i+1), Set: map[string]string{"groups": fmt.Sprintf("rack%02d", i/10+1), "mac": fmt.Sprintf("52:54:00:00:%02x:%02x", 16+i/256, i%256), "ip": fmt.Sprintf("10.0.%d.%d", i/200, i%200+1)}})
	}
	return inv
}

// ranges expands a noderange on the server.
func (r *rig) ranges(expr string) (out []node.Name) {
	r.t.Helper()
	var l []api.NodeStatus
	r.must("GET", "/v1/nodes?range="+url.QueryEscape(expr), nil, &l)
	for _, n := range l {
		out = append(out, n.Name)
	}
	return out
}

// quick fails where something takes longer than a person who waits at a prompt likes.
func quick(t *testing.T, what string, f func()) {
	t.Helper()
	begin := time.Now()
	f()
	took := time.Since(begin)
	t.Logf("%s: %v", what, took.Round(time.Millisecond))
	if took > 3*time.Second { // a second on a machine that does nothing else
		t.Errorf("%s took %v", what, took)
	}
}

func TestFourHundredNodes(t *testing.T) {
	r := start(t)
	put := api.InventoryPut{Inventory: hall(), DryRun: true}
	var p api.Plan
	quick(t, "plan an import", func() { r.must("POST", "/v1/inventory", put, &p) })
	if p.Applied || len(p.Groups) != 40 || len(p.Nodes) != 400 || len(r.ranges("all")) != 2 {
		t.Fatalf("%d groups, %d nodes planned; %d are there", len(p.Groups), len(p.Nodes), len(r.ranges("all")))
	}
	put.DryRun, put.Expect = false, p.ID
	quick(t, "import", func() { r.must("POST", "/v1/inventory", put, &p) })
	if !p.Applied {
		t.Error("it was not made")
	}
	r.fails("POST", "/v1/inventory", put, "conflict", "has changed meanwhile") // what was shown was made already
	var all []api.NodeStatus
	quick(t, "list all nodes", func() { r.must("GET", "/v1/nodes", nil, &all) })
	if len(all) != 402 {
		t.Fatalf("%d nodes", len(all))
	}
	for expr, want := range map[string]int{"@rack07": 10, "rack[01-04]": 40, "label.room==b2": 100, "room==b2": 100, "room!=b2": 302, "bmc.user==ops": 400, "bmc=~/10.7.9/": 10, "groups=~^rack0[12]$,-c001": 19,
		"room==b1@arch==amd64": 0, "arch==amd64": 2, "profile==imaging": 402, "boot==disk@room=~/b[01]/": 200} {
		if got := r.ranges(expr); len(got) != want {
			t.Errorf("%s names %d nodes, want %d", expr, len(got), want)
		}
	}
	r.fails("GET", "/v1/nodes?range="+url.QueryEscape("rooom==b2"), nil, "not_found", `no attribute "rooom"`)

	// A change of a group changes its nodes; one that says it itself stays.
	r.must("PATCH", "/v1/nodes", api.NodeSet{Range: "c003", Set: map[string]string{"bmc.user": "mine", "arch": "arm64"}}, nil)
	change := api.GroupChange{Names: []string{"rack01"}, Set: map[string]string{"bmc.user": "root", "bmc.password": "geheim", "arch": "ppc64el"}, DryRun: true}
	r.must("POST", "/v1/groups", change, &p)
	i := slices.IndexFunc(p.Affected, func(e api.PlanEffect) bool { return e.Key == "bmc.user" })
	if want := (api.PlanKey{Key: "bmc.user", Old: "ops", New: "root"}); i < 0 || p.Affected[i].PlanKey != want || len(p.Affected[i].Nodes) != 9 || slices.Contains(p.Affected[i].Nodes, "c003") {
		t.Errorf("%+v", p.Affected)
	}
	if r.node("c001").BMC.User != "ops" {
		t.Error("a dry run changed a node")
	}
	change.DryRun = false
	quick(t, "change a group", func() { r.must("POST", "/v1/groups", change, &p) })
	if n := r.node("c001"); n.BMC.User != "root" || !n.BMC.HasPassword || n.BMC.URL != "redfish://10.1.9.1" || n.Arch != node.PPC64EL {
		t.Errorf("%+v", n)
	}
	if got := r.ranges("arch==ppc64el"); len(got) != 9 {
		t.Errorf("%v", got)
	}
	if pw, err := r.db.BMCPassword(t.Context(), "c003"); err != nil || pw != "geheim" {
		t.Errorf("%q, %v", pw, err)
	}
	var explained []api.Attribute
	r.must("GET", "/v1/nodes/c003/attributes", nil, &explained)
	for _, a := range explained {
		want, ok := map[string]api.Attribute{
			"bmc.user":     {Key: "bmc.user", Said: node.Said{Value: "mine", From: "own"}, Also: []node.Said{{Value: "root", From: "group", Group: "rack01"}}},
			"bmc.password": {Key: "bmc.password", Said: node.Said{Value: "(set)", From: "group", Group: "rack01"}},
			"bmc":          {Key: "bmc", Said: node.Said{Value: "redfish://10.1.9.3", From: "group", Group: "rack01"}},
			"profile":      {Key: "profile", Said: node.Said{Value: "imaging", From: "default"}},
		}[a.Key]
		if diff := cmp.Diff(want, a); ok && diff != "" {
			t.Error(diff)
		}
	}
	quick(t, "change all nodes", func() {
		r.must("PATCH", "/v1/nodes", api.NodeSet{Range: "all", Set: map[string]string{"groups+": "exam", "knobs.console": "ttyS0"}}, &all)
	})
	if len(r.ranges("@exam")) != 402 || r.node("c400").Groups[1] != "exam" {
		t.Error("not all are in the group")
	}
	var groups []api.Group
	quick(t, "list groups", func() { r.must("GET", "/v1/groups", nil, &groups) })
	if len(groups) != 42 { // rack1 of the first two nodes, and exam
		t.Errorf("%d groups", len(groups))
	}
	quick(t, "remove a group", func() { r.must("DELETE", "/v1/groups/exam", nil, &p) })
	if len(p.Nodes) != 402 || slices.Contains(r.node("c400").Groups, "exam") {
		t.Errorf("%d nodes left it", len(p.Nodes))
	}
	r.fails("GET", "/v1/nodes?range=@exam", nil, "not_found", `no group "exam"`)
}

// What is exported makes the same inventory elsewhere, by both formats, and changes nothing here.
func TestInventoryMoves(t *testing.T) {
	r := start(t)
	inv := hall()
	inv.Groups = append(inv.Groups, api.InventoryItem{Name: "all", Set: map[string]string{"bmc.password": "geheim", "label.odd": "a \"quoted\",\nline; and = more"}}, api.InventoryItem{Name: "empty"})
	r.must("POST", "/v1/inventory", api.InventoryPut{Inventory: inv}, nil)
	var said api.Inventory
	r.must("GET", "/v1/inventory", nil, &said)
	if b, _ := json.Marshal(said); strings.Contains(string(b), "geheim") {
		t.Error("an export has a password")
	}
	for _, f := range []roster.Format{roster.YAML, roster.CSV} {
		text, err := roster.Write(f, said)
		if err != nil {
			t.Fatal(err)
		}
		read, err := roster.Read(f, text)
		if err != nil {
			t.Fatal(err)
		}
		var p api.Plan
		r.must("POST", "/v1/inventory", api.InventoryPut{Inventory: read, Replace: true}, &p)
		if len(p.Groups)+len(p.Nodes)+len(p.Affected) != 0 || p.Same != 445 { // 40 racks, rack1, all, empty; 402 nodes
			t.Errorf("%s: %d groups and %d nodes change, %d do not", f, len(p.Groups), len(p.Nodes), p.Same)
		}
		other := startIn(t, t.TempDir())
		other.must("POST", "/v1/inventory", api.InventoryPut{Inventory: read}, nil)
		var again api.Inventory
		other.must("GET", "/v1/inventory", nil, &again)
		if diff := cmp.Diff(said, again); diff != "" {
			t.Errorf("%s: %s", f, diff)
		}
	}
	var part api.Inventory
	r.must("GET", "/v1/inventory?range=c[001-011]", nil, &part)
	if len(part.Nodes) != 11 || len(part.Groups) != 3 { // two racks, and all
		t.Errorf("%d nodes, %d groups", len(part.Nodes), len(part.Groups))
	}
	// A password is not unset by a file that has none, and is nowhere in the clear.
	if pw, err := r.db.BMCPassword(t.Context(), "c001"); err != nil || pw != "geheim" {
		t.Errorf("%q, %v", pw, err)
	}
	for _, f := range []string{"mimeo.db", "mimeo.db-wal"} {
		if b, _ := os.ReadFile(filepath.Join(r.cfg.State, f)); strings.Contains(string(b), "geheim") {
			t.Errorf("%s holds the password", f)
		}
	}
}

// An import is done as a whole, or not at all.
func TestImportIsWhole(t *testing.T) {
	r := start(t)
	inv := hall()
	inv.Nodes[398].Set["mac"] = "52:54:00:00:00:01" // n1's
	inv.Nodes[399].Set["mac"] = "nonsense"
	e := r.fails("POST", "/v1/inventory", api.InventoryPut{Inventory: inv}, "bad_request", "2 things are wrong")
	for _, want := range []string{"c399: 52:54:00:00:00:01 belongs to n1", `c400: mac: "nonsense"`} {
		if !strings.Contains(e.Message, want) {
			t.Errorf("%s\nhas no %s", e.Message, want)
		}
	}
	var groups []api.Group
	if r.must("GET", "/v1/groups", nil, &groups); len(groups) != 1 || len(r.ranges("all")) != 2 {
		t.Errorf("%d groups, %d nodes", len(groups), len(r.ranges("all")))
	}
	twice := api.Inventory{Nodes: []api.InventoryItem{{Name: "c1"}, {Name: "c1"}}}
	r.fails("POST", "/v1/inventory", api.InventoryPut{Inventory: twice}, "bad_request", "node c1 is there twice")
	if code, _ := r.call(r.viewer("viewer"), "POST", "/v1/inventory", api.InventoryPut{}, nil); code != 403 {
		t.Errorf("a viewer's import: %d", code)
	}
}

// What a group says decides what its nodes boot, by the same way as what they say themselves.
func TestGroupsDecide(t *testing.T) {
	r := start(t)
	r.must("POST", "/v1/groups", api.GroupChange{Names: []string{"rack1"}, Set: map[string]string{"knobs.console": "ttyS7,115200", "label.row": "{n}"}}, nil)
	r.must("POST", "/v1/boot", api.BootSet{Range: "n1", State: node.BootShell}, nil)
	if code, text := r.get("127.0.0.11", script(1)); code != 200 || !strings.Contains(text, "console=ttyS7,115200") {
		t.Errorf("%d %s", code, text)
	}
	if n := r.node("n2"); n.Labels["row"] != "2" {
		t.Errorf("%+v", n)
	}
	r.must("PATCH", "/v1/nodes", api.NodeSet{Range: "n1", Set: map[string]string{"groups-": "rack1"}}, nil)
	if code, text := r.get("127.0.0.11", script(1)); code != 200 || strings.Contains(text, "ttyS7") {
		t.Errorf("%d %s", code, text)
	}
}
