package server

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/store/dir"
	"mimeo/internal/imaging/store/keys"
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
	for _, method := range []string{"GET", "POST"} {
		if c := copied(t, r, method); c.Error != nil || c.Result.There != 1 || len(c.Result.Copied) != 0 || c.Result.To != cfg.Copy.To {
			t.Errorf("%s: %+v", method, c)
		}
	}
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

// copyDone is the last that comes of a copy on demand.
type copyDone struct {
	Finished bool            `json:"finished"`
	Result   api.StoreCopied `json:"result"`
	Error    *api.Error      `json:"error"`
}

func copied(t *testing.T, r *rig, method string) (last copyDone) {
	t.Helper()
	if err := r.admin.Stream(t.Context(), method, "/v1/maintenance/copy", nil, func(b []byte) error {
		last = copyDone{}
		return json.Unmarshal(b, &last)
	}); err != nil {
		t.Fatal(err)
	}
	if !last.Finished {
		t.Error("it broke off")
	}
	return last
}

// TestCopyOnDemand has no second store, one that another program writes to, and one that is made only then.
func TestCopyOnDemand(t *testing.T) {
	t.Parallel()
	r := startIn(t, t.TempDir())
	if c := copied(t, r, "POST"); c.Error == nil || !strings.Contains(c.Error.Hint, "copy.to") {
		t.Errorf("without one: %+v", c)
	}
	second := filepath.Join(t.TempDir(), "second")
	r = startIn(t, t.TempDir())
	r.published("golden", func(i int) uint64 { return uint64(i) })
	r.cfg.Copy.To = "dir:" + second // whoever copies in the background did not know of it at the start
	if c := copied(t, r, "GET"); c.Error == nil || c.Error.Code != "not_found" || !strings.Contains(c.Error.Hint, "first copy") {
		t.Errorf("before it is made: %+v", c)
	}
	other, err := dir.Open(second, dir.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	if c := copied(t, r, "POST"); c.Error == nil || c.Error.Code != "busy" {
		t.Errorf("while another has it: %+v", c)
	}
	if c := copied(t, r, "GET"); c.Error != nil || len(c.Result.Copied) != 1 || c.Result.Copied[0] != "golden@1" {
		t.Errorf("what would be copied: %+v", c)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if c := copied(t, r, "POST"); c.Error != nil || len(c.Result.Copied) != 1 || c.Result.Stored == 0 {
		t.Errorf("copied: %+v", c)
	}
}

// TestEncrypted has a store and a copy of it that are encrypted by different secrets, and starts again with what does
// not open the store.
func TestEncrypted(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	key, pass, second := filepath.Join(folder, "key"), filepath.Join(folder, "pass"), filepath.Join(folder, "second")
	if err := errors.Join(keys.NewFile(key), os.WriteFile(pass, []byte("correct horse battery\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	cfg := config.Config{State: filepath.Join(folder, "state"), StoreKey: key, Copy: config.Copy{To: "dir:" + second, Key: pass}}
	if err := os.Mkdir(cfg.State, 0o700); err != nil {
		t.Fatal(err)
	}
	r := startWith(t, cfg)
	rev := r.published("golden", func(i int) uint64 { return uint64(i) })
	r.until("the revision is copied", func() bool {
		var st api.ServerStatus
		r.must("GET", "/v1/status", nil, &st)
		return st.Copy != nil && st.Copy.State == "done" && st.Copy.There == 1
	})
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	for place, file := range map[string]string{cfg.State + "/store": key, second: pass} {
		by, err := keys.Read(file)
		if err != nil {
			t.Fatal(err)
		}
		st, err := dir.Open(place, dir.Options{ReadOnly: true, Key: by})
		if err != nil {
			t.Fatal(err)
		}
		c, err := st.Check(t.Context(), true, nil)
		if err != nil || !c.OK() || len(c.Revisions) != 1 || c.Revisions[0].ID != rev.ID || !st.Encrypted() {
			t.Errorf("%s: %+v, %v", place, c, err)
		}
		st.Close()
	}
	for _, wrong := range []string{"", pass} {
		cfg := config.Config{State: cfg.State, StoreKey: wrong, HTTP: "127.0.0.1:0", HTTPS: "127.0.0.1:0"}
		if err := cfg.Complete(); err != nil {
			t.Fatal(err)
		}
		_, err := New(t.Context(), cfg, "test", slog.New(slog.DiscardHandler), io.Discard)
		if e := (*api.Error)(nil); !errors.As(err, &e) || !strings.Contains(e.Hint, "key file") && !strings.Contains(e.Hint, "store_key") {
			t.Errorf("started with %q: %v", wrong, err)
		}
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
