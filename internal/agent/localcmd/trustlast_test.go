package localcmd_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTrustLast deploys onto a disk that holds the revision before, of which one file was written to since.
func TestTrustLast(t *testing.T) {
	disk, tree := golden(t, 12)
	store := "dir:" + filepath.Join(t.TempDir(), "store")
	ok(t, new(captured), "capture", disk, "--store", store, "--image", "golden")
	// With golden@2 the second of its files is another.
	to := filepath.Join(t.TempDir(), "copy.img")
	ok(t, new(deployed), "deploy", "golden@1", to, "--store", store)
	write := func(path, name string) {
		dir := t.TempDir()
		tool(t, "", "mount", "-o", fmt.Sprint("loop,offset=", rootOff), path, dir)
		defer tool(t, "", "umount", dir)
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteAt([]byte("changed"), 1000)
		}
		if err == nil {
			err = f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write(disk, "1/file1")
	ok(t, new(captured), "capture", disk, "--store", store, "--image", "golden")
	write(to, "3/file3")
	fails(t, 2, []string{"deploy", "golden@2", to, "--store", store, "--force", "--whole", "--trust-last", "golden@1"}, "--whole")
	fails(t, 3, []string{"deploy", "golden@2", to, "--store", store, "--force", "--trust-last", "golden@7"}, "golden@7")
	var d deployed
	ok(t, &d, "deploy", "golden@2", to, "--store", store, "--force", "--verify", "--trust-last", "golden@1")
	if d.Trusted < 10<<20 || d.Trusted+d.Skipped+d.Written+d.Zeroed < d.Used {
		t.Errorf("%+v", d)
	}
	f, err := os.OpenFile(filepath.Join(tree, "1/file1"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("changed"), 1000); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	sameTree(t, to, tree)
	r := run(t, "deploy", "golden@2", to, "--store", store, "--force", "--trust-last", "golden")
	if r.code != 0 || !strings.Contains(r.out, "trusted, not read") {
		t.Errorf("exit %d: %s%s", r.code, r.out, r.err)
	}
}
