package dir

import (
	"os"
	"os/exec"
	"testing"
)

// TestCopy copies a store that is being written to, in the order that docs/store.md gives: the copy can be read, and
// taken into use.
func TestCopy(t *testing.T) {
	path := t.TempDir() + "/store"
	s := open(t, path, Options{Create: true, PackSize: smallPack})
	a := publish(t, s, "a", 20, func(i int) uint64 { return uint64(3 * i) })
	to := t.TempDir() + "/copy"
	if err := os.Mkdir(to, 0o755); err != nil {
		t.Fatal(err)
	}
	cp := func(names ...string) {
		t.Helper()
		for _, n := range names {
			if out, err := exec.Command("cp", "-a", path+"/"+n, to).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		}
	}
	cp(formatFile, imagesDir, manifestsDir)
	if s.Encrypted() {
		cp(keysDir)
	}
	publish(t, s, "b", 20, func(i int) uint64 { return uint64(500 + 3*i) })
	cp(packsDir, indexDir)
	for _, o := range []Options{{ReadOnly: true}, {}} {
		c, err := openAs(to, o)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := c.Check(t.Context(), true, nil); err != nil || !r.OK() || len(r.Revisions) != 1 || r.Revisions[0].ID != a.ID {
			t.Errorf("%+v, %v", r, err)
		}
		if !o.ReadOnly {
			publish(t, c, "a", 5, func(i int) uint64 { return uint64(900 + i) })
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
