package server

import (
	"path/filepath"
	"testing"

	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/store/dir"
	"mimeo/internal/manage/config"
)

// TestCopy has a second store that gets each revision, which the status shows.
func TestCopy(t *testing.T) {
	t.Parallel()
	second := filepath.Join(t.TempDir(), "second")
	cfg := config.Config{State: t.TempDir(), Copy: config.Copy{To: "dir:" + second}}
	r := startWith(t, cfg)
	rev := r.published("golden", func(i int) uint64 { return uint64(i) })
	var st api.ServerStatus
	r.until("the revision is copied", func() bool {
		st = api.ServerStatus{}
		r.must("GET", "/v1/status", nil, &st)
		return st.Copy != nil && st.Copy.State == "done" && st.Copy.There == 1
	})
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	to, err := dir.Open(second, dir.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	c, err := to.Check(t.Context(), true, nil)
	if err != nil || !c.OK() || len(c.Revisions) != 1 || c.Revisions[0].ID != rev.ID {
		t.Errorf("the second store: %+v, %v", c, err)
	}
}

// TestCopyFails has a second store that cannot be opened: the server works, and its status says why.
func TestCopyFails(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	r := startWith(t, config.Config{State: folder, Copy: config.Copy{To: "dir:" + filepath.Join(folder, "admin.json", "x")}})
	var st api.ServerStatus
	r.until("the failure shows", func() bool {
		st = api.ServerStatus{}
		r.must("GET", "/v1/status", nil, &st)
		return st.Copy != nil && st.Copy.State == "failed"
	})
	if st.Copy.Error == nil || st.Copy.Error.Message == "" {
		t.Errorf("%+v", st.Copy)
	}
}
