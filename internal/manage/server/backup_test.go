package server

import (
	"bytes"
	"net/http"
	"path/filepath"
	"testing"

	"mimeo/internal/cluster/api"
	"mimeo/internal/manage/backup"
)

// TestBackup makes a second management node of the first one's backup: it knows the nodes, and opens their BMCs' passwords.
func TestBackup(t *testing.T) {
	r := start(t)
	var nodes []api.NodeStatus
	r.must("PATCH", "/v1/nodes", api.NodeSet{Range: "n1", Set: map[string]string{"label.room": "b12", "bmc": "ipmi://10.0.9.1", "bmc.user": "ops", "bmc.password": "secret"}}, &nodes)
	var b bytes.Buffer
	if err := r.admin.Receive(t.Context(), http.MethodPut, "/v1/backup", &b); err != nil {
		t.Fatal(err)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(t.TempDir(), "state")
	if _, err := backup.Restore(bytes.NewReader(b.Bytes()), state); err != nil {
		t.Fatal(err)
	}
	again := startIn(t, state)
	if again.token != r.token {
		t.Error("the admin's token is another one")
	}
	again.must("GET", "/v1/nodes?range=n1", nil, &nodes)
	if len(nodes) != 1 || nodes[0].Labels["room"] != "b12" || !nodes[0].BMC.HasPassword {
		t.Errorf("%+v", nodes)
	}
	if password, err := again.db.BMCPassword(t.Context(), "n1"); err != nil || password != "secret" {
		t.Errorf("the password is %q, %v", password, err)
	}
}
