package jfs

import (
	"bytes"
	"fmt"
	"regexp"
	"testing"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/maptest"
	"mimeo/internal/night"
)

func TestMain(m *testing.M) { maptest.Main(m) }

// metadata is where superblocks, the inode of the map, and the map lie.
func metadata(t testing.TB, b []byte) extent.List {
	t.Helper()
	fs := &filesystem{r: bytes.NewReader(b), size: int64(len(b))}
	if _, err := fs.used(); err != nil {
		t.Fatal(err)
	}
	at := fs.pieces[0].at * blockSize
	return extent.List{{Off: superOff, Len: superLen}, {Off: tableOff + mapInode*inodeLen, Len: inodeLen}, {Off: secondOff, Len: superLen},
		{Off: at, Len: 64}, {Off: at + 4*blockSize, Len: 24}, {Off: at + 4*blockSize + workOff, Len: 160}, {Off: at + 4*blockSize + keptOff, Len: 160},
		{Off: (fs.log.at + 1) * blockSize, Len: 64}}
}

func TestLinux(t *testing.T) {
	t.Parallel()
	all := []maptest.Volume{
		{Name: "small", Img: maptest.Make(t, 16<<20, "mkfs.jfs -q -s 1 -L Gruesse"), Mount: "-t jfs", KiB: 3000, Keep: "small"},
		{Name: "default", Img: maptest.Make(t, 100<<20+512, "mkfs.jfs -q"), Mount: "-t jfs", KiB: 1000},
		{Name: "case", Img: maptest.Make(t, 64<<20, "mkfs.jfs -q -O"), Mount: "-t jfs", KiB: 1000, Most: 2000, Night: true},
		{Name: "crashed", Img: maptest.Make(t, 16<<20, "mkfs.jfs -q"), Mount: "-t jfs", Crash: "not unmounted cleanly"},
	}
	free := regexp.MustCompile(`(\d+) kilobytes are available for use`)
	maptest.Linux(t, Used, "", maptest.Now(all), func(t testing.TB, v maptest.Volume, used extent.List, dup string) {
		said := maptest.Tool(t, "fsck.jfs", "-n", "-f", "-v", dup)
		var kib int64
		if m := free.FindStringSubmatch(said); m != nil {
			fmt.Sscan(m[1], &kib)
		}
		facts, _ := maptest.Map(t, Used, v.Img)
		if free := facts.Len - used.Bytes(); free != kib<<10 {
			t.Errorf("%d bytes are free, fsck.jfs says: %s", free, said)
		}
	})
}

func TestAgain(t *testing.T) {
	night.Only(t)
	t.Parallel()
	maptest.Again(t, Used, "", "-t jfs", "small")
}

func TestFlippedBits(t *testing.T) {
	t.Parallel()
	b := maptest.Load(t, "small")
	maptest.Flip(t, Used, b, metadata(t, b), 800)
}

func TestStates(t *testing.T) {
	t.Parallel()
	b := maptest.Load(t, "small")
	places := metadata(t, b)
	page, log := places[3].Off, places[7].Off
	super := func(b []byte, at int, c byte) { b[superOff+at], b[secondOff+at] = c, c }
	check := maptest.Changes(t, Used, b)
	check("as it was", func(b []byte) {}, "", "")
	check("mounted", func(b []byte) { b[superOff+40] = 1 }, "not unmounted cleanly", "")
	check("growing", func(b []byte) { b[superOff+40] = 8 }, "being made larger", "")
	check("version", func(b []byte) { super(b, 4, 3) }, "version 3", "")
	check("blocks", func(b []byte) { super(b, 17, 8) }, "blocks of 2048", "")
	check("sectors", func(b []byte) { super(b, 24, 7) }, "sectors of", "")
	check("longer", func(b []byte) { super(b, 11, 7) }, "the volume", "")
	check("shorter", func(b []byte) { super(b, 9, b[superOff+9]-1) }, "fsck's room", "")
	check("differ", func(b []byte) { b[secondOff+10] ^= 1 }, "the two superblocks differ", "")
	check("log elsewhere", func(b []byte) { super(b, 37, 1) }, "its log lies on another disk", "")
	check("log in the way", func(b []byte) { super(b, 76, 7) }, "the log of", "")
	check("log open", func(b []byte) { b[log+28] = 0 }, "the log was not closed", "")
	check("no log", func(b []byte) { b[log] = 0 }, "the superblock of the log", "")
	check("another inode", func(b []byte) { b[tableOff+mapInode*inodeLen+8] = 3 }, "the inode of the map", "")
	check("map nowhere", func(b []byte) { b[tableOff+mapInode*inodeLen+rootOff+32+13] = 0xff }, "blocks from block", "")
	check("short map", func(b []byte) { b[tableOff+mapInode*inodeLen+rootOff+32+8] = 4 }, "not 5 blocks", "")
	check("total", func(b []byte) { b[page]-- }, "the map speaks of", "")
	check("free", func(b []byte) { b[page+8]-- }, "by its count", "")
	check("free of a group", func(b []byte) { b[page+56]-- }, "in the groups", "")
	check("another page", func(b []byte) { b[page+4*blockSize+8] = 1 }, "speaks of", "")
	check("two maps", func(b []byte) { b[page+4*blockSize+workOff+3] ^= 0x80 }, "two maps", "")
	check("count", func(b []byte) { b[page+4*blockSize+4]-- }, "by its count", "")
	check("superblock is free", func(b []byte) {
		for _, off := range []int64{workOff, keptOff} {
			b[page+4*blockSize+off+3] ^= 0x80
		}
		b[page+4*blockSize+4]++
		b[page+8]++
		b[page+56]++
	}, "belong to the filesystem itself", "")
	maptest.Unreadable(t, Used, b)
}

// TestPages holds where the pages of the map lie against a count of the pages between them.
func TestPages(t *testing.T) {
	page := int64(3) // behind the whole and the upper two levels
	for i := range int64(2050) {
		if i%1024 == 0 && i > 0 {
			page++ // another page of the lowest level
		}
		page++
		if got := mapPage(i * perPage); got != page {
			t.Fatalf("page of block %d is %d, want %d", i*perPage, got, page)
		}
	}
}

func FuzzUsed(f *testing.F) {
	b := maptest.Load(f, "small")
	maptest.Fuzz(f, Used, b, metadata(f, b), nil)
}
