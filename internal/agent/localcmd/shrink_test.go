package localcmd_test

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestShrink captures a disk as a smaller one.
func TestShrink(t *testing.T) {
	work := t.TempDir()
	disk, store := filepath.Join(work, "disk"), "dir:"+filepath.Join(work, "store")
	tool(t, "", "sh", "-euc", `truncate -s 500M "$1"; echo 'start=2048' | sfdisk -q "$1"; mke2fs -q -t ext4 -E offset=1048576 "$1" 499M`, "sh", disk)
	before := sum(t, disk)
	var c captured
	ok(t, &c, "capture", disk, "--store", store, "--image", "small", "--shrink")
	if c.DiskSize > 120<<20 || len(c.Warnings) == 0 || !strings.Contains(c.Warnings[0], "partition 1 (ext4) was shrunk for this image, from 499 to ") {
		t.Errorf("%+v", c)
	}
	if sum(t, disk) != before {
		t.Error("the disk was written to")
	}
	var d deployed
	ok(t, &d, "deploy", "small", filepath.Join(work, "copy"), "--store", store)
	tool(t, "", "e2fsck", "-fn", filepath.Join(work, "copy")+"?offset=1048576")
	fails(t, 4, []string{"capture", empty(t, filepath.Join(work, "empty"), 20), "--store", store, "--image", "small", "--shrink"}, "no partition table", "without --shrink")
}
