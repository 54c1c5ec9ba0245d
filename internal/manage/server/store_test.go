package server

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/httpstore"
	"mimeo/internal/manage/config"
)

// TestStoreInS3 keeps an image in a bucket over a restart.
func TestStoreInS3(t *testing.T) {
	back := s3mem.New()
	if err := back.CreateBucket("images"); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(gofakes3.New(back).Server())
	t.Cleanup(srv.Close)
	cfg := config.Config{State: t.TempDir(), Store: "s3://images/site-a", S3: config.S3{Endpoint: srv.URL, AccessKey: "key", SecretKey: "the-secret", Cache: "64MiB"}}
	r := startWith(t, cfg)
	rev := r.published("golden", func(i int) uint64 { return uint64(i) })
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	again := startWith(t, cfg)
	var list []api.Image
	again.must("GET", "/v1/images", nil, &list)
	if len(list) != 1 || list[0].Name != "golden" || len(list[0].Revisions) != 1 || list[0].Revisions[0].ID != rev.ID.String() {
		t.Errorf("images after a restart: %+v", list)
	}
	// What nodes read comes from the bucket once.
	chunks := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		again.chunks.ServeHTTP(w, httpstore.From(r, "n1"))
	}))
	defer chunks.Close()
	near, err := httpstore.NewClient(httpstore.Options{Base: chunks.URL, HTTP: chunks.Client()})
	if err != nil {
		t.Fatal(err)
	}
	m, err := near.Manifest(t.Context(), rev.ID)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if v, err := store.Verify(t.Context(), near, m, nil); err != nil || !v.OK() || v.Chunks == 0 {
			t.Errorf("read by a node: %+v, %v", v, err)
		}
	}
	if st := again.cache.Stats(); st.Chunks == 0 || st.Hits < int64(st.Chunks) || st.Misses != int64(st.Chunks) {
		t.Errorf("the cache: %+v", st)
	}
	var st api.ServerStatus
	again.must("GET", "/v1/status", nil, &st)
	if st.StoreBytes == 0 || st.FreeBytes != 0 {
		t.Errorf("status %+v", st)
	}
}
