package leaveout

import (
	"bytes"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/ext4"
)

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"/tmp", "/tmp", true}, {"/tmp", "/var/tmp", false}, {"tmp", "/var/tmp", true}, {"/var/*", "/var/cache", true},
		{"/var/*", "/var/cache/apt", false}, {"/var/**", "/var/cache/apt", true}, {"/var/**/x", "/var/x", true},
		{"/**/x/**/y", "/a/x/b/x/c/y", true}, {"/**/x/**/y", "/a/x/b/z", false}, {"*.iso", "/home/a/b.iso", true},
		{"a/*.iso", "/home/a/b.iso", true}, {"a/*.iso", "/home/b/b.iso", false}, {"/home/[ab]/?", "/home/b/c", true},
		{"/**/a/**/a/**/a/**/b", "/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/c", false}, {"/tmp/", "/tmp", true},
	} {
		if got := newPattern(c.pattern).match(c.name); got != c.want {
			t.Errorf("%s, %s: %t", c.pattern, c.name, got)
		}
		for dir := path.Dir(c.name); c.want; dir = path.Dir(dir) {
			if !newPattern(c.pattern).reaches(dir) {
				t.Errorf("%s does not reach below %s", c.pattern, dir)
			}
			if dir == "/" {
				break
			}
		}
	}
	for _, dir := range []string{"/home", "/snapshots/1", "/var/log/x"} {
		for _, p := range []string{"/var/*", "/v*/log", "/var/cache/apt"} {
			if newPattern(p).reaches(dir) {
				t.Errorf("%s reaches below %s", p, dir)
			}
		}
	}
	for _, bad := range []string{"", "/", "[", "/../x", "a/[b"} {
		if (Rules{Patterns: []string{bad}}).Check() == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func sh(t *testing.T, script string, args ...string) string {
	t.Helper()
	out, err := exec.Command("sh", append([]string{"-euc", script, "sh"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// TestFind zeroes what it finds and looks at the filesystem with other programs.
func TestFind(t *testing.T) {
	dir := t.TempDir()
	sh(t, `cd "$1"; mkdir -p tree/etc tree/var/cache/apt tree/tmp tree/home/a
		echo "/extra/swap none swap sw 0 0" >tree/etc/fstab
		for f in var/cache/apt/one var/cache/two tmp/x home/a/big.iso home/a/keep pagefile.sys home/a/pagefile.sys hard1; do yes "$f" | head -c 100000 >tree/$f; done
		ln tree/hard1 tree/tmp/hard2
		mkdir tree/extra; head -c 300000 /dev/urandom >tree/extra/swap; mkswap -q tree/extra/swap 2>/dev/null
		head -c 300000 /dev/urandom >tree/swapfile
		mke2fs -q -F -t ext4 -b 1024 -d tree img 16m`, dir)
	img := filepath.Join(dir, "img")
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	fs, err := ext4.OpenTree(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	rules := Rules{Patterns: []string{"/tmp", "/var/cache", "*.iso"}, Swap: true}
	found, err := Find(fs, rules, func(add func(extent.Extent)) (string, error) {
		return ext4.Claims(bytes.NewReader(b), int64(len(b)), add)
	})
	if err != nil {
		t.Fatal(err)
	}
	if found.Files != 6 || len(found.Notes) != 1 || !strings.Contains(found.Notes[0], "hard2") {
		t.Errorf("%d files, notes %q", found.Files, found.Notes)
	}
	before := map[string]string{}
	list := func(out map[string]string) {
		sh(t, `cd "$1"; rm -rf out; mkdir out; debugfs -R "rdump / out" img 2>/dev/null`, dir)
		filepath.Walk(filepath.Join(dir, "out"), func(p string, info os.FileInfo, err error) error {
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode().IsRegular() {
				c, _ := os.ReadFile(p)
				rel, _ := filepath.Rel(filepath.Join(dir, "out"), p)
				out[rel] = string(c)
			}
			return nil
		})
	}
	list(before)
	for _, e := range found.Extents {
		clear(b[e.Off:e.End()])
	}
	if err := os.WriteFile(img, b, 0o644); err != nil {
		t.Fatal(err)
	}
	sh(t, `e2fsck -fn "$1"`, img)
	after := map[string]string{}
	list(after)
	out := []string{"extra/swap", "home/a/big.iso", "pagefile.sys", "tmp/x", "var/cache/apt/one", "var/cache/two"}
	for name, was := range before {
		is := after[name]
		switch left := slices.Contains(out, name); {
		case !left && is != was:
			t.Errorf("%s was changed", name)
		case left && len(is) != len(was):
			t.Errorf("%s has %d bytes, had %d", name, len(is), len(was))
		case name == "extra/swap":
			if is[:64<<10] != was[:64<<10] || strings.Trim(is[64<<10:], "\x00") != "" {
				t.Error("of the swap file not all but the header is zero")
			}
		case left && strings.Trim(is, "\x00") != "":
			t.Errorf("%s is not zero", name)
		}
	}
}

// TestDamage finds nothing outside of a volume, whatever is damaged.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	sh(t, `cd "$1"; mkdir -p tree/tmp/a; seq 9999 >tree/tmp/a/b; seq 999 >tree/tmp/c; mke2fs -q -F -t ext4 -O ^metadata_csum -b 1024 -d tree img 4m`, dir)
	b, err := os.ReadFile(filepath.Join(dir, "img"))
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(b)
	for i := 2048; i < 600<<10; i += 97 {
		copy(bad, b[:600<<10])
		bad[i] ^= 0x10
		bad[i/2+1024] ^= 4
		fs, err := ext4.OpenTree(bytes.NewReader(bad), int64(len(bad)))
		if err != nil {
			continue
		}
		found, err := Find(fs, Rules{Patterns: []string{"/tmp", "**"}, Swap: true}, func(add func(extent.Extent)) (string, error) {
			return ext4.Claims(bytes.NewReader(bad), int64(len(bad)), add)
		})
		if err != nil {
			t.Fatal(err)
		}
		if found.Extents.Valid() != nil || extent.Subtract(found.Extents, extent.List{{Len: int64(len(bad))}}).Bytes() > 0 {
			t.Fatalf("%v", found.Extents)
		}
	}
}

// TestSharedBlocks keeps what another file of a damaged filesystem claims as well, and all after a crash.
func TestSharedBlocks(t *testing.T) {
	dir := t.TempDir()
	out := sh(t, `cd "$1"; mkdir -p tree/tmp; head -c 20000 /dev/urandom >tree/tmp/x; head -c 20000 /dev/urandom >tree/keep
		mke2fs -q -F -t ext2 -b 1024 -d tree img 4m
		debugfs -R "bmap /tmp/x 3" img 2>/dev/null; debugfs -R "bmap /tmp/x 9" img 2>/dev/null`, dir)
	blocks := strings.Fields(out)
	blocks = blocks[len(blocks)-2:]
	find := func() Found {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, "img"))
		if err != nil {
			t.Fatal(err)
		}
		fs, err := ext4.OpenTree(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		found, err := Find(fs, Rules{Patterns: []string{"/tmp"}}, func(add func(extent.Extent)) (string, error) {
			return ext4.Claims(bytes.NewReader(b), int64(len(b)), add)
		})
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	if f := find(); f.Extents.Bytes() != 20<<10 || len(f.Notes) > 0 {
		t.Fatalf("%+v", f)
	}
	sh(t, `cd "$1"; cp img sound; debugfs -w -R "sif /keep block[2] $2" img`, dir, blocks[0])
	f := find()
	n := extent.List{}
	if len(blocks) == 2 {
		var nr int64
		for _, c := range blocks[0] {
			nr = nr*10 + int64(c-'0')
		}
		n = extent.List{{Off: nr * 1024, Len: 1024}}
	}
	if extent.Subtract(n, f.Extents).Bytes() != 1024 || len(f.Notes) != 1 || !strings.Contains(f.Notes[0], "another file claims them too") {
		t.Errorf("%+v, block %v", f, n)
	}
	// An inode whose map leads out of the filesystem: what it holds is not known.
	sh(t, `cd "$1"; cp sound img; debugfs -w -R "sif /keep block[2] 99999999" img`, dir)
	if f := find(); len(f.Extents) > 0 || !strings.Contains(f.Notes[0], "nothing is left out: inode") {
		t.Errorf("%+v", f)
	}
}
