package ntfs

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"mimeo/internal/imaging/extent"
)

// variants are volumes as mkntfs makes them: all sizes of clusters and sectors.
var variants = []struct {
	name string
	mib  int64
	args string
}{
	{"512", 16, "-c 512"},
	{"1k", 24, "-c 1024"},
	{"2k", 24, "-c 2048"},
	{"4k", 24, "-c 4096"},
	{"8k", 24, "-c 8192"},
	{"16k", 24, "-c 16384"},
	{"32k", 32, "-c 32768"},
	{"64k", 48, "-c 65536"},
	{"128k", 64, "-c 131072"},
	{"256k", 64, "-c 262144"},
	{"512k", 64, "-c 524288"},
	{"1m", 70, "-c 1048576"},
	{"2m", 70, "-c 2097152"},
	{"sector-1k", 24, "-s 1024 -c 4096"},
	{"sector-2k", 24, "-s 2048 -c 2048"},
	{"sector-4k", 24, "-s 4096 -c 4096"},
	{"sector-4k-2m", 70, "-s 4096 -c 2097152"},
	{"small-zone", 24, "-c 1024 -z 4"},
	{"compressed", 24, "-c 4096 -C"},
	{"large-index", 24, "-c 32768 -I"},
}

// sizes of files: resident, in one cluster, in many.
func size(r *rand.Rand, cs int64) int64 {
	n := int64(1) << r.IntN(16)
	if r.IntN(20) == 0 {
		n = cs * 3
	}
	return n + r.Int64N(n)
}

// noise is half random and half repeated, so that it may be compressed.
func noise(r *rand.Rand, n int64) []byte {
	b := make([]byte, n)
	for i := range b {
		if i%8192 < 4096 {
			b[i] = byte(r.Uint32())
		} else {
			b[i] = 'x'
		}
	}
	return b
}

// fill makes files of all kinds, lets some grow by turns so that they lie in pieces, and deletes some.
func fill(t testing.TB, dir string, budget, cs int64) {
	t.Helper()
	r := rand.New(rand.NewPCG(1, uint64(cs)))
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(dir, "packed"), 0o755))
	// FILE_ATTRIBUTE_COMPRESSED of the folder goes to what is made in it. Clusters above 4 KiB cannot be compressed.
	if cs <= 4096 {
		must(unix.Setxattr(filepath.Join(dir, "packed"), "system.ntfs_attrib_be", []byte{0, 0, 8, 0}, 0))
	}
	var names []string
	for i := 0; budget > 0 && i < 300; i++ {
		sub := filepath.Join(dir, fmt.Sprintf("folder %d", i%5))
		if i%7 == 0 {
			sub = filepath.Join(dir, "packed")
		}
		must(os.MkdirAll(sub, 0o755))
		name := filepath.Join(sub, fmt.Sprintf("file with a name of some length %d", i))
		n := min(size(r, cs), budget)
		must(os.WriteFile(name, noise(r, n), 0o644))
		budget -= (n+cs-1)/cs*cs + 1024
		names = append(names, name)
		switch {
		case i%31 == 0:
			must(os.WriteFile(name+":stream", noise(r, min(3000, max(budget, 0))), 0o644))
			budget -= max(cs, 3000)
		case i%29 == 0: // a hole, with something behind it
			f, err := os.OpenFile(name, os.O_WRONLY, 0)
			must(err)
			_, err = f.WriteAt([]byte("end"), 40*max(cs, 4096))
			must(err)
			must(f.Close())
			budget -= cs
		case i%23 == 0:
			must(os.Link(name, name+" too"))
		case i%19 == 0:
			must(os.Symlink("folder 1", name+" link"))
		}
	}
	for round := 0; round < 12 && budget > 8*cs; round++ {
		for i := 7; i < len(names) && i < 40 && budget > 8*cs; i += 8 {
			f, err := os.OpenFile(names[i], os.O_WRONLY|os.O_APPEND, 0)
			must(err)
			_, err = f.Write(noise(r, min(cs+100, 9000)))
			must(err)
			must(f.Close())
			budget -= cs + 9000
		}
	}
	for i := 0; i < len(names); i += 3 {
		must(os.Remove(names[i]))
	}
}

