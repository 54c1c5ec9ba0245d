package hfsplus

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
	"mimeo/internal/imaging/fsmap/maptest"
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

// metadata is where the header, the allocation file, and the first nodes of the trees lie.
func metadata(t testing.TB, b []byte) extent.List {
	fs := open(t, b)
	at := func(f fork) int64 { return f.first[0].at * fs.block }
	return extent.List{{Off: headerOff, Len: 52}, {Off: headerOff + 112, Len: 260}, {Off: at(fs.allocation), Len: fs.blocks / 8},
		{Off: at(fs.extents), Len: 56}, {Off: at(fs.extents) + 4096, Len: 1000}, {Off: at(fs.catalog), Len: 56}, {Off: at(fs.catalog) + 4096, Len: 16384}}
}

// tear has three files grow by turns, so that they have more extents than there is room for in the catalog.
const tear = `mount -t hfsplus $disk a; perl -e 'chdir "a"; for (0..60) { for my $n (0..2) { open($f[$n], ">", "by-turns$n") if !$_; syswrite($f[$n], "$n" x 4096) } }'; umount a`

func TestLinux(t *testing.T) {
	t.Parallel()
	// One that another program has made: it is full, and read only.
	dir := t.TempDir()
	for i := range 40 {
		if err := os.WriteFile(filepath.Join(dir, "file"+strconv.Itoa(i)), bytes.Repeat([]byte{byte(i)}, i*1000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	iso := filepath.Join(t.TempDir(), "iso")
	maptest.Tool(t, "xorriso", "-as", "mkisofs", "-hfsplus", "-quiet", "-o", iso, dir)
	b := maptest.Load(t, iso)
	const entry = 3 * 512 // of the partition, in an Apple map with blocks of 512 bytes
	from, n := int64(be.Uint32(b[entry+8:]))*512, int64(be.Uint32(b[entry+12:]))*512
	made := maptest.Save(t, b[from:from+n])

	all := []maptest.Volume{
		{Name: "torn", Img: newfs(t, 8<<20, 4096, "H+", false), KiB: 500, Keep: "torn", After: tear},
		{Name: "small-blocks", Img: newfs(t, 20<<20, 1024, "H+", false), KiB: 1000, Night: true},
		{Name: "case", Img: newfs(t, 40<<20+2048, 4096, "HX", false), KiB: 1000},
		{Name: "wrapped", Img: newfs(t, 16<<20, 4096, "H+", true), KiB: 1000},
		{Name: "xorriso", Img: made, Only: true},
		{Name: "crashed", Img: newfs(t, 4<<20, 4096, "H+", false), Crash: "not unmounted cleanly"},
	}
	for i := range all {
		all[i].Mount = "-t hfsplus"
	}
	maptest.Linux(t, Used, "modprobe -a nls_utf8 hfsplus", maptest.Now(all), func(t testing.TB, v maptest.Volume, used extent.List, dup string) {
		maptest.Partclone(t, "hfsp", v.Img, used)
		if v.Name == "torn" {
			if fs := open(t, maptest.Load(t, v.Img)); len(fs.more) < 3 {
				t.Errorf("only %d forks have more extents than there is room for in their files", len(fs.more))
			}
		}
	})
}

func TestFlippedBits(t *testing.T) {
	t.Parallel()
	b := maptest.Load(t, "torn")
	maptest.Flip(t, Used, b, metadata(t, b), 800)
}

func TestStates(t *testing.T) {
	t.Parallel()
	b := maptest.Load(t, "torn")
	fs := open(t, b)
	bitmap, extents, catalog := fs.allocation.first[0].at*fs.block, fs.extents.first[0].at*fs.block, fs.catalog.first[0].at*fs.block
	leaf := catalog + int64(be.Uint32(b[catalog+24:]))*4096
	header := func(at int, c byte) func(b []byte) { return func(b []byte) { b[headerOff+at] = c } }
	journal := func(flags byte, magic uint32, start byte) func(b []byte) {
		return func(b []byte) {
			b[headerOff+6] |= attrJournaled >> 8
			info := fs.marked.Next(0, fs.blocks, false)
			be.PutUint32(b[headerOff+12:], uint32(info))
			j := b[info*fs.block:]
			j[3] = flags
			be.PutUint64(j[36:], uint64(info*fs.block+1024))
			be.PutUint64(j[44:], 1024)
			le.PutUint32(j[1024:], magic)
			j[1024+8], j[1024+16] = start, 9
		}
	}
	check := maptest.Changes(t, Used, b)
	check("as it was", func(b []byte) {}, "", "")
	check("mounted", header(6, 0), "not unmounted cleanly", "")
	check("inconsistent", header(6, 9), "not unmounted cleanly", "")
	check("blocks", header(42, 0x0f), "blocks of", "")
	check("longer", header(45, 9), "the volume has", "")
	check("free", header(51, b[headerOff+51]+1), "by the header", "")
	check("short map", header(118, 0), "the allocation file has", "")
	check("empty journal", journal(1, journalMagic, 9), "", "")
	check("new journal", journal(5, 0, 0), "", "")
	check("waiting journal", journal(1, journalMagic, 8), "waits to be replayed", "")
	check("no journal", journal(1, 5, 9), "the head of the journal", "")
	check("journal elsewhere", journal(2, journalMagic, 9), "lies on another disk", "")
	check("map nowhere", header(129, 0xff), "file 6 has", "")
	check("records of the catalog", func(b []byte) { b[catalog+23]++ }, "records are missing", "")
	check("records of the extents", func(b []byte) { b[extents+23]++ }, "records are missing", "")
	check("root", func(b []byte) { clear(b[catalog+16 : catalog+20]) }, "root 0", "")
	check("nodes", func(b []byte) { b[catalog+38] = 0xff }, "a header that makes no sense", "")
	check("kind of a node", func(b []byte) { b[leaf+8] = 0 }, "is no leaf", "")
	check("record", func(b []byte) { b[leaf+4094]++ }, "lies from byte", "")
	check("key", func(b []byte) { b[leaf+14] = 0xff }, "a key of", "")
	check("type", func(b []byte) { b[leaf+14+2+int64(b[leaf+15])+1] = 9 }, "record of type 9", "")
	check("exchanged", func(b []byte) {
		used, free := fs.catalog.first[0].at, fs.marked.Next(0, fs.blocks, false)
		b[bitmap+used/8] ^= 0x80 >> (used % 8)
		b[bitmap+free/8] ^= 0x80 >> (free % 8)
	}, "marked as free", "")
	check("block of nobody", func(b []byte) {
		free := fs.marked.Next(0, fs.blocks, false)
		b[bitmap+free/8] ^= 0x80 >> (free % 8)
		be.PutUint32(b[headerOff+48:], uint32(fs.free-1))
	}, "", "1 blocks are marked as used and belong to no file")
	check("two files in one place", func(b []byte) {
		be.PutUint32(b[headerOff+192+16:], uint32(fs.catalog.first[0].at))
	}, "tree of extents", "")
	maptest.Unreadable(t, Used, b)

	b = wrap(b)
	check = maptest.Changes(t, Used, b)
	check("wrapped", func(b []byte) {}, "", "")
	check("wrapper too short", func(b []byte) { b[headerOff+128] = 0xff }, "the HFS+ in the HFS", "")
	check("wrapper of small blocks", func(b []byte) { b[headerOff+22] = 1 }, "the HFS+ in the HFS", "")
	check("nothing in it", func(b []byte) { b[headerOff+127]++ }, "there is no header", "")
}

// TestAttributes takes the blocks of attributes.
func TestAttributes(t *testing.T) {
	key := append([]byte{0, 0, 0, 0, 0, 20, 0, 0, 0, 0, 0, 1}, 0, 'a')
	forkRecord := make([]byte, 88)
	forkRecord[3], forkRecord[8+16+3], forkRecord[8+16+7] = attrFork, 5, 2
	more := make([]byte, 72)
	more[3], more[8+3], more[8+7] = attrExtents, 9, 1
	fs := &filesystem{blocks: 16, marked: fact.NewBitmap(16), owned: fact.NewBitmap(16)}
	for i := range int64(8) {
		fs.marked.Set(i)
	}
	if err := fs.claimAttribute(key, []byte{0, 0, 0, attrInline}); err != nil {
		t.Error(err)
	}
	if err := fs.claimAttribute(key, forkRecord); err != nil || fs.owned.Count() != 2 {
		t.Errorf("%d blocks: %v", fs.owned.Count(), err)
	}
	if err := fs.claimAttribute(key, more); err == nil {
		t.Error("a block that is free")
	}
	if err := fs.claimAttribute(key, more[:40]); err == nil {
		t.Error("a record that is cut off")
	}
}

func FuzzUsed(f *testing.F) {
	b := maptest.Load(f, "torn")
	maptest.Fuzz(f, Used, b, metadata(f, b), nil)
}
