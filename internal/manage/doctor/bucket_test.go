package doctor

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"mimeo/internal/imaging/store/dir"
	"mimeo/internal/imaging/store/keys"
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
		d.buckets(t.Context())
		if len(d.list) != 1 || d.list[0].State != tc.state || !strings.Contains(d.list[0].Text, tc.text) || (tc.state == Bad) != (d.list[0].Hint != "") {
			t.Errorf("%s at %s: %+v", tc.store, tc.endpoint, d.list)
		}
	}
}

// TestSecondStore looks at a bucket that copies go to.
func TestSecondStore(t *testing.T) {
	back := s3mem.New()
	if err := back.CreateBucket("images"); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(gofakes3.New(back).Server())
	defer srv.Close()
	t.Setenv("AWS_ACCESS_KEY_ID", "key")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "the-secret")
	for bucket, state := range map[string]State{"images": OK, "nothing": Bad} {
		d := &doctor{Options: Options{Config: config.Config{State: t.TempDir(), Store: "dir:/x", Copy: config.Copy{To: "s3://" + bucket + "/a?endpoint=" + srv.URL}}}}
		d.buckets(t.Context())
		if len(d.list) != 1 || d.list[0].Name != "second store" || d.list[0].State != state {
			t.Errorf("%s: %+v", bucket, d.list)
		}
	}
}

// TestStoreKeys has stores whose keys are right, wrong, damaged, not there, and open to others.
func TestStoreKeys(t *testing.T) {
	folder := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	right, wrong, cut := file("right", "correct horse battery"), file("wrong", "something else"), file("cut", "MIMEO-STORE-KEY-1 AAAA")
	open := file("open", "correct horse battery")
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	by, err := keys.Read(right)
	if err != nil {
		t.Fatal(err)
	}
	sealed, plain := filepath.Join(folder, "sealed"), filepath.Join(folder, "plain")
	for path, o := range map[string]dir.Options{sealed: {Create: true, Key: by}, plain: {Create: true}} {
		s, err := dir.Open(path, o)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		store, key string
		want       []State
		text       string
	}{
		{sealed, right, []State{OK}, "opens"},
		{sealed, open, []State{Warn, OK}, "read by others"},
		{sealed, wrong, []State{Bad}, "does not open"},
		{sealed, cut, []State{Bad}, "cut off"},
		{sealed, filepath.Join(folder, "none"), []State{Bad}, "no such file"},
		{sealed, "", []State{Bad}, "no key was given"},
		{plain, right, []State{Bad}, "not encrypted"},
		{plain, "", nil, ""},
		{filepath.Join(folder, "new"), right, nil, ""},
	} {
		d := &doctor{Options: Options{User: "root", Config: config.Config{Store: "dir:" + tc.store, StoreKey: tc.key}}}
		d.stores()
		var got []State
		for _, f := range d.list {
			got = append(got, f.State)
			if f.State == Bad && f.Hint == "" {
				t.Errorf("%+v has no hint", f)
			}
		}
		if !slices.Equal(got, tc.want) || len(got) > 0 && !strings.Contains(d.list[0].Text, tc.text) {
			t.Errorf("%s by %s: %+v", tc.store, tc.key, d.list)
		}
	}
}
