package localcmd_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/store/dir"
)

// TestStoreKey keeps an image in an encrypted store, and goes in by key file and by passphrase.
func TestStoreKey(t *testing.T) {
	disk, tree := golden(t, 4)
	work := t.TempDir()
	key, pass, place := filepath.Join(work, "store.key"), filepath.Join(work, "passphrase"), "dir:"+filepath.Join(work, "store")
	if r := run(t, "store", "key", "new", key); r.code != 0 || !strings.Contains(r.out, "keep a copy") {
		t.Fatalf("%+v", r)
	}
	fails(t, 4, []string{"store", "key", "new", key}, "there already")
	if err := os.WriteFile(pass, []byte("correct horse battery\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	fails(t, 3, []string{"capture", disk, "--store", place, "--store-key", filepath.Join(work, "none"), "--image", "golden"}, "none", "store key new")
	var c captured
	ok(t, &c, "capture", disk, "--store", place, "--store-key", key, "--image", "golden")
	fails(t, 4, []string{"store", "check", "--store", place}, "encrypted", "--store-key FILE")
	fails(t, 4, []string{"store", "check", "--store", place, "--store-key", pass}, "does not open", "store key add")
	var r api.StoreCheck
	ok(t, &r, "store", "check", "--store", place, "--store-key", key, "--read-data")
	if !r.OK() || len(r.Revisions) != 1 || r.Revisions[0].ID != c.ID {
		t.Errorf("%+v", r)
	}
	copied := filepath.Join(work, "copied.img")
	if r := run(t, "store", "key", "add", "--new", pass, "--store", place, "--store-key", key); r.code != 0 || !strings.HasPrefix(r.out, "added: ") {
		t.Fatalf("%+v", r)
	}
	t.Setenv("MIMEO_STORE_KEY", pass)
	if r := run(t, "deploy", "golden", copied, "--store", place); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	sameTree(t, copied, tree)
	var list []dir.KeyInfo
	ok(t, &list, "store", "key", "list", "--store", place)
	if len(list) != 2 {
		t.Fatalf("%+v", list)
	}
	for _, k := range list {
		if k.Used != (k.Kind == "passphrase") {
			t.Errorf("%+v", k)
		}
		if k.Used {
			fails(t, 4, []string{"store", "key", "remove", k.ID, "--store", place}, "--store-key names")
		} else if r := run(t, "store", "key", "remove", k.ID, "--store", place); r.code != 0 {
			t.Errorf("%+v", r)
		}
	}
	fails(t, 3, []string{"store", "key", "remove", "0123456789abcdef", "--store", place}, "no key has")
	fails(t, 4, []string{"store", "check", "--store", place, "--store-key", key}, "does not open")

	// Out of the encrypted store into a plain one, and from there into one by another key.
	plain, again := "dir:"+filepath.Join(work, "plain"), "dir:"+filepath.Join(work, "again")
	if r := run(t, "store", "copy", "--store", place, "--to", plain); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	fails(t, 4, []string{"store", "check", "--store", plain}, "not encrypted", "leave the key out")
	if r := run(t, "store", "copy", "--store", plain, "--store-key", "", "--to", again, "--to-key", key); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	ok(t, &r, "store", "check", "--store", again, "--store-key", key, "--read-data")
	if !r.OK() || len(r.Revisions) != 1 || r.Revisions[0].ID != c.ID {
		t.Errorf("%+v", r)
	}
	fails(t, 4, []string{"store", "key", "list", "--store", plain, "--store-key", ""}, "is not encrypted", "--to-key")
	if err := os.WriteFile(key, []byte("MIMEO-STORE-KEY-1 AAAA\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	fails(t, 1, []string{"store", "check", "--store", again, "--store-key", key}, "cut off", "keep a copy")
}
