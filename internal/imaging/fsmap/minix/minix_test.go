package minix

import (
	"bytes"
	"testing"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/maptest"
)

func TestMain(m *testing.M) { maptest.Main(m) }

// metadata is where a filesystem has all but files.
func metadata(t testing.TB, b []byte) extent.List {
	t.Helper()
	fs := &filesystem{r: bytes.NewReader(b), size: int64(len(b))}
	if _, err := fs.used(); err != nil {
		t.Fatal(err)
	}
	return extent.List{{Off: superOff, Len: superLen}, {Off: fs.imapAt * fs.block, Len: 64}, {Off: fs.zmapAt * fs.block, Len: 700},
		{Off: fs.tableAt * fs.block, Len: 11_500}}
}

func TestLinux(t *testing.T) {
	t.Parallel()
	var all []maptest.Volume
	for _, c := range []struct {
		name, mkfs, keep string
		size             int64
		kib              int
	}{
		{"v1", "mkfs.minix -1 -n 30", "v1", 3 << 20, 700},
		{"v1-short", "mkfs.minix -1 -n 14", "", 40 << 20, 1_500},
		{"v2", "mkfs.minix -2 -i 2000", "", 60<<20 + 512, 1_500},
		{"v3", "mkfs.minix -3 -i 1000", "v3", 4 << 20, 900},
		{"v3-large", "mkfs.minix -3", "", 64 << 20, 1_500},
	} {
		all = append(all, maptest.Volume{Name: c.name, Img: maptest.Make(t, c.size, c.mkfs), Mount: "-t minix", KiB: c.kib, Keep: c.keep, Night: c.keep == "" && c.name != "v2"})
	}
	all = append(all, maptest.Volume{Name: "crashed", Img: maptest.Make(t, 4<<20, "mkfs.minix -2"), Mount: "-t minix", Crash: "not unmounted cleanly"})
	maptest.Linux(t, Used, "modprobe minix", maptest.Now(all), func(t testing.TB, v maptest.Volume, used extent.List, dup string) {
		maptest.Tool(t, "fsck.minix", "-f", dup)
		if v.Name[:2] != "v3" { // partclone cannot read one of these
			maptest.Partclone(t, "minix", v.Img, used)
		}
	})
}

func TestFlippedBits(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"v1", "v3"} {
		b := maptest.Load(t, name)
		maptest.Flip(t, Used, b, metadata(t, b), 400)
	}
}

func TestStates(t *testing.T) {
	t.Parallel()
	check := maptest.Changes(t, Used, maptest.Load(t, "v1"))
	check("as it was", func(b []byte) {}, "", "")
	check("not unmounted", func(b []byte) { b[superOff+18] = 0 }, "", "not unmounted cleanly")
	check("errors", func(b []byte) { b[superOff+18] = 3 }, "Linux found errors", "")
	check("high byte first", func(b []byte) { b[superOff+16], b[superOff+17] = b[superOff+17], b[superOff+16] }, "high byte first", "")
	check("large zones", func(b []byte) { b[superOff+10] = 2 }, "zones of 4 blocks", "")
	check("no inodes", func(b []byte) { b[superOff], b[superOff+1] = 0, 0 }, "0 inodes", "")
	check("longer than the volume", func(b []byte) { b[superOff+3] = 0xff }, "the volume", "")
	check("shorter", func(b []byte) { b[superOff+3] = 0x08 }, "the last one", "")
	check("another first zone", func(b []byte) { b[superOff+8]++ }, "the first zone", "")
	check("long map", func(b []byte) { b[superOff+6]++ }, "the inodes end at", "")
	check("inode of nobody", func(b []byte) { b[2048+3] = 0 }, "is marked as free", "")
	check("zone of nobody", func(b []byte) { b[3072+8] = 0 }, "which is marked as free", "")
	check("no root", func(b []byte) { b[4096+1] = 0x81 }, "the root is no folder", "")
	check("zone nowhere", func(b []byte) { b[4096+14+1] = 0xff }, "there are", "")
	check("twice", func(b []byte) { copy(b[4096+16:], b[4096+14:4096+16]) }, "belongs to another", "")
	check("file of nobody", func(b []byte) {
		le.PutUint16(b[4096+32:], 0o010644) // now a pipe
	}, "", "belong to no file")
	b := maptest.Load(t, "v3")
	check = maptest.Changes(t, Used, b)
	check("small blocks", func(b []byte) { b[superOff+29] = 2 }, "blocks of 512 bytes", "")
	check("other blocks", func(b []byte) { b[superOff+29] = 8 }, "the volume", "")
	maptest.Unreadable(t, Used, b)
}

func FuzzUsed(f *testing.F) {
	b := maptest.Load(f, "v3")
	maptest.Fuzz(f, Used, b, metadata(f, b), nil)
}
