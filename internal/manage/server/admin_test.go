package server

import (
	"database/sql"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store/storetest"
)

func TestFirstStart(t *testing.T) {
	r := start(t)
	if strings.Contains(r.out.String(), r.token) || !strings.Contains(r.out.String(), "admin.json") || len(r.token) != 64 { // no terminal: it may be a log
		t.Errorf("the first start printed %q", r.out)
	}
	for file, mode := range map[string]os.FileMode{"": 0o700, "admin.json": 0o600, "mimeo.db": 0o600, "key": 0o600, "tls/key.pem": 0o600, "tls/token-key": 0o600} {
		fi, err := os.Stat(filepath.Join(r.cfg.State, file))
		if err != nil || fi.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v; want %o", file, fi.Mode(), err, mode)
		}
	}
	var st api.ServerStatus
	r.must("GET", "/v1/status", nil, &st)
	if st.Version != "test" || st.Nodes != 2 || st.FreeBytes == 0 {
		t.Errorf("status %+v", st)
	}
	// An admin who took the file away keeps it away.
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(r.cfg.State, "admin.json")
	b, _ := os.ReadFile(file)
	os.Remove(file)
	s, err := New(t.Context(), r.cfg, "test", r.log, r.out)
	if err != nil {
		t.Fatal(err)
	}
	s.close()
	if _, err := os.Stat(file); err == nil {
		t.Error("a later start made admin.json again")
	}
	// The one that is there learns a new address.
	os.WriteFile(file, b, 0o600)
	again := startIn(t, r.cfg.State)
	again.must("GET", "/v1/status", nil, nil)
}

func TestNodes(t *testing.T) {
	r := start(t)
	add := func(rng string, set map[string]string) api.NodeAdd { return api.NodeAdd{Range: rng, Set: set} }
	for _, tc := range []struct {
		name       string
		in         any
		code, text string
	}{
		{"there already", add("n[1-3]", nil), "conflict", "n1 is there already"},
		{"another's MAC", add("n3", map[string]string{"mac": "52:54:00:00:00:01"}), "conflict", "belongs to n1"},
		{"another's address", add("n3", map[string]string{"mac": "52:54:00:00:00:03", "ip": "127.0.0.11"}), "conflict", "belongs to n1"},
		{"the same MAC for two", add("n[3-4]", map[string]string{"mac": "52:54:00:00:00:09"}), "conflict", "belongs to n3"},
		{"no MAC", add("n3", map[string]string{"mac": "52:54"}), "bad_request", "no MAC"},
		{"no card for the address", add("n3", map[string]string{"ip": "10.0.0.1"}), "bad_request", "set mac first"},
		{"no key", add("n3", map[string]string{"colour": "red"}), "bad_request", "no such key"},
		{"no arch", add("n3", map[string]string{"arch": "vax"}), "bad_request", "none of"},
		{"password in the URL", add("n3", map[string]string{"bmc": "ipmi://ops:geheim@10.0.0.1"}), "bad_request", "bmc.password"},
		{"no BMC", add("n3", map[string]string{"bmc": "http://10.0.0.1"}), "bad_request", "ipmi://"},
		{"no group", add("n3", map[string]string{"groups": "all"}), "bad_request", "group"},
		{"no size", add("n3", map[string]string{"disk.min_size": "many"}), "bad_request", "want bytes"},
		{"a line in the console", add("n3", map[string]string{"knobs.console": "ttyS0 init=/bin/sh"}), "bad_request", "console"},
		{"no range", add("n[3-", nil), "bad_request", "^"},
		{"no name", add("N_3", nil), "bad_request", ""},
		{"not of the range", api.NodeAdd{Range: "n3", PerNode: map[node.Name]map[string]string{"n4": {}}}, "bad_request", "n4"},
		{"misspelt", map[string]any{"range": "n3", "sett": 1}, "bad_request", "sett"},
	} {
		t.Run(tc.name, func(t *testing.T) { r.fails("POST", "/v1/nodes", tc.in, tc.code, tc.text) })
	}
	var all []api.NodeStatus
	if r.must("GET", "/v1/nodes", nil, &all); len(all) != 2 {
		t.Fatalf("%d nodes: something was added in part", len(all))
	}
	r.must("PATCH", "/v1/nodes", api.NodeSet{Range: "@rack1", Set: map[string]string{"bmc": "ipmi://10.9.0.1", "bmc.user": "ops", "bmc.password": "geheim", "label.row": "7", "disk.serial": "S1", "disk.min_size": "10GiB"}}, &all)
	if n := all[0]; !n.BMC.HasPassword || n.Labels["row"] != "7" || n.Disk.Serial != "S1" || n.Disk.MinSize != 10<<30 || n.NICs[0].IP != "127.0.0.11" {
		t.Errorf("%+v", n)
	}
	if p, err := r.db.BMCPassword(t.Context(), "n2"); err != nil || p != "geheim" {
		t.Errorf("password %q, %v", p, err)
	}
	if b, _ := json.Marshal(all); strings.Contains(string(b), "geheim") {
		t.Error("the password is shown")
	}
	all = nil
	r.must("PATCH", "/v1/nodes", api.NodeSet{Range: "n1", Set: map[string]string{"label.row": "", "mac": "52:54:00:00:00:01,52:54:00:00:00:0a"}}, &all)
	if n := all[0]; n.Labels["row"] != "" || len(n.NICs) != 2 || n.NICs[0].IP != "127.0.0.11" || !n.BMC.HasPassword {
		t.Errorf("%+v", n)
	}
	// What an admin typed wrong comes back with the place.
	e := r.fails("GET", "/v1/nodes?range=n%5B1-", nil, "bad_request", "^")
	if !strings.Contains(e.Message, "n[1-") || e.Hint == "" {
		t.Errorf("%+v", e)
	}
	r.fails("GET", "/v1/nodes?range=n7", nil, "not_found", "n7")
	r.fails("DELETE", "/v1/nodes", nil, "bad_request", "")
	r.capture("n2")
	r.fails("DELETE", "/v1/nodes?range=n1,n2", nil, "conflict", "active job")
	var gone api.Affected
	if r.must("DELETE", "/v1/nodes?range=n1", nil, &gone); len(gone.Names) != 1 {
		t.Errorf("%+v", gone)
	}
	r.fails("GET", "/v1/nodes/n1/events", nil, "not_found", "n1")
}

