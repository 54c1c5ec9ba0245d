package server

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/storetest"
)

// published puts a small disk into the server's store.
func (r *rig) published(image string, salt func(int) uint64) store.Revision {
	r.t.Helper()
	m, err := storetest.Image(r.t.Context(), r.store, 12, salt)
	if err != nil {
		r.t.Fatal(err)
	}
	id, err := r.store.Stage(r.t.Context(), m)
	if err != nil {
		r.t.Fatal(err)
	}
	rev, err := r.store.Publish(r.t.Context(), image, id)
	if err != nil {
		r.t.Fatal(err)
	}
	return rev
}

// maintain asks for work on the store. What the server sends must be just what the message has.
func maintain[T any](r *rig, method, path string) (out T, e *api.Error) {
	r.t.Helper()
	var last api.StoreProgress
	if err := r.admin.Stream(r.t.Context(), method, "/v1/maintenance/"+path, nil, func(b []byte) error {
		last = api.StoreProgress{}
		return json.Unmarshal(b, &last)
	}); err != nil {
		r.t.Fatal(err)
	}
	if !last.Finished {
		r.t.Fatalf("%s broke off", path)
	}
	if last.Error == nil {
		d := json.NewDecoder(bytes.NewReader(last.Result))
		d.DisallowUnknownFields()
		if err := d.Decode(&out); err != nil {
			r.t.Fatalf("%s: %v in %s", path, err, last.Result)
		}
	}
	return out, last.Error
}

