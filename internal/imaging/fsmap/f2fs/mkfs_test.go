package f2fs

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"mimeo/internal/imaging/extent"
)

// judge holds what is found on a filesystem against all others, and makes a copy of it that must be as good.
func judge(t testing.TB, img string) {
	t.Helper()
	facts, used := mapImage(t, img)
	if facts.Whole != "" || len(facts.Notes) > 0 {
		t.Fatalf("whole: %s, notes %q", facts.Whole, facts.Notes)
	}
	for _, c := range [][2]string{{"TYPE", facts.Type}, {"UUID", facts.UUID}, {"LABEL", facts.Label}} {
		if out := tool(t, ".", "blkid", "-p", "-o", "value", "-s", c[0], img); strings.TrimSpace(string(out)) != c[1] {
			t.Errorf("%s is %q, blkid says %q", c[0], c[1], out)
		}
	}
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	fs := open(t, b)
	meta := extent.List{{Off: 0, Len: int64(fs.mainAt) * blockSize}}
	next, err := fs.checkRecovery()
	if err != nil {
		t.Fatal(err)
	}
	want := extent.Union(meta, extent.Union(next, dumpSIT(t, img, int64(fs.mainAt))))
	if lost, over := extent.Subtract(want, used), extent.Subtract(used, want); len(lost)+len(over) > 0 {
		t.Errorf("used by dump.f2fs and not by us: %v, by us alone: %v", lost, over)
	}
	if len(b) > 100<<20 && fs.cp.flags&flagLargeNAT == 0 { // partclone knows no others
		want := partclone(t, img)
		if lost := extent.Subtract(want, used); len(lost) > 0 {
			t.Errorf("used by partclone and not by us: %v", lost)
		}
		if over := extent.Subtract(used, want); over.Bytes()*100 > want.Bytes() {
			t.Errorf("%d bytes too much of %d: %v", over.Bytes(), want.Bytes(), over)
		}
	}
	dup := copyUsed(t, img, used)
	if a, b := fsck(t, img), fsck(t, dup); a != b {
		t.Errorf("fsck.f2fs says of the original:\n%s\nand of the copy:\n%s", a, b)
	}
	fa, fb := files(t, img), files(t, dup)
	for name, content := range fa {
		if other, ok := fb[name]; !ok || !bytes.Equal(content, other) {
			t.Errorf("file %s is not the same", name)
		}
	}
	if len(fa) != len(fb) || len(fa) < 10 {
		t.Errorf("%d files, the copy has %d", len(fa), len(fb))
	}
}

// TestLinux reads what Linux has written.
func TestLinux(t *testing.T) {
	for _, name := range []string{"default", "features", "sections", "full"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			judge(t, save(t, testdata(t, name)))
		})
	}
}

// TestCrashed reads one that was left with files that only a mount would bring back.
func TestCrashed(t *testing.T) {
	facts, _ := mapImage(t, save(t, testdata(t, "crashed")))
	if !strings.Contains(facts.Whole, "not unmounted cleanly") {
		t.Errorf("%+v", facts)
	}
}

// TestMkfs reads what f2fs-tools write.
func TestMkfs(t *testing.T) {
	for _, c := range []struct {
		name string
		mib  int64
		args string
	}{
		{"small", 80, ""},
		{"default", 110, ""},
		{"sections", 128, "-s 2"},
		{"zones", 200, "-s 2 -z 2"},
		{"many-nodes", 110, "-i"},
		{"heap", 110, "-a 1"},
		{"reserve", 110, "-o 20"},
		{"checksums", 110, "-O extra_attr,inode_checksum,sb_checksum"},
		{"android", 128, "-g android"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			judge(t, mkfs(t, c.mib, strings.Fields(c.args)...))
		})
	}
}

// TestUnknown makes filesystems that must be captured whole.
func TestUnknown(t *testing.T) {
	for _, c := range []struct{ args, reason string }{
		{"-O extra_attr,ro", "read only"},
	} {
		img := save(t, nil)
		if err := os.Truncate(img, 110<<20); err != nil {
			t.Fatal(err)
		}
		tool(t, ".", "mkfs.f2fs", append(strings.Fields(c.args), img)...)
		if facts, _ := mapImage(t, img); !strings.Contains(facts.Whole, c.reason) {
			t.Errorf("%s: %+v", c.args, facts)
		}
	}
}

// TestGrown reads a filesystem that was made larger, in a partition that is larger still.
func TestGrown(t *testing.T) {
	img := mkfs(t, 110)
	if err := os.Truncate(img, 180<<20); err != nil {
		t.Fatal(err)
	}
	facts, _ := mapImage(t, img)
	if facts.Whole != "" || facts.Len != 110<<20 {
		t.Errorf("%+v", facts)
	}
	tool(t, ".", "resize.f2fs", img)
	judge(t, img)
	if err := os.Truncate(img, 170<<20); err != nil {
		t.Fatal(err)
	}
	if facts, _ = mapImage(t, img); !strings.Contains(facts.Whole, "the volume has") {
		t.Errorf("cut off: %+v", facts)
	}
}