func TestJobsAreChecked(t *testing.T) {
	r := start(t)
	ok := func(change func(*api.JobNew)) api.JobNew {
		j := api.JobNew{Key: "k", Kind: api.TaskCapture, Range: "n1", Image: "web"}
		change(&j)
		return j
	}
	r.must("POST", "/v1/nodes", api.NodeAdd{Range: "m1"}, nil)
	r.must("POST", "/v1/nodes", api.NodeAdd{Range: "a1", Set: map[string]string{"arch": "arm64", "mac": "52:54:00:00:00:aa"}}, nil)
	for _, tc := range []struct {
		name       string
		in         api.JobNew
		code, text string
	}{
		{"no key", ok(func(j *api.JobNew) { j.Key = "" }), "bad_request", "key"},
		{"many tries", ok(func(j *api.JobNew) { j.Tries = 1000 }), "bad_request", "tries"},
		{"no kind", ok(func(j *api.JobNew) { j.Kind = "polish" }), "bad_request", "want capture, deploy or wipe"},
		{"no name", ok(func(j *api.JobNew) { j.Image = "../x" }), "bad_request", ""},
		{"a revision to capture", ok(func(j *api.JobNew) { j.Image = "web@3" }), "bad_request", "without @"},
		{"two to capture", ok(func(j *api.JobNew) { j.Range = "n[1-2]" }), "bad_request", "2 nodes"},
		{"no image", ok(func(j *api.JobNew) { j.Kind = api.TaskDeploy }), "not_found", "web"},
		{"no card", ok(func(j *api.JobNew) { j.Range = "m1" }), "bad_request", "network card"},
		{"no stateless image", ok(func(j *api.JobNew) { j.Range = "a1" }), "no_image", "arm64"},
		{"no node", ok(func(j *api.JobNew) { j.Range = "x9" }), "not_found", "x9"},
	} {
		t.Run(tc.name, func(t *testing.T) { r.fails("POST", "/v1/jobs", tc.in, tc.code, tc.text) })
	}
	for _, n := range []string{"n1", "m1", "a1"} {
		if r.node(n).Boot != node.BootDisk {
			t.Errorf("boot state of %s is %s", n, r.node(n).Boot)
		}
	}
	var a, b []api.Job
	r.must("POST", "/v1/jobs", ok(func(*api.JobNew) {}), &a)
	r.must("POST", "/v1/jobs", ok(func(*api.JobNew) {}), &b)
	if a[0].ID != b[0].ID {
		t.Error("a request that was sent twice made two jobs")
	}
	e := r.fails("POST", "/v1/jobs", ok(func(j *api.JobNew) { j.Key = "l" }), "conflict", a[0].ID)
	if !strings.Contains(e.Hint, "mimeo job") {
		t.Errorf("hint %q", e.Hint)
	}
	r.fails("POST", "/v1/jobs/"+a[0].ID+"/retry", nil, "conflict", "still on")
	r.must("POST", "/v1/jobs/"+a[0].ID+"/cancel", nil, nil)
	var again api.Job
	if r.must("POST", "/v1/jobs/"+a[0].ID+"/retry", nil, &again); again.ID == a[0].ID || !again.Active {
		t.Errorf("retry made %+v", again)
	}
	var list []api.Job
	if r.must("GET", "/v1/jobs?range=n1&active=1", nil, &list); len(list) != 1 || list[0].ID != again.ID {
		t.Errorf("%+v", list)
	}
	r.fails("GET", "/v1/jobs/j999", nil, "not_found", "j999")
	r.fails("GET", "/v1/jobs/j999/watch", nil, "not_found", "j999")
}

