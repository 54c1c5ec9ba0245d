package btrfs

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"mimeo/internal/imaging/extent"
)

// TestBlockGroupTree has an image that mkfs.btrfs 6.19 made and Linux 6.18 filled, fragmented and emptied in part: older
// programs can read such a filesystem, but not make one.
func TestBlockGroupTree(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("testdata/block-group-tree.zst")
	if err != nil {
		t.Fatal(err)
	}
	d, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(256*mib))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if b, err = d.DecodeAll(b, nil); err != nil {
		t.Fatal(err)
	}
	img := sparse(t, 0)
	if err := os.WriteFile(img, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if le.Uint64(b[superOff[0]+0xb4:])&roBlockGroupTree == 0 {
		t.Fatal("it has no tree of block groups")
	}
	sameTree(t, img, judge(t, img))
}

// edited returns what Used says of b with the superblocks changed by f, and their checksums made good.
func edited(t *testing.T, b []byte, f func(copies [][]byte)) (whole string, notes []string, used extent.List) {
	t.Helper()
	p := &patched{base: b, blocks: map[int64][]byte{}}
	var copies [][]byte
	for _, off := range superOff[:2] {
		p.blocks[off] = slices.Clone(b[off:][:superLen])
		copies = append(copies, p.blocks[off])
	}
	f(copies)
	for _, c := range copies {
		if c[magicAt] != 0 { // damaged on purpose
			reseal(min(le.Uint16(c[0xc4:]), sumKinds-1), c)
		}
	}
	facts, used, err := Used(p, int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return facts.Whole, facts.Notes, used
}

// TestRefused has superblocks of what cannot be known, or believed.
func TestRefused(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(mkfs(t, 112, ""))
	if err != nil {
		t.Fatal(err)
	}
	set := func(at int, bits uint64) func([][]byte) {
		return func(copies [][]byte) {
			for _, c := range copies {
				le.PutUint64(c[at:], le.Uint64(c[at:])|bits)
			}
		}
	}
	put := func(at int, v uint64) func([][]byte) {
		return func(copies [][]byte) { le.PutUint64(copies[0][at:], v) }
	}
	for _, c := range []struct {
		name, want string
		f          func([][]byte)
	}{
		{"extent tree v2", "version 2", set(0xbc, incompatExtentTreeV2)},
		{"stripe tree", "tree of stripes", set(0xbc, incompatStripeTree)},
		{"zones", "zones", set(0xbc, incompatZoned)},
		{"unknown feature", "0x8000000000", set(0xbc, 1<<39)},
		{"unknown read-only feature", "0x8000000000", set(0xb4, 1<<39)},
		{"errors", "btrfs check", set(0x38, flagError)},
		{"dump of metadata", "dump", set(0x38, 1<<33)},
		{"being changed", "btrfstune", set(0x38, 1<<36)},
		{"being replaced", "replaced", put(devItemAt, 0)},
		{"other device", "not on this device", put(devItemAt, 7)},
		{"longer than the volume", "more than the volume", put(devItemAt+8, 1<<40)},
		{"used bytes", "the superblock says", put(0x78, 12345678)},
		{"bytes of the device", "given to chunks", put(devItemAt+16, 8*mib)},
		{"root elsewhere", "no chunk", put(0x50, 1<<40)},
		{"generation", "generation", put(0x48, 3)},
		{"log elsewhere", "no chunk", put(0x60, 1<<41)},
		{"log that is none", "checksum", put(0x60, 22020096+4<<20)},
		{"unknown checksum", "unknown kind", func(c [][]byte) { le.PutUint16(c[0][0xc4:], 4) }},
		{"newer copy", "is newer", func(c [][]byte) { le.PutUint64(c[1][0x48:], 1000) }},
		{"no superblock", "superblock 0", func(c [][]byte) { c[0][magicAt] = 0 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			whole, _, _ := edited(t, b, c.f)
			if !strings.Contains(whole, c.want) || whole == "" {
				t.Errorf("whole: %q, want a word of %q", whole, c.want)
			}
		})
	}
	_, _, want := edited(t, b, func([][]byte) {})
	for _, c := range []struct {
		name string
		note string
		f    func([][]byte)
	}{
		{"copy damaged", "copy 1 of the superblock is damaged", func(c [][]byte) { c[1][magicAt] = 0 }},
		{"copy of another", "copy 1 of the superblock is damaged", func(c [][]byte) { c[1][0x20]++ }},
		{"copy older", "", func(c [][]byte) { le.PutUint64(c[1][0x48:], 2) }},
		{"free-space tree not valid", "", func(c [][]byte) { c[0][0xb4] &^= roFreeSpaceValid }},
		{"seed", "", set(0x38, 1<<32)},
	} {
		t.Run(c.name, func(t *testing.T) {
			whole, notes, used := edited(t, b, c.f)
			if whole != "" || !slices.Equal(used, want) || strings.Join(notes, "; ") != c.note {
				t.Errorf("whole %q, notes %q, used %v, want %v", whole, notes, used, want)
			}
		})
	}
}

// TestDamagedBlocks damages one copy of each block that is read, and then both.
func TestDamagedBlocks(t *testing.T) {
	b, err := os.ReadFile(mkfs(t, 112, "-n 4096"))
	if err != nil {
		t.Fatal(err)
	}
	_, want, err := Used(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	trees, _ := treeBlocks(t, b)
	for _, copies := range trees {
		if len(copies) != 2 {
			t.Fatalf("%d copies", len(copies))
		}
		b[copies[0]+1000]++
		facts, used, err := Used(bytes.NewReader(b), int64(len(b)))
		if err != nil || facts.Whole != "" || len(facts.Notes) != 1 || !slices.Equal(used, want) {
			t.Errorf("block at %d: %+v, %v", copies[0], facts, err)
		}
		b[copies[1]+1000]++
		facts, _, err = Used(bytes.NewReader(b), int64(len(b)))
		if err != nil || !strings.Contains(facts.Whole, "checksum") {
			t.Errorf("block at %d: %+v, %v", copies[0], facts, err)
		}
		b[copies[0]+1000]--
		b[copies[1]+1000]--
	}
}

// TestTuned has filesystems whose identity was changed, in both ways.
func TestTuned(t *testing.T) {
	t.Parallel()
	for _, flag := range []string{"-m", "-u"} {
		img := mkfs(t, 112, "-n 4096")
		tool(t, "btrfstune", "-f", flag, img)
		judge(t, img)
	}
}

// TestConverted was an ext4 filesystem before.
func TestConverted(t *testing.T) {
	t.Parallel()
	img := sparse(t, 280*mib)
	dir := t.TempDir()
	sampleTree(t, dir, 30*mib, 9)
	tool(t, "mke2fs", "-q", "-b", "4096", "-t", "ext4", "-d", dir, img)
	tool(t, "btrfs-convert", img)
	dup := judge(t, img)
	sameTree(t, img, dup)
	// And back.
	tool(t, "btrfs-convert", "-r", dup)
	tool(t, "e2fsck", "-fn", dup)
}

// TestThirdCopy has a device long enough for all copies of the superblock.
func TestThirdCopy(t *testing.T) {
	img := sparse(t, 300<<30)
	tool(t, "mkfs.btrfs", "-q", img)
	facts, used := mapImage(t, img)
	if facts.Whole != "" || len(facts.Notes) > 0 || used.Bytes() > 3*mib {
		t.Fatalf("%+v, %d bytes", facts, used.Bytes())
	}
	for _, off := range superOff {
		if !used.ContainsAll(extent.Extent{Off: off, Len: superLen}) {
			t.Errorf("the superblock at %d is not captured", off)
		}
	}
}

// TestShort cuts a volume off at many places.
func TestShort(t *testing.T) {
	b, err := os.ReadFile(mkfs(t, 112, ""))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int64{superOff[0], superOff[0] + superLen - 1, superOff[0] + superLen, mib, 40 * mib, 112*mib - 1} {
		facts, _, err := Used(bytes.NewReader(b[:n]), n)
		if err != nil || facts.Whole == "" {
			t.Errorf("%d bytes: %+v, %v", n, facts, err)
		}
	}
}

// TestIs looks for the superblock where it is, and where it is in zones.
func TestIs(t *testing.T) {
	b := make([]byte, 68<<10)
	if Is(b) || Is(nil) {
		t.Error("zeros are a filesystem")
	}
	copy(b[magicAt:], superMagic)
	if !Is(b) {
		t.Error("a superblock at the start is not seen")
	}
	facts, _, err := Used(bytes.NewReader(b), int64(len(b)))
	if err != nil || !strings.Contains(facts.Whole, "zones") {
		t.Errorf("%+v, %v", facts, err)
	}
	b[magicAt] = 0
	copy(b[superOff[0]+magicAt:], superMagic)
	if !Is(b) {
		t.Error("the superblock is not seen")
	}
}

// broken fails to read from an offset on.
type broken struct {
	io.ReaderAt
	from int64
}

var errBroken = errors.New("broken")

func (b broken) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > b.from {
		return 0, errBroken
	}
	return b.ReaderAt.ReadAt(p, off)
}

// TestReadErrors makes sure that a disk that cannot be read is an error, and no reason.
func TestReadErrors(t *testing.T) {
	b, err := os.ReadFile(mkfs(t, 112, ""))
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range []int64{superOff[0], superOff[1], 2 * mib, 30 * mib} {
		if facts, _, err := Used(broken{bytes.NewReader(b), from}, int64(len(b))); !errors.Is(err, errBroken) {
			t.Errorf("from %d on: %+v, %v", from, facts, err)
		}
	}
}

// TestXXHash holds the checksum against the known ones of short inputs; the filesystems hold it against long ones.
func TestXXHash(t *testing.T) {
	if got := xxhash64(nil); got != 0xef46db3751d8e999 {
		t.Errorf("of nothing: %x", got)
	}
	if got := xxhash64([]byte("abc")); got != 0x44bc2cf5ad770999 {
		t.Errorf("of abc: %x", got)
	}
}
