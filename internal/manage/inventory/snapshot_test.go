package inventory

import (
	"os"
	"path/filepath"
	"testing"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

// TestSnapshot looks into a copy: what disks held then is not known any more when it is used.
func TestSnapshot(t *testing.T) {
	d := open(t, t.TempDir())
	if err := d.Update(t.Context(), func(x *Tx) error {
		if err := x.PutNode(node.Node{Name: "n1"}); err != nil {
			return err
		}
		return x.PutDeployed("n1", api.LastDeploy{Image: "web", Rev: 1})
	}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := d.Snapshot(t.Context(), filepath.Join(dir, "mimeo.db")); err != nil {
		t.Fatal(err)
	}
	if l, err := d.Deployed(t.Context(), "n1"); err != nil || l == nil {
		t.Errorf("the inventory itself: %+v, %v", l, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "key"), formKey, 0o600); err != nil {
		t.Fatal(err)
	}
	c := open(t, dir)
	if _, err := c.Node(t.Context(), "n1"); err != nil {
		t.Error(err)
	}
	if l, err := c.Deployed(t.Context(), "n1"); err != nil || l != nil {
		t.Errorf("the copy: %+v, %v", l, err)
	}
	// A second copy by the same connections.
	if err := d.Snapshot(t.Context(), filepath.Join(dir, "again.db")); err != nil {
		t.Error(err)
	}
}
