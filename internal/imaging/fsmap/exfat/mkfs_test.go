package exfat

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mimeo/internal/imaging/extent"
)

// variants are volumes as mkfs.exfat makes them.
var variants = []struct {
	name   string
	mib    int64
	sector int
	args   string
}{
	{"512", 16, 512, "-c 512 -b 4K"},
	{"2k", 16, 512, "-c 2K"},
	{"4k", 24, 512, "-c 4K -b 64K"},
	{"32k", 48, 512, "-c 32K"},
	{"128k", 64, 512, "-c 128K"},
	{"1m", 96, 512, "-c 1M"},
	{"packed", 48, 512, "-c 4K --pack-bitmap"},
	{"aligned", 64, 512, "-c 16K -b 8M"},
	{"sector-4k", 32, 4096, "-c 4K -b 64K"},
	{"sector-4k-64k", 64, 4096, "-c 64K"},
}

// noise is n bytes that are in no other file.
func noise(r *rand.Rand, n int64) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// fill makes files and folders, lets some grow by turns so that they lie in pieces, and deletes some.
func fill(t testing.TB, dir string, budget, cluster int64) {
	t.Helper()
	r := rand.New(rand.NewPCG(1, uint64(cluster)))
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	left := budget / 2
	for i := 0; i < 150 && left > 0; i++ {
		sub := filepath.Join(dir, []string{"", "folder", "folder/inner", "Ordner mit längerem Namen"}[i%4])
		must(os.MkdirAll(sub, 0o755))
		name := filepath.Join(sub, fmt.Sprintf("file with a name of some length %d", i))
		n := min(r.Int64N(3)*cluster+r.Int64N(cluster)*r.Int64N(2), left)
		must(os.WriteFile(name, noise(r, n), 0o644))
		left -= n + cluster
		names = append(names, name)
	}
	left = budget / 2
	for round := 0; round < 12 && left > 8*cluster; round++ {
		for i := 7; i < len(names) && i < 40 && left > 4*cluster; i += 8 {
			f, err := os.OpenFile(names[i], os.O_WRONLY|os.O_APPEND, 0)
			must(err)
			_, err = f.Write(noise(r, cluster+100))
			must(err)
			must(f.Close())
			left -= 2 * cluster
		}
	}
	for i := 0; i < len(names); i += 3 {
		must(os.Remove(names[i]))
	}
}

// content is what the files of a volume hold.
func content(t testing.TB, img string) map[string]string {
	t.Helper()
	out := map[string]string{}
	mounted(t, img, func(dir string) {
		err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rel, _ := filepath.Rel(dir, p)
			out[rel] = d.Type().String()
			if d.Type().IsRegular() {
				b, err := os.ReadFile(p)
				out[rel] += fmt.Sprintf(" %x", sha256.Sum256(b))
				return err
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	return out
}

// sameFiles compares the files of two volumes.
func sameFiles(t testing.TB, a, b string) {
	t.Helper()
	ta, tb := content(t, a), content(t, b)
	for p, s := range ta {
		if tb[p] != s {
			t.Fatalf("file %s: was %s, is %s", p, s, tb[p])
		}
	}
	if len(ta) != len(tb) || len(ta) < 8 {
		t.Fatalf("%d files, the copy has %d", len(ta), len(tb))
	}
}

// judge holds what is found on a volume against all others, and makes a copy of it that must be as good.
func judge(t testing.TB, img string) {
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
	count, all := dump(t, img)
	heap := extent.Extent{Off: v.heapAt, Len: int64(v.clusters) * v.clusterSize}
	if got := used.Clip(heap).Bytes() / v.clusterSize; got != count || int64(v.clusters) != all || v.claimed.Count() != count {
		t.Errorf("%d clusters of %d in use, %d by files, dump.exfat says %d of %d", got, v.clusters, v.claimed.Count(), count, all)
	}
	want := partclone(t, img)
	if lost := extent.Subtract(want, used); len(lost) > 0 {
		t.Errorf("used by partclone and not by us: %v", lost)
	}
	over := extent.Subtract(used, want).Clip(extent.Extent{Len: heap.End()})
	if over.Bytes()*100 > want.Bytes() {
		t.Errorf("%d bytes too much of %d: %v", over.Bytes(), want.Bytes(), over)
	}
	dup := copyUsed(t, img, used)
	if a, b := fsck(t, img), fsck(t, dup); a != b {
		t.Errorf("fsck.exfat says of the original %q, of the copy %q", a, b)
	}
	if a, b := tool(t, "dump.exfat", img), tool(t, "dump.exfat", dup); string(a) != string(b) {
		t.Errorf("dump.exfat says of the original:\n%s\nand of the copy:\n%s", a, b)
	}
	sameFiles(t, img, dup)
}

func TestAgainstOthers(t *testing.T) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			img := mkfs(t, v.mib<<10, v.sector, strings.Fields(v.args)...)
			facts, used := mapImage(t, img)
			if facts.Whole != "" || len(facts.Notes) > 0 || used.Bytes() > v.mib<<20/2 {
				t.Errorf("empty: %+v, %d bytes", facts, used.Bytes())
			}
			mounted(t, img, func(dir string) { fill(t, dir, v.mib<<20/3, int64(facts.BlockSize)) })
			judge(t, img)
		})
	}
}

// TestBehind reads a volume in a larger partition: what lies behind it is not the filesystem's.
func TestBehind(t *testing.T) {
	img := mkfs(t, 20<<10, 512, "-c", "4K")
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