func TestStoreCheck(t *testing.T) {
	r := start(t)
	r.published("web", func(piece int) uint64 { return uint64(piece) })
	r.published("db", func(piece int) uint64 { return uint64(100 + piece) })
	c, e := maintain[api.StoreCheck](r, "POST", "check?read_data=1")
	if e != nil || !c.OK() || len(c.Revisions) != 2 || c.Read == 0 {
		t.Fatalf("%+v, %v", c, e)
	}
	packs, _ := filepath.Glob(filepath.Join(r.cfg.State, "store", "packs", "*.pack"))
	if len(packs) != 1 {
		t.Fatal(packs)
	}
	f, err := os.OpenFile(packs[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{1, 2, 3, 4}, 300); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if c, e = maintain[api.StoreCheck](r, "POST", "check?read_data=1"); e != nil || c.OK() || c.Damaged != 1 || len(c.Hurt()) != 1 || c.Hurt()[0].Image != "web" || len(c.Hurt()[0].Losses) != 1 {
		t.Fatalf("%+v, %v", c, e)
	}
	if code, e := r.call(r.viewer("viewer"), "POST", "/v1/maintenance/check", nil, nil); code != 403 {
		t.Errorf("a viewer: %d %v", code, e)
	}
}

func TestStoreUsage(t *testing.T) {
	r := start(t)
	r.published("web", func(piece int) uint64 { return uint64(piece) })
	r.published("db", func(piece int) uint64 { return uint64(5 + piece) })
	var raw json.RawMessage
	r.must("GET", "/v1/maintenance/usage", nil, &raw)
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	var u api.StoreUsage
	if err := d.Decode(&u); err != nil {
		t.Fatal(err)
	}
	if len(u.Images) != 2 || u.Images[0].Image != "db" || u.Images[0].Unique == 0 || u.Images[0].Shared == 0 || u.Revisions != 2 || u.Unnamed != 0 {
		t.Errorf("%+v", u)
	}
	r.must("GET", "/v1/maintenance/usage?image=web", nil, &u)
	if len(u.Images) != 1 || u.Images[0].Image != "web" || u.Revisions != 2 {
		t.Errorf("%+v", u)
	}
	r.fails("GET", "/v1/maintenance/usage?image=none", nil, "not_found", "none")
}

// TestStoreGC removes a revision and frees what it took, with a capture and a deploy under way.
func TestStoreGC(t *testing.T) {
	r := start(t)
	web := r.published("web", func(piece int) uint64 { return uint64(3 * piece) })
	r.published("db", func(piece int) uint64 { return uint64(300 + 3*piece) })
	old := r.published("web", func(piece int) uint64 { return uint64(600 + 3*piece) })
	packs := func() (n int64) {
		files, _ := filepath.Glob(filepath.Join(r.cfg.State, "store", "packs", "*.pack"))
		for _, f := range files {
			info, err := os.Stat(f)
			if err != nil {
				t.Fatal(err)
			}
			n += info.Size()
		}
		return n
	}
	full := packs()

	var jobs []api.Job
	r.must("POST", "/v1/jobs", api.JobNew{Key: "d", Kind: api.TaskDeploy, Range: "n1", Image: "web@1"}, &jobs)
	if e := r.fails("DELETE", "/v1/images/web/1", nil, "conflict", "is being deployed"); e.Hint == "" {
		t.Error("no hint")
	}
	r.must("DELETE", "/v1/images/web/2", nil, nil)
	r.must("DELETE", "/v1/images/db/1", nil, nil)

	// Cleaning up begins an epoch: what happened before is told apart from what the capture is told.
	if r, e := maintain[api.StoreGC](r, "GET", "garbage?grace_ms=0"); e != nil || r.Garbage == 0 {
		t.Fatalf("%+v, %v", r, e)
	}

	// A capture is told that chunks of web@2 are there. It began after the store was opened.
	m, err := r.store.Manifest(t.Context(), old.ID)
	if err != nil {
		t.Fatal(err)
	}
	id := r.capture("n2")
	token := r.boot(2)
	r.hello(token, "b")
	if code, e := r.call(token, "POST", "/v1/store/missing", m.Content.Segments[0].ID[:], nil); code != 200 && e == nil {
		t.Fatal(code)
	}
	if _, since := r.Server.jobs.Needs(); since.IsZero() {
		t.Error("a capture that an agent has is not told of")
	}
	dry, e := maintain[api.StoreGC](r, "GET", "garbage")
	if e != nil || !dry.DryRun || dry.Freed == 0 || dry.Young == 0 || packs() != full {
		t.Fatalf("%+v, %v", dry, e)
	}
	did, e := maintain[api.StoreGC](r, "DELETE", "garbage")
	if e != nil || did.DryRun || did.Freed != dry.Freed || full-packs() < did.Freed*9/10 {
		t.Fatalf("%+v, %v; %d bytes of %d are left", did, e, packs(), full)
	}
	if missing, err := r.store.Missing(t.Context(), []chunk.ID{m.Content.Segments[0].ID}); err != nil || len(missing) != 0 {
		t.Errorf("what the capture was told to be there is gone: %v", err)
	}
	if v, err := store.Verify(t.Context(), r.store, must(t)(r.store.Manifest(t.Context(), web.ID)), nil); err != nil || !v.OK() {
		t.Errorf("%+v, %v", v, err)
	}
	r.must("POST", "/v1/jobs/"+id+"/cancel", nil, nil)
	if _, e := maintain[api.StoreGC](r, "GET", "garbage?grace_ms=-1"); e == nil || e.Code != "bad_request" {
		t.Error(e)
	}
	if code, e := r.call(r.viewer("operator"), "DELETE", "/v1/maintenance/garbage", nil, nil); code != 403 {
		t.Errorf("an operator: %d %v", code, e)
	}
}

func must(t *testing.T) func(*manifest.Manifest, error) *manifest.Manifest {
	return func(m *manifest.Manifest, err error) *manifest.Manifest {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
}

func TestStoreRepair(t *testing.T) {
	r := start(t)
	r.published("web", func(piece int) uint64 { return uint64(3 * piece) })
	packs, _ := filepath.Glob(filepath.Join(r.cfg.State, "store", "packs", "*.pack"))
	f, err := os.OpenFile(packs[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{1, 2, 3, 4}, 300); err != nil {
		t.Fatal(err)
	}
	f.Close()
	dry, e := maintain[api.StoreRepair](r, "GET", "repair")
	if e != nil || !dry.DryRun || len(dry.Packs) != 1 || dry.Lost != 1 || len(dry.Revisions) != 1 {
		t.Fatalf("%+v, %v", dry, e)
	}
	did, e := maintain[api.StoreRepair](r, "PUT", "repair")
	if e != nil || len(did.Packs) != 1 || did.Lost != 1 || did.Copied == 0 {
		t.Fatalf("%+v, %v", did, e)
	}
	if c, e := maintain[api.StoreCheck](r, "POST", "check?read_data=1"); e != nil || c.Damaged != 0 || c.Hurt()[0].Missing != 1 {
		t.Errorf("%+v, %v", c, e)
	}
	if _, e := maintain[api.StoreGC](r, "GET", "garbage"); e != nil {
		t.Errorf("a chunk that is missing keeps garbage from being removed: %v", e)
	}
}

// TestRepack compresses again on demand, and as it is done while no job runs: in slices, and not while a job runs.
func TestRepack(t *testing.T) {
	r := start(t)
	r.published("golden", func(i int) uint64 { return uint64(3*i + 1) })
	last := func(method, path string) (d struct {
		Finished bool
		Result   api.StoreRepack
		Error    *api.Error
	}) {
		t.Helper()
		if err := r.admin.Stream(t.Context(), method, path, nil, func(b []byte) error { return json.Unmarshal(b, &d) }); err != nil || !d.Finished {
			t.Fatal(err, d)
		}
		return d
	}
	if d := last("GET", "/v1/maintenance/repack"); d.Error != nil || !d.Result.DryRun || d.Result.Level != 19 {
		t.Errorf("%+v", d)
	}
	if d := last("POST", "/v1/maintenance/repack?level=7"); d.Error != nil || d.Result.Packs != 1 || d.Result.Level != 7 {
		t.Errorf("%+v", d)
	}
	if d := last("POST", "/v1/maintenance/repack?level=23"); d.Error == nil || d.Error.Code != "bad_request" {
		t.Errorf("%+v", d)
	}
	var jobs []api.Job
	r.must("POST", "/v1/jobs", api.JobNew{Key: "busy", Kind: api.TaskCapture, Range: "n1", Image: "busy"}, &jobs)
	done := make(chan error, 1)
	go func() { done <- r.repackAll(t.Context(), 10*time.Millisecond) }()
	select {
	case err := <-done:
		t.Fatalf("while a job runs: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	r.must("POST", "/v1/jobs/"+jobs[0].ID+"/cancel", nil, nil)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if d := last("GET", "/v1/maintenance/repack"); d.Error != nil || d.Result.Packs != 0 {
		t.Errorf("after all: %+v", d)
	}
}
