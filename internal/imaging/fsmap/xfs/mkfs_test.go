package xfs

import "testing"

// variants are what mkfs.xfs makes.
var variants = []struct {
	name string
	mib  int64
	args string
}{
	{"default", 64, ""},
	{"v4", 64, "-m crc=0"},
	{"v4-512", 64, "-m crc=0 -b size=512"},
	{"v5-1024", 64, "-b size=1024"},
	{"sector-4096", 64, "-s size=4096"},
	{"block-64k", 300, "-b size=65536"},
	{"rmapbt", 64, "-m rmapbt=1"},
	{"plain", 64, "-m reflink=0,rmapbt=0,finobt=0,bigtime=0,inobtcount=0 -i sparse=0"},
	{"groups", 520, "-d agcount=31"},
	{"nrext64", 64, "-i nrext64=1"},
}

// TestMkfs reads what mkfs.xfs makes.
func TestMkfs(t *testing.T) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			judge(t, mkfs(t, v.mib*mib, v.args))
		})
	}
}
