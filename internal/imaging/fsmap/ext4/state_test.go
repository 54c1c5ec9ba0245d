package ext4

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mimeo/internal/imaging/extent"
)

// TestStates sets what the superblock says of the filesystem's state.
func TestStates(t *testing.T) {
	for _, c := range []struct {
		name, args, set string
		whole           string // why; "" where it is not captured whole
	}{
		{"clean", "-t ext4", "", ""},
		{"errors", "-t ext4", "ssv state 3", "having errors"},
		{"dirty ext2", "-t ext2", "ssv state 0", "not unmounted cleanly, and has no journal"},
		{"dirty fast commit", "-t ext4 -O fast_commit", "feature needs_recovery", "fast commits"},
		{"recovery without a journal", "-t ext4 -O ^has_journal", "feature needs_recovery", "there is none"},
		{"unknown feature", "-t ext4", "feature FEATURE_I20", "unknown incompatible features 0x100000"},
		{"unknown feature of what is read-only", "-t ext4", "feature FEATURE_R20", "unknown features 0x100000"},
		{"free blocks of a group", "-t ext4 -O ^metadata_csum,^uninit_bg", "set_bg 0 free_blocks_count 77", "by its descriptor"},
		{"free blocks of the superblock", "-t ext4", "ssv free_blocks_count 77", "77 by the superblock"},
		{"a journal that is not needed", "-t ext4", "clri <8>", ""},
		{"checksum kind", "-t ext4", "ssv checksum_type 2", "checksums of unknown kind"},
	} {
		t.Run(c.name, func(t *testing.T) {
			img := filepath.Join(t.TempDir(), "img")
			tool(t, "mke2fs", append(append([]string{"-q", "-F"}, strings.Fields(c.args)...), img, "16M")...)
			for cmd := range strings.SplitSeq(c.set, "; ") {
				tool(t, "debugfs", "-w", "-R", cmd, img)
			}
			facts, _ := mapImage(t, img)
			if c.whole == "" && facts.Whole != "" || !strings.Contains(facts.Whole, c.whole) {
				t.Errorf("whole %q, want %q", facts.Whole, c.whole)
			}
			if c.set == "clri <8>" && len(facts.Notes) != 1 {
				t.Errorf("notes %q", facts.Notes)
			}
		})
	}
}

