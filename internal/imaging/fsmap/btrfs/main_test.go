package btrfs

import (
	"bufio"
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
)

const mib = 1 << 20

// TestMain keeps disk images in memory where there is room: tools sync what they write, and disks are slow.
func TestMain(m *testing.M) {
	var st unix.Statfs_t
	if unix.Statfs("/dev/shm", &st) == nil && st.Bavail*uint64(st.Bsize) > 3<<30 {
		os.Setenv("TMPDIR", "/dev/shm")
	}
	// partclone sleeps for two seconds each time.
	flag.Set("test.parallel", "8")
	os.Exit(m.Run())
}

func command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	return cmd
}

// tool runs a program and returns all that it says.
func tool(t testing.TB, name string, args ...string) []byte {
	t.Helper()
	out, err := command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// sparse makes a file of holes.
func sparse(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "img")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

func mapImage(t testing.TB, img string) (fact.Facts, extent.List) {
	t.Helper()
	f, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	facts, used, err := Used(f, st.Size())
	if err != nil {
		t.Fatalf("Used: %v", err)
	}
	if err := used.Valid(); err != nil {
		t.Fatal(err)
	}
	return facts, used
}

// copyUsed writes the used extents of img onto a file full of other bytes.
func copyUsed(t testing.TB, img string, used extent.List) string {
	t.Helper()
	src, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	st, err := src.Stat()
	if err != nil {
		t.Fatal(err)
	}
	dst, err := os.Create(filepath.Join(t.TempDir(), "copy"))
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	junk := bytes.Repeat([]byte("_BHRfS_M\xa5\x5a\xff\x0f\x53\xef\x01\x77"), mib/16)
	for off := int64(0); off < st.Size(); off += mib {
		if _, err := dst.WriteAt(junk[:min(mib, st.Size()-off)], off); err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range used {
		b := make([]byte, e.Len)
		if _, err := src.ReadAt(b, e.Off); err != nil {
			t.Fatal(err)
		}
		if _, err := dst.WriteAt(b, e.Off); err != nil {
			t.Fatal(err)
		}
	}
	return dst.Name()
}

// dumpTree returns what dump-tree calls used, by its chunks and extents. coarse is what partclone may take for used: it
// takes logical addresses of data for those of the device, too, and of a chunk that holds tree blocks once all of it.
func dumpTree(t testing.TB, img string) (list, coarse extent.List) {
	t.Helper()
	type chunkLine struct {
		start, length int64
		once          bool // tree blocks, without a copy
		offs          []int64
	}
	devid := regexp.MustCompile(`dev_item\.devid\s+(\d+)`).FindStringSubmatch(string(tool(t, "btrfs", "inspect-internal", "dump-super", img)))[1]
	number := func(s string) int64 {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	lines := func(tree string, f func(line string)) {
		sc := bufio.NewScanner(bytes.NewReader(tool(t, "btrfs", "inspect-internal", "dump-tree", "-t", tree, img)))
		for sc.Scan() {
			f(sc.Text())
		}
	}
	var cs []chunkLine
	item := regexp.MustCompile(`item \d+ key \((\w+) (\w+) (\d+)\)`)
	is := false
	length := regexp.MustCompile(`^\s+length (\d+) owner .* type (\S+)`)
	stripeRE := regexp.MustCompile(`stripe \d+ devid (\d+) offset (\d+)`)
	lines("chunk", func(s string) {
		if m := item.FindStringSubmatch(s); m != nil {
			if is = m[2] == "CHUNK_ITEM"; is {
				cs = append(cs, chunkLine{start: number(m[3])})
			}
		} else if m := length.FindStringSubmatch(s); m != nil && is {
			c := &cs[len(cs)-1]
			c.length, c.once = number(m[1]), strings.HasSuffix(m[2], "|single") && m[2] != "DATA|single"
		} else if m := stripeRE.FindStringSubmatch(s); m != nil && is && m[1] == devid {
			cs[len(cs)-1].offs = append(cs[len(cs)-1].offs, number(m[2]))
		}
	})
	node := number(regexp.MustCompile(`nodesize\s+(\d+)`).FindStringSubmatch(string(tool(t, "btrfs", "inspect-internal", "dump-super", img)))[1])
	var all, addrs []extent.Extent
	lines("extent", func(s string) {
		m := item.FindStringSubmatch(s)
		if m == nil || m[2] != "EXTENT_ITEM" && m[2] != "METADATA_ITEM" {
			return
		}
		start, n := number(m[1]), number(m[3])
		if m[2] == "METADATA_ITEM" {
			n = node
		}
		addrs = append(addrs, extent.Extent{Off: start, Len: n})
		for _, c := range cs {
			if start >= c.start && start < c.start+c.length {
				for _, off := range c.offs {
					if c.once {
						addrs = append(addrs, extent.Extent{Off: off, Len: c.length})
					}
					all = append(all, extent.Extent{Off: off + start - c.start, Len: n})
				}
			}
		}
	})
	if len(cs) < 2 || len(all) < 4 {
		t.Fatalf("dump-tree: %d chunks, %d extents", len(cs), len(all))
	}
	return extent.FromUnsorted(all), extent.FromUnsorted(addrs)
}

// partclone returns what partclone.btrfs calls used.
func partclone(t testing.TB, img string) extent.List {
	t.Helper()
	domain := filepath.Join(t.TempDir(), "domain")
	tool(t, "partclone.btrfs", "-q", "-D", "-L", domain+".log", "-s", img, "-o", domain)
	b, err := os.ReadFile(domain)
	if err != nil {
		t.Fatal(err)
	}
	var list extent.List
	for _, m := range regexp.MustCompile(`(?m)^(0x\w+)\s+(0x\w+)\s+\+$`).FindAllSubmatch(b, -1) {
		off, err1 := strconv.ParseInt(string(m[1]), 0, 64)
		n, err2 := strconv.ParseInt(string(m[2]), 0, 64)
		if err1 != nil || err2 != nil {
			t.Fatalf("partclone: %q", m[0])
		}
		list.Add(extent.Extent{Off: off, Len: n})
	}
	if len(list) == 0 {
		t.Fatalf("partclone says nothing: %q", b)
	}
	return list
}

// check asks btrfs check, which reads all metadata and data.
func check(t testing.TB, img string) {
	t.Helper()
	out, err := command("btrfs", "check", "--readonly", "--force", "--check-data-csum", img).CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("no error found")) {
		t.Errorf("btrfs check %s: %v\n%s", img, err, out)
	}
}

// fixed is what is captured whatever the trees say.
func fixed(size int64) extent.List {
	list := extent.List{{Off: 0, Len: reserved}}
	for _, off := range superOff {
		list.Add(extent.Extent{Off: off, Len: superLen})
	}
	return list.Clip(extent.Extent{Len: size})
}

// judge holds what is used of an image that is not mounted against all others, and copies it. It returns the copy.
func judge(t testing.TB, img string) string {
	t.Helper()
	facts, used := mapImage(t, img)
	if facts.Whole != "" {
		t.Fatalf("whole: %s", facts.Whole)
	}
	want, coarse := dumpTree(t, img)
	want = extent.Union(want, fixed(facts.Len))
	if lost := extent.Subtract(want, used); len(lost) > 0 {
		t.Errorf("used by dump-tree and not by us: %v", lost)
	}
	if over := extent.Subtract(used, want); len(over) > 0 {
		t.Errorf("too much by dump-tree: %v", over)
	}
	const most = 64 << 10 // it thinks in whole tree blocks
	known := extent.Union(used.AlignOut(most), coarse.AlignOut(most))
	if lost := extent.Subtract(partclone(t, img), known); len(lost) > 0 {
		t.Errorf("used by partclone and not by us: %v", lost)
	}
	for _, tag := range []struct{ name, value string }{{"TYPE", facts.Type}, {"UUID", facts.UUID}, {"LABEL", facts.Label}, {"BLOCK_SIZE", strconv.Itoa(facts.BlockSize)}} {
		out, _ := command("blkid", "-p", "-o", "value", "-s", tag.name, img).Output()
		if got := strings.TrimRight(string(out), "\n"); got != tag.value {
			t.Errorf("%s is %q, blkid says %q", tag.name, tag.value, got)
		}
	}
	dup := copyUsed(t, img, used)
	check(t, dup)
	return dup
}
