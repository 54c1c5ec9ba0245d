package vfat

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"mimeo/internal/imaging/extent"
)

// variants are volumes as mkfs.vfat makes them. partclone (0.3.23) misreads the entries of FAT12, and is not asked.
var variants = []struct {
	name string
	kib  int64
	kind string
	args string
}{
	{"12-floppy", 1440, "", "-F 12"},
	{"12", 15 << 10, "", "-F 12"},
	{"12-one-table", 4 << 10, "", "-F 12 -f 1 -s 4"},
	{"12-sector-4k", 12 << 10, "", "-F 12 -S 4096 -s 1"},
	{"12-big-clusters", 48 << 10, "", "-F 12 -s 64"},
	{"16", 40 << 10, "fat16", "-F 16"},
	{"16-sector-1k", 60 << 10, "fat16", "-F 16 -S 1024 -s 2"},
	{"16-sector-2k", 40 << 10, "fat16", "-F 16 -S 2048 -s 1"},
	{"16-sector-4k", 40 << 10, "fat16", "-F 16 -S 4096 -s 1"},
	{"16-small-root", 12 << 10, "fat16", "-F 16 -s 1 -r 32 -R 17 -a"},
	{"16-big-clusters", 70 << 10, "fat16", "-F 16 -s 32"},
	{"32", 40 << 10, "fat32", "-F 32 -s 1"},
	{"32-clusters-2k", 140 << 10, "fat32", "-F 32 -s 4"},
	{"32-one-table", 40 << 10, "fat32", "-F 32 -s 1 -f 1"},
	{"32-four-tables", 40 << 10, "fat32", "-F 32 -s 1 -f 4"},
	{"32-sector-4k", 264 << 10, "fat32", "-F 32 -S 4096 -s 1"},
	{"32-reserved", 40 << 10, "fat32", "-F 32 -s 1 -R 600 -b 300"},
}

// files are what a volume holds by its names.
func files(t testing.TB, img string) map[string][]byte {
	dir := filepath.Join(t.TempDir(), "files")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	tool(t, "mcopy", "-s", "-n", "-i", img, "::*", dir)
	out := map[string][]byte{}
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		out[rel] = nil
		if d.Type().IsRegular() {
			out[rel], err = os.ReadFile(p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 10 {
		t.Fatalf("only %d files", len(out))
	}
	return out
}

// showfat returns the clusters that mshowfat says the files have.
func showfat(t testing.TB, img string, names map[string][]byte) []cluster {
	t.Helper()
	args := []string{"-i", img}
	for name := range names {
		args = append(args, "::"+name)
	}
	var all []cluster
	for _, m := range regexp.MustCompile(`<(\d+)(?:-(\d+))?>`).FindAllSubmatch(tool(t, "mshowfat", args...), -1) {
		from, _ := strconv.Atoi(string(m[1]))
		to := from
		if len(m[2]) > 0 {
			to, _ = strconv.Atoi(string(m[2]))
		}
		for n := from; n <= to; n++ {
			all = append(all, cluster(n))
		}
	}
	return all
}

// sameFiles compares the files of two volumes.
func sameFiles(t testing.TB, fa, fb map[string][]byte) {
	t.Helper()
	for p, s := range fa {
		if other, ok := fb[p]; !ok || !bytes.Equal(s, other) {
			t.Fatalf("file %s is not the same", p)
		}
	}
	if len(fa) != len(fb) {
		t.Fatalf("%d files, the copy has %d", len(fa), len(fb))
	}
}

// judge holds what is found on a volume against all others, and makes a copy of it that must be as good.
func judge(t testing.TB, img, kind string) {
	t.Helper()
	facts, used := mapImage(t, img)
	if facts.Whole != "" || len(facts.Notes) > 0 {
		t.Fatalf("whole: %s, notes %q", facts.Whole, facts.Notes)
	}
	for _, c := range [][2]string{{"TYPE", facts.Type}, {"UUID", facts.UUID}, {"LABEL", facts.Label}} {
		if out := tool(t, "blkid", "-p", "-o", "value", "-s", c[0], img); strings.TrimSpace(string(out)) != c[1] {
			t.Errorf("%s is %q, blkid says %q", c[0], c[1], out)
		}
	}
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	v := open(t, b)
	count, all := v.marked.Count(), int64(v.clusters)
	if v.copies <= 2 { // fsck.vfat knows no more
		count, all = fsck(t, img)
	}
	if v.marked.Count() != count || int64(v.clusters) != all {
		t.Errorf("%d clusters of %d in use, fsck.vfat says %d of %d", v.marked.Count(), v.clusters, count, all)
	}
	data := extent.Extent{Off: v.dataAt, Len: int64(v.clusters) * v.clusterSize}
	if got := used.Clip(data).Bytes(); got != count*v.clusterSize {
		t.Errorf("%d bytes in use, %d clusters of %d", got, count, v.clusterSize)
	}
	have := files(t, img)
	shown := showfat(t, img, have)
	if v.bits == 32 {
		shown = append(shown, v.root) // whose other clusters, if any, fsck.vfat has counted
	}
	for _, n := range shown {
		if !used.ContainsAll(extent.Extent{Off: v.dataAt + int64(n-2)*v.clusterSize, Len: v.clusterSize}) {
			t.Errorf("cluster %d is missing", n)
		}
	}
	if n := int64(len(shown)); n > count || n+2 < count {
		t.Errorf("mshowfat knows %d clusters of %d", n, count)
	}
	if kind != "" {
		want := partclone(t, img, kind)
		if lost := extent.Subtract(want, used); len(lost) > 0 {
			t.Errorf("used by partclone and not by us: %v", lost)
		}
		over := extent.Subtract(used, want).Clip(extent.Extent{Len: data.End()})
		if over.Bytes()*100 > want.Bytes() {
			t.Errorf("%d bytes too much of %d: %v", over.Bytes(), want.Bytes(), over)
		}
	}
	dup := copyUsed(t, img, used)
	if v.copies <= 2 {
		fsck(t, dup)
	}
	if a, b := tool(t, "minfo", "-i", img), tool(t, "minfo", "-i", dup); !bytes.Equal(bytes.ReplaceAll(a, []byte(img), []byte(dup)), b) {
		t.Errorf("minfo says of the original:\n%s\nand of the copy:\n%s", a, b)
	}
	sameFiles(t, have, files(t, dup))
}

func TestAgainstOthers(t *testing.T) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			img := mkfs(t, v.kib, strings.Fields(v.args)...)
			facts, used := mapImage(t, img)
			if facts.Whole != "" || used.Bytes() > v.kib<<10/2 {
				t.Errorf("empty: %+v, %d bytes", facts, used.Bytes())
			}
			fill(t, img, min(v.kib<<10/3, 8<<20), int64(facts.BlockSize))
			judge(t, img, v.kind)
		})
	}
}

