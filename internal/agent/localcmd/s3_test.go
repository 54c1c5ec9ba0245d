package localcmd_test

import (
	"bytes"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/store/mirror"
)

// TestS3 captures a disk into a bucket twice and writes it back.
func TestS3(t *testing.T) {
	disk, _ := golden(t, 4)
	back := s3mem.New()
	if err := back.CreateBucket("images"); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(gofakes3.New(back).Server())
	defer srv.Close()
	const place = "s3://images/site/a"
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("AWS_ENDPOINT_URL", srv.URL)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(t.TempDir(), "none"))
	fails(t, 1, []string{"capture", disk, "--store", place, "--image", "golden"}, "no access key for S3", "hint: name a key and its secret")

	creds := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(creds, []byte("[default]\naws_access_key_id = K\naws_secret_access_key = the-secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", creds)
	fails(t, 3, []string{"store", "check", "--store", place}, "no store", "hint: look at the bucket and the prefix")
	fails(t, 1, []string{"capture", disk, "--store", "s3://nothing/a", "--image", "golden"}, "s3://nothing/a/", "hint: make the bucket first")
	fails(t, 2, []string{"capture", disk, "--store", "s3://me:word@images/a", "--image", "golden"}, "s3://…@images/a: a store in S3 is named s3://BUCKET/PREFIX")

	var c captured
	ok(t, &c, "capture", disk, "--store", place, "--image", "golden")
	var again captured
	ok(t, &again, "capture", disk, "--store", place, "--image", "golden", "--force")
	if c.New == 0 || again.New != 0 && again.Stored > c.Stored/10 {
		t.Errorf("captured %+v, then %+v", c, again)
	}
	var check api.StoreCheck
	ok(t, &check, "store", "check", "--store", place, "--read-data")
	if !check.OK() || check.Read < 4<<20 {
		t.Errorf("check: %+v", check)
	}
	second := "dir:" + filepath.Join(t.TempDir(), "second")
	var copied mirror.Report
	ok(t, &copied, "store", "copy", "golden@1", "--store", place, "--to", second)
	ok(t, &copied, "store", "copy", "--store", place, "--to", second)
	if copied.There != 1 || len(copied.Copied) != 1 || len(copied.Problems) > 0 {
		t.Errorf("the second copy: %+v", copied)
	}
	ok(t, &check, "store", "check", "--store", second, "--read-data")
	if !check.OK() || len(check.Revisions) != 2 {
		t.Errorf("check of the copy: %+v", check)
	}
	fails(t, 3, []string{"store", "copy", "silver", "--store", place, "--to", second}, "nothing in s3://images/site/a is named silver", "hint: ")
	out := filepath.Join(t.TempDir(), "out.img")
	empty(t, out, c.DiskSize>>20)
	var d deployed
	ok(t, &d, "deploy", "golden", out, "--store", place, "--force", "--whole")
	want, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, got) {
		t.Error("what was written is not what was captured")
	}
}