func TestVerifyFindsDamage(t *testing.T) {
	r := start(t)
	m, err := storetest.Image(t.Context(), r.store, 40, func(i int) uint64 { return uint64(i) })
	if err != nil {
		t.Fatal(err)
	}
	var id manifest.ID
	if id, err = r.store.Stage(t.Context(), m); err == nil {
		_, err = r.store.Publish(t.Context(), "web", id)
	}
	if err != nil {
		t.Fatal(err)
	}
	packs, err := filepath.Glob(filepath.Join(r.cfg.State, "store", "packs", "*"))
	if more, _ := filepath.Glob(filepath.Join(r.cfg.State, "store", "packs", "*", "*")); len(more) > 0 {
		packs = more
	}
	if err != nil || len(packs) == 0 {
		t.Fatalf("no packs: %v", err)
	}
	for _, p := range packs {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/2] ^= 0x40
		if err := os.WriteFile(p, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var last api.VerifyProgress
	err = r.admin.Stream(t.Context(), "POST", "/v1/images/web/1/verify", nil, func(b []byte) error { return json.Unmarshal(b, &last) })
	if err != nil || !last.Finished || last.Error == nil || last.Error.Code != "damaged" || last.Error.Hint == "" {
		t.Errorf("%+v, %v", last.Error, err)
	}
	r.fails("POST", "/v1/images/web/2/verify", nil, "not_found", "web@2")
	r.fails("GET", "/v1/images/web/0", nil, "not_found", "web@0")
	var gone api.Affected
	if r.must("DELETE", "/v1/images/web/1", nil, &gone); len(gone.Names) != 1 {
		t.Errorf("%+v", gone)
	}
	r.fails("GET", "/v1/images/web", nil, "not_found", "web")
}

func TestPowerByHand(t *testing.T) {
	r := start(t)
	var res []api.PowerResult
	r.must("POST", "/v1/power", api.PowerDo{Range: "n[1-2]", Action: "cycle"}, &res)
	if len(res) != 2 || res[0].Error == nil || res[0].Error.Code != "by_hand" || res[0].Error.Hint == "" {
		t.Errorf("%+v", res)
	}
	r.fails("POST", "/v1/power", api.PowerDo{Range: "n1", Action: "explode"}, "bad_request", "none of")
}

// Each change is in the audit log, with who made it; no password ever is.
func TestAudit(t *testing.T) {
	r := start(t)
	r.must("PATCH", "/v1/nodes", api.NodeSet{Range: "n1", Set: map[string]string{"bmc": "ipmi://10.9.0.1", "bmc.password": `ge"heim`}}, nil)
	for _, body := range []string{
		`{"range":"n3","per_node":{"n3":{"bmc.password" : "geheim"}}}`,
		`{"range":"n1","set":{"bmc\u002epassword":"geheim"}}`,
		`{"range":"n1","set":{"bmc":"ipmi://ops:geheim@10.0.0.1"}}`,
		`{"range":"n1","set":{"bmc.password":"geheim`,
	} {
		r.call(r.token, "PATCH", "/v1/nodes", []byte(body), nil)
	}
	if code, _ := r.call(r.viewer("viewer"), "POST", "/v1/power", api.PowerDo{Range: "n1", Action: "off"}, nil); code != http.StatusForbidden {
		t.Errorf("%d", code)
	}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(r.cfg.State, "mimeo.db")+"?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.Query(`SELECT who || ' ' || addr || ' ' || what || ' ' || data FROM audit`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var all string
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			t.Fatal(err)
		}
		all += s + "\n"
	}
	if strings.Contains(all, "heim") || !strings.Contains(all, "***") || !strings.Contains(all, "admin 127.0.0.1 PATCH /v1/nodes") {
		t.Errorf("audit log:\n%s", all)
	}
	// Nor are a password or a token in the inventory's file as such.
	for _, f := range []string{"mimeo.db", "mimeo.db-wal"} {
		b, _ := os.ReadFile(filepath.Join(r.cfg.State, f))
		if strings.Contains(string(b), `ge"heim`) || strings.Contains(string(b), r.token) {
			t.Errorf("%s holds a secret", f)
		}
	}
}
