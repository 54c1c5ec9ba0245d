package doctor

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"mimeo/internal/manage/config"
)

// TestBucket looks at a bucket that can be written, at none, and at a service that ignores conditions.
func TestBucket(t *testing.T) {
	back := s3mem.New()
	if err := back.CreateBucket("images"); err != nil {
		t.Fatal(err)
	}
	inner := gofakes3.New(back).Server()
	good := httptest.NewServer(inner)
	defer good.Close()
	poor := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("If-None-Match")
		inner.ServeHTTP(w, r)
	}))
	defer poor.Close()
	for _, tc := range []struct {
		store, endpoint string
		state           State
		text            string
	}{
		{"s3://images/a", good.URL, OK, "s3://images/a can be listed and written"},
		{"s3://nothing/a", good.URL, Bad, "bucket does not exist"},
		{"s3://images/a", poor.URL, Bad, "does not know conditional PUT"},
	} {
		d := &doctor{Options: Options{Config: config.Config{State: t.TempDir(), Store: tc.store, S3: config.S3{Endpoint: tc.endpoint, AccessKey: "key", SecretKey: "the-secret"}}}}
		d.bucket(t.Context())
		if len(d.list) != 1 || d.list[0].State != tc.state || !strings.Contains(d.list[0].Text, tc.text) || (tc.state == Bad) != (d.list[0].Hint != "") {
			t.Errorf("%s at %s: %+v", tc.store, tc.endpoint, d.list)
		}
	}
}
