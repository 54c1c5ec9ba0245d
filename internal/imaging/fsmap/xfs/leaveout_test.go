package xfs

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/leaveout"
)

// TestLeaveOut zeroes what rules leave out, and asks the kernel what became of the files: those that share extents with
// one that is left out are kept.
func TestLeaveOut(t *testing.T) {
	img := mkfs(t, 96*mib, "")
	mounted(t, img, "rw", func(dir, _ string) {
		change(t, dir, mib)
		for name, n := range map[string]int{"tmp/alone": 300_000, "tmp/shared": 200_000, "kept": 100_000} {
			if err := os.MkdirAll(filepath.Join(dir, "tmp"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name), content(n, n), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		tool(t, "cp", "--reflink=always", dir+"/tmp/shared", dir+"/shared")
		if err := unix.Setxattr(dir+"/tmp/alone", "user.large", content(5, 20_000), 0); err != nil {
			t.Fatal(err)
		}
		tool(t, "sh", "-euc", `dd if=/dev/urandom of="$1/swapfile" bs=1M count=4 status=none; chmod 600 "$1/swapfile"; mkswap "$1/swapfile"`, "sh", dir)
	})
	want := filesOf(t, img)
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := OpenTree(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	found, err := leaveout.Find(tr, leaveout.Rules{Patterns: []string{"/tmp"}, Swap: true}, func(add func(extent.Extent)) (string, error) {
		return Claims(bytes.NewReader(b), int64(len(b)), add)
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := found.Extents.Bytes(); n < 300_000+4*mib-64<<10 || n > 310_000+4*mib-64<<10 || len(found.Notes) != 1 {
		t.Errorf("%d bytes are left out, notes %q", n, found.Notes)
	}
	for _, e := range found.Extents {
		clear(b[e.Off:e.End()])
	}
	if err := os.WriteFile(img, b, 0o600); err != nil {
		t.Fatal(err)
	}
	judge(t, img)
	got := filesOf(t, img)
	for name, sum := range want {
		if left := name == "/tmp/alone" || name == "/swapfile"; (got[name] == sum) == left {
			t.Errorf("%s: %s, was %s", name, got[name], sum)
		}
	}
}
