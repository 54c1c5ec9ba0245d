package reiserfs

import (
	"bytes"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
	"mimeo/internal/imaging/fsmap/maptest"
	"mimeo/internal/night"
)

func TestMain(m *testing.M) { maptest.Main(m) }

func open(t testing.TB, b []byte) *filesystem {
	t.Helper()
	fs := &filesystem{r: bytes.NewReader(b), size: int64(len(b))}
	if _, err := fs.used(); err != nil {
		t.Fatal(err)
	}
	return fs
}

// metadata is where superblock, map, the head of the journal and the root of the tree lie.
func metadata(t testing.TB, b []byte) extent.List {
	fs := open(t, b)
	return extent.List{{Off: superOff, Len: 84}, {Off: fs.mapPlace(0) * fs.block, Len: fs.blocks / 8},
		{Off: (fs.journalAt + fs.journalLen) * fs.block, Len: 44}, {Off: fs.root * fs.block, Len: fs.block}}
}

// debugreiserfs returns what that program says is in use.
func debugreiserfs(t testing.TB, img string, fs *filesystem) extent.List {
	t.Helper()
	said := maptest.Tool(t, "debugreiserfs", "-m", img)
	var list []extent.Extent
	block := int64(-1)
	for _, line := range strings.Split(said, "\n") {
		if !strings.HasPrefix(line, "#") {
			continue
		}
		block++
		for _, m := range regexp.MustCompile(`Busy ?\((\d+)-(\d+)\)|Busy ?\((\d+)\)`).FindAllStringSubmatch(line, -1) {
			from, _ := strconv.ParseInt(m[1]+m[3], 10, 64)
			to, _ := strconv.ParseInt(m[2]+m[3], 10, 64)
			if to = min(to, fs.blocks-1); from <= to {
				list = append(list, extent.Extent{Off: from * fs.block, Len: (to - from + 1) * fs.block})
			}
		}
	}
	if len(list) == 0 {
		t.Fatalf("debugreiserfs says: %s", said)
	}
	return extent.FromUnsorted(list)
}

func TestLinux(t *testing.T) {
	t.Parallel()
	all := []maptest.Volume{
		{Name: "small", Img: maptest.Make(t, 12<<20, "mkfs.reiserfs -q -f -s 513 -l Gruesse"), Mount: "-t reiserfs", KiB: 1000, Keep: "small"},
		{Name: "default", Img: maptest.Make(t, 200<<20+512, "mkfs.reiserfs -q -f"), Mount: "-t reiserfs", KiB: 1000, Night: true},
		{Name: "blocks", Img: maptest.Make(t, 64<<20, "mkfs.reiserfs -q -f -b 1024"), Mount: "-t reiserfs", KiB: 1000},
		{Name: "crashed", Img: maptest.Make(t, 40<<20, "mkfs.reiserfs -q -f"), Mount: "-t reiserfs", Crash: "not unmounted cleanly"},
	}
	maptest.Linux(t, Used, "", maptest.Now(all), func(t testing.TB, v maptest.Volume, used extent.List, dup string) {
		maptest.Against(t, "debugreiserfs", debugreiserfs(t, v.Img, open(t, maptest.Load(t, v.Img))), used)
		maptest.Tool(t, "reiserfsck", "-y", "-q", "--check", dup)
	})
}

// TestOld reads one of format 3.5, which Linux 6.1 does not mount as mkfs.reiserfs makes it.
func TestOld(t *testing.T) {
	t.Parallel()
	img := maptest.Make(t, 64<<20, "mkfs.reiserfs -q -f --format 3.5")
	facts, used := maptest.Good(t, Used, img)
	maptest.Against(t, "debugreiserfs", debugreiserfs(t, img, open(t, maptest.Load(t, img))), used)
	maptest.Tool(t, "reiserfsck", "-y", "-q", "--check", maptest.Copy(t, img, used, facts))
}

func TestAgain(t *testing.T) {
	night.Only(t)
	t.Parallel()
	maptest.Again(t, Used, "", "-t reiserfs", "small")
}

func TestFlippedBits(t *testing.T) {
	t.Parallel()
	b := maptest.Load(t, "small")
	maptest.Flip(t, Used, b, metadata(t, b), 400)
}

