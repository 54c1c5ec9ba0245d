package job

import (
	"testing"

	"mimeo/internal/cluster/api"
)

// TestLastDeploy looks at what is known of a node's disk: nothing from the first write on until a deploy is done.
func TestLastDeploy(t *testing.T) {
	r := newRig(t)
	known := func(want bool) {
		t.Helper()
		l, err := r.db.Deployed(t.Context(), n1)
		r.check(err)
		if (l != nil) != want {
			t.Fatalf("known: %+v", l)
		}
		if want && (l.Image != "web" || l.Manifest == "" || l.Disk.Serial != "S1" || l.Job == "") {
			t.Fatalf("known: %+v", l)
		}
	}
	finish := func(id string, d api.Done) {
		t.Helper()
		d.Job, d.BootID, d.Disk, d.Touched = id, r.bootID(), api.Disk{Serial: "S1", Size: 1 << 30}, true
		_, err := r.e.Done(t.Context(), id, d)
		r.check(err)
		r.pump()
	}
	id := r.deploy("a")
	r.netboot(id)
	known(false)
	r.progress(id, api.PhaseWriting, 1)
	finish(id, api.Done{OK: true})
	known(true)
	r.check(r.e.ToldDisk(t.Context(), n1))

	// The next one, until it writes: what it must know to trust.
	id = r.deploy("b")
	r.netboot(id)
	r.progress(id, api.PhaseMapping, 1)
	known(true)
	r.progress(id, api.PhaseWriting, 1)
	known(false)
	r.restart()
	known(false)
	finish(id, api.Done{Error: &api.Error{Code: "failed", Message: "x"}})
	known(false)

	// One whose word of a write comes only at its end.
	id = r.deploy("c")
	r.netboot(id)
	finish(id, api.Done{OK: true})
	known(true)
	r.check(r.e.ToldDisk(t.Context(), n1))
	id = r.deploy("d")
	r.netboot(id)
	finish(id, api.Done{Error: &api.Error{Code: "failed", Message: "x"}})
	known(false)
}