// TestMformat reads what other programs make: mtools writes no alignment, and another second entry.
func TestMformat(t *testing.T) {
	for _, c := range []struct {
		name, kind string
		args       string
	}{
		{"floppy", "", "-f 1440"},
		{"12", "", "-T 16000 -h 16 -s 63 -c 8"},
		{"16", "fat16", "-T 81920 -h 16 -s 63"},
		{"32", "fat32", "-T 163840 -h 16 -s 63 -F -c 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			img := filepath.Join(t.TempDir(), "img")
			tool(t, "mformat", append(append([]string{"-C", "-v", "LABEL", "-i", img}, strings.Fields(c.args)...), "::")...)
			facts, _ := mapImage(t, img)
			if facts.Whole != "" {
				t.Fatal(facts.Whole)
			}
			fill(t, img, 500<<10, int64(facts.BlockSize))
			judge(t, img, c.kind)
		})
	}
}

// TestBehind reads a volume in a larger partition: what lies behind it is not the filesystem's.
func TestBehind(t *testing.T) {
	img := mkfs(t, 20<<10, "-F", "16", "-s", "2")
	fill(t, img, 2<<20, 1024)
	_, alone := mapImage(t, img)
	if err := os.Truncate(img, 64<<20); err != nil {
		t.Fatal(err)
	}
	facts, used := mapImage(t, img)
	if facts.Whole != "" || facts.Len != 20<<20 || len(extent.Subtract(used, alone)) > 0 || len(extent.Subtract(alone, used)) > 0 {
		t.Errorf("%+v, %v, was %v", facts, used, alone)
	}
	if err := os.Truncate(img, 20<<20-512); err != nil {
		t.Fatal(err)
	}
	if facts, _ = mapImage(t, img); !strings.Contains(facts.Whole, "more than the volume") {
		t.Errorf("cut off: %+v", facts)
	}
}

// TestFewClusters reads a FAT32 that has so few clusters that by Microsoft's rule it would be FAT16, as they are made
// for boot partitions.
func TestFewClusters(t *testing.T) {
	img := mkfs(t, 40<<10, "-F", "32", "-s", "1")
	fill(t, img, 2<<20, 512)
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	v := open(t, b)
	sectors := uint32(v.dataAt/v.sector) + uint32(minFAT32) - 1
	le.PutUint32(b[0x20:], sectors)
	le.PutUint32(b[v.backup*v.sector+0x20:], sectors)
	info := b[v.info*v.sector+0x1e8:]
	le.PutUint32(info, le.Uint32(info)-uint32(v.clusters-minFAT32+1))
	if err := os.WriteFile(img, b, 0o600); err != nil {
		t.Fatal(err)
	}
	facts, used := mapImage(t, img)
	if facts.Whole != "" || len(facts.Notes) > 0 {
		t.Fatalf("%+v", facts)
	}
	count, all := fsck(t, img)
	v = open(t, b)
	if v.clusters != minFAT32-1 || int64(v.clusters) != all || v.marked.Count() != count {
		t.Errorf("%d clusters of %d, fsck.vfat says %d of %d", v.marked.Count(), v.clusters, count, all)
	}
	want := partclone(t, img, "fat32")
	if lost := extent.Subtract(want, used); len(lost) > 0 {
		t.Errorf("used by partclone and not by us: %v", lost)
	}
	if n, _ := fsck(t, copyUsed(t, img, used)); n != count {
		t.Errorf("the copy has %d clusters in use, %d", n, count)
	}
}
