package localcmd_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mimeo/internal/cluster/api"
)

// TestStoreCheck damages one of two images in a store.
func TestStoreCheck(t *testing.T) {
	disk, _ := golden(t, 4)
	path := filepath.Join(t.TempDir(), "store")
	place := "dir:" + path
	var c captured
	ok(t, &c, "capture", disk, "--store", place, "--image", "golden")
	var r api.StoreCheck
	ok(t, &r, "store", "check", "--store", place, "--read-data")
	if !r.OK() || len(r.Revisions) != 1 || r.Revisions[0].ID != c.ID || r.Read < 4<<20 || r.Packs != 1 {
		t.Errorf("a whole store: %+v", r)
	}
	if r := run(t, "store", "check", "--store", place); r.code != 0 || !strings.Contains(r.out, "all fits together") {
		t.Errorf("for people: %+v", r)
	}
	fails(t, 3, []string{"store", "check", "--store", place + "/none"}, "hint: look at the path")
	fails(t, 2, []string{"store", "check"}, "--store dir:PATH is missing")

	pack := filepath.Join(path, "packs", "00000001.pack")
	f, err := os.OpenFile(pack, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("overwritten by somebody"), 1<<20); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if r := run(t, "store", "check", "--store", place); r.code != 0 {
		t.Errorf("the quick check: %+v", r)
	}
	bad := run(t, "store", "check", "--store", place, "--read-data")
	if bad.code != 1 || !strings.Contains(bad.out, "golden@1 of ") || !strings.Contains(bad.out, "NOT whole: 0 pieces missing, 1 damaged") || !strings.Contains(bad.out, pack) || !strings.Contains(bad.err, "hint: ") {
		t.Errorf("damaged: %+v", bad)
	}
	if err := os.Remove(pack); err != nil {
		t.Fatal(err)
	}
	if r := run(t, "store", "check", "--store", place); r.code != 1 || !strings.Contains(r.out, "golden@1") {
		t.Errorf("lost: %+v", r)
	}
}

// TestStoreRepair sets a damaged pack aside; the next capture of the disk heals the image.
func TestStoreRepair(t *testing.T) {
	disk, _ := golden(t, 4)
	path := filepath.Join(t.TempDir(), "store")
	place := "dir:" + path
	var c captured
	ok(t, &c, "capture", disk, "--store", place, "--image", "golden")
	var r api.StoreRepair
	ok(t, &r, "store", "repair", "--store", place, "--dry-run")
	if len(r.Packs) != 0 || r.Lost != 0 {
		t.Errorf("%+v", r)
	}
	pack := filepath.Join(path, "packs", "00000001.pack")
	f, err := os.OpenFile(pack, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("overwritten by somebody"), 1<<20); err != nil {
		t.Fatal(err)
	}
	f.Close()
	fails(t, 4, []string{"store", "repair", "--store", place}, "--dry-run", "--yes")
	fails(t, 3, []string{"store", "repair", "--yes", "--store", place + "/none"}, "hint: look at the path")
	did := run(t, "store", "repair", "--yes", "--store", place)
	if did.code != 1 || !strings.Contains(did.out, "set aside: "+pack) || !strings.Contains(did.out, "1 chunks lost") || !strings.Contains(did.out, "golden@1 of ") || !strings.Contains(did.err, "hint: ") {
		t.Errorf("%+v", did)
	}
	ok(t, &c, "capture", disk, "--store", place, "--image", "golden")
	if c.New == 0 || c.New > 1<<20 {
		t.Errorf("the second capture is %+v", c)
	}
	if r := run(t, "store", "check", "--read-data", "--store", place); r.code != 0 || !strings.Contains(r.out, "2 revisions") {
		t.Errorf("%+v", r)
	}
}