// holds is what the files of a mounted volume hold.
func holds(t testing.TB, img string) map[string]string {
	t.Helper()
	out := map[string]string{}
	mounted(t, img, "ro", func(dir string) {
		err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rel, _ := filepath.Rel(dir, p)
			out[rel] = d.Type().String()
			if !d.Type().IsRegular() {
				return nil
			}
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			out[rel] += fmt.Sprintf(" %x", sha256.Sum256(b))
			if b, err := os.ReadFile(p + ":stream"); err == nil {
				out[rel] += fmt.Sprintf(" %x", sha256.Sum256(b))
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	return out
}

// sameTree compares the files of two volumes.
func sameTree(t testing.TB, a, b string) {
	t.Helper()
	ta, tb := holds(t, a), holds(t, b)
	for p, s := range ta {
		if tb[p] != s {
			t.Fatalf("file %s: was %s, is %s", p, s, tb[p])
		}
	}
	if len(ta) != len(tb) || len(ta) < 5 {
		t.Fatalf("%d files, the copy has %d", len(ta), len(tb))
	}
}

// judge holds what is found on a volume against all others, and makes a copy of it that must be as good.
func judge(t testing.TB, img string) {
	t.Helper()
	facts, used := mapImage(t, img)
	if facts.Whole != "" {
		t.Fatalf("whole: %s", facts.Whole)
	}
	if len(facts.Notes) > 0 {
		t.Errorf("notes %q", facts.Notes)
	}
	for _, c := range [][2]string{{"TYPE", facts.Type}, {"UUID", facts.UUID}, {"LABEL", facts.Label}} {
		if out := tool(t, "blkid", "-p", "-o", "value", "-s", c[0], img); strings.TrimSpace(string(out)) != c[1] {
			t.Errorf("%s is %q, blkid says %q", c[0], c[1], out)
		}
	}
	cs := int64(facts.BlockSize)
	end := (facts.Len - 1) / cs * cs
	byFiles, byBitmap := ntfscluster(t, img)
	if got := used.Clip(extent.Extent{Len: end}).Bytes() / cs; got != byFiles || got != byBitmap {
		t.Errorf("%d clusters in use, ntfscluster says %d by files, %d by the bitmap", got, byFiles, byBitmap)
	}
	want := partclone(t, img)
	if lost := extent.Subtract(want, used); len(lost) > 0 {
		t.Errorf("used by partclone and not by us: %v", lost)
	}
	over := extent.Subtract(used, want).Clip(extent.Extent{Len: end})
	if over.Bytes()*100 > want.Bytes() {
		t.Errorf("%d bytes too much of %d: %v", over.Bytes(), want.Bytes(), over)
	}
	if !used.ContainsAll(extent.Extent{Off: facts.Len - 512, Len: 512}) {
		t.Error("the backup of the boot sector is not captured")
	}
	dup := copyUsed(t, img, used)
	consistent(t, img)
	consistent(t, dup)
	if a, b := tool(t, "ntfsinfo", "-m", img), tool(t, "ntfsinfo", "-m", dup); !bytes.Equal(bytes.ReplaceAll(a, []byte(img), []byte(dup)), b) {
		t.Errorf("ntfsinfo says of the original:\n%s\nand of the copy:\n%s", a, b)
	}
	sameTree(t, img, dup)
}

func TestAgainstOthers(t *testing.T) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			img := mkntfs(t, v.mib<<10, strings.Fields(v.args)...)
			facts, _ := mapImage(t, img)
			mounted(t, img, "", func(dir string) { fill(t, dir, v.mib<<20/4, int64(facts.BlockSize)) })
			judge(t, img)
		})
	}
}
