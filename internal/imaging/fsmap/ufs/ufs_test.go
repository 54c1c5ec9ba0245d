package ufs

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/maptest"
)

func TestMain(m *testing.M) { maptest.Main(m) }

// makefs makes a filesystem with files. NetBSD's program does not leave gaps; Linux can only read.
func makefs(t testing.TB, size, options string) string {
	t.Helper()
	dir := t.TempDir()
	for i := range 55 {
		sub := filepath.Join(dir, strconv.Itoa(i%4))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(sub, "file"+strconv.Itoa(i)), bytes.Repeat([]byte("file "+strconv.Itoa(i)), i*i*8), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	img := filepath.Join(t.TempDir(), "img")
	args := strings.Fields(options)
	maptest.Tool(t, "makefs", append(append([]string{"-t", "ffs", "-s", size}, args...), img, dir)...)
	return img
}

func open(t testing.TB, b []byte) *filesystem {
	t.Helper()
	fs := &filesystem{r: bytes.NewReader(b), size: int64(len(b))}
	if _, err := fs.used(); err != nil {
		t.Fatal(err)
	}
	return fs
}

// freeBSD makes one of NetBSD's one of FreeBSD's, which has its superblock at 64 KiB: Linux reads no
// other. It lies within a file there, which has other content from then on.
func freeBSD(t testing.TB, img string) string {
	t.Helper()
	b := maptest.Load(t, img)
	fs := open(t, b)
	if int64(places[0]) < fs.summaryAt*fs.fragment+fs.summaryLen {
		t.Fatal("there is no file at 64 KiB")
	}
	copy(b[places[0]:], b[places[1]:places[1]+superLen])
	clear(b[places[1] : places[1]+superLen])
	fs.order.PutUint64(b[places[0]+1000:], uint64(places[0]))
	copy(b[places[0]+680:], "volume")
	return maptest.Save(t, b)
}

func TestLinux(t *testing.T) {
	t.Parallel()
	var all []maptest.Volume
	for _, c := range []struct{ name, size, options, kind string }{
		{"1", "16m", "-o version=1", "44bsd"},
		{"1-big-endian", "16m", "-B be -o version=1,bsize=4096,fsize=512", "44bsd"},
		{"1-many-groups", "40m", "-o version=1,bsize=4096,fsize=512", "44bsd"},
		{"2", "16m", "-o version=2", "ufs2"},
		{"2-big-endian", "16m", "-B be -o version=2", "ufs2"},
	} {
		img := makefs(t, c.size, c.options)
		if c.kind == "ufs2" {
			img = freeBSD(t, img)
		}
		all = append(all, maptest.Volume{Name: c.name, Img: img, Mount: "-t ufs -o ufstype=" + c.kind, Only: true, Night: c.name == "1"})
	}
	maptest.Linux(t, Used, "modprobe ufs", maptest.Now(all), func(t testing.TB, v maptest.Volume, used extent.List, dup string) {
		maptest.Good(t, Used, v.Img)
		maptest.Good(t, Used, dup)
		if facts, _ := maptest.Map(t, Used, v.Img); used.Bytes() > facts.Len*2/3 {
			t.Errorf("%d bytes of %d are in use", used.Bytes(), facts.Len)
		}
	})
}

// TestNetBSD reads what has its superblock at 8 KiB.
func TestNetBSD(t *testing.T) {
	t.Parallel()
	img := makefs(t, "16m", "-o version=2")
	facts, used := maptest.Good(t, Used, img)
	maptest.Good(t, Used, maptest.Copy(t, img, used, facts))
}

// metadata is where superblock, the summary and the head of the first group lie.
func metadata(t testing.TB, b []byte) extent.List {
	fs := open(t, b)
	group := fs.groupAt * fs.fragment
	free := int64(fs.order.Uint32(b[group+96:]))
	return extent.List{{Off: int64(places[1]), Len: 216}, {Off: int64(places[1]) + 1000, Len: superLen - 1000},
		{Off: group, Len: 120}, {Off: group + free, Len: fs.perGroup / 8}, {Off: fs.summaryAt * fs.fragment, Len: fs.groups * summaryLen}}
}

func TestFlippedBits(t *testing.T) {
	t.Parallel()
	for _, options := range []string{"-B be -o version=1", "-o version=2"} {
		b := maptest.Load(t, makefs(t, "8m", options))
		maptest.Flip(t, Used, b, metadata(t, b), 400)
	}
}

func TestStates(t *testing.T) {
	t.Parallel()
	b := maptest.Load(t, makefs(t, "8m", "-o version=1"))
	places := metadata(t, b)
	super, group, bits, sum := places[0].Off, places[2].Off, places[3].Off, places[4].Off
	set := func(at int64, c byte) func(b []byte) { return func(b []byte) { b[at] = c } }
	check := maptest.Changes(t, Used, b)
	check("as it was", func(b []byte) {}, "", "")
	check("mounted", set(super+209, 0), "not unmounted cleanly", "")
	check("fsck", set(super+1312, 4), "not unmounted cleanly", "")
	check("Solaris", func(b []byte) { clear(b[super+1000 : super+1300]) }, "Solaris", "")
	check("blocks", set(super+49, 7), "blocks of", "")
	check("longer", func(b []byte) { b[super+38], b[super+1082] = 9, 9 }, "the volume has", "")
	check("groups", set(super+44, 7), "7 groups", "")
	check("parts", set(super+9, 9), "have their parts", "")
	check("head", set(super+162, 9), "the head of a group has", "")
	check("shifted", set(super+27, 9), "are shifted by", "")
	check("summary", set(super+155, 9), "a summary of", "")
	check("total", set(super+196, b[super+196]+1), "by the superblock", "")
	check("group", set(group+4, 9), "makes no sense", "")
	check("counts", set(group+28, b[group+28]+1), "by its counts", "")
	check("runs", set(group+56, b[group+56]+1), "times", "")
	check("summary of a group", set(sum+4, b[sum+4]+1), "by the summary", "")
	check("free map", set(bits, 1), "times", "")
	check("two maps", func(b []byte) { b[group+int64(b[group+108])+int64(b[group+109])<<8+40] ^= 1 }, "two maps", "")
	maptest.Unreadable(t, Used, b)
}

// TestShifted has groups that are shifted against each other.
func TestShifted(t *testing.T) {
	fs := &filesystem{perGroup: 1000, shift: 16, shiftMask: ^int64(3)}
	for group, want := range []int64{0, 1016, 2032, 3048, 4000, 5016} {
		if got := fs.start(int64(group)); got != want {
			t.Errorf("group %d begins at %d, want %d", group, got, want)
		}
	}
}

func FuzzUsed(f *testing.F) {
	b := maptest.Load(f, makefs(f, "8m", "-o version=1"))
	maptest.Fuzz(f, Used, b, metadata(f, b), nil)
}