func TestStates(t *testing.T) {
	t.Parallel()
	b := maptest.Load(t, "small")
	fs := open(t, b)
	head, root := (fs.journalAt+fs.journalLen)*fs.block, fs.root*fs.block
	super := func(at int, c byte) func(b []byte) { return func(b []byte) { b[superOff+at] = c } }
	check := maptest.Changes(t, Used, b)
	check("as it was", func(b []byte) {}, "", "")
	check("mounted", super(50, 2), "not unmounted cleanly", "")
	check("being checked", super(62, 1), "reiserfsck did not end", "")
	check("blocks", super(45, 3), "blocks of", "")
	check("longer", super(3, 1), "the volume has", "")
	check("shorter", super(1, 0x0b), "behind the last block", "")
	check("version", super(72, 9), "version 9", "")
	check("journal elsewhere", super(16, 9), "lies on another disk", "")
	check("journal nowhere", super(15, 9), "a journal of", "")
	check("height", super(68, 20), "a tree of", "")
	check("maps", super(70, 2), "blocks of the map", "")
	check("free", super(4, b[superOff+4]+1), "by the superblock", "")
	check("root", super(8, b[superOff+8]+1), "the tree", "")
	check("head of the journal", func(b []byte) { b[head+12]++ }, "the head of the journal", "")
	check("waiting", func(b []byte) {
		at := (fs.journalAt + int64(le.Uint32(b[head+4:]))) * fs.block
		le.PutUint32(b[at:], le.Uint32(b[head:])+1)
		copy(b[at+fs.block-12:], descMagic)
	}, "waits to be replayed", "")
	check("level", func(b []byte) { b[root]++ }, "is of level", "")
	check("keys", func(b []byte) { b[root+2]++ }, "keys", "")
	check("twice", func(b []byte) {
		first := root + nodeHead + int64(le.Uint16(b[root+2:]))*keyLen
		copy(b[first:first+4], b[first+childLen:])
	}, "belongs to something else", "")
	check("exchanged", func(b []byte) { // one in use is free, and one that is free in use
		b[fs.mapPlace(0)*fs.block+fs.root/8] ^= 1 << (fs.root % 8)
		last := fs.marked.Next(0, fs.blocks, false)
		b[fs.mapPlace(0)*fs.block+last/8] ^= 1 << (last % 8)
	}, "marked as free", "")
	check("block of nobody", func(b []byte) {
		last := fs.marked.Next(0, fs.blocks, false)
		b[fs.mapPlace(0)*fs.block+last/8] ^= 1 << (last % 8)
		le.PutUint32(b[superOff+4:], uint32(fs.free-1))
	}, "", "1 blocks are marked as used and belong to no file")
	maptest.Unreadable(t, Used, b)
}

// TestLeaf reads a leaf with items of both formats, and one of a truncation that was interrupted.
func TestLeaf(t *testing.T) {
	const at = 3
	b := make([]byte, 1024)
	fs := &filesystem{block: 1024, blocks: 64, marked: fact.NewBitmap(64), owned: fact.NewBitmap(64)}
	for i := range int64(32) {
		fs.marked.Set(i)
	}
	end := len(b)
	items := []struct {
		folder  uint32
		version uint16
		typ     byte // of the new format
		numbers []uint32
	}{{1, 1, 0, []uint32{77}}, {1, 1, indirect, []uint32{5, 0, 6}}, {2, 0, 0, []uint32{9}}, {safeLinks, 0, 0, []uint32{70}}, {2, 1, 2, []uint32{71}}}
	for i, item := range items {
		h := b[nodeHead+i*itemHead:]
		end -= 4 * len(item.numbers)
		le.PutUint32(h, item.folder)
		h[15] = item.typ << 4
		if item.version == 0 {
			le.PutUint32(h[12:], oldIndirect)
		}
		le.PutUint16(h[18:], uint16(4*len(item.numbers)))
		le.PutUint16(h[20:], uint16(end))
		le.PutUint16(h[22:], item.version)
		for j, n := range item.numbers {
			le.PutUint32(b[end+4*j:], n)
		}
	}
	le.PutUint16(b[4:], uint16(end-nodeHead-len(items)*itemHead))
	if err := fs.readLeaf(at, b, len(items)); err != nil || fs.owned.Count() != 3 || !fs.owned.Has(9) {
		t.Errorf("%d blocks: %v", fs.owned.Count(), err)
	}
}

func FuzzUsed(f *testing.F) {
	b := maptest.Load(f, "small")
	maptest.Fuzz(f, Used, b, metadata(f, b), nil)
}