// TestSharedBlocks lets two files have the same block, as Android does in what is never written to.
func TestSharedBlocks(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "b"} {
		if err := os.WriteFile(filepath.Join(dir, name), bytes.Repeat([]byte{'x'}, 3000), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	img := filepath.Join(t.TempDir(), "img")
	tool(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-O", "^extents,^64bit,^has_journal", "-L", "shared", "-d", dir, img, "16M")
	block := func(name string) string {
		return strings.TrimSpace(string(tool(t, "debugfs", "-R", "blocks /"+name, img)))
	}
	a, b := block("a"), block("b")
	for _, cmd := range []string{"feature shared_blocks", "sif /b block[0] " + a, "freeb " + b} {
		tool(t, "debugfs", "-w", "-R", cmd, img)
	}
	replayed(t, img) // puts the counts right
	if block("b") != a {
		t.Fatalf("blocks %s and %s are not shared", a, b)
	}
	facts, used := mapImage(t, img)
	if facts.Whole != "" {
		t.Fatalf("whole: %s", facts.Whole)
	}
	dup := copyUsed(t, img, used)
	fsck(t, img, dup)
	free, length := freeBlocks(t, img)
	if want := free.Complement(length); extent.Subtract(want, used) != nil || extent.Subtract(used, want) != nil {
		t.Errorf("used %v, by dumpe2fs %v", used, want)
	}
}

// TestUnmarkedMetadata marks the superblock as free, with all totals right.
func TestUnmarkedMetadata(t *testing.T) {
	img := filepath.Join(t.TempDir(), "img")
	tool(t, "mke2fs", "-q", "-F", "-t", "ext2", "-b", "1024", img, "4M")
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	desc := b[2048:]
	b[le.Uint32(desc)*1024] &^= 1 // block 1 is the first of group 0
	le.PutUint16(desc[0xc:], le.Uint16(desc[0xc:])+1)
	le.PutUint32(b[superOff+0xc:], le.Uint32(b[superOff+0xc:])+1)
	facts, _, err := Used(bytes.NewReader(b), int64(len(b)))
	if err != nil || facts.Whole != "metadata at block 1 is not marked as used" {
		t.Errorf("%+v, %v", facts, err)
	}
}

func TestMMP(t *testing.T) {
	img := filepath.Join(t.TempDir(), "img")
	tool(t, "mke2fs", "-q", "-F", "-t", "ext4", "-O", "mmp", img, "16M")
	facts, _ := mapImage(t, img)
	if facts.Whole != "" || len(facts.Notes) > 0 {
		t.Errorf("%+v", facts)
	}
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	block := le.Uint64(b[superOff+0x168:]) * uint64(facts.BlockSize)
	le.PutUint32(b[block+4:], 12345)
	facts, _, err = Used(bytes.NewReader(b), int64(len(b)))
	if err != nil || facts.Whole != "" || len(facts.Notes) != 1 {
		t.Errorf("%+v, %v", facts, err)
	}
}

func TestExternalJournal(t *testing.T) {
	dir := t.TempDir()
	journal, img := filepath.Join(dir, "journal"), filepath.Join(dir, "img")
	tool(t, "mke2fs", "-q", "-F", "-b", "4096", "-O", "journal_dev", journal, "8M")
	facts, _ := mapImage(t, journal)
	if facts.Type != "jbd" || !strings.Contains(facts.Whole, "external journal") {
		t.Errorf("the journal: %+v", facts)
	}
	dev := strings.TrimSpace(string(tool(t, "losetup", "--find", "--show", journal)))
	defer tool(t, "losetup", "-d", dev)
	tool(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-J", "device="+dev, img, "16M")
	facts, used := mapImage(t, img)
	if facts.Whole != "" || len(facts.Notes) != 1 || !strings.Contains(facts.Notes[0], "another disk") || used.Bytes() > 4<<20 {
		t.Errorf("%+v", facts)
	}
	tool(t, "debugfs", "-w", "-R", "feature needs_recovery", img)
	if facts, _ = mapImage(t, img); !strings.Contains(facts.Whole, "its journal lies on another disk") {
		t.Errorf("dirty: %+v", facts)
	}
}

// TestResized grows and shrinks a filesystem with resize2fs, which moves metadata about.
func TestResized(t *testing.T) {
	for _, args := range []string{"-t ext4 -b 1024 -g 512", "-t ext4 -b 1024 -g 512 -O meta_bg,^resize_inode", "-t ext4 -b 1024 -O ^resize_inode,^flex_bg -g 1024", "-t ext3 -b 1024 -g 1024"} {
		for _, to := range []string{"61M", "9M"} {
			img := mke2fs(t, 14<<10, args)
			tool(t, "e2fsck", "-fy", img)
			tool(t, "resize2fs", img, to)
			facts, used := mapImage(t, img)
			if facts.Whole != "" {
				t.Errorf("%s to %s: whole: %s", args, to, facts.Whole)
				continue
			}
			free, length := freeBlocks(t, img)
			want := free.Complement(length)
			if lost := extent.Subtract(want, used); len(lost) > 0 || facts.Len != length {
				t.Errorf("%s to %s: used by dumpe2fs and not by us: %v", args, to, lost)
			}
			if over := extent.Subtract(used, want); over.Bytes()*100 > want.Bytes() {
				t.Errorf("%s to %s: %d bytes too much", args, to, over.Bytes())
			}
		}
	}
}

// TestLarge is a filesystem of 1 TiB on a sparse file: reads must be few.
func TestLarge(t *testing.T) {
	img := filepath.Join(t.TempDir(), "img")
	tool(t, "mke2fs", "-q", "-F", "-t", "ext4", img, "1T")
	f, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c := &counter{ReaderAt: f}
	facts, used, err := Used(c, 1<<40)
	if err != nil || facts.Whole != "" {
		t.Fatalf("%+v, %v", facts, err)
	}
	free, length := freeBlocks(t, img)
	if lost := extent.Subtract(free.Complement(length), used); len(lost) > 0 {
		t.Errorf("used by dumpe2fs and not by us: %v", lost)
	}
	if c.reads > 1000 {
		t.Errorf("%d reads of %d bytes", c.reads, c.bytes)
	}
}

type counter struct {
	io.ReaderAt
	reads, bytes int
}

func (c *counter) ReadAt(b []byte, off int64) (int, error) {
	c.reads++
	c.bytes += len(b)
	return c.ReaderAt.ReadAt(b, off)
}

// TestGather makes sure that a list in bounded memory is never less than what it was given.
func TestGather(t *testing.T) {
	g := &gather{block: 10, most: 64}
	var all []extent.Extent
	for i := range 5000 {
		e := extent.Extent{Off: int64(i*7919%5000) * 20, Len: 10}
		if i%50 == 0 {
			e.Len = 30
		}
		g.add(e)
		all = append(all, e)
	}
	got := g.list()
	if got.Valid() != nil || len(got) > 64 {
		t.Errorf("%d extents, %v", len(got), got.Valid())
	}
	if lost := extent.Subtract(extent.FromUnsorted(all), got); len(lost) > 0 {
		t.Errorf("lost: %v", lost)
	}
}

func TestNextBit(t *testing.T) {
	b := make([]byte, 32)
	for _, i := range []int{0, 1, 63, 64, 65, 127, 200, 255} {
		b[i/8] |= 1 << (i % 8)
	}
	for from := uint64(0); from <= 256; from++ {
		for _, n := range []uint64{1, 64, 100, 201, 256} {
			for _, clear := range []bool{false, true} {
				want := max(from, n)
				for i := from; i < n; i++ {
					if (b[i/8]>>(i%8)&1 == 0) == clear {
						want = i
						break
					}
				}
				if got := nextBit(b, from, n, clear); got != want && !(from >= n && got == n) {
					t.Fatalf("from %d of %d, clear %v: %d, want %d", from, n, clear, got, want)
				}
			}
		}
	}
}
