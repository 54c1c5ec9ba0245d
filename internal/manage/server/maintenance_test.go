package server

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"mimeo/internal/cluster/api"
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
