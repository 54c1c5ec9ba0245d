package xfs

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"mimeo/internal/imaging/extent"
)

// variants are what mkfs.xfs makes of a folder's files.
var variants = []struct {
	name string
	mib  int64
	args string
}{
	{"v4", 64, "-m crc=0"},
	{"v4-512", 64, "-m crc=0 -b size=512"},
	{"v4-sector-4096", 64, "-m crc=0,finobt=0 -s size=4096 -i size=512,attr=1,projid32bit=0 -n ftype=0"},
	{"v4-old", 64, "-m crc=0 -l version=1,lazy-count=0 -b size=1024 -n ftype=0"},
	{"v4-ascii-ci", 64, "-m crc=0 -n version=ci"},
	{"v4-block-64k", 200, "-m crc=0 -b size=65536"},
	{"v5", 64, ""},
	{"v5-1024", 64, "-b size=1024"},
	{"sector-4096", 64, "-s size=4096"},
	{"sector-32k", 160, "-s size=32768 -b size=32768"},
	{"block-64k", 200, "-b size=65536"},
	{"folders-64k", 64, "-n size=65536"},
	{"inodes-2048", 64, "-i size=2048"},
	{"rmapbt", 64, "-m rmapbt=1"},
	{"plain", 64, "-m reflink=0,rmapbt=0,finobt=0,bigtime=0,inobtcount=0 -i sparse=0"},
	{"groups", 200, "-d agcount=12"},
	{"log-stripe", 128, "-l su=256k,size=20m -d agcount=2"},
	{"log-in-last-group", 96, "-d agcount=3 -l agnum=2"},
	{"stripes", 96, "-d su=64k,sw=4"},
	{"uuid", 64, "-m uuid=01234567-89ab-cdef-0123-456789abcdef"},
}

// sampleTree makes files to be put onto a filesystem, and the list that mkfs.xfs -p reads.
func sampleTree(t testing.TB, files int) (proto string) {
	t.Helper()
	dir := t.TempDir()
	lines := []string{"boot", "0 0", "d--755 0 0"}
	for i := range files {
		src := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(src, content(i, 1+i*i*13%9000), 0o644); err != nil {
			t.Fatal(err)
		}
		if i%50 == 0 {
			if i > 0 {
				lines = append(lines, "$")
			}
			lines = append(lines, fmt.Sprintf("dir%d d--755 0 0", i), "to l--777 0 0 ../dir0/file-"+strings.Repeat("x", i/5))
		}
		lines = append(lines, fmt.Sprintf("file-with-a-name-%d ---644 %d 5 %s", i, i, src))
	}
	proto = filepath.Join(dir, "proto")
	if err := os.WriteFile(proto, []byte(strings.Join(append(lines, "$", "$", ""), "\n")), 0o644); err != nil {
		t.Fatal(err)
	}
	return proto
}

// erase takes every n-th inode of the files away and has xfs_repair free what they had, so that free space is in pieces.
func erase(t testing.TB, img string, n int) {
	t.Helper()
	out := tool(t, "xfs_db", "-r", "-c", "blockget -n", "-c", "ncheck", img)
	args := []string{"-x"}
	for i, m := range regexp.MustCompile(`(?m)^\s*(\d+) dir\d+/file-`).FindAllSubmatch(out, -1) {
		if i%n == 0 {
			args = append(args, "-c", "inode "+string(m[1]), "-c", "write core.mode 0")
		}
	}
	if len(args) < 50 {
		t.Fatalf("too few files: %s", out)
	}
	tool(t, "xfs_db", append(args, img)...)
	if out, err := command("xfs_repair", "-f", img).CombinedOutput(); err != nil {
		t.Fatalf("xfs_repair: %v\n%s", err, out)
	}
}

// TestMkfs reads what mkfs.xfs and xfs_repair make.
func TestMkfs(t *testing.T) {
	proto := sampleTree(t, 600)
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			img := mkfs(t, v.mib*mib, v.args+" -p "+proto)
			compare(t, img)
			erase(t, img, 2)
			dup := judge(t, img)
			checkPieces(t, img, false)
			if strings.HasPrefix(v.name, "v4") { // this kernel may mount none
				tool(t, "xfs_db", "-r", "-c", "blockget", dup)
			} else if want, got := filesOf(t, img), filesOf(t, dup); len(got) < 250 || !maps.Equal(got, want) {
				t.Errorf("%d files, the copy has %d, and they are not the same", len(want), len(got))
			}
		})
	}
}

// TestPartclone holds the map against partclone's.
func TestPartclone(t *testing.T) {
	for _, args := range []string{"", "-m crc=0", "-m rmapbt=1 -b size=1024"} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			img := mkfs(t, 64*mib, args+" -p "+sampleTree(t, 600))
			erase(t, img, 3)
			want := partclone(t, img)
			_, used := mapImage(t, img)
			if lost := extent.Subtract(want, used); len(lost) > 0 {
				t.Errorf("used by partclone and not by us: %v", lost)
			}
			// It leaves out what is kept for the trees, where nothing is written yet.
			fs := open(t, img)
			if over := extent.Subtract(used, want); (over.Bytes()-keptBlocks(t, img, fs)*fs.blockSize)*100 > want.Bytes() {
				t.Errorf("%d bytes too much of %d: %v", over.Bytes(), want.Bytes(), over)
			}
		})
	}
}
